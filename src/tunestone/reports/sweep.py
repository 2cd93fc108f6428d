"""A sweep in words, as a table and as a plot, from the record that sweep.json holds."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunestone.reports.evaluation import Table, interval, number
from tunestone.reports.files import markdown_table, plain
from tunestone.reports.standalone import write_text
from tunestone.reports.sweep_plot import draw
from tunestone.runlog import storage_errors, write_json
from tunestone.sweeps import format_value


def write_sweep(folder: Path, record: Mapping[str, Any]) -> list[Path]:
    """Write sweep.md, .svg and .json, each whole; returns their paths. Raises StorageError."""
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    texts = {"sweep.md": render_markdown(record), "sweep.svg": draw(record)}
    for name, text in texts.items():
        write_text(folder / name, text)
    write_json(folder / "sweep.json", record)
    return [folder / name for name in (*texts, "sweep.json")]


def render_markdown(record: Mapping[str, Any]) -> str:
    """Table, plot and what they rest on."""
    parts = [
        f"# {plain(record['task'])}: {plain(', '.join(record['varied']))}",
        markdown_table(table(record)),
        "![held-out score by setting](sweep.svg)",
        "\n".join(f"- {plain(note)}" for note in notes(record)),
    ]
    return "\n\n".join(parts) + "\n"


def table(record: Mapping[str, Any]) -> Table:
    """A row for each point: means over its seeds, the interval in brackets."""
    columns = ("point", "runs", "base", "tuned", "difference", "minutes", "signs")
    rows = [_row(record, point) for point in record["points"]]
    return Table(f"Held-out {record['score']}", columns, rows)


def notes(record: Mapping[str, Any]) -> list[str]:
    """Sentences on how to read the table."""
    return list(_notes(record))


def _row(record: Mapping[str, Any], point: Mapping[str, Any]) -> tuple[str, ...]:
    share = record["score"] == "accuracy"
    runs = f"{point['finished']} of {len(point['runs'])}"
    signs = ", ".join(f"{sign} ({count})" for sign, count in _signs(point["runs"]).items())
    if not point["finished"]:
        return point["name"], runs, "–", "–", "–", "–", signs
    tuned = number(point["tuned"], share=share)
    change = number(point["difference"], share=share, signed=True).removesuffix(" %")
    return (
        point["name"],
        runs,
        number(point["base"], share=share),
        f"{tuned} {interval(point['tuned_ci95'], share=share)}",
        f"{change} {interval(point['difference_ci95'], share=share, signed=True)}",
        f"{point['seconds'] / 60:.1f}",
        signs,
    )


def _signs(runs: Sequence[Mapping[str, Any]]) -> Counter[str]:
    """How many of the runs diverged, and how many told each alert."""
    diverged = Counter(run["state"] for run in runs if run["state"] == "diverged")
    return diverged + Counter(code for run in runs for code in run["alerts"])


def _notes(record: Mapping[str, Any]) -> Iterator[str]:
    rest = ", ".join(f"{n} = {format_value(record['settings'][n])}" for n in record["varied"])
    yield f"Where a point does not say otherwise: {rest}."
    if len(record["seeds"]) > 1:
        yield (
            "Intervals (95 %) are over seeds, each with data, draws and LoRA's start of its own; "
            "where one run is finished, over its prompts."
        )
    else:
        yield "Intervals (95 %) are over the prompts of one seed: another may come out otherwise."
    done = [point for point in record["points"] if point["finished"]]
    if len(done) > 1:
        best = max(done, key=lambda point: float(point["tuned"]))
        yield (
            f"The highest is {best['name']}. The best of {len(done)} owes something to luck: prove "
            "it on prompts that chose nothing (tunestone eval RUN --data FRESH)."
        )
    left = sum(run["state"] == "unfinished" for point in record["points"] for run in point["runs"])
    if left:
        total = len(record["points"]) * len(record["seeds"])
        yield f"{left} of {total} runs are not finished: the same command goes on with them."
