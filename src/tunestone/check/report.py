"""The report in its three forms: terminal, check.json and check.html, and the config beside them.

All three draw the same records. The page stands alone: no script, no font, no picture from
elsewhere. Completions are shown as they are, which may be hostile: escaped in the page, and made
visible in the terminal, where a control character would otherwise be obeyed.
"""

import math
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text

from tunestone.check.findings import (
    Bars,
    CheckReport,
    Finding,
    Json,
    Level,
    Section,
    Table,
    counted,
)
from tunestone.reports.standalone import open_template, write_text
from tunestone.runlog import storage_errors, write_json

SYMBOLS: dict[Level, str] = {"fatal": "✗", "warning": "▲", "advice": "•", "ok": "✓"}
_STYLES: dict[Level, str] = {"fatal": "red", "warning": "yellow", "advice": "cyan", "ok": "green"}
_WIDTH = 80
_BAR_WIDTH = 40
_NUMERIC = frozenset("0123456789.,+-% ")


def print_check(console: Console, report: CheckReport) -> None:
    """Print the report, 80 columns wide at most, the worst findings of each section first."""
    for section in report.sections:
        _show(console, Text(f"\n{section.name.capitalize()}", style="bold"))
        for finding in section.by_level():
            _show(console, _finding_lines(finding))
        facts = visible_facts(section)
        if facts:
            _show(console, Padding(_facts_grid(facts), (1, 0, 0, 2)))
        for table in section.tables:
            _show(console, Padding(_table_grid(table), (1, 0, 0, 2)))
        for bars in section.bars:
            _show(console, Padding(_bar_lines(bars), (1, 0, 0, 2)))
    _show(console, Text(f"\n{verdict(report)}", style="bold"))


def verdict(report: CheckReport) -> str:
    """One sentence: whether to train."""
    fatal, count = report.count("fatal"), report.count("warning")
    warnings = counted(count, "warning") if count else "no warnings"
    if fatal:
        return f"Do not train yet: {fatal} fatal, {warnings}."
    if count:
        return f"Nothing fatal; {warnings} to look at before training."
    return "Nothing speaks against training."


def render_html(report: CheckReport) -> str:
    """The page, whole."""
    return open_template("tunestone.check", "report.html.j2").render(
        report=report,
        verdict=verdict(report),
        symbols=SYMBOLS,
        facts=visible_facts,
        show=show_value,
        is_number=_is_number,
        label=_label,
        longest=lambda bars: max(bars.counts, default=0) or 1,
    )


def write_check(folder: Path, report: CheckReport, config_toml: str = "") -> list[Path]:
    """Write check.json, check.html and, when there is one, config.toml; returns their paths.

    Each is replaced whole. Raises StorageError when one cannot be written.
    """
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    json_path = folder / "check.json"
    write_json(json_path, report.as_dict())
    texts = {folder / "check.html": render_html(report)}
    if config_toml:
        texts[folder / "config.toml"] = config_toml
    for path, text in texts.items():
        write_text(path, text)
    return [json_path, *texts]


def visible_facts(section: Section) -> list[tuple[str, str]]:
    """(label, value) of the facts that are one value or an interval; the rest is in check.json."""
    return [
        (_label(name), show_value(value))
        for name, value in section.facts.items()
        if not isinstance(value, dict | None)
    ]


def show_value(value: Json) -> str:
    """`12,345`, `0.123`, `yes`, `10 to 20`, or the text itself."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.3g}"
    if isinstance(value, list):
        separator = " to " if len(value) == 2 and not isinstance(value[0], str) else ", "
        return separator.join(map(show_value, value))
    return "–" if value is None else str(value)


def _show(console: Console, what: Any) -> None:
    """Print wrapped to the page, also on a console that leaves wrapping to the terminal."""
    console.print(what, width=min(console.width, _WIDTH), soft_wrap=False)


def _finding_lines(finding: Finding) -> Grid:
    grid = Grid.grid(padding=(0, 1))
    grid.add_column(width=2, justify="right", style=_STYLES[finding.level])
    grid.add_column(width=7, style=_STYLES[finding.level])
    grid.add_column(overflow="fold")
    symbol = Text(SYMBOLS[finding.level])
    grid.add_row(symbol, Text(finding.level), Text(_visible(finding.message)))
    if finding.remedy:
        grid.add_row("", "", Text(_visible(finding.remedy), style="dim"))
    if finding.evidence and finding.level in ("fatal", "warning"):
        first = "; ".join(f"{_label(k)}: {show_value(v)}" for k, v in finding.evidence[0].items())
        shown = Text(f"e.g. {_visible(first)}", style="dim", overflow="ellipsis", no_wrap=True)
        grid.add_row("", "", shown)
    return grid


def _facts_grid(facts: Sequence[tuple[str, str]]) -> Grid:
    """Two facts a line, read down the left half, then the right one."""
    grid = Grid.grid(padding=(0, 2))
    for _ in range(2):
        grid.add_column(style="dim")
        grid.add_column(overflow="fold")
    cells = [(Text(label), Text(_visible(value))) for label, value in facts]
    half = -(-len(cells) // 2)
    for left, right in zip_longest(cells[:half], cells[half:], fillvalue=(Text(), Text())):
        grid.add_row(*left, *right)
    return grid


def _table_grid(table: Table) -> Grid:
    grid = _titled(table.title)
    for i, name in enumerate(table.columns):
        numeric = all(_is_number(row[i]) for row in table.rows)
        grid.add_column(
            Text(_visible(name)), justify="right" if numeric else "left", overflow="fold"
        )
    for row in table.rows:
        grid.add_row(*(Text(_visible(cell)) for cell in row))
    return grid


def _bar_lines(bars: Bars) -> Grid:
    grid = _titled(bars.title)
    grid.show_header = False
    grid.add_column(justify="right", overflow="fold", max_width=20)
    grid.add_column(no_wrap=True, overflow="crop")
    most = max(bars.counts, default=0) or 1
    for label, count in zip(bars.labels, bars.counts, strict=True):
        bar = "█" * math.ceil(count * _BAR_WIDTH / most)
        grid.add_row(Text(_visible(label)), Text(f"{bar} {count:,}".lstrip()))
    return grid


def _titled(title: str) -> Grid:
    text = Text(_visible(title), style="bold")
    return Grid(title=text, title_justify="left", box=None, pad_edge=False)


def _visible(text: str) -> str:
    """Control, format and bidirectional characters as escapes; line breaks as a sign."""
    return "".join(
        char if char.isprintable() else "⏎" if char == "\n" else ascii(char)[1:-1] for char in text
    )


def _is_number(cell: str) -> bool:
    return bool(cell) and set(cell) <= _NUMERIC


def _label(name: str) -> str:
    return name.replace("_", " ")
