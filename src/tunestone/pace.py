"""How long a run has taken, and still takes by the steps it has done."""

from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

_RECENT = 10
"""Steps whose median is taken for the next ones."""

_PHASES = ("prepare", "base", "train", "tuned")


def seconds_spent(report: Mapping[str, Any]) -> float:
    """From beginning to end, by the run's report; a resumed run tells its last session."""
    return float(sum(report["seconds"][phase] for phase in _PHASES))


def seconds_left(records: Sequence[Mapping[str, Any]]) -> float:
    """Until the last step is done; `records`: the lines of metrics.jsonl, at least one."""
    last = records[-1]
    phases = [record["seconds"] for record in records]
    validations = [seconds["validate"] for seconds in phases if "validate" in seconds]
    each = median(
        sum(seconds for phase, seconds in step.items() if phase != "validate")
        for step in phases[-_RECENT:]
    )
    share = len(validations) / len(records)
    return float((last["steps"] - last["step"]) * (each + share * fmean(validations or [0.0])))
