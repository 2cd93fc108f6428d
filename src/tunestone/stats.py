"""Intervals and paired tests: how sure we may be that the tuned model is better.

Base and tuned models answer the same held-out prompts, so everything here that compares them is
paired: it looks at the differences prompt by prompt, which is far sharper than comparing two
averages. Right-or-wrong outcomes use closed formulas (Wilson, Newcombe, exact McNemar); other
scores use resampling with a fixed seed, so that a report read twice says the same thing twice.
When nothing was shown, `pairs_needed` says how many prompts might have shown it. pass@k of several
drawn answers and Cohen's kappa, for a judge against people, are here too.

All probabilities are two-sided. Left out: corrections for looking at many tasks at once; whoever
compares ten recipes and reports the best one has to divide by ten.
"""

import math
import statistics
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
"""Draws of the bootstrap and of the sign-flip test."""
SEED = 20_231_123
"""Fixed, so that the same scores always give the same interval and p-value."""

KappaWeights = Literal["none", "quadratic"]

_BLOCK_ELEMENTS = 2_000_000
"""Resamples are drawn in blocks of about this many numbers (16 MB) to bound the memory."""

_T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Student's t at 97.5 % for 1 to 9 degrees of freedom. Beyond, the last one is a little wide."""

FloatArray = NDArray[np.float64]


def wilson_interval(successes: int, n: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval (lower, upper), both in [0, 1], of a success rate.

    Source: E. B. Wilson (1927), JASA 22:209-212; without continuity correction.
    Raises ValueError for n = 0, successes outside 0..n, or a confidence outside (0, 1).
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}: no trials, no interval")
    if not 0 <= successes <= n:
        raise ValueError(f"successes must lie in 0..{n}, got {successes}")
    z = _z_value(confidence)
    rate = successes / n
    centre = rate + z * z / (2 * n)
    half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # The ends are exactly 0 and 1 at the extremes; rounding would leave 1e-17 there.
    lower = 0.0 if successes == 0 else (centre - half) / scale
    upper = 1.0 if successes == n else (centre + half) / scale
    return lower, upper


def mcnemar_exact(b: int, c: int) -> float:
    """Exact two-sided p-value that right-before-wrong-now and the reverse are equally likely.

    `b`: prompts right before and wrong now; `c`: wrong before and right now; the pairs that agree
    carry no information. p = min(1, 2 P[X <= min(b, c)]), X ~ Binomial(b + c, 1/2); 1.0 when
    b + c = 0. Source: Q. McNemar (1947), Psychometrika 12:153-157, in its exact (sign test) form.
    Raises ValueError for a negative count.
    """
    if b < 0 or c < 0:
        raise ValueError(f"counts must not be negative, got b={b}, c={c}")
    n = b + c
    term = tail = 1  # exact integers: C(n, 0), then the sum of C(n, i) for i <= min(b, c)
    for i in range(min(b, c)):
        term = term * (n - i) // (i + 1)
        tail += term
    return float(min(1.0, 2 * tail / 2**n))


def paired_difference_interval(
    base: Sequence[float], tuned: Sequence[float], *, confidence: float = 0.95
) -> tuple[float, float]:
    """Interval (lower, upper) of mean(tuned) - mean(base); element i of both is the same prompt.

    When every score is 0 or 1 (or a bool): method 10 of R. G. Newcombe (1998), "Improved
    confidence intervals for the difference between binomial proportions based on paired data",
    Statistics in Medicine 17:2635-2650. It keeps a width when all pairs agree, and stays in -1..1.

    Otherwise: percentile bootstrap of the mean difference (B. Efron and R. Tibshirani (1993), An
    Introduction to the Bootstrap, ch. 13), `RESAMPLES` draws of whole pairs with seed `SEED`. When
    all differences are equal this has no width; with fewer than about 20 pairs it is too narrow.

    Raises ValueError for no pairs, unequal lengths, NaN or infinity, a confidence outside (0, 1).
    """
    base_P, tuned_P = _check_pairs(base, tuned)
    if _is_binary(base_P) and _is_binary(tuned_P):
        return _newcombe_interval(base_P == 1, tuned_P == 1, confidence=confidence)
    return _bootstrap_interval(tuned_P - base_P, confidence=confidence)


