"""From a run's logs to what clients are told: events, progress, checkpoints.

A `Follower` reads a run folder's logs as they grow, beginning at their start: nothing about it is
kept, and all it writes has a key, so a server that was killed begins anew and repeats nothing. When
a trainer that was killed comes back it cuts its logs to the checkpoint it continues from; the
follower then begins at the start too.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from tunestone.growing import GrowingLog
from tunestone.jobs import metrics
from tunestone.jobs.job import Plan
from tunestone.jobs.journal import Level, set_phase, tell
from tunestone.jobs.store import new_id, now
from tunestone.jobs.tables import Job, Model
from tunestone.pace import seconds_left
from tunestone.runlog import CHECKPOINT_RESULT, RunFolder, checkpoint_path, checkpoint_steps

_WARNINGS = frozenset({"alert", "checkpoint_damaged", "reward_changed", "rolled_back"})


@dataclass(frozen=True, slots=True)
class News:
    """What a look at the logs found."""

    metrics: list[dict[str, Any]]
    events: list[tuple[int, dict[str, Any]]]
    """(line number from 0, event)."""
    checkpoints: tuple[int, ...]


class Follower:
    """Follows one run."""

    def __init__(self, data: Path, job_id: str) -> None:
        """`data`: the data folder."""
        self._data = data
        self.run = RunFolder(data / "jobs" / job_id / "run")
        self.records: dict[int, dict[str, Any]] = {}
        """Step -> its line of metrics."""
        self._metrics = GrowingLog(self.run.metrics)
        self._events = GrowingLog(self.run.events)
        self._events_told = 0
        self._checkpoints: tuple[int, ...] | None = None
        self._returns: dict[int, int] = {}
        """Step after which the run went back -> step whose weights it took up again."""

    def look(self) -> News | None:
        """Some of what is new since the last time, the oldest first; None for nothing."""
        # In this order: what speaks of a step comes after the step's line of metrics.
        steps = tuple(self._checkpoint_steps())
        _, event_lines = self._events.read()
        events = [line.record for line in event_lines]
        self._returns |= {e["step"]: e["to_step"] for e in events if e["kind"] == "rolled_back"}
        cut, metric_lines = self._metrics.read()
        if cut:
            self.records.clear()
        records = [line.record for line in metric_lines]
        self.records |= {record["step"]: record for record in records}
        first = self._events_told
        self._events_told += len(events)
        if not (records or events) and steps == self._checkpoints:
            return None
        self._checkpoints = steps
        return News(records, list(enumerate(events, start=first)), steps)

    def write(self, session: Session, job: Job, news: News) -> None:
        """Put it into the database; `job` belongs to the session."""
        waiting = deque(news.metrics)
        for number, event in news.events:
            while waiting and waiting[0]["step"] <= event.get("step", 0):
                self._tell_metrics(session, job, waiting.popleft())
            self._tell_event(session, job, number, event)
        for record in waiting:
            self._tell_metrics(session, job, record)
        if news.metrics:
            self._write_progress(job)
        self._write_checkpoints(session, job, news.checkpoints)
        job.updated_at = now()

    def _checkpoint_steps(self) -> list[int]:
        """Steps whose model can be used."""
        steps = checkpoint_steps(self.run.checkpoints)
        return [step for step in steps if self._result(step).is_dir()]

    def _result(self, step: int) -> Path:
        return checkpoint_path(self.run.checkpoints, step) / CHECKPOINT_RESULT

    def _tell_metrics(self, session: Session, job: Job, record: dict[str, Any]) -> None:
        data = metrics.render(record, job.plan["reward"])
        key = f"metrics:{record['step']}"
        tell(session, job.id, key, metrics.message(record), type="metrics", data=data)

    def _tell_event(self, session: Session, job: Job, number: int, event: dict[str, Any]) -> None:
        kind, step = event["kind"], event.get("step")
        key = {
            "checkpoint": f"checkpoint:{step}",
            "alert": f"alert:{event.get('code')}:{step}",
            "measured": f"measured:{event.get('model')}",
        }.get(kind, f"log:{number}")
        level: Level = "warn" if kind in _WARNINGS else "info"
        data = {k: v for k, v in event.items() if k not in {"time", "message"}}
        told = event["message"].replace(f"{self.run.path.parent}/", "")
        at = datetime.fromisoformat(event["time"])
        tell(session, job.id, key, told, level=level, data=data, at=at)
        if kind == "planned":
            self._note_plan(job, event, at)
        elif kind == "measured":
            job.progress = {**job.progress, f"{event['model']}_reward": event["reward"]}

    def _note_plan(self, job: Job, event: dict[str, Any], at: datetime) -> None:
        phases = set_phase(job.phases, "data_processing", "Completed")
        job.phases = set_phase(phases, "training", "InProgress")
        split_off = 0 if job.plan["validation"] else event["validation_prompts"]
        used = event["training_prompts"] + split_off
        given = job.progress.get("training_rows", used)
        keys = ("steps", "eval_every", "training_prompts", "validation_prompts", "settings")
        plan = {key: event[key] for key in keys}
        job.progress = {"step": 0, **job.progress, **plan, "dropped_prompts": given - used}
        if not self.records:
            job.estimated_end = at + timedelta(seconds=event["seconds"]["total"])

    def _write_progress(self, job: Job) -> None:
        records = [self.records[step] for step in sorted(self.records)]
        last = records[-1]
        owed = [record for record in records if not self._is_abandoned(record["step"])]
        validated = [r["validation_reward"] for r in owed if "validation_reward" in r]
        seconds = seconds_left(records)
        job.trained_tokens = sum(map(_trained_tokens, records))
        job.estimated_end = now() + timedelta(seconds=seconds)
        job.progress = {
            **job.progress,
            "step": last["step"],
            "steps": last["steps"],
            "epoch": last["epoch"],
            "reward": last["reward_mean"],
            "validation_reward": validated[-1] if validated else None,
            "best_validation_reward": max(validated, default=None),
            "seconds_left": seconds,
            "series": metrics.series(last),
        }

    def _write_checkpoints(self, session: Session, job: Job, steps: Sequence[int]) -> None:
        """Rows of `models` for the checkpoints there are, and for no others."""
        mine = select(Model).where(Model.job_id == job.id, Model.kind == "checkpoint")
        known = {model.step: model for model in session.scalars(mine)}
        for step in known.keys() - set(steps):
            session.delete(known[step])
        read = set(steps) & self.records.keys()  # the others follow when their line is read
        for step in sorted(read - known.keys()):
            behind = self._record_behind(step)
            if behind is None:
                continue  # back at the base, which is no checkpoint
            session.add(
                model_row(
                    session,
                    job,
                    id=new_id(),
                    kind="checkpoint",
                    weights=place_weights(self._data, self._result(step), job.base),
                    step=step,
                    metrics=metrics.checkpoint_metrics(behind),
                )
            )
            tell(session, job.id, f"checkpoint:{step}", f"Checkpoint of step {step}.")

    def _is_abandoned(self, step: int) -> bool:
        """Whether the run went back to before this step."""
        return any(to < step <= after for after, to in self._returns.items())

    def _record_behind(self, step: int) -> dict[str, Any] | None:
        """The line of metrics of the step that a checkpoint's weights come from."""
        while step in self._returns:
            step = self._returns[step]
        return self.records.get(step)


