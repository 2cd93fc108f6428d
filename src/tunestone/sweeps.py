"""A sweep: one task trained with several values of some settings, and what came of each.

A *point* is one choice of the varied settings, trained once with every seed. By default one setting
is varied at a time around the rest; a grid takes all combinations. The folder of a sweep:

    <values>,seed=<n>/   run folders; see runlog.py
    sweep.json           what was varied and what came of it; written anew after every run
    sweep.md             the same as a table
    sweep.svg            a panel for each varied setting

A run folder is named by the values that differ from the rest, so that the same command finds what
is finished, and so does one with further values. Left out: a search that chooses the next point by
the last ones; what matters to a practitioner is to see how wide the range is that works.
"""

import hashlib
import itertools
import json
import re
import statistics
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from tunestone.config import TrainConfig, parse_assignment
from tunestone.errors import ConfigError, RunError
from tunestone.health.watch import told_alerts
from tunestone.pace import seconds_spent
from tunestone.runlog import RunFolder, read_json, read_lines

State = Literal["finished", "unfinished", "diverged"]

DIVERGED = "diverged"
"""Kind of the event that a run of a sweep ends with whose weights ran away."""
UNCHANGED = "unchanged"
"""Name of the point at which every varied setting has the value it has at the others."""
_MEASURING = ("reward", "test", "validation")
"""Settings that decide what a score means."""


