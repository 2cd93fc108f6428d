"""How a job ends, rests or is taken up again: the rows that change together.

Each function works in the caller's transaction, so that a state, its event and what the client gets
(a model, a result file, an error) become visible at once or not at all. The exceptions are
`make_artefacts` and `send_manifest`, which write files and speak to S3.
"""

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from tunestone.data import fingerprint
from tunestone.errors import TunestoneError
from tunestone.jobs import artefacts, trainer
from tunestone.jobs.follow import model_row, place_weights
from tunestone.jobs.intake import public, shorten
from tunestone.jobs.job import Plan, move
from tunestone.jobs.journal import new_key, set_current_phase, set_phase, tell
from tunestone.jobs.store import new_id, now
from tunestone.jobs.tables import File, Job, Model
from tunestone.jobs.trainer import Outcome
from tunestone.runlog import read_json

if TYPE_CHECKING:
    from tunestone.jobs.objects import Objects

_log = logging.getLogger("tunestone.jobs")
_DEATHS = 3
"""How often a trainer may be killed without getting a step further before the job fails."""


def stop(session: Session, job: Job) -> None:
    """The job ends as its client asked. Raises StateError when it has ended."""
    move(session, job.id, "stopped")
    session.refresh(job)
    job.phases = set_current_phase(job.phases, "Stopped", at=job.ended_at)
    tell(session, job.id, "stopped", "The job was stopped.")


def pause(session: Session, job: Job, *, step: int | None = None) -> None:
    """The job rests. Raises StateError when it is in no state to."""
    move(session, job.id, "paused", wish="", estimated_end=None)
    session.refresh(job)
    after = f" after step {step}; its checkpoints can be used" if step else ""
    tell(session, job.id, new_key("paused"), f"The job is paused{after}.")


def left(
    session: Session,
    job: Job,
    *,
    paused: bool = False,
    told: str = "The trainer was ended; it goes on.",
) -> None:
    """The trainer is gone and has left a checkpoint: as the client wished, because an alert was to
    pause it, or to go on."""
    step = job.progress.get("step")
    if job.wish == "stop":
        stop(session, job)
    elif job.wish == "pause" or paused:
        pause(session, job, step=step)
    else:
        move(session, job.id, "queued", estimated_end=None)
        session.refresh(job)
        tell(session, job.id, new_key("left"), told)
    job.process = None


def killed(session: Session, job: Job, folder: Path, status: int | None) -> None:
    """The trainer is gone and could say nothing; it goes on from its checkpoint, a few times.

    `status`: of the process as Popen gives it, None where another server had started it.
    """
    if job.wish:
        left(session, job)
        return
    step = job.progress.get("step", 0)
    before = job.progress.get("deaths", {"step": -1, "count": 0})
    deaths = {"step": step, "count": before["count"] + 1 if before["step"] == step else 1}
    job.progress = {**job.progress, "deaths": deaths}
    how = "was gone" if status is None else _how(status)
    if deaths["count"] < _DEATHS:
        left(session, job, told=f"The trainer {how} after step {step}; it goes on from there.")
        return
    tail = trainer.log_tail(folder)
    message = f"The trainer {how} {_DEATHS} times after step {step}. It printed last:\n{tail}"
    fail(session, job, "trainer_killed", public(message, folder, {}))


def fail_by(session: Session, job: Job, folder: Path, outcome: Outcome) -> None:
    """The job fails with the trainer's own words."""
    message = public(f"{outcome.message} {outcome.remedy}".strip(), folder, _labels(folder))
    data = "validation_file" if "validation" in Path(outcome.path).name else "training_file"
    param = {"reward_error": "grader", "data_error": data, "model_error": "model"}
    fail(session, job, outcome.code, message, param=param.get(outcome.code))


def fail(session: Session, job: Job, code: str, message: str, *, param: str | None = None) -> None:
    """The job fails; `message` is cut to what a failed job may say."""
    error = {"code": code, "message": shorten(message), "param": param}
    move(session, job.id, "failed", error=error, process=None, estimated_end=None)
    session.refresh(job)
    job.phases = set_current_phase(job.phases, "Failed", at=job.ended_at)
    tell(session, job.id, "failed", shorten(message), level="error", data=error)


