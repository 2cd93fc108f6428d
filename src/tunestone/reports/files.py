"""A report of base against tuned as files: JSON for programs, Markdown and HTML for people."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunestone.reports.evaluation import Table, facts, notes, tables, title, verdict
from tunestone.reports.standalone import open_template, write_text
from tunestone.runlog import storage_errors, write_json

SHOWN_REGRESSIONS = 20
"""Prompts that got worse, as many as a page shows; report.json has more."""
_SPECIAL = frozenset("\\`*_[]<>|#&~")


def write_report(folder: Path, report: Mapping[str, Any], *, name: str = "report") -> list[Path]:
    """Write `name`.md, .html and .json to a folder, each whole; returns their paths.

    JSON comes last: where it is, the others are. Raises StorageError when one cannot be written.
    """
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    texts = {"md": render_markdown(report), "html": render_html(report)}
    paths = [folder / f"{name}.{kind}" for kind in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        write_text(path, text)
    write_json(folder / f"{name}.json", report)
    return [*paths, folder / f"{name}.json"]


def remove_report(folder: Path) -> None:
    """Take away what `write_report` wrote."""
    for kind in ("json", "md", "html"):
        (folder / f"report.{kind}").unlink(missing_ok=True)


def render_html(report: Mapping[str, Any]) -> str:
    """The page, whole."""
    return open_template("tunestone.reports", "evaluation.html.j2").render(
        title=title(report),
        verdict=verdict(report),
        facts=facts(report),
        tables=tables(report),
        notes=notes(report),
        parts=list(_answers(report)),
    )


def render_markdown(report: Mapping[str, Any]) -> str:
    """The report for a wiki or a pull request."""
    parts = [f"# {plain(title(report))}", plain(verdict(report))]
    for table in tables(report):
        parts += [f"## {plain(table.title)}", markdown_table(table)]
    parts += ["## What this rests on"]
    parts += ["\n".join(f"- {plain(note)}" for note in notes(report))]
    parts += ["\n".join(f"- {label}: {plain(value)}" for label, value in facts(report))]
    for heading, records in _answers(report):
        parts.append(f"## {heading}")
        parts += [_markdown_record(record) for record in records]
    return "\n\n".join(part for part in parts if part) + "\n"


def _answers(report: Mapping[str, Any]) -> Iterator[tuple[str, Sequence[Mapping[str, Any]]]]:
    """(heading, records with both answers) of what is shown."""
    yield "Examples", report["examples"]
    worse, count = report["regression_records"], len(report["regressions"])
    if worse:
        shown = min(len(worse), SHOWN_REGRESSIONS)
        yield f"Worse than before ({shown} of {count})", worse[:SHOWN_REGRESSIONS]


def markdown_table(table: Table) -> str:
    """The table without its title; cells are shown as they are."""
    lines = [table.columns, tuple("---" for _ in table.columns), *table.rows]
    return "\n".join(
        f"| {' | '.join(line if line == '---' else plain(line) for line in cells)} |"
        for cells in lines
    )


def _markdown_record(record: Mapping[str, Any]) -> str:
    parts = [f"**{plain(record['id'])}**", _fenced(record["prompt"])]
    for model in ("base", "tuned"):
        parts += [f"{model}, reward {record[f'{model}_reward']:g}:", _fenced(record[model])]
    return "\n\n".join(parts)


def _fenced(text: str) -> str:
    """A code block that its text cannot end."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"


def plain(text: str) -> str:
    """Text on one line that Markdown shows as it is."""
    return "".join(f"\\{char}" if char in _SPECIAL else char for char in " ".join(text.split()))
