"""A whole run: forecast, measure the base, train, measure the result, report.

What a resumed run needs is in its folder or named there; `execute` does not care whether it is new.
"""

import importlib.metadata
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tunestone
from tunestone.config import Origins, TrainConfig
from tunestone.core.checkpoint import writing_weights
from tunestone.core.comparison import compare
from tunestone.core.evaluate import Example, Scores
from tunestone.core.forecast import Forecast, forecast
from tunestone.core.loop_state import LoopState
from tunestone.core.measure import Measured, count_drawn, measure
from tunestone.core.model import BaseModel, load_base, with_adapter
from tunestone.core.prepare import available_threads, load_heldout, prepare
from tunestone.core.train import Stopwatch, Trainer
from tunestone.data import fingerprint, load_prompts, write_rows
from tunestone.errors import ConfigError, RunError
from tunestone.health.watch import Alert, judge_base, told_alerts
from tunestone.reports.files import remove_report, write_report
from tunestone.rewards.grader import fingerprint_reward, open_grader
from tunestone.rewards.spec import Context
from tunestone.runlog import RunFolder, read_json, read_lines, write_json
from tunestone.types import Grader

_FILES = ("data", "validation", "test")


@dataclass(frozen=True, slots=True)
class Rewards:
    """The graders of a run."""

    grader: Grader
    lenient: Grader | None
    shadow: Grader | None
    sha256: str
    """Of the reward that is trained on: scores of another one cannot be compared."""


@dataclass(frozen=True, slots=True)
class Watch:
    """Who is told what is going on, and who may end it."""

    say: Callable[[str], None]
    planned: Callable[[Trainer, int, Forecast], None]
    measured: Callable[[str, Scores], None]
    step: Callable[[Mapping[str, Any]], None]
    stop_requested: Callable[[], bool]
    leave_on_request: bool = False
    """A stop on request leaves a checkpoint and neither result nor report, which is quick."""
    paused: Callable[[], None] = lambda: None
    """Called when the run was left because an alert was to pause it."""


def create(
    path: Path,
    config: TrainConfig,
    origins: Origins,
    *,
    task: str,
    splits: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
) -> RunFolder:
    """A new run folder with everything needed to repeat the run.

    `splits` are rows a recipe made; they are written into the folder and used as the data.
    """
    if not config.reward or not (config.data or splits):
        missing = "data" if config.reward else "reward"
        raise ConfigError(
            f"The setting '{missing}' is empty.",
            remedy=f"Give --{missing}, set it in the config file, or name a recipe.",
        )
    with ExitStack() as stack:  # refuse a broken reward before anything is written
        context = Context(folder=Path.cwd(), sandbox=config.sandbox)
        for written in (config.reward, config.lenient_reward, config.shadow_reward):
            if written:
                open_grader(written, context, stack)
    for name in _FILES:
        if getattr(config, name):
            load_prompts(Path(getattr(config, name)))  # and broken data
    run = RunFolder.create(path.resolve())
    made = {k: v for k, v in _write_splits(run, splits or {}).items() if not getattr(config, k)}
    values = {**made, "threads": config.threads or available_threads()}
    config = config.model_copy(update={**_absolute(config), **values})
    files = {
        name: {"path": getattr(config, name), "sha256": fingerprint(Path(getattr(config, name)))}
        for name in _FILES
        if getattr(config, name)
    }
    record = {
        "task": task,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "folder": str(Path.cwd()),
        "config": config.model_dump(mode="json"),
        "origins": {**origins, **dict.fromkeys(values, "this run")},
        "files": files,
        "versions": versions(),
    }
    run.write_config(record)
    return run


def _absolute(config: TrainConfig) -> dict[str, str]:
    """Settings that name files, as absolute paths: a run can be resumed from any folder."""
    values = {name: getattr(config, name) for name in _FILES if getattr(config, name)}
    absolute = {name: str(Path(value).resolve()) for name, value in values.items()}
    for name in ("model", "start_adapter"):
        folder = getattr(config, name)
        if folder and Path(folder).is_dir():
            absolute[name] = str(Path(folder).resolve())
    return absolute


