"""The statistics against published numbers, scipy, and slow but obvious versions."""

import itertools
import math
import random
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, norm
from scipy.stats import t as student

from tunestone.stats import (
    RESAMPLES,
    cohen_kappa,
    cohen_kappa_interval,
    mcnemar_exact,
    mean_interval,
    paired_difference_interval,
    paired_permutation_p,
    pairs_needed,
    pass_at_k,
    seed_interval,
    wilson_interval,
)


def paired(both: int, only_tuned: int, *, only_base: int, neither: int):
    """(base, tuned) outcomes with the four cells of the paired table."""
    base = [1] * both + [0] * only_tuned + [1] * only_base + [0] * neither
    tuned = [1] * both + [1] * only_tuned + [0] * only_base + [0] * neither
    return base, tuned


# --- Wilson ---------------------------------------------------------------------------------


def test_wilson_gives_the_published_example():
    # Newcombe (1998), Statistics in Medicine 17:857-872, table I, method 3: 81/263, 15/148, 0/20.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)


@given(st.integers(1, 400), st.floats(0, 1), st.sampled_from([0.8, 0.9, 0.95, 0.99]))
def test_wilson_equals_scipy(n, share, confidence):
    successes = round(share * n)
    expected = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    assert wilson_interval(successes, n, confidence=confidence) == pytest.approx(
        (expected.low, expected.high), abs=1e-12
    )


def test_wilson_ends_are_exact_when_all_are_right_or_all_wrong():
    # n = 4, z = 1.96: the far limit is z^2 / (n + z^2) = 3.8415 / 7.8415 = 0.4899
    assert wilson_interval(0, 4) == (0.0, pytest.approx(0.4899, abs=5e-5))
    assert wilson_interval(4, 4) == (pytest.approx(0.5101, abs=5e-5), 1.0)
    assert {wilson_interval(0, n)[0] for n in range(1, 300)} == {0.0}
    assert {wilson_interval(n, n)[1] for n in range(1, 300)} == {1.0}


def test_wilson_refuses_what_makes_no_sense():
    with pytest.raises(ValueError, match=r"n must be at least 1, got 0: no trials, no interval"):
        wilson_interval(0, 0)
    with pytest.raises(ValueError, match=r"successes must lie in 0\.\.3, got 4"):
        wilson_interval(4, 3)
    with pytest.raises(ValueError, match=r"strictly between 0 and 1, got 95"):
        wilson_interval(1, 3, confidence=95)


# --- McNemar --------------------------------------------------------------------------------


def test_mcnemar_by_hand():
    # 3 discordant pairs, all one way: 2 * (1/2)^3 = 0.25
    assert mcnemar_exact(0, 3) == 0.25
    # b = 1, c = 4: 2 * (1 + 5) / 32 = 0.375
    assert mcnemar_exact(1, 4) == 0.375


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_equals_scipys_exact_binomial_test(b, c):
    expected = binomtest(b, b + c, 0.5).pvalue if b + c else 1.0
    assert mcnemar_exact(b, c) == pytest.approx(expected, rel=1e-9)
    assert mcnemar_exact(b, c) == mcnemar_exact(c, b)


def test_mcnemar_without_discordant_pairs_says_nothing():
    assert mcnemar_exact(0, 0) == 1.0
    assert mcnemar_exact(7, 7) == 1.0  # 2 P[X <= 7] counts the middle twice and is cut at 1


def test_mcnemar_bears_large_counts():
    assert mcnemar_exact(5_000, 5_300) == pytest.approx(binomtest(5_000, 10_300).pvalue, rel=1e-9)
    assert mcnemar_exact(0, 3_000) == 0.0  # 2^-2999 is below the smallest float


def test_mcnemar_refuses_negative_counts():
    with pytest.raises(ValueError, match=r"must not be negative, got b=-1, c=2"):
        mcnemar_exact(-1, 2)