def mean_interval(scores: Sequence[float], *, confidence: float = 0.95) -> tuple[float, float]:
    """Interval (lower, upper) of the mean score over prompts.

    When every score is 0 or 1: `wilson_interval`. Otherwise the percentile bootstrap over prompts,
    as in `paired_difference_interval` and with its limits.

    Raises ValueError for no scores, NaN or infinity, a confidence outside (0, 1).
    """
    scores_P, _ = _check_pairs(scores, scores)
    if _is_binary(scores_P):
        return wilson_interval(int(scores_P.sum()), scores_P.size, confidence=confidence)
    return _bootstrap_interval(scores_P, confidence=confidence)


def seed_interval(
    scores: Sequence[float],
    own: Sequence[tuple[float, float]],
    *,
    limits: tuple[float, float] | None = None,
) -> tuple[float, float]:
    """95 % interval (lower, upper) of the mean over seeds: how other seeds would do.

    By Student's t, but no narrower than what is known of each seed: `own` are the intervals of the
    scores over their prompts, and seeds may agree by chance. Of a single seed it is its own.
    `limits` are the lowest and the highest score there is; the interval is cut to them.

    Raises ValueError for no scores, or when there is not one interval for each.
    """
    if not scores or len(scores) != len(own):
        raise ValueError(f"{len(scores)} scores and {len(own)} intervals; as many, at least one")
    if len(scores) == 1:
        return own[0]
    n, mean = len(scores), statistics.fmean(scores)
    by_prompts = math.hypot(*((upper - lower) / 2 for lower, upper in own)) / n
    t = _T_975[min(n - 2, len(_T_975) - 1)]
    half = max(t * statistics.stdev(scores) / math.sqrt(n), by_prompts)
    lowest, highest = limits or (-math.inf, math.inf)
    return max(lowest, mean - half), min(highest, mean + half)


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Chance that at least one of `k` answers is right, from `n` drawn of which `correct` were.

    1 - C(n - correct, k) / C(n, k): unbiased, unlike 1 - (1 - correct / n)^k. Source: M. Chen et
    al. (2021), Evaluating Large Language Models Trained on Code, arXiv:2107.03374, eq. 1.
    Raises ValueError unless 1 <= k <= n and 0 <= correct <= n.
    """
    if not 1 <= k <= n:
        raise ValueError(f"k must lie in 1..{n} (the answers that were drawn), got {k}")
    if not 0 <= correct <= n:
        raise ValueError(f"correct must lie in 0..{n}, got {correct}")
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def pairs_needed(
    base: Sequence[float],
    tuned: Sequence[float],
    *,
    power: float = 0.8,
    significance: float = 0.05,
) -> int | None:
    """How many prompts would show a difference as large as the observed one; None when it is 0.

    With that many, a two-sided test at `significance` finds it with probability `power`, if the
    truth is what was seen here, which with few prompts is itself uncertain. With less than about
    15 pairs that disagree among them the formula asks for a few too many.

    Scores of 0 and 1: R. J. Connor (1987), "Sample size for testing differences in proportions for
    the paired-sample design", Biometrics 43:207-211, from the share of pairs that disagree.
    Otherwise the paired z test, from the sample deviation of the differences.

    Raises ValueError for no pairs, unequal lengths, NaN or infinity, a share outside (0, 1).
    """
    base_P, tuned_P = _check_pairs(base, tuned)
    difference_P = tuned_P - base_P
    difference = float(difference_P.mean())
    z_test, z_power = _z_value(1 - significance), statistics.NormalDist().inv_cdf(power)
    if abs(difference) <= 1e-12 * float(np.abs(difference_P).mean()):  # 0, but for rounding
        return None
    if _is_binary(base_P) and _is_binary(tuned_P):
        disagreeing = float(np.abs(difference_P).mean())
        spread = math.sqrt(max(0.0, disagreeing - difference**2))
        wanted = z_test * math.sqrt(disagreeing) + z_power * spread
    else:
        deviation = float(difference_P.std(ddof=1)) if difference_P.size > 1 else 0.0
        wanted = (z_test + z_power) * deviation
    return max(2, math.ceil((wanted / difference) ** 2))


def paired_permutation_p(base: Sequence[float], tuned: Sequence[float]) -> float:
    """Two-sided p-value that base and tuned scores of a prompt could be swapped at will.

    Flips the signs of the paired differences and compares |sum|. Up to 13 differences that are not
    zero, all sign patterns are counted (R. A. Fisher (1935), The Design of Experiments, s. 21);
    beyond that `RESAMPLES` random patterns with seed `SEED`, p = (1 + hits) / (1 + draws), which
    is never 0 (B. Phipson and G. Smyth (2010), Stat. Appl. Genet. Mol. Biol. 9:39).

    Raises ValueError for no pairs, unequal lengths, NaN or infinity.
    """
    base_P, tuned_P = _check_pairs(base, tuned)
    difference_P = tuned_P - base_P
    difference_P = difference_P[difference_P != 0]
    n = difference_P.size
    # Sums that are equal on paper must count as equal, hence the slack for rounding.
    threshold = abs(difference_P.sum()) - 1e-12 * np.abs(difference_P).sum()
    if 2**n <= RESAMPLES:
        patterns = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
        return float(np.mean(np.abs((2 * patterns - 1) @ difference_P) >= threshold))
    generator = np.random.default_rng(SEED)
    hits = 0
    for rows in _block_rows(n):
        signs = 2.0 * generator.integers(0, 2, size=(rows, n)) - 1.0
        hits += int(np.count_nonzero(np.abs(signs @ difference_P) >= threshold))
    return (1 + hits) / (1 + RESAMPLES)


def cohen_kappa(a: Sequence[float], b: Sequence[float], *, weights: KappaWeights = "none") -> float:
    """Agreement of two raters beyond chance: 1 is perfect, 0 what chance gives, negative worse.

    One minus the mean disagreement of the pairs over the mean disagreement of every score of `a`
    with every score of `b`. `none`: two scores disagree (1) or not (0), J. Cohen (1960), Educ.
    Psychol. Meas. 20:37-46. `quadratic`: they disagree by their squared distance on the scale, J.
    Cohen (1968), Psychol. Bull. 70:213-220; levels nobody used make no difference.

    NaN when both raters gave everything one and the same score: chance then explains it all.
    Raises ValueError for no pairs, unequal lengths, NaN or infinity.
    """
    a_P, b_P = _check_pairs(a, b)
    return float(_kappas(a_P[None, :], b_P[None, :], weights=weights)[0])


def cohen_kappa_interval(
    a: Sequence[float],
    b: Sequence[float],
    *,
    weights: KappaWeights = "none",
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Interval (lower, upper) of `cohen_kappa`: percentile bootstrap over the items.

    `RESAMPLES` draws of whole pairs with seed `SEED`; draws in which both raters gave everything
    one and the same score have no kappa and are left out. (NaN, NaN) when that is true of the
    scores themselves. With perfect agreement it has no width; below about 30 items it is too
    narrow. Raises ValueError as `cohen_kappa`, and for a confidence outside (0, 1).
    """
    a_P, b_P = _check_pairs(a, b)
    _z_value(confidence)  # refuses a confidence outside (0, 1)
    n = a_P.size
    generator = np.random.default_rng(SEED)
    blocks = []
    for rows in _block_rows(n):
        drawn = generator.integers(0, n, size=(rows, n))
        blocks.append(_kappas(a_P[drawn], b_P[drawn], weights=weights))
    kappas = np.concatenate(blocks)
    kappas = kappas[~np.isnan(kappas)]
    if kappas.size == 0:
        return math.nan, math.nan
    lower, upper = np.quantile(kappas, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(lower), float(upper)


def _kappas(a_SP: FloatArray, b_SP: FloatArray, *, weights: KappaWeights) -> FloatArray:
    """Kappa of each row (S: resamples); NaN where chance explains everything."""
    if weights == "quadratic":
        observed_S = ((a_SP - b_SP) ** 2).mean(axis=1)
        # The mean over all (i, j) of (a_i - b_j)^2, without forming the P x P table.
        gap_S = a_SP.mean(axis=1) - b_SP.mean(axis=1)
        expected_S = a_SP.var(axis=1) + b_SP.var(axis=1) + gap_S**2
    else:
        observed_S = (a_SP != b_SP).mean(axis=1)
        levels = np.intersect1d(a_SP, b_SP)
        same_S = sum((a_SP == x).mean(axis=1) * (b_SP == x).mean(axis=1) for x in levels)
        expected_S = 1 - same_S * np.ones(len(a_SP))
    # Rounding leaves about 1e-17 where there is no chance disagreement at all.
    possible = expected_S > 1e-12
    return np.where(possible, 1 - observed_S / np.where(possible, expected_S, 1), math.nan)


def _bootstrap_interval(values_P: FloatArray, *, confidence: float) -> tuple[float, float]:
    """Percentile interval of the mean, `RESAMPLES` draws with seed `SEED`."""
    _z_value(confidence)  # refuses a confidence outside (0, 1)
    n = values_P.size
    generator = np.random.default_rng(SEED)
    means = np.concatenate(
        [values_P[generator.integers(0, n, size=(rows, n))].mean(axis=1) for rows in _block_rows(n)]
    )
    lower, upper = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(lower), float(upper)


def _newcombe_interval(
    base_P: NDArray[np.bool_], tuned_P: NDArray[np.bool_], *, confidence: float
) -> tuple[float, float]:
    """Square and add the Wilson limits of both rates, less what their correlation explains."""
    n = base_P.size
    both, only_tuned, only_base, neither = (
        int(np.count_nonzero(cell))
        for cell in (base_P & tuned_P, ~base_P & tuned_P, base_P & ~tuned_P, ~base_P & ~tuned_P)
    )
    rate_tuned, rate_base = (both + only_tuned) / n, (both + only_base) / n
    low_tuned, high_tuned = wilson_interval(both + only_tuned, n, confidence=confidence)
    low_base, high_base = wilson_interval(both + only_base, n, confidence=confidence)
    phi = _corrected_phi(both, only_tuned, only_base=only_base, neither=neither)

    def side(from_tuned: float, from_base: float) -> float:
        squared = from_tuned**2 - 2 * phi * from_tuned * from_base + from_base**2
        return math.sqrt(max(0.0, squared))

    difference = (only_tuned - only_base) / n
    lower = difference - side(rate_tuned - low_tuned, high_base - rate_base)
    upper = difference + side(high_tuned - rate_tuned, rate_base - low_base)
    return max(-1.0, lower), min(1.0, upper)


def _corrected_phi(both: int, only_tuned: int, *, only_base: int, neither: int) -> float:
    """Correlation of the paired outcomes; n/2 is taken off a positive numerator, 0 at the least."""
    n = both + only_tuned + only_base + neither
    margins = (
        (both + only_tuned) * (only_base + neither) * (both + only_base) * (only_tuned + neither)
    )
    if margins == 0:
        return 0.0
    numerator: float = both * neither - only_tuned * only_base
    if numerator > 0:
        numerator = max(numerator - n / 2, 0.0)
    return numerator / math.sqrt(margins)


def _check_pairs(base: Sequence[float], tuned: Sequence[float]) -> tuple[FloatArray, FloatArray]:
    base_P = np.asarray(base, dtype=np.float64)
    tuned_P = np.asarray(tuned, dtype=np.float64)
    if base_P.shape != tuned_P.shape or base_P.ndim != 1:
        raise ValueError(
            f"base and tuned must be equally long, got {len(base)} and {len(tuned)} scores"
        )
    if base_P.size == 0:
        raise ValueError("at least one pair is needed, got none")
    if not (np.isfinite(base_P).all() and np.isfinite(tuned_P).all()):
        raise ValueError("scores must be finite; leave out the pairs that have no score")
    return base_P, tuned_P


def _is_binary(scores_P: NDArray[Any]) -> bool:
    return bool(np.isin(scores_P, (0.0, 1.0)).all())


def _z_value(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie strictly between 0 and 1, got {confidence}")
    return statistics.NormalDist().inv_cdf((1 + confidence) / 2)


def _block_rows(n: int) -> Iterator[int]:
    """How many resamples of n numbers to draw at a time; sums to RESAMPLES."""
    block = max(1, _BLOCK_ELEMENTS // n)
    for start in range(0, RESAMPLES, block):
        yield min(block, RESAMPLES - start)