def make_artefacts(
    objects: "Objects", folder: Path, job: Job, story: Sequence[Mapping[str, Any]]
) -> str:
    """Write the artefacts and send them to the client's output; why that failed, else empty.

    `story` is what was told of the job: Bedrock's clients see it here alone.
    A training that is done is not thrown away for an output that cannot be reached.
    """
    plan = Plan.from_json(job.plan)
    artefacts.write_artefacts(folder, plan.reward, story)
    if not plan.output:
        return ""
    try:
        artefacts.upload(folder, plan.output, job.id, objects.upload)
    except TunestoneError as error:
        _log.warning("Artefacts of job %s could not be sent: %s", job.id, error)
        return str(error)
    return ""


def send_manifest(objects: "Objects", folder: Path, job: Job) -> None:
    """Send the report on refused inputs, where there is an output to send it to."""
    plan = Plan.from_json(job.plan)
    path = artefacts.write_manifest(folder, folder / "artefacts")
    if path is None or not plan.output:
        return
    try:
        artefacts.upload(folder, plan.output, job.id, objects.upload)
    except TunestoneError as error:
        _log.warning("The input report of job %s could not be sent: %s", job.id, error)


def succeed(session: Session, job: Job, data: Path, *, unsent: str) -> None:
    """The job is done: its model, its result file and its numbers."""
    folder = data / "jobs" / job.id
    plan = Plan.from_json(job.plan)
    report = read_json(folder / "run" / "report.json")
    best = report["best_step"]
    numbers = artefacts.result_metrics(folder, best, len(plan.validation))
    session.add(
        model_row(
            session,
            job,
            id=job.id,
            kind="tuned",
            weights=place_weights(data, folder / "run" / "adapter", job.base),
            step=best,
            metrics={**_checkpoint_metrics(session, job, best), **numbers},
        )
    )
    if unsent:
        told = f"The artefacts could not be written to {plan.output}: {unsent}"
        tell(session, job.id, "artefacts", told, level="warn")
    if report["stopped"]:
        told = f"Stopped early after step {report['steps']}: {report['stopped']}."
        tell(session, job.id, "early_stop", told, data={"step": report["steps"]})
    files = [_result_file(session, folder, data)] if job.dialect == "openai" else []
    move(session, job.id, "succeeded", estimated_end=None, process=None)
    session.refresh(job)
    job.result_files = files
    job.phases = set_phase(job.phases, "training", "Completed", at=job.ended_at)
    kept = ("base", "tuned", "difference", "difference_ci95", "relative_gain", "p_value", "test")
    job.progress = {
        **job.progress,
        **numbers,
        "best_step": best,
        "stopped": report["stopped"],
        "report": {key: report[key] for key in (*kept, "n", "score", "gained", "lost")},
    }
    told = f"The job has succeeded; the result is the model of step {best}."
    tell(session, job.id, "succeeded", told, data={"step": best})


def tell_hook(session: Session, job: Job, code: str, said: str) -> None:
    """What the safety hook found, as an event of its own type; other refusals are not its."""
    if code not in {"", "moderation_refused", "safety_hook_failed"}:
        return
    told = said if code else "The training file passed the server's safety hook."
    tell(
        session,
        job.id,
        "moderation",
        told,
        type="moderation_checks",
        level="error" if code else "info",
        data={"blocked": bool(code), "output": shorten(said)},
    )


def _checkpoint_metrics(session: Session, job: Job, step: int) -> dict[str, object]:
    query = select(Model).where(Model.job_id == job.id, Model.step == step)
    found = session.scalars(query.where(Model.kind == "checkpoint")).first()
    return dict(found.metrics) if found else {"step": step}


def _result_file(session: Session, folder: Path, data: Path) -> str:
    """Put the result CSV among the files; its id."""
    file_id = f"file-{new_id()}{new_id()}"
    path = data / "files" / file_id
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folder / artefacts.RESULTS, path)
    session.add(
        File(
            id=file_id,
            filename=artefacts.RESULTS,
            purpose="fine-tune-results",
            bytes=path.stat().st_size,
            sha256=fingerprint(path),
            path=str(path.relative_to(data)),
            created_at=now(),
        )
    )
    return file_id


def _labels(folder: Path) -> dict[str, str]:
    """Name of an input file -> as the client calls it."""
    report = folder / "input" / "report.json"
    entries = read_json(report)["inputs"] if report.is_file() else []
    return {entry["path"]: entry["label"] for entry in entries}


def _how(status: int) -> str:
    """What ended a process."""
    if status < 0:
        hint = " (out of memory?)" if status == -9 else ""
        return f"was ended by signal {-status}{hint}"
    return f"ended with status {status} and no outcome"
