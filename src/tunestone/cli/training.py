"""The commands that train and hand out models."""

import importlib.util
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import tomli_w
import typer
from rich.text import Text

import tunestone
from tunestone import terminal
from tunestone.cli.app import (
    Assignments,
    ConfigFile,
    DataFile,
    ModelName,
    RecipeName,
    RewardName,
    RunPath,
    app,
    console,
    say,
)
from tunestone.config import Origins, TrainConfig, read_toml, resolve
from tunestone.errors import ConfigError, DataError, ModelError, RunError
from tunestone.pace import seconds_spent
from tunestone.recipes import Splits, load_recipe
from tunestone.reports.evaluation import number
from tunestone.runlog import RunFolder, read_lines


@app.command()
def quickstart(
    seed: Annotated[int, typer.Option(help="Seed of data, draws and LoRA's start.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Run folder to write.")] = None,
    assignments: Assignments = None,
) -> None:
    """Train the embedded model on word problems and prove the gain: about five minutes."""
    _execute_new(create_run("word_problems", None, {"seed": seed}, assignments or [], out))


@app.command()
def train(
    recipe: RecipeName = "",
    config: ConfigFile = None,
    model: ModelName = "",
    data: DataFile = "",
    reward: RewardName = "",
    validation: Annotated[str, typer.Option(help="JSONL file that chooses the checkpoint.")] = "",
    test: Annotated[str, typer.Option(help="JSONL file to compare base and tuned on.")] = "",
    assignments: Assignments = None,
    out: Annotated[Path | None, typer.Option(help="Run folder to write.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Run folder to continue.")] = None,
) -> None:
    """Train a recipe, or your own data with your own reward; or continue a run."""
    options = {
        "model": model,
        "data": data,
        "reward": reward,
        "validation": validation,
        "test": test,
    }
    given = {key: value for key, value in options.items() if value}
    if resume is None:
        _execute_new(create_run(recipe, config, given, assignments or [], out))
        return
    if recipe or config or given or assignments or out:
        raise RunError(
            "--resume takes its settings from the run folder, so it stands alone.",
            remedy="Leave the other options out, or start a new run with them.",
        )
    _execute(RunFolder.open(resume))


@app.command()
def chat(
    model: Annotated[str, typer.Argument(help="A run folder, a model folder, or a hub id.")],
    prompt: Annotated[str, typer.Option(help="Ask this once instead of holding a dialog.")] = "",
    context: Annotated[
        bool, typer.Option(help="Begin with the turns all the run's prompts share.")
    ] = True,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 answers greedily.")] = 0.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 256,
) -> None:
    """Talk to a tuned model or a base."""
    from tunestone.core.chat import Chat

    talk = Chat(model, with_context=context, temperature=temperature, max_tokens=max_tokens)
    if prompt:
        console.print(Text(talk.ask(prompt)))
        return
    console.print("Type a message; an empty line or Ctrl-D ends.")
    for line in iter(_read_line, ""):
        console.print(Text(talk.ask(line), style="green"))


@app.command()
def runs(
    folder: Annotated[Path, typer.Argument(help="Where the run folders are.")] = Path("runs"),
) -> None:
    """List the runs there are, with what they reached."""
    found = sorted(path.parent for path in folder.glob("*/config.json"))
    if not found:
        console.print(f"There are no runs in '{folder}'. `tunestone quickstart` makes one.")
        return
    terminal.print_runs(console, [_describe(RunFolder(path)) for path in found])


@app.command()
def export(
    run_path: RunPath,
    to: Annotated[Path, typer.Option(help="Folder to write.")],
    merged: Annotated[bool, typer.Option(help="A whole model instead of the adapter.")] = False,
) -> None:
    """Take the result out: a PEFT adapter, or a merged Hugging Face folder."""
    from tunestone.core.run import export_result

    export_result(RunFolder.open(run_path), to, merged=merged)
    console.print(Text(f"Written to {to}"))


@app.command(name="config")
def show_config(
    recipe: RecipeName = "",
    config: ConfigFile = None,
    assignments: Assignments = None,
) -> None:
    """Print the effective settings as TOML, each with its origin and meaning."""
    effective, origins, _ = resolve_task(recipe, config, {}, assignments or [])
    for name, field in TrainConfig.model_fields.items():
        value = getattr(effective, name)
        line = f"# {name} is empty" if value is None else tomli_w.dumps({name: value}).strip()
        meaning = " ".join((field.description or "").split())
        console.print(Text(f"# {meaning}", style="dim"))
        console.print(Text(f"{line}  # from: {origins[name]}\n"))


@app.command()
def version() -> None:
    """Print the version."""
    console.print(tunestone.__version__)


