"""Data -> a page. Everything is escaped: completions may hold anything."""

import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any
from urllib.parse import urlencode

import jinja2

from tunestone import terminal
from tunestone.reports import evaluation

_DASH = "–"

Links = Sequence[tuple[str, str]]
"""(path below the root, name) of what stands at the head of each page; the first is the start."""
VIEW_LINKS: Links = (("/runs", "Runs"), ("/compare", "Compare"))
"""Of `tunestone view`."""


def render(template: str, root: str, data: Mapping[str, Any]) -> str:
    """A page as HTML. `root`: what stands before our paths in addresses.

    The data may have `links` (Links) and `twin`, the address of the same as JSON.
    """
    given = {"links": VIEW_LINKS, "twin": "", **data}
    return _environment().get_template(template).render(given, root=root)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tunestone.pages"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": _number,
        "score": _score,
        "bounds": _bounds,
        "signed": _signed,
        "duration": lambda seconds: _DASH if seconds is None else terminal.duration(seconds),
        "probability": lambda logprob: f"{math.exp(logprob):.2g}",
        "written": _written,
        "details": _details,
        "query": _query,
        "moment": lambda text: text[:19].replace("T", " "),
    }
    environment.globals["sparkline"] = sparkline
    return environment


def _number(value: float | None, digits: int = 3) -> str:
    return _DASH if value is None else f"{value:.{digits}f}"


def _score(value: float | None, is_share: bool) -> str:
    return _DASH if value is None else evaluation.number(value, share=is_share)


def _bounds(bounds: Sequence[float] | None, is_share: bool, signed: bool = False) -> str:
    if bounds is None:
        return ""
    return evaluation.interval(bounds, share=is_share, signed=signed)


def _signed(value: float | None, digits: int = 2) -> str:
    return _DASH if value is None else f"{value:+.{digits}f}"


def _written(value: Any) -> str:
    """A value of the settings as a person writes it."""
    if value is None or value == "":
        return _DASH
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _details(event: Mapping[str, Any]) -> str:
    """What an event says besides its message."""
    known = ("time", "kind", "message", "code", "step", "best_step", "to_step", "examples")
    rest = {k: v for k, v in event.items() if k not in (*known, "validation_reward")}
    return "\n".join(f"{key.replace('_', ' ')}: {_written(value)}" for key, value in rest.items())


def _query(values: Mapping[str, Any], without: str) -> str:
    """The query of an address that asks for the same, but for one thing."""
    given = {k: v for k, v in values.items() if k != without and v not in (None, "")}
    return urlencode(given)


def sparkline(values: Sequence[float], width: int = 120, height: int = 28) -> dict[str, Any] | None:
    """Points of a small line over `values` in a box, and its last point; None for no values."""
    if not values:
        return None
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    step = (width - 6) / max(1, len(values) - 1)
    places = [
        (3 + i * step, height - 3 - (height - 6) * (value - low) / span)
        for i, value in enumerate(values)
    ]
    return {
        "width": width,
        "height": height,
        "points": " ".join(f"{x:.1f},{y:.1f}" for x, y in places),
        "last": places[-1],
        "label": f"reward from {values[0]:.2f} to {values[-1]:.2f}",
    }
