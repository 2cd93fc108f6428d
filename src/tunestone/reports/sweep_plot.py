"""The plot of a sweep: an SVG that stands alone, a panel for each varied setting.

The line is the mean held-out score of the tuned models, a bar its interval, a faint dot one seed;
the dashed line is the base. Values that span more than a factor of ten stand by their logarithm,
values that are no numbers side by side.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunestone.reports.standalone import open_template
from tunestone.sweeps import format_value

WIDTH, HEIGHT = 360, 260
"""Of a panel, in pixels."""
LEFT, RIGHT, TOP, BOTTOM = 56, 24, 34, 48
"""Its margins."""
_LEGEND_LINE = 16
_COLUMNS = 2
_LOGARITHMIC_FROM = 10.0

Place = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Mark:
    """One point of the sweep; pixels within the panel."""

    x: float
    y: float
    low: float
    high: float
    seeds: tuple[float, ...]
    """Heights of the single runs."""


@dataclass(frozen=True, slots=True)
class Series:
    """Points that differ in the panel's setting only."""

    name: str
    """The other varied settings; empty when there is but one series."""
    marks: list[Mark]


@dataclass(frozen=True, slots=True)
class Panel:
    """What the template draws."""

    setting: str
    left: int
    top: int
    ticks_x: list[tuple[float, str]]
    ticks_y: list[tuple[float, str]]
    base: list[Place]
    series: list[Series]


def draw(record: Mapping[str, Any]) -> str:
    """The SVG of a sweep's record; points without a finished run are left out."""
    names = record["varied"]
    most = max(len(_groups(record, name)) for name in names)
    height = HEIGHT + (_LEGEND_LINE * most if most > 1 else 0)
    panels = [_panel(record, name, i, height) for i, name in enumerate(names)]
    return open_template("tunestone.reports", "sweep.svg.j2").render(
        title=f"{record['task']}: held-out {record['score']} by {', '.join(names)}",
        panels=panels,
        width=WIDTH * min(_COLUMNS, len(panels)),
        height=height * math.ceil(len(panels) / _COLUMNS),
        box={"left": LEFT, "right": WIDTH - RIGHT, "top": TOP, "bottom": HEIGHT - BOTTOM},
        legend_line=_LEGEND_LINE,
    )


def positions(values: Sequence[Any]) -> list[float]:
    """Where each of two or more different values stands between 0 and 1, ascending numbers."""
    if not all(_is_number(value) for value in values):
        return [i / (len(values) - 1) for i in range(len(values))]
    low, high = values[0], values[-1]
    if low > 0 and high / low > _LOGARITHMIC_FROM:
        return [math.log(value / low) / math.log(high / low) for value in values]
    return [(value - low) / (high - low) for value in values]


def ticks(low: float, high: float) -> list[float]:
    """Two to six round numbers, the first at most `low`, the last at least `high`."""
    wanted = (high - low) / 4 or 0.25
    power = 10 ** math.floor(math.log10(wanted))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= 0.999 * wanted)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [step * i for i in range(first, max(last, first + 1) + 1)]


def _panel(record: Mapping[str, Any], name: str, number: int, height: int) -> Panel:
    groups = _groups(record, name)
    values = _values([point["values"][name] for points in groups.values() for point in points])
    places = [LEFT + p * (WIDTH - RIGHT - LEFT) for p in positions(values)]
    x_of = {format_value(value): x for value, x in zip(values, places, strict=True)}
    steps = _height_ticks(record)

    def height_of(score: float) -> float:
        share = (score - steps[0]) / (steps[-1] - steps[0])
        return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)

    def mark(point: Mapping[str, Any]) -> Mark:
        low, high = point["tuned_ci95"]
        seeds = tuple(height_of(run["tuned"]) for run in point["runs"] if run["tuned"] is not None)
        x = x_of[format_value(point["values"][name])]
        return Mark(x, height_of(point["tuned"]), height_of(low), height_of(high), seeds)

    return Panel(
        setting=name,
        left=WIDTH * (number % _COLUMNS),
        top=height * (number // _COLUMNS),
        ticks_x=[(x, label) for label, x in x_of.items()],
        ticks_y=[(height_of(step), _score(step, record["score"])) for step in steps],
        base=[(x, height_of(base)) for x, base in _bases(groups, name, x_of)],
        series=[
            Series(
                other if len(groups) > 1 else "",
                sorted((mark(p) for p in points if p["finished"]), key=lambda mark: mark.x),
            )
            for other, points in groups.items()
        ],
    )


def _groups(record: Mapping[str, Any], name: str) -> dict[str, list[Mapping[str, Any]]]:
    """Points that differ in `name` only, by their other values; those that stand alone left out."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for point in record["points"]:
        others = [f"{k}={format_value(v)}" for k, v in point["values"].items() if k != name]
        groups.setdefault(", ".join(others), []).append(point)
    return {other: points for other, points in groups.items() if len(points) > 1}


def _bases(
    groups: Mapping[str, Sequence[Mapping[str, Any]]], name: str, x_of: Mapping[str, float]
) -> list[Place]:
    """The base's mean score at each value, left to right."""
    found: dict[float, list[float]] = {}
    for point in (point for points in groups.values() for point in points if point["finished"]):
        found.setdefault(x_of[format_value(point["values"][name])], []).append(point["base"])
    return [(x, statistics.fmean(found[x])) for x in sorted(found)]


def _values(values: Sequence[Any]) -> list[Any]:
    """Each once, numbers ascending."""
    once = list({format_value(value): value for value in values}.values())
    return sorted(once) if all(_is_number(value) for value in once) else once


def _height_ticks(record: Mapping[str, Any]) -> list[float]:
    """Scores at the left, the same in all panels."""
    done = [point for point in record["points"] if point["finished"]]
    scores = [score for point in done for score in (point["base"], *point["tuned_ci95"])]
    scores += [run["tuned"] for point in done for run in point["runs"] if run["tuned"] is not None]
    return ticks(min(scores, default=0.0), max(scores, default=1.0))


def _score(value: float, kind: str) -> str:
    return f"{100 * value:.3g} %" if kind == "accuracy" else f"{value:.3g}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
