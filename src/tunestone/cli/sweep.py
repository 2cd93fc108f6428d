"""The command that trains one task with several values of some settings."""

import shutil
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from tunestone import terminal
from tunestone.cli.app import (
    Assignments,
    ConfigFile,
    DataFile,
    ModelName,
    RecipeName,
    RewardName,
    app,
    console,
    say,
)
from tunestone.cli.training import create_run, interrupts, removed_if_refused, resolve_task
from tunestone.config import TrainConfig, parse_assignment
from tunestone.errors import DivergedError
from tunestone.reports.evaluation import number
from tunestone.runlog import RunFolder
from tunestone.sweeps import (
    DIVERGED,
    Plan,
    Point,
    RunResult,
    combine,
    make_point,
    parse_seeds,
    parse_vary,
    read_result,
    refuse_other_settings,
    refuse_unfit,
    run_path,
    summarise,
)


@app.command()
def sweep(
    recipe: RecipeName = "",
    vary: Annotated[
        list[str] | None, typer.Option(help="A setting and its values, key=a,b,c.")
    ] = None,
    grid: Annotated[
        bool, typer.Option("--grid", help="All combinations, not one setting at a time.")
    ] = False,
    seeds: Annotated[
        str, typer.Option(help="Each point is trained once with each, as in 0,1,2.")
    ] = "",
    config: ConfigFile = None,
    model: ModelName = "",
    data: DataFile = "",
    reward: RewardName = "",
    assignments: Assignments = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the runs and what they say.")] = None,
) -> None:
    """Train one task with several values of some settings, and compare what comes of them.

    One setting is varied at a time around the others. Writes sweep.json, sweep.md and sweep.svg.
    The same command again goes on where it was: what is finished is not repeated.
    """
    from tunestone.reports.standalone import refuse_unwritable
    from tunestone.reports.sweep import notes, table

    given = {"model": model, "data": data, "reward": reward}
    options = {key: value for key, value in given.items() if value}
    task = _Task(recipe, config, options, assignments or [])
    plan = task.plan([parse_vary(text) for text in vary or []], seeds, grid=grid)
    stamp = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    folder = out or Path("sweeps") / f"{plan.task}-{stamp}"
    refuse_unwritable(folder)
    refuse_other_settings(folder, plan.settings)
    record = _Sweep(task, plan, folder).train()
    say("")
    terminal.print_table(console, table(record))
    say("\n" + "\n".join(notes(record)))
    say("Written: " + ", ".join(str(folder / f"sweep.{kind}") for kind in ("md", "svg", "json")))


@dataclass(frozen=True, slots=True)
class _Task:
    """What is trained, as the command line says it."""

    recipe: str
    config_file: Path | None
    options: Mapping[str, Any]
    assignments: list[str]

    def plan(self, varied: Sequence[tuple[str, list[Any]]], seeds: str, *, grid: bool) -> Plan:
        """All that is to be trained; what the settings forbid is refused here, before any run."""
        names = [name for name, _ in varied]
        rest, task = self._resolve({})
        fixed = {*self.options, *(parse_assignment(text)[0] for text in self.assignments)}
        refuse_unfit(names, fixed, rest)
        points = (
            make_point(self._resolve(changed)[0], rest, names)
            for changed in combine(dict(varied), grid=grid)
        )
        return Plan(
            task,
            settings={"recipe": self.recipe, **rest.model_dump(mode="json")},
            points=tuple({point.name: point for point in points}.values()),
            seeds=parse_seeds(seeds) if seeds else (rest.seed,),
        )

    def create(self, path: Path, point: Point, seed: int) -> RunFolder:
        """A new run."""
        options = {**self.options, **point.changed, "seed": seed}
        return create_run(self.recipe, self.config_file, options, self.assignments, path)

    def _resolve(self, changed: Mapping[str, Any]) -> tuple[TrainConfig, str]:
        options = {**self.options, **changed}
        config, _, task = resolve_task(self.recipe, self.config_file, options, self.assignments)
        return config, task


@dataclass(frozen=True, slots=True)
class _Sweep:
    """A plan being carried out in a folder."""

    task: _Task
    plan: Plan
    folder: Path

    def train(self) -> dict[str, Any]:
        """Train what is not over, seed by seed, a line for each; the record of how all stands."""
        runs = [(point, seed) for seed in self.plan.seeds for point in self.plan.points]
        left = [pair for pair in runs if self._result(*pair).state == "unfinished"]
        done = f"; {len(runs) - len(left)} are done already" if len(left) < len(runs) else ""
        say(
            f"{len(self.plan.points)} points x {len(self.plan.seeds)} seeds = {len(runs)} runs "
            f"below {self.folder}{done}."
        )
        seconds: list[float] = []
        with interrupts() as interrupted:
            for number, (point, seed) in enumerate(left, start=1):
                is_stopped = self._train(point, seed, interrupted)
                result = self._result(point, seed)
                self._write()
                line = f"{number}/{len(left)} {point.name}, seed {seed}: {_describe(result)}"
                if result.seconds is not None:
                    seconds.append(result.seconds)
                if seconds and number < len(left):
                    ahead = (len(left) - number) * statistics.fmean(seconds)
                    line += f" (about {terminal.about(ahead)} left)"
                say(line)
                if is_stopped:
                    break
        return self._write()

    def _train(self, point: Point, seed: int, interrupted: Callable[[], bool]) -> bool:
        """Begin a run or go on with it; whether somebody asked the sweep to end."""
        run = self._open(point, seed)
        from tunestone.core.run import Watch, execute

        watch = Watch(
            say=lambda message: None,  # events.jsonl of the run has it
            planned=lambda trainer, heldout, cost: None,
            measured=lambda name, scores: None,
            step=lambda record: None,
            stop_requested=lambda: interrupted() or run.stop_requested(),
            leave_on_request=True,
        )
        with removed_if_refused(run):
            self._write()
            try:
                execute(run, watch)
            except DivergedError as error:  # an answer, too: the next point may do better
                run.event(DIVERGED, error.message)
            except KeyboardInterrupt:
                print("Stopped. The same command goes on.", file=sys.stderr)
                raise typer.Exit(130) from None
        return interrupted() or run.stop_requested()

    def _open(self, point: Point, seed: int) -> RunFolder:
        path = run_path(self.folder, point, seed)
        if (path / "config.json").is_file():
            return RunFolder.open(path)
        shutil.rmtree(path, ignore_errors=True)  # killed while it was being made
        return self.task.create(path, point, seed)

    def _result(self, point: Point, seed: int) -> RunResult:
        return read_result(run_path(self.folder, point, seed), seed)

    def _write(self) -> dict[str, Any]:
        from tunestone.reports.sweep import write_sweep

        record = summarise(self.plan, self.folder)
        write_sweep(self.folder, record)
        return record


def _describe(result: RunResult) -> str:
    """What came of a run, on one line."""
    if result.base is None or result.tuned is None or result.difference is None:
        return result.state
    share = result.score == "accuracy"
    base, tuned = (number(score, share=share) for score in (result.base, result.tuned))
    change = number(result.difference, share=share, signed=True).replace(" %", " points")
    time = terminal.duration(result.seconds or 0.0)
    signs = "; alerts: " + ", ".join(result.alerts) if result.alerts else ""
    return f"{base} -> {tuned}, {change}, {time} minutes{signs}"
