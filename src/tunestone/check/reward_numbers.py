"""What the grades of a trial say by themselves: errors, range, repeatability, time, length.

Source of the bound on time (5 seconds): AWS's advice to look for slower evaluations.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from tunestone.check.findings import EVIDENCE, Finding, Json, counted, excerpt
from tunestone.check.trial import Graded, Trial
from tunestone.types import Grade, Sample

_SAME = 1e-9
_SLOW_SECONDS = 5.0
_LEAST_COMPLETIONS = 20
_LEAST_CORRELATION, _SIGNIFICANT = 0.3, 2.58  # the second: two-sided 1 % of a normal variable


def check_errors(tried: Sequence[Graded], completions: Sequence[Graded]) -> Iterator[Finding]:
    """Grades that failed, with the end of the first error: of the model's completions if any is.

    Training grades such completions, so when all of them fail it cannot work, whatever was tried.
    """
    own, graded = _failures(completions), len(tried) + len(completions)
    failures = [*own, *_failures(tried)]
    if not failures:
        were = "was" if graded == 1 else "were"
        message = f"{counted(graded, 'text')} {were} graded without an error."
        yield Finding("ok", "no_errors", message)
        return
    sample, error = failures[0]
    all_failed = len(failures) == graded
    among = f", {len(own)} of {len(completions)} completions of the model among them" if own else ""
    yield Finding(
        "fatal" if all_failed or (own and len(own) == len(completions)) else "warning",
        "reward_errors",
        f"Grading failed for {'all' if all_failed else f'{len(failures)} of'} "
        f"{counted(graded, 'text')}{among}; "
        f"first: {(error.strip().splitlines() or ['no reason given'])[-1]}",
        "A failed grade is left out of training. Make the reward return a number for any text.",
        (
            {"id": sample.prompt.id, "completion": excerpt(sample.text), "error": error},
            *(
                {"id": other.prompt.id, "completion": excerpt(other.text), "error": excerpt(why)}
                for other, why in failures[1:EVIDENCE]
            ),
        ),
    )


def check_range(graded: Sequence[Graded], *, knows_answers: bool) -> Iterator[Finding]:
    """Constant, or outside the scale the services advise.

    `knows_answers`: whether texts that may be good were among them. Without, a constant is what
    an honest reward gives.
    """
    rewards = _rewards(graded)
    if not rewards:
        return
    low, high = min(rewards), max(rewards)
    if high - low <= _SAME:
        yield Finding(
            "fatal" if knows_answers else "advice",
            "constant_reward",
            f"All {len(rewards)} texts got {low:g}, good and bad ones: there is nothing to learn.",
            "Grade an answer that you know to be right with `tunestone grade`, and mend the reward "
            "until it differs from a wrong one.",
        )
    elif low < -1 - _SAME or high > 1 + _SAME:
        yield Finding(
            "advice",
            "unusual_range",
            f"Rewards lie between {low:g} and {high:g}.",
            "A scale of 0 to 1 (or -1 to 1) is easier to read and to combine.",
        )
    else:
        yield Finding("ok", "reward_range", f"Rewards lie between {low:g} and {high:g}.")


def check_determinism(trial: Trial, samples: Sequence[Sample]) -> Iterator[Finding]:
    """Grade again what was graded before, and compare; two failures say nothing."""
    pairs = zip(samples, trial.rewards(samples), trial.repeat(samples), strict=True)
    known = [(sample, a, b) for sample, a, b in pairs if not (a is None and b is None)]
    differing = [(sample, a, b) for sample, a, b in known if not _same(a, b)]
    if not known:
        yield Finding(
            "advice",
            "not_graded_twice",
            f"{counted(len(samples), 'text')} could not be graded twice, so it is not known "
            "whether the same text always gets the same.",
            "Mend the reward first, then check again.",
        )
        return
    if not differing:
        left = len(samples) - len(known)
        more = f"; {left} more could not be graded" if left else ""
        message = f"{counted(len(known), 'text')} graded twice got the same{more}."
        yield Finding("ok", "deterministic", message)
        return
    yield Finding(
        "warning",
        "not_deterministic",
        f"{len(differing)} of {counted(len(known), 'text')} got another reward the second time.",
        "Take chance, time and state out of the reward; ask judges at temperature 0.",
        tuple(
            {"id": sample.prompt.id, "completion": excerpt(sample.text), "first": a, "second": b}
            for sample, a, b in differing[:EVIDENCE]
        ),
    )


def check_latency(trial: Trial, completions: int) -> Iterator[Finding]:
    """Time of a grade, and of all `completions` of a step."""
    p50, p99 = _latency(trial)
    step = _step_seconds(trial, completions)
    slow = p99 > _SLOW_SECONDS
    yield Finding(
        "advice" if slow else "ok",
        "slow_reward" if slow else "latency",
        f"A grade takes {_time(p50)} (P99 {_time(p99)}); the {completions} of a step about "
        f"{_time(step)}.",
        "Evaluations above 5 seconds hold up every step: cache, batch, or grade more at once."
        if slow
        else "",
    )


def check_length(completions: Sequence[Graded]) -> Iterator[Finding]:
    """Whether longer completions of the same prompt get more, or less (Spearman)."""
    measured = length_correlation(completions)
    if measured is None:
        return
    rho, n = measured
    numbers = f"rank correlation of reward and length {rho:+.2f}, {n} completions"
    if abs(rho) < _LEAST_CORRELATION or abs(rho) * (n - 1) ** 0.5 < _SIGNIFICANT:
        yield Finding("ok", "length_neutral", f"Length does not decide the reward ({numbers}).")
        return
    yield Finding(
        "warning" if rho > 0 else "advice",
        "longer_scores" if rho > 0 else "shorter_scores",
        f"{'Longer' if rho > 0 else 'Shorter'} completions get more ({numbers}).",
        "Read a few: if length alone earns reward, add a length penalty."
        if rho > 0
        else "Fine if short answers are right more often; watch that they do not run empty.",
    )


def length_correlation(completions: Sequence[Graded]) -> tuple[float, int] | None:
    """Spearman's rho and the number of completions, each compared with those of its own prompt.

    Prompts differ in length and difficulty; only the difference within a group trains. Completions
    without a reward or without another of their prompt are left out. None below 20 completions or
    where one side does not vary.
    """
    groups: dict[str, list[tuple[int, float]]] = {}
    for sample, grade in completions:
        if grade.reward is not None:
            groups.setdefault(sample.prompt.id, []).append((len(sample.text), grade.reward))
    centred = [
        (length - np.mean([x for x, _ in group]), reward - np.mean([y for _, y in group]))
        for group in groups.values()
        if len(group) > 1
        for length, reward in group
    ]
    if len(centred) < _LEAST_COMPLETIONS:
        return None
    lengths, rewards = np.round(np.array(centred).T, 9)
    if np.ptp(lengths) == 0 or np.ptp(rewards) == 0:
        return None
    rho = np.corrcoef(_ranks(lengths), _ranks(rewards))[0, 1]
    return float(rho), len(centred)


def reward_facts(trial: Trial, graded: Sequence[Graded], completions: int) -> dict[str, Json]:
    """The numbers of the section; a step grades this many `completions`.

    `graded` are all graded texts, the model's completions too; `grades` and the times are the
    trial's alone.
    """
    rewards = _rewards(graded)
    p50, p99 = _latency(trial)
    return {
        "grades": trial.asked,
        "errors": len(_failures(graded)),
        "reward_lowest": min(rewards, default=None),
        "reward_highest": max(rewards, default=None),
        "seconds_p50": p50,
        "seconds_p99": p99,
        "seconds_per_step": _step_seconds(trial, completions),
    }


def judge_tokens(grades: Sequence[Grade]) -> dict[str, dict[str, float]]:
    """Mean tokens of a grade: model -> kind (`prompt`, `completion`, `cached`) -> tokens."""
    total: dict[str, dict[str, float]] = {}
    for grade in grades:
        for model, kinds in grade.tokens.items():
            for kind, count in kinds.items():
                into = total.setdefault(model, {})
                into[kind] = into.get(kind, 0.0) + count / len(grades)
    return total


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 0; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    means: NDArray[np.float64] = (ends - counts + ends - 1) / 2
    return means[inverse]


def _failures(graded: Sequence[Graded]) -> list[tuple[Sample, str]]:
    """Samples whose grading failed, with the error."""
    return [(sample, grade.error or "") for sample, grade in graded if grade.reward is None]


def _rewards(graded: Sequence[Graded]) -> list[float]:
    return [grade.reward for _, grade in graded if grade.reward is not None]


def _same(first: float | None, second: float | None) -> bool:
    if first is None or second is None:
        return first is second
    return abs(first - second) <= _SAME * max(1.0, abs(first))


def _latency(trial: Trial) -> tuple[float, float]:
    seconds = [grade.seconds for grade in trial.grades.values()]
    p50, p99 = np.quantile(seconds, (0.5, 0.99))
    return float(p50), float(p99)


def _step_seconds(trial: Trial, completions: int) -> float:
    """By the wall clock, so that grading several at once counts."""
    return completions * trial.wall_seconds / trial.asked


def _time(seconds: float) -> str:
    if seconds >= 0.9995:
        return f"{seconds:.1f} s"
    return f"{1e3 * seconds:.3g} ms" if seconds >= 1e-3 else f"{1e6 * seconds:.3g} µs"