@dataclass(frozen=True, slots=True)
class Point:
    """One choice of the varied settings."""

    name: str
    """The values that differ from the rest, as in `learning_rate=1e-5`."""
    values: Mapping[str, Any]
    """Of every varied setting."""
    changed: Mapping[str, Any]
    """Those of them that differ from the rest."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a sweep is to train."""

    task: str
    settings: Mapping[str, Any]
    """Of all points, but for what is varied; with `recipe`, as it was named."""
    points: tuple[Point, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RunResult:
    """What one run came to. Numbers are None unless it is finished."""

    seed: int
    folder: str
    """Its name below the sweep's folder."""
    state: State
    score: str | None = None
    """`accuracy`, or `mean reward` where rewards are not 0 and 1."""
    base: float | None = None
    tuned: float | None = None
    tuned_ci95: tuple[float, float] | None = None
    """Over the held-out prompts, as is the next."""
    difference: float | None = None
    difference_ci95: tuple[float, float] | None = None
    seconds: float | None = None
    alerts: tuple[str, ...] = ()
    """Codes of the signs that the health watch told."""


def parse_vary(text: str) -> tuple[str, list[Any]]:
    """`key=a,b,c` with TOML values; bare words count as strings. Raises ConfigError below two."""
    name, equals, written = (part.strip() for part in text.partition("="))
    if not equals or not name:
        raise ConfigError(f"'--vary {text}' is not of the form key=value,value.")
    try:
        values = list(tomllib.loads(f"values = [{written}]")["values"])
    except tomllib.TOMLDecodeError:
        parts = written.split(",")
        if not all(part.strip() for part in parts):
            raise ConfigError(f"'--vary {text}' has an empty value.") from None
        values = [parse_assignment(f"{name}={part}")[1] for part in parts]
    if all(value == values[0] for value in values):
        raise ConfigError(
            f"'--vary {text}' names {len(values)} value{'s' if len(values) != 1 else ''}, and a "
            "sweep compares two or more that differ.",
            remedy=f"Name them with commas; a single one belongs to --set {name}=...",
        )
    return name, values


def parse_seeds(text: str) -> tuple[int, ...]:
    """`0,1,2`, each once. Raises ConfigError."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) < 2**32 for part in parts):
        raise ConfigError(f"'--seeds {text}' is not a list of whole numbers like 0,1,2.")
    return tuple(dict.fromkeys(map(int, parts)))


def refuse_unfit(names: Sequence[str], fixed: Collection[str], rest: TrainConfig) -> None:
    """Raise ConfigError for settings that cannot be varied, `fixed` being set otherwise."""
    if len(names) == 0:
        raise ConfigError(
            "There is nothing to vary.",
            remedy="Name a setting and its values, as in --vary learning_rate=1e-5,1e-4,1e-3.",
        )
    for number, name in enumerate(names):
        if name in names[:number]:
            raise ConfigError(f"'{name}' is varied twice.", remedy="Put its values into one list.")
        if name in fixed:
            raise ConfigError(f"'{name}' is both set and varied.", remedy="Do one of the two.")
        if name in _MEASURING or (name == "data" and not rest.test):
            raise ConfigError(
                f"'{name}' decides what is measured, so that scores could not be compared.",
                remedy="Name a fixed test file with --set test=FILE to vary the data."
                if name == "data"
                else "Vary what is trained with, and keep what it is measured by.",
            )
    if "seed" in {*names, *fixed}:
        raise ConfigError("The seed is neither set nor varied here.", remedy="Use --seeds 0,1,2.")


def combine(varied: Mapping[str, Sequence[Any]], *, grid: bool) -> list[dict[str, Any]]:
    """What each point sets: one of the settings, or with `grid` all of them."""
    if grid:
        rows = itertools.product(*varied.values())
        return [dict(zip(varied, row, strict=True)) for row in rows]
    return [{name: value} for name, values in varied.items() for value in values]


def make_point(config: TrainConfig, rest: TrainConfig, names: Sequence[str]) -> Point:
    """The point at which a run has the settings `config`; `rest` has nothing varied."""
    values = config.model_dump(mode="json", include=set(names))
    unvaried = rest.model_dump(mode="json", include=set(names))
    changed = {name: values[name] for name in names if values[name] != unvaried[name]}
    name = ",".join(f"{key}={format_value(value)}" for key, value in changed.items())
    return Point(name or UNCHANGED, {key: values[key] for key in names}, changed)


def format_value(value: Any) -> str:
    """`1e-4` and not `0.0001`, text as it is, all else as JSON."""
    if isinstance(value, float):
        mantissa, _, exponent = f"{value:e}".partition("e")
        short = f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
        is_better = not 0.01 <= abs(value) < 1e6 and len(short) < len(repr(value))
        return short if is_better and float(short) == value else repr(value)
    return value if isinstance(value, str) else json.dumps(value)


def run_path(folder: Path, point: Point, seed: int) -> Path:
    """The run folder of a point; a long name, or one with signs that paths lack, is cut short."""
    name = re.sub(r"[^\w.=,+-]+", "_", point.name)[:100]
    if name != point.name:
        name += "-" + hashlib.sha256(point.name.encode()).hexdigest()[:8]
    return folder / f"{name},seed={seed}"


def refuse_other_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Raise RunError when the folder holds a sweep around other settings."""
    path = folder / "sweep.json"
    has_runs = any(folder.glob("*/config.json"))  # what was refused left none
    before = read_json(path)["settings"] if has_runs and path.is_file() else settings
    changed = [key for key in settings if before.get(key) != settings[key]]
    if changed:
        said = "; ".join(
            f"{key} is {settings[key]!r} and was {before.get(key)!r}" for key in changed
        )
        raise RunError(
            f"'{folder}' holds a sweep around other settings: {said}.",
            remedy="Name another folder with --out, or set them as they were.",
        )


def read_result(path: Path, seed: int) -> RunResult:
    """What came of a run, which need not have begun."""
    from tunestone.stats import mean_interval  # numpy, which other commands need not wait for

    run = RunFolder(path)
    report = run.report()
    if report is None:
        events = read_lines(run.events)
        diverged = bool(events) and events[-1]["kind"] == DIVERGED
        return RunResult(seed, path.name, "diverged" if diverged else "unfinished")
    low, high = mean_interval(read_json(path / "tuned.json")["rewards"])
    difference_low, difference_high = report["difference_ci95"]
    return RunResult(
        seed=seed,
        folder=path.name,
        state="finished",
        score=report["score"],
        base=report["base"]["accuracy"],
        tuned=report["tuned"]["accuracy"],
        tuned_ci95=(low, high),
        difference=report["difference"],
        difference_ci95=(difference_low, difference_high),
        seconds=seconds_spent(report),
        alerts=tuple(dict.fromkeys(alert["code"] for alert in told_alerts(read_lines(run.events)))),
    )


def summarise(plan: Plan, folder: Path) -> dict[str, Any]:
    """The record of sweep.json, from the run folders as they are now."""
    results = [
        [read_result(run_path(folder, point, seed), seed) for seed in plan.seeds]
        for point in plan.points
    ]
    scores = {run.score for runs in results for run in runs if run.score}
    return {
        "task": plan.task,
        "settings": dict(plan.settings),
        "varied": list(plan.points[0].values),
        "seeds": list(plan.seeds),
        "score": "accuracy" if scores == {"accuracy"} else "mean reward",
        "points": [
            {"name": point.name, "values": dict(point.values), **_over_seeds(runs)}
            for point, runs in zip(plan.points, results, strict=True)
        ],
    }


def _over_seeds(runs: Sequence[RunResult]) -> dict[str, Any]:
    """Means over finished runs. Intervals are over seeds; of a single one, over its prompts."""
    from tunestone.stats import seed_interval  # numpy again

    done = [run for run in runs if run.state == "finished"]
    record: dict[str, Any] = {"finished": len(done)}
    for key in ("base", "tuned", "difference", "seconds"):
        numbers = [getattr(run, key) for run in done]
        record[key] = statistics.fmean(numbers) if numbers else None
    for key, lowest in (("tuned", 0.0), ("difference", -1.0)):
        limits = (lowest, 1.0) if all(run.score == "accuracy" for run in done) else None
        own = [getattr(run, f"{key}_ci95") for run in done]
        scores = [getattr(run, key) for run in done]
        record[f"{key}_ci95"] = seed_interval(scores, own, limits=limits) if done else None
    return {**record, "runs": [asdict(run) for run in runs]}
