"""A run in a few numbers: its state, how far it is, what it reached, when it will end."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tunestone import terminal
from tunestone.config import TrainConfig
from tunestone.health.watch import told_alerts
from tunestone.pace import seconds_left
from tunestone.pages.library import ShownRun
from tunestone.reports import evaluation
from tunestone.runlog import RunFolder, read_lines

Record = Mapping[str, Any]

_JOB_STATES: Mapping[str, tuple[str, str]] = {
    "validating": ("waiting", "checking its files"),
    "queued": ("waiting", "queued"),
    "running": ("waiting", "starting"),  # nobody holds the run yet
    "paused": ("paused", "paused"),
    "failed": ("failed", "failed"),
    "stopped": ("stopped", "stopped"),
}
"""State of a job that nobody trains now -> `name` and `text`."""
_WISHED = {"stop": "stopping after this step", "pause": "pausing after this step"}


def state_of(shown: ShownRun, report: Record | None) -> dict[str, str]:
    """`name` is one of training, done, stopped, unfinished, and of jobs waiting, paused, failed;
    `text` says it to a person."""
    run, job = shown.folder, shown.job
    if run.is_locked():
        asked = "ending after this step" if run.stop_requested() else "training"
        return {"name": "training", "text": _WISHED.get(job.wish, asked) if job else asked}
    if job is not None and job.state in _JOB_STATES:
        name, text = _JOB_STATES[job.state]
        ends = job.state == "running" and report is not None
        return {"name": name, "text": "finishing" if ends else text}
    if report is None:
        return {"name": "unfinished", "text": "unfinished"}
    if report["stopped"]:
        return {"name": "stopped", "text": f"stopped: {report['stopped']}"}
    return {"name": "done", "text": "done"}


def summarise(shown: ShownRun) -> dict[str, Any]:
    """One row of the list of runs."""
    run, job = shown.folder, shown.job
    report, records = run.report(), read_lines(run.metrics)
    state = state_of(shown, report)
    training = state["name"] == "training"
    return {
        "key": shown.key,
        "name": shown.name,
        **_origin(shown),
        "state": state,
        "begun": shown.has_begun,
        "step": records[-1]["step"] if records else 0,
        "steps": records[-1]["steps"] if records else None,
        "rewards": [record["reward_mean"] for record in records],
        "result": None if report is None or training else result_of(report),
        "seconds_left": seconds_left(records) if training and records else None,
        "alerts": len(told_alerts(read_lines(run.events))),
        "job": asdict(job) if job else None,
    }


def _origin(shown: ShownRun) -> dict[str, str]:
    """What it is, of which model, and since when there is such a thing."""
    if shown.job is not None:
        return {"task": shown.job.id, "model": shown.job.model, "created": shown.job.created}
    config = shown.folder.config()
    return {
        "task": config["task"],
        "model": config["config"]["model"],
        "created": config["created"],
    }


def result_of(report: Record) -> dict[str, Any]:
    """What a report says in one line."""
    return {
        "is_share": report["score"] == "accuracy",
        "base": report["base"]["accuracy"],
        "tuned": report["tuned"]["accuracy"],
        "difference": report["difference"],
        "difference_ci95": report["difference_ci95"],
        "relative_gain": report["relative_gain"],
        "n": report["n"],
        "verdict": verdict_of(report),
    }


def verdict_of(report: Record) -> str:
    """What a report shows, in a sentence; those of earlier versions do not say what was needed."""
    return evaluation.verdict({"prompts_needed": None, **report})


def latest(records: Sequence[Record], *, training: bool) -> list[dict[str, str]]:
    """The newest numbers, as text."""
    if not records:
        return []
    last = records[-1]
    validated = [r["validation_reward"] for r in records if "validation_reward" in r]
    left = seconds_left(records) if training else None
    shown = [
        {"name": "step", "text": f"{last['step']} of {last['steps']}"},
        {"name": "reward", "text": f"{last['reward_mean']:.3f}"},
        {"name": "validation", "text": f"{validated[-1]:.3f}" if validated else "–"},
        {"name": "length", "text": f"{last['length_mean']:.1f} tokens"},
        {"name": "entropy", "text": f"{last['entropy']:.2f} nats"},
        {"name": "tokens/s", "text": f"{last['tokens_per_second']:.0f}"},
    ]
    if left is not None:
        shown.append({"name": "time left", "text": terminal.duration(left)})
    return shown


def settings_of(config: Record) -> list[dict[str, Any]]:
    """The effective settings with origin and meaning, those that somebody chose first."""
    origins = config["origins"]
    fields = TrainConfig.model_fields
    rows = [
        {
            "name": name,
            "value": value,
            "origin": origins.get(name, ""),
            "meaning": " ".join(
                ((fields[name].description if name in fields else "") or "").split()
            ),
        }
        for name, value in config["config"].items()
    ]
    return sorted(rows, key=lambda row: row["origin"] == "default")


def ask_to_stop(run: RunFolder) -> None:
    """Put STOP there: the run ends cleanly after its step."""
    Path(run.path / "STOP").touch()
