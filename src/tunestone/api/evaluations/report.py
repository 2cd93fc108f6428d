"""Scores -> the summary of an evaluation: means with intervals, and a paired comparison.

Prompts that some model has no score for are left out of the comparison and counted. Right-or-wrong
scores are compared by the exact McNemar test, others by a paired permutation test; both look only
at the same prompts under both models. `tunestone.stats` is imported late: with numpy behind it, it
would make the server start a quarter of a second later.
"""

from collections.abc import Sequence
from typing import Any

_LEVEL = 0.05
"""p-values below it are called significant."""
_OUTCOMES = (0.0, 1.0)

Scores = Sequence[float | None]


def describe(scores: Scores) -> dict[str, Any]:
    """Mean of one model's scores, and its 95 % interval where they are right or wrong."""
    from tunestone import stats

    given = [score for score in scores if score is not None]
    if not given:
        return {"mean": None, "interval95": None, "scored": 0, "failures": len(scores)}
    interval = None
    if set(given) <= set(_OUTCOMES):
        interval = list(stats.wilson_interval(round(sum(given)), len(given)))
    return {
        "mean": sum(given) / len(given),
        "interval95": interval,
        "scored": len(given),
        "failures": len(scores) - len(given),
    }


def compare(base: Scores, tuned: Scores, *, comparisons: int) -> dict[str, Any]:
    """Tuned minus base, prompt by prompt; `comparisons` is how many the whole job makes."""
    from tunestone import stats

    pairs = [(b, t) for b, t in zip(base, tuned, strict=True) if b is not None and t is not None]
    if not pairs:
        return {"prompts": 0, "verdict": "No prompt has a score from both models."}
    base_P, tuned_P = [b for b, _ in pairs], [t for _, t in pairs]
    gained, lost = sum(b < t for b, t in pairs), sum(b > t for b, t in pairs)
    binary = {*base_P, *tuned_P} <= set(_OUTCOMES)
    if binary:
        test, p_value = "exact McNemar", stats.mcnemar_exact(lost, gained)
    else:
        test, p_value = "paired permutation", stats.paired_permutation_p(base_P, tuned_P)
    low, high = stats.paired_difference_interval(base_P, tuned_P)
    difference = (sum(tuned_P) - sum(base_P)) / len(pairs)
    return {
        "prompts": len(pairs),
        "leftOut": len(base) - len(pairs),
        "difference": difference,
        "interval95": [low, high],
        "test": test,
        "pValue": p_value,
        "significant": p_value < _LEVEL,
        "gained": gained,
        "lost": lost,
        "verdict": _verdict(difference, p_value, comparisons),
    }


def _verdict(difference: float, p_value: float, comparisons: int) -> str:
    shown = f"p = {p_value:.3g}"
    if p_value >= _LEVEL:
        said = f"The difference is not significant ({shown}): it may well be chance."
    else:
        side = "higher" if difference > 0 else "lower"
        said = f"The second model scores significantly {side} ({shown})."
    if comparisons > 1:
        said += f" This is one of {comparisons} comparisons of this job: expect more chance hits."
    return said
