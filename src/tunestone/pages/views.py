"""What each page shows, as plain data: its JSON twin is just that."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from tunestone.growing import read_log
from tunestone.pages import series, summary
from tunestone.pages.library import Library, ShownRun
from tunestone.pages.live import Place
from tunestone.pages.samples import SampleIndex
from tunestone.reports import evaluation
from tunestone.runlog import RunFolder, read_lines

COMPARED = (
    ("reward", "training", "Training reward"),
    ("reward", "validation", "Validation reward"),
    ("length", "mean", "Episode length"),
    ("entropy", "entropy", "Entropy"),
    ("signal", "groups with signal", "Groups with signal"),
    ("gradient", "gradient norm", "Gradient norm"),
)
"""(chart, series, title) of the curves that are laid over one another."""
_COMPARED_RUNS = 6
"""More curves than that nobody can tell apart."""
_PER_PAGE = 50
"""Runs of the list: each is read anew from its logs."""
_TABLE = ("reward_mean", "length_mean", "entropy", "signal_share", "gradient_norm")

Data = dict[str, Any]


def list_runs(library: Library, *, page: int) -> Data:
    """A page of all runs, from 1."""
    runs = library.runs()
    pages = max(1, -(-len(runs) // _PER_PAGE))
    page = min(page, pages)
    shown = runs[(page - 1) * _PER_PAGE : page * _PER_PAGE]
    return {
        "title": "Runs",
        "runs": [summary.summarise(run) for run in shown],
        "page": page,
        "pages": pages,
    }


def show_run(shown: ShownRun, index: SampleIndex) -> Data:
    """One run; of a job that has not begun no more than its row."""
    run = shown.folder
    if not shown.has_begun:
        return {"title": shown.name, "run": summary.summarise(shown)}
    metrics, metrics_end = read_log(run.metrics)
    events, events_end = read_log(run.events)
    record, row = run.config(), summary.summarise(shown)
    training = row["state"]["name"] == "training"
    return {
        "title": shown.name,
        "run": row,
        "place": str(Place(metrics_end, events_end)),
        "latest": summary.latest(metrics, training=training),
        "charts": _charts(run, index, metrics),
        "numbers": {"columns": _TABLE, "rows": [_numbers(line) for line in metrics]},
        "events": events[::-1],
        "settings": summary.settings_of(record),
        "files": record["files"],
        "versions": record["versions"],
        "report": _report(run) if not training else None,
    }


def _charts(run: RunFolder, index: SampleIndex, metrics: Sequence[Data]) -> list[Data]:
    lines = series.collect(
        metrics,
        series.training_intervals(index.entries()),
        series.validation_intervals(read_lines(run.validation)),
    )
    charts = []
    for chart in series.CHARTS:
        values = [point[1] for points in lines[chart.id].values() for point in points]
        charts.append(
            {
                "id": chart.id,
                "title": chart.title,
                "unit": chart.unit,
                "about": chart.about,
                "hide_zeros": chart.hide_zeros,
                "shown": any(values) if chart.hide_zeros else bool(values),
                "series": lines[chart.id],
            }
        )
    return charts


def _numbers(line: Data) -> Data:
    validation = line.get("validation_reward")
    return {
        "step": line["step"],
        "validation_reward": validation,
        **{name: line[name] for name in _TABLE},
    }


def _report(run: RunFolder) -> Data | None:
    report = run.report()
    if report is None:
        return None
    whole = "cost" in report  # those of earlier versions have but scores and examples
    drawn = evaluation.tables(report) if whole else []
    return {
        **report,
        "verdict": summary.verdict_of(report),
        "tables": [asdict(table) for table in drawn],
        "notes": evaluation.notes(report) if whole else [],
        "regression_records": report.get("regression_records", []),
    }


def compare_runs(library: Library, keys: Sequence[str]) -> Data:
    """Curves of the runs `keys` over one another; of the newest when none is named."""
    runs = [run for run in library.runs() if run.has_begun]
    chosen = ([run for run in runs if run.key in keys] or runs)[:_COMPARED_RUNS]
    lines = {shown.key: _lines(shown.folder) for shown in chosen}
    charts = [
        {
            "id": f"{chart.id}-{name}".replace(" ", "-"),
            "title": title,
            "unit": chart.unit,
            "series": {
                key: [point[:2] for point in drawn[chart.id].get(name, [])]
                for key, drawn in lines.items()
            },
        }
        for chart_id, name, title in COMPARED
        for chart in series.CHARTS
        if chart.id == chart_id
    ]
    return {
        "title": "Compare",
        "runs": [{"key": run.key, "name": run.name, "chosen": run in chosen} for run in runs],
        "charts": charts,
        "results": [summary.summarise(run) for run in chosen],
    }


def _lines(run: RunFolder) -> dict[str, dict[str, list[series.Point]]]:
    """All points of a run; curves that are laid over one another have no bands."""
    validation = series.validation_intervals(read_lines(run.validation))
    return series.collect(read_lines(run.metrics), {}, validation)
