"""What a person sees in the terminal: the plan, a line per step, the report, lists.

Only drawing; numbers come from the run folder's records.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tunestone.pace import seconds_left
from tunestone.reports.evaluation import Table as ReportTable
from tunestone.reports.evaluation import notes, tables, title, verdict

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


def duration(seconds: float) -> str:
    """`4:05` for 245 seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


def about(seconds: float) -> str:
    """`50 seconds` or `5 minutes`."""
    if seconds < 90:
        return f"{max(2, round(seconds))} seconds"
    return f"{round(seconds / 60)} minutes"


class StepLines:
    """One line per training step, with a forecast of the time that is left."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._records: list[Mapping[str, Any]] = []

    def __call__(self, record: Mapping[str, Any]) -> None:
        """Print the line of one metrics record."""
        if not self._records:
            self._console.print(Text("".join(name.rjust(n) for name, n in _COLUMNS), style="bold"))
        self._records.append(record)
        validation = record.get("validation_reward")
        cells = (
            f"{record['step']}/{record['steps']}",
            f"{record['reward_mean']:.2f}",
            f"{100 * record['signal_share']:.0f} %",
            f"{record['length_mean']:.1f}",
            f"{record['entropy']:.2f}",
            "" if validation is None else f"{validation:.3f}",
            f"{record['tokens_per_second']:.0f}",
            duration(seconds_left(self._records)),
        )
        line = "".join(cell.rjust(n) for cell, (_, n) in zip(cells, _COLUMNS, strict=True))
        if record["grade_errors"]:
            line += f"  {record['grade_errors']} grades failed"
        if record.get("validation_errors"):
            line += f"  {record['validation_errors']} of the validation"
        self._console.print(Text(line))


def print_report(console: Console, report: Mapping[str, Any]) -> None:
    """Tables of base against tuned, the verdict, and examples before and after."""
    console.print(Text(title(report), style="bold"))
    for table in tables(report):
        console.print()
        print_table(console, table)
    console.print(Text(f"\n{verdict(report)}"))
    for note in notes(report):
        console.print(Text(note, style="dim"))
    for example in report["examples"]:
        console.print()
        console.print(Text(example["prompt"], style="bold"))
        for name in ("base", "tuned"):
            answer = " ⏎ ".join(example[name].strip().splitlines())
            console.print(Text(f"  {name:<5} (reward {example[f'{name}_reward']:g}): {answer}"))


def print_table(console: Console, table: ReportTable) -> None:
    """A table of a report, without lines."""
    grid = Table(
        title=Text(table.title), title_justify="left", title_style="", box=None, pad_edge=False
    )
    for i, name in enumerate(table.columns):
        grid.add_column(Text(name), justify="right" if i else "left", overflow="fold")
    for row in table.rows:
        grid.add_row(*map(Text, row))
    console.print(grid)


def print_runs(console: Console, rows: Sequence[Mapping[str, str]]) -> None:
    """The list of `tunestone runs`."""
    table = Table()
    for name in ("run", "state", "steps", "base", "tuned", "gain"):
        table.add_column(name, no_wrap=name != "state")  # a name is there to be copied
    for row in rows:
        table.add_row(*row.values())
    console.print(table)