# --- Newcombe's interval for paired proportions -----------------------------------------------


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        # Newcombe (1998), Statistics in Medicine 17:2635-2650, the paper's examples, method 10.
        ((36, 12, 2, 0), (0.0569, 0.3404)),
        ((18, 12, 2, 18), (0.0562, 0.3290)),
        ((53, 0, 0, 1), (-0.0729, 0.0729)),
        ((0, 30, 0, 0), (0.8395, 1.0)),
        # Fagerland, Lydersen, Laake (2017), Statistical Analysis of Contingency Tables, ch. 8,
        # as printed by its R package `contingencytables`.
        ((59, 6, 16, 80), (-0.1186, -0.0046)),
    ],
)
def test_newcombe_gives_the_published_examples(cells, expected):
    both, only_tuned, only_base, neither = cells
    base, tuned = paired(both, only_tuned, only_base=only_base, neither=neither)
    assert paired_difference_interval(base, tuned) == pytest.approx(expected, abs=1e-4)


def slow_newcombe(base, tuned, confidence):
    """Method 10 written out pair by pair, with z from scipy and phi as a correlation."""
    n, z = len(base), norm.ppf((1 + confidence) / 2)
    p_1, p_2 = sum(tuned) / n, sum(base) / n

    def limits(p):
        middle, root = p + z**2 / 2 / n, z * math.sqrt(p * (1 - p) / n + z**2 / 4 / n**2)
        return (middle - root) / (1 + z**2 / n), (middle + root) / (1 + z**2 / n)

    (l_1, u_1), (l_2, u_2) = limits(p_1), limits(p_2)
    covariance = sum(x * y for x, y in zip(base, tuned, strict=True)) / n - p_1 * p_2
    spread = math.sqrt(p_1 * (1 - p_1) * p_2 * (1 - p_2))
    if covariance > 0:  # n^2 * covariance = ad - bc, so its n/2 is 1/(2n) here
        covariance = max(0.0, covariance - 1 / (2 * n))
    phi = covariance / spread if spread else 0.0
    d_1, d_2 = p_1 - l_1, u_2 - p_2
    e_1, e_2 = u_1 - p_1, p_2 - l_2
    lower = p_1 - p_2 - math.sqrt(d_1**2 - 2 * phi * d_1 * d_2 + d_2**2)
    upper = p_1 - p_2 + math.sqrt(e_1**2 - 2 * phi * e_1 * e_2 + e_2**2)
    return lower, upper


@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=60),
    st.sampled_from([0.8, 0.95, 0.99]),
)
def test_newcombe_equals_the_slow_version(pairs, confidence):
    base, tuned = [b for b, _ in pairs], [t for _, t in pairs]
    lower, upper = paired_difference_interval(base, tuned, confidence=confidence)
    assert (lower, upper) == pytest.approx(slow_newcombe(base, tuned, confidence), abs=1e-7)
    assert -1 <= lower <= sum(tuned) / len(pairs) - sum(base) / len(pairs) <= upper <= 1


def test_newcombe_is_about_tuned_minus_base():
    base, tuned = paired(18, 12, only_base=2, neither=18)
    lower, upper = paired_difference_interval(base, tuned)
    assert lower > 0
    assert paired_difference_interval(tuned, base) == pytest.approx((-upper, -lower))


@pytest.mark.parametrize("outcome", [0, 1])
def test_newcombe_keeps_a_width_when_all_are_right_or_all_wrong(outcome):
    # Both rates are at an end, both far limits z^2 / (n + z^2) = 3.8415 / 13.8415 = 0.2775 away.
    scores = [outcome] * 10
    assert paired_difference_interval(scores, scores) == pytest.approx((-0.2775, 0.2775), abs=5e-5)


def test_bools_and_floats_are_binary_too():
    expected = paired_difference_interval([0, 1, 1], [1, 1, 0])
    assert paired_difference_interval([False, True, True], [True, True, False]) == expected
    assert paired_difference_interval([0.0, 1.0, 1.0], [1.0, 1.0, 0.0]) == expected


# --- Bootstrap interval for other scores ------------------------------------------------------


