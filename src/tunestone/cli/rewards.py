"""The commands about rewards: look before training, and grade what is there already."""

import json
import math
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import typer

from tunestone.cli.app import (
    Assignments,
    ConfigFile,
    ModelName,
    RewardName,
    app,
    console,
    say,
)
from tunestone.config import SandboxChoice, TrainConfig, parse_assignment, read_toml, resolve
from tunestone.data import load_samples, write_rows
from tunestone.errors import ConfigError
from tunestone.types import Grade, Sample

DataPath = Annotated[str, typer.Argument(help="JSONL file of prompts.")]
SandboxName = Annotated[
    SandboxChoice,
    typer.Option("--sandbox", help="What confines reward code; none is no protection."),
]
OutFile = Annotated[Path | None, typer.Option("--out", help="File to write, JSONL.")]


judge = typer.Typer(help="Models as judges.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(judge, name="judge")


@app.command()
def check(
    data: DataPath,
    reward: RewardName = "",
    model: ModelName = "",
    validation: Annotated[str, typer.Option(help="JSONL file of held-out prompts.")] = "",
    test: Annotated[str, typer.Option(help="JSONL file to compare base and tuned on.")] = "",
    config: ConfigFile = None,
    assignments: Assignments = None,
    prompts: Annotated[int, typer.Option(min=1, help="Prompts to draw completions of.")] = 32,
    completions: Annotated[int, typer.Option(min=2, help="Completions of each.")] = 8,
    prices: Annotated[
        Path | None, typer.Option(help="TOML or JSON: price of each judge per million tokens.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the report and config.toml.")] = Path(
        "check"
    ),
) -> None:
    """Before training: can this data, this reward and this model work together? Exit status 1: no.

    Prints a report and writes it as check.json and check.html, with a ready config.toml.
    """
    options = {"data": data, "reward": reward, "model": model, "validation": validation}
    given = {key: value for key, value in {**options, "test": test}.items() if value}
    settings, explicit = _settings(config, given, assignments or [])
    if not settings.reward:
        raise ConfigError("There is no reward to check.", remedy="Name it with --reward.")
    from tunestone.check.plan_section import read_prices
    from tunestone.check.report import print_check, write_check
    from tunestone.check.run import CheckTask, run_check
    from tunestone.reports.standalone import refuse_unwritable

    refuse_unwritable(out)
    task = CheckTask(
        settings, explicit, prompts, completions, read_prices(prices) if prices else None
    )
    report, config_toml = run_check(task, say)
    print_check(console, report)
    written = write_check(out, report, config_toml)
    say("\nWritten: " + ", ".join(str(path) for path in written))
    if report.is_fatal:
        raise typer.Exit(1)


@app.command()
def grade(
    data: Annotated[Path, typer.Argument(help="JSONL file of rows with their completions.")],
    reward: RewardName,
    out: OutFile = None,
    sandbox: SandboxName = "auto",
) -> None:
    """Grade given completions, without a model, and show what each of them got.

    A row holds `completion`, `completions`, or a last turn of the assistant. Exit status 1: not one
    of them could be graded.
    """
    from tunestone.rewards.grader import open_grader
    from tunestone.rewards.spec import Context

    samples = load_samples(data)
    context = Context(Path.cwd(), sandbox=sandbox)
    with ExitStack() as stack:
        grader = open_grader(reward, context, stack)
        context.tell_sandbox(_aside)
        start = time.perf_counter()
        grades = grader.grade(samples)
        seconds = time.perf_counter() - start
    rows = [_row(sample, grade) for sample, grade in zip(samples, grades, strict=True)]
    if out is None:
        for row in rows:
            print(json.dumps(row))
    else:
        write_rows(out, rows)
    typer.echo(_summary(grades, seconds), err=out is None)
    if all(grade.reward is None for grade in grades):
        raise typer.Exit(1)


@judge.command(name="agreement")
def agreement(
    labelled: Annotated[
        Path, typer.Argument(help="JSONL file of rows with `completion` and people's `label`.")
    ],
    reward: RewardName,
    values: Annotated[
        list[str] | None, typer.Option("--value", help="Number of a named label, good=1.")
    ] = None,
    metric: Annotated[str, typer.Option(help="Sub-score to compare instead of the reward.")] = "",
    relative: Annotated[
        bool, typer.Option(help="Compare pairs only: the judge ranks answers to one prompt.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
    sandbox: SandboxName = "auto",
) -> None:
    """Does a judge agree with people? Cohen's kappa with its interval, and a table."""
    from tunestone.rewards.grader import open_grader
    from tunestone.rewards.judges import agreement as measuring
    from tunestone.rewards.spec import Context

    samples, labels = measuring.read_labelled(labelled)
    named = dict(map(_label_value, values or []))
    context = Context(Path.cwd(), sandbox=sandbox)
    with ExitStack() as stack:
        grader = open_grader(reward, context, stack)
        context.tell_sandbox(_aside)
        report = measuring.measure_agreement(
            grader, samples, labels, values=named, metric=metric or None, relative=relative
        )
    print(json.dumps(report.as_dict()) if as_json else measuring.render_agreement(report))


def _label_value(text: str) -> tuple[str, float]:
    """`NAME=NUMBER` as typed behind --value."""
    name, equals, number = text.rpartition("=")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not equals or not name.strip() or not math.isfinite(value):
        raise ConfigError(
            f"'--value {text}' is not of the form NAME=NUMBER.",
            remedy="Say what a label is worth, as in --value good=1.",
        )
    return name.strip(), value


def _aside(message: str) -> None:
    """On standard error: the grades may be piped elsewhere."""
    typer.echo(message, err=True)


def _settings(
    config: Path | None, options: dict[str, Any], assignments: list[str]
) -> tuple[TrainConfig, dict[str, Any]]:
    """The config of these sources, and what was set in any of them."""
    file = read_toml(config) if config else {}
    layers = [(str(config), file), ("command line", options)]
    settings, _ = resolve(layers=layers, assignments=assignments)
    return settings, {**file, **options, **dict(map(parse_assignment, assignments))}


def _row(sample: Sample, grade: Grade) -> dict[str, Any]:
    return {
        "id": sample.prompt.id,
        "completion": sample.text,
        "reward": grade.reward,
        "metrics": dict(grade.metrics),
        "error": grade.error,
        "flags": list(grade.flags),
        "seconds": round(grade.seconds, 6),
        "attempts": grade.attempts,
        "tokens": {model: dict(used) for model, used in grade.tokens.items()},
    }


def _summary(grades: list[Grade], seconds: float) -> str:
    rewards = [grade.reward for grade in grades if grade.reward is not None]
    lines = [f"{len(grades)} completions graded in {seconds:.2f} s."]
    if rewards:
        lines.append(
            f"Reward: mean {fmean(rewards):.3f}, lowest {min(rewards):g}, highest {max(rewards):g}."
        )
    flags = Counter(flag for grade in grades for flag in grade.flags)
    if len(rewards) < len(grades):
        kinds = ", ".join(f"{count} {flag}" for flag, count in flags.most_common())
        lines.append(f"{len(grades) - len(rewards)} without a reward: {kinds}.")
        first = next(grade.error for grade in grades if grade.error)
        lines.append(f"The first error:\n{first}")
    return "\n".join(lines)
