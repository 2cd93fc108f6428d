"""What the results file holds of the two sides, and how a workload is merged into it."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measuring import commit, read, write

from sides.pair import Records
from sides.workloads import Workload

_Record = dict[str, Any]


def summarise(workload: Workload, ours: Records, theirs: Records) -> _Record:
    """One entry of `workloads`: every figure a median, with the least and the greatest beside it.

    `ratio` is that of the medians; its `low` and `high` are those of steps measured side by side.
    """
    entry: _Record = {
        "name": workload.name,
        "adapter": workload.adapter,
        "threads": workload.threads,
        "prompts": workload.prompts,
        "group": workload.group,
        "prompt_tokens": statistics.fmean(r["prompt_tokens"] for r in ours) / workload.prompts,
        "completion_tokens": workload.completion_tokens,
        "steps": len(ours),
        "trl_micro_batch": workload.trl_micro_batch,
        "trl_defaults": workload.trl_defaults,
    }
    for side, records in (("ours", ours), ("trl", theirs)):
        entry |= _side(side, records)
    speeds = [t["seconds"] / o["seconds"] for o, t in zip(ours, theirs, strict=True)]
    ratio = entry["ours_completions_per_second"] / entry["trl_completions_per_second"]
    return entry | {"ratio": ratio, "ratio_low": min(speeds), "ratio_high": max(speeds)}


def _side(side: str, records: Records) -> _Record:
    seconds = [record["seconds"] for record in records]
    figures = {
        "completions_per_second": [r["completions"] / r["seconds"] for r in records],
        "peak_mib": [r["peak_mib"] for r in records],
        "seconds_per_step": seconds,
        "generated_tokens_per_second": [r["generated_tokens"] / r["seconds"] for r in records],
    }
    phases = {name: [r["phases"].get(name, 0.0) for r in records] for name in records[0]["phases"]}
    return {
        **{k: v for name, values in figures.items() for k, v in _spread(f"{side}_{name}", values)},
        f"{side}_share": {name: sum(spent) / sum(seconds) for name, spent in phases.items()},
        f"{side}_generated_tokens_per_step": statistics.fmean(
            r["generated_tokens"] for r in records
        ),
        f"{side}_signal_share": statistics.fmean(r["signal_share"] for r in records),
    }


def _spread(name: str, values: Sequence[float]) -> list[tuple[str, float]]:
    return [
        (name, statistics.median(values)),
        (f"{name}_low", min(values)),
        (f"{name}_high", max(values)),
    ]


def merge(path: Path, key: str, entry: _Record, *, by: str) -> None:
    """Put an entry and its commit into the list `key`, in place of the one with the same `by`."""
    others = read(path)[key]
    stamped = entry | {"commit": commit()}
    places = [i for i, other in enumerate(others) if other[by] == entry[by]]
    if places:
        others[places[0]] = stamped
    else:
        others.append(stamped)
    write(path, **{key: others})