def test_bootstrap_equals_the_whole_enumeration_of_resamples():
    # 5 pairs have 5^5 = 3125 equally likely resamples; 10,000 draws come close to their quantiles.
    base, tuned = [0.1, 0.5, 0.2, 0.9, 0.4], [0.3, 0.4, 0.9, 0.95, 0.8]
    differences = np.subtract(tuned, base)
    means = [np.mean(draw) for draw in itertools.product(differences, repeat=5)]
    expected = np.quantile(means, [0.05, 0.95])
    found = paired_difference_interval(base, tuned, confidence=0.9)
    assert found == pytest.approx(expected, abs=0.01)


def test_bootstrap_comes_close_to_the_normal_interval_for_many_pairs():
    generator = np.random.default_rng(7)
    base = generator.normal(0.4, 0.2, 500)
    tuned = base + generator.normal(0.1, 0.3, 500)
    difference = tuned - base
    half = 1.96 * difference.std(ddof=1) / math.sqrt(500)
    expected = (difference.mean() - half, difference.mean() + half)
    assert paired_difference_interval(base, tuned) == pytest.approx(expected, abs=0.003)


def test_bootstrap_says_the_same_thing_twice():
    scores = ([0.1, 0.2, 0.7], [0.2, 0.4, 0.5])
    assert paired_difference_interval(*scores) == paired_difference_interval(*scores)


def test_bootstrap_has_no_width_when_all_differences_are_equal():
    lower, upper = paired_difference_interval([0.1, 0.2, 0.3], [0.35, 0.45, 0.55])
    assert (lower, upper) == pytest.approx((0.25, 0.25))


def test_bootstrap_works_in_blocks_for_many_pairs():
    # 3,000 pairs need several blocks; half gain 0.5 and half lose 0.1, so the mean gain is 0.2
    # with standard error 0.3 / sqrt(3000) = 0.0055.
    base, tuned = [0.5] * 3_000, [1.0, 0.4] * 1_500
    expected = (0.2 - 1.96 * 0.0055, 0.2 + 1.96 * 0.0055)
    assert paired_difference_interval(base, tuned) == pytest.approx(expected, abs=0.001)


# --- Sign-flip test ---------------------------------------------------------------------------


def test_permutation_by_hand():
    # Differences 1, 2, 3: |sum| >= 6 only for all plus or all minus, 2 of 8 patterns.
    assert paired_permutation_p([0, 0, 0], [1, 2, 3]) == 0.25
    # Differences 1, 1, -1: |sum| >= 1 for every pattern.
    assert paired_permutation_p([0, 0, 1], [1, 1, 0]) == 1.0


def slow_permutation(base, tuned):
    """Every sign pattern of every difference, one at a time."""
    differences = [t - b for b, t in zip(base, tuned, strict=True)]
    observed = abs(sum(differences))
    patterns = list(itertools.product([-1, 1], repeat=len(differences)))
    sums = [abs(sum(s * d for s, d in zip(p, differences, strict=True))) for p in patterns]
    return sum(total >= observed - 1e-9 for total in sums) / len(patterns)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=9))
def test_permutation_equals_the_slow_version(pairs):
    base, tuned = [b / 20 for b, _ in pairs], [t / 20 for _, t in pairs]
    assert paired_permutation_p(base, tuned) == pytest.approx(slow_permutation(base, tuned))


def test_permutation_agrees_with_mcnemar_on_binary_outcomes():
    # With differences of +1 and -1 the exact sign-flip test is the exact McNemar test.
    base, tuned = paired(5, 8, only_base=2, neither=5)
    assert paired_permutation_p(base, tuned) == pytest.approx(mcnemar_exact(2, 8))


def test_permutation_by_random_patterns_comes_close_to_the_exact_value():
    # 16 differences are too many to enumerate in the fast version; the slow one takes all 65,536.
    rng = random.Random(3)
    base = [rng.random() for _ in range(16)]
    tuned = [score + rng.uniform(-0.2, 0.4) for score in base]
    found = paired_permutation_p(base, tuned)
    assert found == pytest.approx(slow_permutation(base, tuned), abs=0.01)
    assert found == paired_permutation_p(base, tuned)


