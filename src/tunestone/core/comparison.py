"""Base against tuned: the same held-out prompts, paired. The numbers of report.json.

For rewards of 0 and 1 the mean is an accuracy (Wilson interval, Newcombe's for the difference,
exact McNemar); for others the paired bootstrap and a permutation test are used. What each number
means is in docs/evaluation.md; `reports/evaluation.py` draws them.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from tunestone import stats
from tunestone.contamination import find_contamination
from tunestone.core.evaluate import Example, Scores
from tunestone.core.measure import Drawn, Measured
from tunestone.slices import choose_keys, split_by
from tunestone.types import Prompt

MOST_REGRESSIONS = 100
"""Prompts that got worse, kept with both answers; their ids are kept all."""


def compare(
    examples: Sequence[Example],
    base: Measured,
    tuned: Measured,
    *,
    slices: Sequence[str] | None = None,
    training: Sequence[Prompt] | None = None,
) -> dict[str, Any]:
    """The numbers of report.json. `relative_gain` is None unless the base scored above 0.

    `slices`: fields of the rows to tell apart; None takes those that have few values. `training`:
    what the tuned model was trained on, None when nobody knows.
    """
    before, after = base.greedy, tuned.greedy
    rows = [example.prompt.row for example in examples]
    keys = choose_keys(rows) if slices is None else slices
    heldout = [example.prompt for example in examples]
    return {
        **_compare_greedy(before, after),
        "drawn": _compare_drawn(base.drawn, tuned.drawn),
        "slices": [_compare_slices(rows, key, before, after) for key in keys],
        "cost": _compare_cost(before, after),
        "contamination": None if training is None else find_contamination(training, heldout),
        "examples": _before_and_after(examples, before, after),
        **_regressions(examples, before, after),
    }


def _compare_greedy(base: Scores, tuned: Scores) -> dict[str, Any]:
    binary = base.binary and tuned.binary
    gained = sum(b < t for b, t in zip(base.rewards, tuned.rewards, strict=True))
    lost = sum(b > t for b, t in zip(base.rewards, tuned.rewards, strict=True))
    difference = tuned.mean_reward - base.mean_reward
    if binary:
        test, p_value = "exact McNemar", stats.mcnemar_exact(lost, gained)
    else:
        test = "paired sign-flip permutation"
        p_value = stats.paired_permutation_p(base.rewards, tuned.rewards)
    return {
        "n": len(base.rewards),
        "score": "accuracy" if binary else "mean reward",
        "base": _summary(base, binary=binary),
        "tuned": _summary(tuned, binary=binary),
        "difference": difference,
        "difference_ci95": list(stats.paired_difference_interval(base.rewards, tuned.rewards)),
        "relative_gain": difference / base.mean_reward if base.mean_reward > 0 else None,
        "test": test,
        "p_value": p_value,
        "prompts_needed": stats.pairs_needed(base.rewards, tuned.rewards),
        "gained": gained,
        "lost": lost,
    }


def _summary(scores: Scores, *, binary: bool) -> dict[str, Any]:
    count = len(scores.rewards)
    return {
        "accuracy": scores.mean_reward,
        "ci95": list(stats.wilson_interval(round(sum(scores.rewards)), count)) if binary else None,
        "lenient_accuracy": sum(scores.lenient) / count if scores.lenient else None,
        "lenient_ci95": _lenient_interval(scores.lenient),
        "length_mean": sum(scores.lengths) / count,
        "grade_errors": scores.errors,
        "lenient_grade_errors": scores.lenient_errors,
    }


def _lenient_interval(lenient: Sequence[float] | None) -> list[float] | None:
    if not lenient or not set(lenient) <= {0.0, 1.0}:
        return None
    return list(stats.wilson_interval(round(sum(lenient)), len(lenient)))


def _compare_drawn(base: Drawn | None, tuned: Drawn | None) -> dict[str, Any] | None:
    """avg@k and pass@k of both, and the paired difference of avg@k; k = answers to a prompt."""
    if base is None or tuned is None:
        return None
    binary = base.binary and tuned.binary
    averages = [[statistics.fmean(g) for g in drawn.rewards_PG] for drawn in (base, tuned)]
    return {
        "prompts": len(base.rewards_PG),
        "samples": len(base.rewards_PG[0]),
        "temperature": base.temperature,
        "base": _drawn_summary(base, averages[0], binary=binary),
        "tuned": _drawn_summary(tuned, averages[1], binary=binary),
        "difference": statistics.fmean(averages[1]) - statistics.fmean(averages[0]),
        "difference_ci95": list(stats.paired_difference_interval(*averages)),
    }


def _drawn_summary(drawn: Drawn, averages: Sequence[float], *, binary: bool) -> dict[str, Any]:
    size = len(drawn.rewards_PG[0])
    chances = {k: _chances(drawn, k) for k in _ks(size)} if binary else {}
    return {
        "avg": statistics.fmean(averages),
        "avg_ci95": list(stats.mean_interval(averages)),
        "pass": {str(k): statistics.fmean(values) for k, values in chances.items()},
        "pass_ci95": {str(k): list(stats.mean_interval(values)) for k, values in chances.items()},
        "grade_errors": drawn.errors,
    }


def _chances(drawn: Drawn, k: int) -> list[float]:
    """pass@k of each prompt."""
    return [stats.pass_at_k(len(g), round(sum(g)), k) for g in drawn.rewards_PG]


def _ks(size: int) -> list[int]:
    """The powers of two below `size`, and `size`: 1, 2, 4 for four answers."""
    return [*(2**i for i in range((size - 1).bit_length())), size]


def _compare_slices(
    rows: Sequence[Mapping[str, Any]], key: str, base: Scores, tuned: Scores
) -> dict[str, Any]:
    """Scores of the prompts with each value of `key`."""
    lines = []
    for value, positions in split_by(rows, key).items():
        before, after = ([scores.rewards[i] for i in positions] for scores in (base, tuned))
        lines.append(
            {
                "value": value,
                "n": len(positions),
                "base": statistics.fmean(before),
                "tuned": statistics.fmean(after),
                "difference": statistics.fmean(after) - statistics.fmean(before),
                "difference_ci95": list(stats.paired_difference_interval(before, after)),
            }
        )
    return {"key": key, "rows": lines}


def _compare_cost(base: Scores, tuned: Scores) -> dict[str, Any]:
    """What an answer takes: tokens, and seconds of this machine with all prompts side by side."""
    lengths = [[float(length) for length in scores.lengths] for scores in (base, tuned)]
    low, high = stats.paired_difference_interval(*lengths)
    return {
        "tokens_per_answer": {
            "base": statistics.fmean(lengths[0]),
            "tuned": statistics.fmean(lengths[1]),
            "difference": statistics.fmean(lengths[1]) - statistics.fmean(lengths[0]),
            "difference_ci95": [low, high],
        },
        "seconds_per_answer": {
            "base": base.seconds / len(base.lengths),
            "tuned": tuned.seconds / len(tuned.lengths),
        },
    }


def _before_and_after(
    examples: Sequence[Example], base: Scores, tuned: Scores, count: int = 3
) -> list[dict[str, Any]]:
    """A few prompts answered by both, the first of each kind: gained, lost, same."""
    change = [t - b for b, t in zip(base.rewards, tuned.rewards, strict=True)]
    kinds = [
        next((i for i, c in enumerate(change) if c > 0), None),
        next((i for i, c in enumerate(change) if c < 0), None),
        next((i for i, c in enumerate(change) if c == 0), None),
    ]
    chosen = [i for i in kinds if i is not None]
    chosen += [i for i in range(len(examples)) if i not in chosen]
    return [_side_by_side(examples[i], i, base, tuned) for i in chosen[:count]]


def _regressions(examples: Sequence[Example], base: Scores, tuned: Scores) -> dict[str, Any]:
    """Prompts that earn less than before: all ids in their order, the worst with both answers."""
    drops = [b - t for b, t in zip(base.rewards, tuned.rewards, strict=True)]
    worse = [i for i, drop in enumerate(drops) if drop > 0]
    worst = sorted(worse, key=lambda i: -drops[i])[:MOST_REGRESSIONS]
    return {
        "regressions": [examples[i].prompt.id for i in worse],
        "regression_records": [_side_by_side(examples[i], i, base, tuned) for i in worst],
    }


def _side_by_side(example: Example, i: int, base: Scores, tuned: Scores) -> dict[str, Any]:
    return {
        "id": example.prompt.id,
        "prompt": example.prompt.messages[-1]["content"],
        "base": base.texts[i],
        "tuned": tuned.texts[i],
        "base_reward": base.rewards[i],
        "tuned_reward": tuned.rewards[i],
    }