def create_run(
    recipe_name: str,
    config_file: Path | None,
    options: Mapping[str, Any],
    assignments: list[str],
    out: Path | None,
) -> RunFolder:
    """A new run folder from all the places settings come from."""
    config, origins, task = resolve_task(recipe_name, config_file, options, assignments)
    if importlib.util.find_spec("torch") is None:
        raise RunError("torch is not installed.", remedy="pip install torch")
    from tunestone.core.run import create

    splits: Splits = {}
    if recipe_name and not config.data:  # data of one's own goes with a recipe's settings too
        recipe = load_recipe(recipe_name)
        recipe.refuse_hopeless(config.model)
        splits = recipe.generate(config.seed)
    stamp = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    path = out or Path("runs") / f"{task}-{stamp}"
    return create(path, config, origins, task=task, splits=splits)


def resolve_task(
    recipe_name: str,
    config_file: Path | None,
    options: Mapping[str, Any],
    assignments: list[str],
) -> tuple[TrainConfig, Origins, str]:
    """Settings from all the places they come from, the origin of each, and the task's name."""
    layers: list[tuple[str, Mapping[str, Any]]] = []
    task = "run"
    if recipe_name:
        recipe = load_recipe(recipe_name)
        task = recipe.name
        layers.append((f"recipe {recipe_name}", recipe.settings))
    if config_file is not None:
        task = config_file.stem if not recipe_name else task
        layers.append((str(config_file), read_toml(config_file)))
    layers.append(("command line", options))
    config, origins = resolve(layers=layers, assignments=assignments)
    return config, origins, task


def _execute_new(run: RunFolder) -> None:
    with removed_if_refused(run):
        _execute(run)


@contextmanager
def removed_if_refused(run: RunFolder) -> Iterator[None]:
    """A new run whose data, model or settings are refused leaves no folder."""
    try:
        yield
    except (ConfigError, DataError, ModelError):
        if not any(run.checkpoints.iterdir()):
            shutil.rmtree(run.path)
        raise


def _execute(run: RunFolder) -> None:
    """Run in the foreground, showing what happens."""
    from tunestone.core.run import Watch, execute

    console.print(Text(f"Run folder: {_near(run.path)}"))
    with interrupts() as interrupted:
        watch = Watch(
            say=say,
            planned=lambda trainer, heldout, cost: _print_plan(run, trainer, heldout, cost),
            measured=lambda name, scores: say(
                f"{name.capitalize()} model on {len(scores.rewards)} held-out prompts: "
                f"{number(scores.mean_reward, share=scores.binary)}"
            ),
            step=terminal.StepLines(console),
            stop_requested=lambda: interrupted() or run.stop_requested(),
        )
        try:
            report = execute(run, watch)
        except KeyboardInterrupt:
            hint = f"`tunestone train --resume {_near(run.path)}` continues it."
            print(f"Stopped. {hint}", file=sys.stderr)
            raise typer.Exit(130) from None
    assert report is not None, "only a watch that leaves on request gets none"
    console.print()
    terminal.print_report(console, report)
    lines = (
        f"Adapter: {_near(run.adapter)}",
        f"Report:  {_near(run.path / 'report.html')}",
        f"Time:    {terminal.duration(seconds_spent(report))} minutes",
    )
    console.print(Text("\n" + "\n".join(lines)))


def _print_plan(run: RunFolder, trainer: Any, heldout: int, cost: Any) -> None:
    config = trainer.config
    what = f"LoRA rank {config.lora_rank}" if config.lora_rank else "all weights"
    console.print(
        f"1. Measure {config.model} on {heldout} held-out prompts it is never trained on.\n"
        f"2. Train {what} for {trainer.steps} steps of {config.batch_size} prompts x "
        f"{config.group_size} completions, then measure again.\n"
        f"3. That takes about {terminal.about(cost.total)} on {config.threads} threads here "
        f"({terminal.about(cost.low)} to {terminal.about(cost.high)}, by how long the answers get)."
    )


@contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Ctrl-C once asks the run to end after its step; twice ends it now."""
    asked: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)
        print("\nEnding after this step; Ctrl-C again stops at once.", file=sys.stderr)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _describe(run: RunFolder) -> dict[str, str]:
    """One row of the list of runs."""
    report = run.report()
    metrics = read_lines(run.metrics)
    steps = f"{metrics[-1]['step']}/{metrics[-1]['steps']}" if metrics else "0"
    row = {"run": run.path.name}
    training = run.is_locked()
    if report is None or training:
        state = "training" if training else "unfinished: --resume continues it"
        return {**row, "state": state, "steps": steps, "base": "–", "tuned": "–", "gain": "–"}
    gain = report["relative_gain"]
    return {
        **row,
        "state": f"stopped: {report['stopped']}" if report["stopped"] else "done",
        "steps": steps,
        "base": number(report["base"]["accuracy"], share=report["score"] == "accuracy"),
        "tuned": number(report["tuned"]["accuracy"], share=report["score"] == "accuracy"),
        "gain": "–" if gain is None else f"{100 * gain:+.0f} %",
    }


def _near(path: Path) -> Path:
    """The path as seen from here, when it is below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _read_line() -> str:
    try:
        return input("> ")
    except EOFError:
        return ""