def test_permutation_is_never_zero():
    base, tuned = [0.0] * 200, [0.5 + i / 1000 for i in range(200)]
    assert paired_permutation_p(base, tuned) == 1 / (1 + RESAMPLES)


def test_permutation_of_equal_scores_says_nothing():
    assert paired_permutation_p([0.3, 0.4], [0.3, 0.4]) == 1.0


# --- What both refuse -------------------------------------------------------------------------


@pytest.mark.parametrize("compare", [paired_difference_interval, paired_permutation_p])
def test_pairs_must_be_pairs(compare):
    with pytest.raises(ValueError, match="at least one pair is needed, got none"):
        compare([], [])
    with pytest.raises(ValueError, match="equally long, got 2 and 3 scores"):
        compare([1, 0], [1, 0, 1])
    with pytest.raises(ValueError, match="scores must be finite"):
        compare([0.5, math.nan], [0.5, 1.0])


@pytest.mark.parametrize("tuned", [[1, 0], [0.5, 0.1]])
def test_the_confidence_is_checked_for_both_kinds_of_scores(tuned):
    with pytest.raises(ValueError, match="strictly between 0 and 1, got 1"):
        paired_difference_interval([0, 1], tuned, confidence=1)


# --- Cohen's kappa --------------------------------------------------------------------------


def test_kappa_by_hand():
    # 50 proposals: both yes 20, only a 5, only b 10, both no 15. Agreement 35/50 = 0.7; by chance
    # 0.5 * 0.6 + 0.5 * 0.4 = 0.5. (0.7 - 0.5) / (1 - 0.5) = 0.4
    a = [1] * 20 + [1] * 5 + [0] * 10 + [0] * 15
    b = [1] * 20 + [0] * 5 + [1] * 10 + [0] * 15
    assert cohen_kappa(a, b) == pytest.approx(0.4)
    # With two levels the squared distance is 0 or 1 as well.
    assert cohen_kappa(a, b, weights="quadratic") == pytest.approx(0.4)


def test_weighted_kappa_by_hand():
    # a = 1 2 3, b = 1 2 5: squared distances 0 0 4, mean 4/3. All nine: 0 1 16, 1 0 9, 4 1 4,
    # mean 36/9 = 4. 1 - (4/3) / 4 = 2/3. Plain: 2/3 agree, by chance (1 + 1) / 9 = 2/9:
    # (2/3 - 2/9) / (7/9) = 4/7.
    assert cohen_kappa([1, 2, 3], [1, 2, 5], weights="quadratic") == pytest.approx(2 / 3)
    assert cohen_kappa([1, 2, 3], [1, 2, 5]) == pytest.approx(4 / 7)


def test_kappa_at_its_ends():
    assert cohen_kappa([0, 1, 0, 1], [0, 1, 0, 1]) == 1
    assert cohen_kappa([0, 1], [1, 0]) == -1
    assert cohen_kappa([0, 1, 0, 1], [0, 0, 1, 1]) == 0  # half agree, half would by chance
    assert cohen_kappa([0, 1, 0, 1], [1, 1, 1, 1]) == 0
    assert cohen_kappa([1, 1], [2, 2]) == 0  # never agree, and never would
    for weights in ("none", "quadratic"):
        assert math.isnan(cohen_kappa([3, 3], [3, 3], weights=weights))
        assert all(map(math.isnan, cohen_kappa_interval([3, 3], [3, 3], weights=weights)))


def slow_kappa(a, b, disagree):
    observed = sum(map(disagree, a, b)) / len(a)
    expected = sum(disagree(x, y) for x in a for y in b) / len(a) ** 2
    return 1 - observed / expected if expected else math.nan


scores = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=40)


@given(scores)
def test_kappa_equals_the_slow_version(pairs):
    a, b = zip(*pairs, strict=True)
    plain = slow_kappa(a, b, lambda x, y: x != y)
    squared = slow_kappa(a, b, lambda x, y: (x - y) ** 2)
    assert cohen_kappa(a, b) == pytest.approx(plain, abs=1e-12, nan_ok=True)
    assert cohen_kappa(a, b, weights="quadratic") == pytest.approx(squared, abs=1e-12, nan_ok=True)
    assert cohen_kappa(b, a) == pytest.approx(plain, abs=1e-12, nan_ok=True)


