"""The trainer of a job: what the server starts for each, and nobody types."""

import os
import shutil
import signal
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from tunestone.cli.app import app
from tunestone.config import resolve
from tunestone.errors import DataError, TunestoneError
from tunestone.jobs.trainer import write_mark, write_outcome
from tunestone.runlog import RunFolder, read_json

_PRIVATE = {
    *("model", "start_adapter", "data", "validation", "test"),
    *("reward", "lenient_reward", "shadow_reward"),
}
"""Settings that name files of this machine; clients see the others."""


@app.command(name="run-job", hidden=True)
def run_job(
    folder: Annotated[Path, typer.Argument(help="A job's folder in the server's data.")],
    niceness: Annotated[int, typer.Option(min=0, max=19, help="As of Unix `nice`.")] = 0,
) -> None:
    """Train a job of the server, from its checkpoint if it has one. The server calls this."""
    os.nice(niceness)
    write_mark(folder)
    try:
        outcome = _train(folder)
    except TunestoneError as error:
        _end_with(folder, error, code=error.code, message=error.message)
    except Exception as error:  # noqa: BLE001 - the one boundary of this process
        where = traceback.extract_tb(error.__traceback__)[-1]
        fault = "".join(traceback.format_exception_only(error)).strip()
        message = f"Our own fault: {fault} ({Path(where.filename).name}:{where.lineno})."
        _end_with(folder, error, code="internal_error", message=message)
    else:
        write_outcome(folder, ok=True, **outcome)


def _train(folder: Path) -> dict[str, bool]:
    """Train the job's run; whether it was `left` on request, and whether an alert `paused` it."""
    from tunestone.core.run import Watch, create, execute

    path = folder / "run"
    if (path / "config.json").is_file():
        run = RunFolder.open(path)
    else:
        shutil.rmtree(path, ignore_errors=True)  # a start that was interrupted
        config, origins = resolve(layers=[("the job", read_json(folder / "train.json"))])
        run = create(path, config, origins, task=folder.name)
    asked: list[int] = []
    paused: list[bool] = []

    def planned(trainer: Any, heldout: int, cost: Any) -> None:
        # From here on SIGTERM ends the step first; before, nothing is lost by dying of it.
        signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
        _tell_plan(run, trainer, heldout, cost)

    watch = Watch(
        say=print,
        planned=planned,
        measured=lambda name, scores: _tell_scores(run, name, scores),
        step=_print_step,
        stop_requested=lambda: bool(asked) or run.stop_requested(),
        leave_on_request=True,
        paused=lambda: paused.append(True),
    )
    return {"left": execute(run, watch) is None, "paused": bool(paused)}


def _tell_plan(run: RunFolder, trainer: Any, heldout: int, cost: Any) -> None:
    config = trainer.config
    run.event(
        "planned",
        f"{trainer.steps} steps of {config.batch_size} prompts x {config.group_size} completions "
        f"on {len(trainer.training)} prompts; a validation on {len(trainer.validation)} prompts "
        f"every {trainer.eval_every} steps.",
        steps=trainer.steps,
        eval_every=trainer.eval_every,
        training_prompts=len(trainer.training),
        validation_prompts=len(trainer.validation),
        heldout=heldout,
        settings=config.model_dump(mode="json", exclude=_PRIVATE),
        seconds={"total": cost.total, "low": cost.low, "high": cost.high},
    )


def _tell_scores(run: RunFolder, name: str, scores: Any) -> None:
    mean = scores.mean_reward
    count = len(scores.rewards)
    message = f"{name.capitalize()} model on {count} held-out prompts: mean reward {mean:.3f}."
    run.event("measured", message, model=name, reward=mean, binary=scores.binary, count=count)


def _print_step(record: Mapping[str, Any]) -> None:
    print(f"step {record['step']}/{record['steps']}: reward {record['reward_mean']:.3f}")


def _end_with(folder: Path, error: Exception, *, code: str, message: str) -> None:
    """Print the error with its traceback, write it down for the server, and end."""
    traceback.print_exception(error)
    place = {"path": error.path, "line": error.line} if isinstance(error, DataError) else {}
    remedy = error.remedy if isinstance(error, TunestoneError) else ""
    write_outcome(folder, ok=False, code=code, message=message, remedy=remedy, **place)
    sys.exit(1)