def _write_splits(
    run: RunFolder, splits: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, str]:
    """Write the splits as JSONL; the settings that point at them."""
    if not splits:
        return {}
    folder = run.path / "data"
    folder.mkdir()
    for name, rows in splits.items():
        write_rows(folder / f"{name}.jsonl", rows)
    keys = {"train": "data", "validation": "validation", "test": "test"}
    return {key: str(folder / f"{name}.jsonl") for name, key in keys.items() if name in splits}


def execute(run: RunFolder, watch: Watch) -> dict[str, Any] | None:
    """Train the run to its end (from its newest checkpoint) and return its report.

    None when it was left on request (`Watch.leave_on_request`).
    """
    with run.locked(), ExitStack() as stack:
        record, config = run.config(), run_config(run)
        _refuse_changed_files(record)
        (run.path / "STOP").unlink(missing_ok=True)
        run.drop_broken_lines()
        clock = Stopwatch()
        with clock("prepare"):
            say = _recorded(run, watch.say)
            rewards = open_rewards(run, config, stack, say)
            trainer = prepare(run, config, rewards.grader, say, reward_sha256=rewards.sha256)
            trainer = replace(trainer, shadow_grader=rewards.shadow)
            heldout = _heldout(trainer, watch)
            remove_report(run.path)  # it speaks of an earlier end, as the answers do
            (run.path / "tuned.json").unlink(missing_ok=True)
            answers = len(heldout) + count_drawn(config, len(heldout))
            watch.planned(trainer, len(heldout), forecast(trainer, answers))
        with clock("base"):
            base = _measure_base(run, trainer, heldout, rewards.lenient)
        watch.measured("base", base.greedy)
        _judge_base(run, base.greedy, watch)
        if watch.leave_on_request and watch.stop_requested():
            return None
        with clock("train"):
            state = trainer.train(
                watch=watch.step,
                stop_requested=watch.stop_requested,
                tell=lambda alert: _tell_alert(watch, alert),
                leave_on_request=watch.leave_on_request,
            )
        if watch.leave_on_request and state.stopped_on_request:
            if state.paused:
                watch.paused()
            return None
        with clock("tuned"):
            tuned = measure(
                trainer.sampler, heldout, rewards.grader, config, lenient_grader=rewards.lenient
            )
        write_json(run.path / "tuned.json", tuned.as_record())
        watch.measured("tuned", tuned.greedy)
        training = [example.prompt for example in trainer.training]
        report = {
            "task": record["task"],
            **compare(heldout, base, tuned, training=training),
            **_circumstances(run, config, state),
            "seconds": {**clock.seconds, **_seconds_by_phase(run)},
        }
        write_report(run.path, report)
        run.event("reported", f"Report written; difference {report['difference']:+.3f}.")
        return report


def _judge_base(run: RunFolder, base: Scores, watch: Watch) -> None:
    """Tell a sign that the base leaves little to learn."""
    alert = judge_base(base.rewards)
    if alert is not None:
        run.event("alert", alert.message, **alert.details())
        _tell_alert(watch, alert)


def _tell_alert(watch: Watch, alert: Alert) -> None:
    watch.say(f"Alert ({alert.code}): {alert.message}")


def _circumstances(run: RunFolder, config: TrainConfig, state: LoopState) -> dict[str, Any]:
    """What the report's numbers come from."""
    return {
        "heldout": config.test or "validation (it chose the checkpoint too: optimistic)",
        "model": config.model,
        "adapter": str(run.adapter),
        "seed": config.seed,
        "steps": state.step,
        "best_step": state.best_step,
        "stopped": state.stopped or None,
        "alerts": told_alerts(read_lines(run.events)),
        "versions": versions(),
        "threads": config.threads,
    }


def run_config(run: RunFolder) -> TrainConfig:
    """The settings of a run."""
    return TrainConfig.model_validate(run.config()["config"])