def test_the_interval_of_kappa_is_that_of_the_delta_method():
    # The table by hand above, six times (n = 300), as Fleiss, Cohen and Everitt (1969) have it:
    # kappa 0.4, variance (sum p_ii [1 - (p_i. + p_.i)(1 - k)]^2 + (1 - k)^2 sum_{i != j} p_ij
    #   (p_.i + p_j.)^2 - [k - p_e (1 - k)]^2) / (n (1 - p_e)^2)
    a = ([1] * 20 + [1] * 5 + [0] * 10 + [0] * 15) * 6
    b = ([1] * 20 + [0] * 5 + [1] * 10 + [0] * 15) * 6
    agree = 0.4 * (1 - 1.1 * 0.6) ** 2 + 0.3 * (1 - 0.9 * 0.6) ** 2
    # a yes, b no: p_.yes + p_no. = 0.6 + 0.5; a no, b yes: p_.no + p_yes. = 0.4 + 0.5
    differ = 0.6**2 * (0.1 * 1.1**2 + 0.2 * 0.9**2)
    error = math.sqrt((agree + differ - (0.4 - 0.5 * 0.6) ** 2) / (300 * 0.5**2))
    expected = (0.4 - 1.96 * error, 0.4 + 1.96 * error)
    assert cohen_kappa_interval(a, b) == pytest.approx(expected, abs=0.01)
    assert cohen_kappa_interval(a, b) == cohen_kappa_interval(a, b)
    narrow = cohen_kappa_interval(a, b, confidence=0.5)
    assert expected[0] < narrow[0] < 0.4 < narrow[1] < expected[1]


def test_kappa_refuses_what_makes_no_sense():
    with pytest.raises(ValueError, match="equally long, got 1 and 2 scores"):
        cohen_kappa([1], [1, 2])
    with pytest.raises(ValueError, match="at least one pair is needed"):
        cohen_kappa_interval([], [])
    with pytest.raises(ValueError, match=r"strictly between 0 and 1, got 95"):
        cohen_kappa_interval([1, 2], [1, 2], confidence=95)


# --- several answers to a prompt --------------------------------------------------------------


def test_pass_at_k_by_hand():
    # 4 drawn, 1 right: two of them hold it in 3 of 6 pairs; four hold it always.
    assert [pass_at_k(4, 1, k) for k in (1, 2, 3, 4)] == [0.25, 0.5, 0.75, 1.0]
    assert pass_at_k(5, 0, 5) == 0.0
    assert pass_at_k(5, 3, 3) == 1.0  # two wrong ones cannot fill three places


@given(st.integers(1, 9), st.data())
def test_pass_at_k_equals_the_share_of_all_subsets(n, data):
    correct, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    answers = [1] * correct + [0] * (n - correct)
    subsets = list(itertools.combinations(answers, k))
    expected = sum(any(subset) for subset in subsets) / len(subsets)
    assert pass_at_k(n, correct, k) == pytest.approx(expected, abs=1e-12)


def test_pass_at_k_refuses_what_was_not_drawn():
    with pytest.raises(ValueError, match=r"k must lie in 1\.\.4 .*, got 5"):
        pass_at_k(4, 1, 5)
    with pytest.raises(ValueError, match=r"correct must lie in 0\.\.4, got 5"):
        pass_at_k(4, 5, 1)


def test_the_interval_of_a_mean_is_wilsons_or_the_bootstraps():
    assert mean_interval([1, 0, 0, 0]) == wilson_interval(1, 4)
    # Bootstrap of the mean: the paired one against a base of zeros resamples the same numbers.
    scores = [0.0, 0.25, 0.5, 1.0, 0.75, 0.25]
    assert mean_interval(scores) == paired_difference_interval([0.0] * 6, scores)
    with pytest.raises(ValueError, match="got none"):
        mean_interval([])


