"""What a person sees in the terminal: the plan, a line per step, the report, lists.

Only drawing; numbers come from the run folder's records.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

_COLUMNS = (
    ("step", 8),
    ("reward", 7),
    ("signal", 7),
    ("length", 7),
    ("entropy", 8),
    ("validation", 11),
    ("tokens/s", 9),
    ("left", 7),
)


_NO_GAIN = "no relative gain (the base scored 0 or less)"


def duration(seconds: float) -> str:
    """`4:05` for 245 seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


def about(seconds: float) -> str:
    """`50 seconds` or `5 minutes`."""
    if seconds < 90:
        return f"{max(2, round(seconds))} seconds"
    return f"{round(seconds / 60)} minutes"


def number(value: float, *, share: bool, signed: bool = False) -> str:
    """A share as `42.3 %`, another score as `0.423`."""
    sign = "+" if signed else ""
    return f"{100 * value:{sign}.1f} %" if share else f"{value:{sign}.3f}"


def interval(bounds: Sequence[float], *, share: bool, signed: bool = False) -> str:
    """`[36.4, 48.5]` for shares in percent, `[0.364, 0.485]` for other scores."""
    low, high = (number(bound, share=share, signed=signed).removesuffix(" %") for bound in bounds)
    return f"[{low}, {high}]"


class StepLines:
    """One line per training step, with a forecast of the time that is left."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._step_seconds: list[float] = []
        self._validation_seconds: list[float] = []

    def __call__(self, record: Mapping[str, Any]) -> None:
        """Print the line of one metrics record."""
        if not self._step_seconds:
            self._console.print(Text("".join(name.rjust(n) for name, n in _COLUMNS), style="bold"))
        validation = record.get("validation_reward")
        cells = (
            f"{record['step']}/{record['steps']}",
            f"{record['reward_mean']:.2f}",
            f"{100 * record['signal_share']:.0f} %",
            f"{record['length_mean']:.1f}",
            f"{record['entropy']:.2f}",
            "" if validation is None else f"{validation:.3f}",
            f"{record['tokens_per_second']:.0f}",
            duration(self._left(record)),
        )
        line = "".join(cell.rjust(n) for cell, (_, n) in zip(cells, _COLUMNS, strict=True))
        if record["grade_errors"]:
            line += f"  {record['grade_errors']} grades failed"
        if record.get("validation_errors"):
            line += f"  {record['validation_errors']} of the validation"
        self._console.print(Text(line))

    def _left(self, record: Mapping[str, Any]) -> float:
        seconds = dict(record["seconds"])
        if "validate" in seconds:
            self._validation_seconds.append(seconds.pop("validate"))
        self._step_seconds.append(sum(seconds.values()))
        steps = record["steps"] - record["step"]
        share = len(self._validation_seconds) / len(self._step_seconds)
        each = statistics.median(self._step_seconds[-10:])
        each += share * statistics.fmean(self._validation_seconds or [0.0])
        return float(steps * each)


def print_report(console: Console, report: Mapping[str, Any]) -> None:
    """The table of base against tuned, examples before and after, and where the result is."""
    table = Table(title=f"{report['task']}: {report['n']} held-out prompts", title_justify="left")
    table.add_column("")
    for name in ("base", "tuned"):
        table.add_column(name, justify="right")
    for label, key, bounds in (
        (f"strict {report['score']}", "accuracy", "ci95"),
        (f"lenient {report['score']}", "lenient_accuracy", "lenient_ci95"),
    ):
        if report["base"][key] is not None:
            table.add_row(label, *(_score(report[name], key, bounds) for name in ("base", "tuned")))
    table.add_row(
        "mean length (tokens)",
        *(f"{report[name]['length_mean']:.1f}" for name in ("base", "tuned")),
    )
    failed = [report[name]["grade_errors"] for name in ("base", "tuned")]
    if any(failed):
        table.add_row("grades that failed (scored lowest)", *map(str, failed))
    failed = [report[name]["lenient_grade_errors"] for name in ("base", "tuned")]
    if any(failed):
        table.add_row("lenient grades that failed", *map(str, failed))
    console.print(table)
    console.print(verdict(report))
    for example in report["examples"]:
        console.print()
        console.print(Text(example["prompt"], style="bold"))
        for name in ("base", "tuned"):
            answer = " ⏎ ".join(example[name].strip().splitlines())
            console.print(Text(f"  {name:<5} (reward {example[f'{name}_reward']:g}): {answer}"))


def _score(summary: Mapping[str, Any], key: str, bounds: str) -> str:
    if summary[bounds] is None:
        return number(summary[key], share=False)
    return f"{number(summary[key], share=True)} {interval(summary[bounds], share=True)}"


def verdict(report: Mapping[str, Any]) -> str:
    """One sentence that says what was shown, and says so when nothing was."""
    gain = report["relative_gain"]
    share = report["score"] == "accuracy"
    relative = f"relative gain {100 * gain:+.0f} %" if gain is not None else _NO_GAIN
    difference = number(report["difference"], share=share, signed=True)
    numbers = (
        f"Difference {difference.replace(' %', ' points')}, 95 % interval "
        f"{interval(report['difference_ci95'], share=share, signed=True)}, {relative}, "
        f"{report['test']} p = {report['p_value']:.2g} "
        f"({report['gained']} gained, {report['lost']} lost)."
    )
    low, high = report["difference_ci95"]
    if low > 0:
        return f"{numbers} The tuned model is better."
    if high < 0:
        return f"{numbers} The tuned model is WORSE."
    return f"{numbers} Not significant: these prompts do not show a difference."


def print_runs(console: Console, rows: Sequence[Mapping[str, str]]) -> None:
    """The list of `tunestone runs`."""
    table = Table()
    for name in ("run", "state", "steps", "base", "tuned", "gain"):
        table.add_column(name, no_wrap=name != "state")  # a name is there to be copied
    for row in rows:
        table.add_row(*row.values())
    console.print(table)