def load_tuned(run: RunFolder, *, full_precision: bool = False) -> BaseModel:
    """The result of a run as a plain model. Raises RunError when there is none yet."""
    config = run_config(run)
    _refuse_unfinished(run)
    if config.lora_rank == 0:
        return load_base(str(run.adapter), full_precision=full_precision)
    return with_adapter(load_base(config.model, full_precision=full_precision), run.adapter)


def export_result(run: RunFolder, to: Path, *, merged: bool) -> None:
    """Write the result to a new folder: as it is, or merged into a whole model (fp32)."""
    if to.exists():
        raise RunError(f"'{to}' exists already.", remedy="Name a new folder with --to.")
    _refuse_unfinished(run)
    tuned = load_tuned(run, full_precision=True) if merged else None
    with writing_weights(to) as unfinished:
        if tuned is None:
            shutil.copytree(run.adapter, unfinished)
        else:
            tuned.network.save_pretrained(unfinished)
            tuned.tokenizer.save_pretrained(unfinished)


def _refuse_unfinished(run: RunFolder) -> None:
    if not run.adapter.is_dir():
        raise RunError(f"'{run.path}' has no result yet.", remedy="Continue it with --resume.")


def versions() -> dict[str, str]:
    """Versions that decide the numbers."""
    packages = ("torch", "transformers", "peft", "numpy", "safetensors")
    return {
        "tunestone": tunestone.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        **{name: importlib.metadata.version(name) for name in packages},
    }


def _refuse_changed_files(record: Mapping[str, Any]) -> None:
    for name, file in record["files"].items():
        if fingerprint(Path(file["path"])) != file["sha256"]:
            raise RunError(
                f"The {name} file '{file['path']}' has changed since the run began.",
                remedy="Put the old file back, or start a new run.",
            )


def _recorded(run: RunFolder, say: Callable[[str], None]) -> Callable[[str], None]:
    def note(message: str) -> None:
        run.event("note", message)
        say(message)

    return note


def open_rewards(
    run: RunFolder, config: TrainConfig, stack: ExitStack, say: Callable[[str], None]
) -> Rewards:
    """The run's rewards, from the folder it was created in."""
    folder = Path(run.config()["folder"])
    context = Context(folder=folder, sandbox=config.sandbox, cache=run.path / "judge")
    rewards = Rewards(
        grader=open_grader(config.reward, context, stack),
        lenient=(
            open_grader(config.lenient_reward, context, stack) if config.lenient_reward else None
        ),
        shadow=open_grader(config.shadow_reward, context, stack) if config.shadow_reward else None,
        sha256=fingerprint_reward(config.reward, context),
    )
    context.tell_sandbox(say)
    return rewards


def _heldout(trainer: Trainer, watch: Watch) -> list[Example]:
    config = trainer.config
    if not config.test:
        return list(trainer.validation)
    return load_heldout(trainer.policy.base, Path(config.test), config, watch.say)


def _measure_base(
    run: RunFolder, trainer: Trainer, heldout: list[Example], lenient: Grader | None
) -> Measured:
    """The base on the held-out prompts; a resumed run reads what was measured before it trained.

    If the reward's file has changed since, or an earlier version drew no answers, they are measured
    again: the policy still is the base.
    """
    kept, config = run.path / "base.json", trainer.config
    if kept.is_file():
        record = read_json(kept)
        same = record.pop("reward_sha256") == trainer.reward_sha256
        measured = Measured.from_record(record)
        if same and (measured.drawn is not None) == (config.test_samples > 0):
            return measured
    measured = measure(trainer.sampler, heldout, trainer.grader, config, lenient_grader=lenient)
    write_json(kept, {**measured.as_record(), "reward_sha256": trainer.reward_sha256})
    return measured


def _seconds_by_phase(run: RunFolder) -> dict[str, float]:
    """Seconds of the training steps by beat, over all sessions of the run."""
    total: dict[str, float] = {}
    for record in read_lines(run.metrics):
        for phase, seconds in record["seconds"].items():
            total[f"train_{phase}"] = total.get(f"train_{phase}", 0.0) + seconds
    return total