# --- how many prompts -------------------------------------------------------------------------


def power_of_mcnemar(only_tuned: float, only_base: float, n: int) -> float:
    """Chance that (c - b) / sqrt(b + c) leaves +-1.96, over every table of n pairs."""
    disagreeing = only_tuned + only_base
    power = 0.0
    for m in range(1, n + 1):
        c = np.arange(m + 1)
        rejects = np.abs(2 * c - m) / math.sqrt(m) > norm.ppf(0.975)
        chance = binom.pmf(c, m, only_tuned / disagreeing)[rejects].sum()
        power += binom.pmf(m, n, disagreeing) * chance
    return power


def test_pairs_needed_by_hand():
    # 3 of 10 gained, 1 lost: psi = 0.4, delta = 0.2.
    # (1.9600 sqrt(0.4) + 0.8416 sqrt(0.4 - 0.04))^2 / 0.04 = (1.2396 + 0.5050)^2 / 0.04 = 76.1
    base, tuned = paired(3, 3, only_base=1, neither=3)
    assert pairs_needed(base, tuned) == 77
    assert pairs_needed(tuned, base) == 77
    # Differences 1, 0, 0, 0.2: mean 0.3, deviation 0.4761; (2.8016 x 0.4761 / 0.3)^2 = 19.8
    assert pairs_needed([0, 0, 0, 0], [1, 0, 0, 0.2]) == 20


@pytest.mark.parametrize("cells", [(30, 12, 5, 53), (10, 40, 20, 30), (45, 16, 6, 33)])
def test_that_many_pairs_have_the_power(cells):
    both, only_tuned, only_base, neither = cells
    base, tuned = paired(both, only_tuned, only_base=only_base, neither=neither)
    n = pairs_needed(base, tuned)
    # The formula rests on the normal distribution; the table is enumerated exactly.
    assert power_of_mcnemar(only_tuned / 100, only_base / 100, n) == pytest.approx(0.8, abs=0.03)


def test_that_many_scores_have_the_power():
    draw = np.random.default_rng(1)
    tuned = draw.normal(0.1, 1.0, size=40)
    n = pairs_needed([0.0] * 40, tuned)
    shift = abs(tuned.mean()) / tuned.std(ddof=1)
    power = [norm.cdf(shift * math.sqrt(count) - norm.ppf(0.975)) for count in (n - 1, n)]
    assert power[0] < 0.8 <= power[1]


def test_no_number_of_pairs_shows_no_difference():
    assert pairs_needed([0, 1, 1, 0], [1, 0, 1, 0]) is None
    assert pairs_needed([0.1, 0.2, 0.3], [0.3, 0.1, 0.2]) is None  # 0 but for rounding


# --- over seeds -----------------------------------------------------------------------------


def test_seed_interval_is_students() -> None:
    scores, own = [0.2, 0.5, 0.4, 0.9], [(0.1, 0.3), (0.4, 0.6), (0.3, 0.5), (0.8, 1.0)]
    mean, error = statistics.fmean(scores), statistics.stdev(scores) / 2
    expected = student.interval(0.95, df=3, loc=mean, scale=error)
    assert seed_interval(scores, own) == pytest.approx(expected, abs=1e-4)
    assert seed_interval(scores, own, limits=(0.1, 0.8)) == (0.1, 0.8)


def test_seeds_that_agree_by_chance_leave_the_doubt_of_their_prompts() -> None:
    """Half widths 0.3 and 0.4 are 0.5 for the sum, 0.25 for the mean."""
    assert seed_interval([0.5, 0.5], [(0.2, 0.8), (0.1, 0.9)]) == pytest.approx((0.25, 0.75))


def test_one_seed_has_its_own_interval_and_none_is_an_error() -> None:
    assert seed_interval([0.5], [(0.1, 0.6)]) == (0.1, 0.6)
    with pytest.raises(ValueError, match="at least one"):
        seed_interval([], [])
    with pytest.raises(ValueError, match="2 scores and 1 intervals"):
        seed_interval([0.5, 0.5], [(0.1, 0.6)])