def place_weights(data: Path, folder: Path, base: str) -> tuple[str, str]:
    """(base, adapter) as `models` keeps them; a folder without an adapter is a whole model."""
    if (folder / "adapter_config.json").is_file():
        return base, str(folder.relative_to(data))
    return str(folder), ""


def model_row(
    session: Session,
    job: Job,
    *,
    id: str,
    kind: str,
    weights: tuple[str, str],
    step: int,
    metrics: dict[str, Any],
) -> Model:
    """A row for a model the job made. A job that started from a tuned model keeps its base's name.

    The id in OpenAI's name of the model is that of the job, for the result and its checkpoints.
    """
    plan = Plan.from_json(job.plan)
    start = session.get(Model, job.start_adapter) if job.start_adapter else None
    base_name = start.model if start else job.model
    alias = f"ft:{base_name}:{plan.organization}:{plan.suffix}:{job.id}"
    return Model(
        id=id,
        alias=f"{alias}:ckpt-step-{step}" if kind == "checkpoint" else alias,
        kind=kind,
        name=plan.model_name if kind == "tuned" else "",
        job_id=job.id,
        dialect=job.dialect,
        model=base_name,
        base=weights[0],
        adapter=weights[1],
        status="active",
        region=job.region,
        step=step,
        metrics=metrics,
        created_at=now(),
    )


def _trained_tokens(record: dict[str, Any]) -> int:
    """Tokens of all rows of a step, prompts included."""
    prompts = record["completions"] * record["prompt_length_mean"]
    return int(record["completion_tokens"] + round(prompts))
