"""One draw: the right distribution, nothing that was truncated, safe at both ends of [0, 1)."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from tunestone.core.sampler import SamplingParams, cut_at_stop, draw_tokens, truncate

DRAWS = 20_000
LOGITS = [1.0, -0.5, 2.0, 0.3, -2.0, 1.4]
ALMOST_ONE = math.nextafter(1.0, 0.0)  # rounds to 1 in float32


def settings(temperature=1.0, top_k=0, top_p=1.0):
    return SamplingParams(max_tokens=1, temperature=temperature, top_k=top_k, top_p=top_p)


def draw(logits, uniforms, params):
    """Draw once per uniform number from the same logits -> (tokens, logprobs, entropies)."""
    logits_BV = torch.tensor([logits]).expand(len(uniforms), -1)
    drawn = draw_tokens(logits_BV, torch.tensor(uniforms, dtype=torch.float64), params)
    return tuple(numbers.tolist() for numbers in drawn)


def softmax(logits, temperature):
    weights = [math.exp(x / temperature) for x in logits]
    return [w / sum(weights) for w in weights]


def slow_truncation(probabilities, top_k, top_p):
    """Go down the ranks, stop after top_k tokens or when top_p of what top_k left is reached."""
    ranks = sorted(range(len(probabilities)), key=lambda i: -probabilities[i])
    ranks = ranks[: top_k or len(ranks)]
    goal = top_p * sum(probabilities[i] for i in ranks)
    kept, mass = [], 0.0
    for i in ranks:
        if mass >= goal:
            break
        kept.append(i)
        mass += probabilities[i]
    return [p if i in kept else 0.0 for i, p in enumerate(probabilities)]


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "allowed"),
    [
        (1.0, 0, 1.0, 6),
        (0.5, 0, 1.0, 6),
        (2.0, 0, 1.0, 6),
        (1.0, 3, 1.0, 3),
        (1.0, 0, 0.7, 2),
        (0.7, 4, 0.9, 3),
        (1.0, 1, 1.0, 1),
        (1.0, 0, 0.001, 1),
        (1.0, 99, 1.0, 6),
    ],
)
def test_draws_follow_the_distribution(temperature, top_k, top_p, allowed):
    uniforms = np.random.default_rng(0).random(DRAWS)
    tokens, _, _ = draw(LOGITS, uniforms, settings(temperature, top_k, top_p))
    counts = np.bincount(tokens, minlength=len(LOGITS))
    expected = np.array(slow_truncation(softmax(LOGITS, temperature), top_k, top_p))
    assert np.count_nonzero(expected) == allowed
    assert counts[expected == 0].sum() == 0  # what was truncated is never drawn
    if allowed > 1:
        kept = expected > 0
        scaled = expected[kept] / expected[kept].sum() * DRAWS
        assert chisquare(counts[kept], scaled).pvalue > 0.01


def test_this_chi_square_would_notice_another_temperature():
    uniforms = np.random.default_rng(0).random(DRAWS)
    tokens, _, _ = draw(LOGITS, uniforms, settings(1.05))
    expected = np.array(softmax(LOGITS, 1.0)) * DRAWS
    assert chisquare(np.bincount(tokens), expected).pvalue < 1e-4


def test_equal_shares_are_cut_at_the_quarters():
    # Four equal logits: [0, 1/4) is token 0, [1/4, 1/2) token 1 and so on.
    tokens, logprobs, entropies = draw([2.0] * 4, [0.0, 0.2499, 0.25, 0.5, 0.75], settings())
    assert tokens == [0, 0, 1, 2, 3]
    assert logprobs == pytest.approx([math.log(1 / 4)] * 5)
    assert entropies == pytest.approx([math.log(4)] * 5)


@pytest.mark.parametrize("params", [settings(top_k=2), settings(top_p=0.5), settings()])
def test_the_ends_of_the_interval_give_tokens_that_are_allowed(params):
    # The first and the last two of these cannot be drawn, truncated or not: exp(-200) is 0.
    logits = [-200.0, 1.0, 1.5, -200.0, -math.inf]
    tokens, logprobs, _ = draw(logits, [0.0, ALMOST_ONE], params)
    kept = [i for i in (1, 2) if params.top_p == 1.0 or i == 2]
    assert tokens == [kept[0], kept[-1]]
    assert all(math.isfinite(logprob) for logprob in logprobs)


def test_a_large_vocabulary_is_safe_at_the_upper_end():
    # 49,152 tokens: the rounded cumulative sum is not 1, the last token still has to be there.
    logits_BV = torch.randn(3, 49_152, generator=torch.Generator().manual_seed(0))
    logits_BV[:, -100:] = -math.inf
    uniforms_B = torch.full((3,), ALMOST_ONE, dtype=torch.float64)
    tokens_B, logprobs_B, _ = draw_tokens(logits_BV, uniforms_B, settings())
    assert bool((tokens_B < 49_052).all())
    assert bool(logprobs_B.isfinite().all())


def test_logprob_and_entropy_are_of_the_whole_distribution():
    # p = 1/2, 1/4, 1/4. top_k 1 leaves only token 0, yet its log-probability is ln 1/2, and the
    # entropy 1/2 ln 2 + 2 x 1/4 ln 4 = 1.5 ln 2.
    logits = [math.log(2), 0.0, 0.0]
    tokens, logprobs, entropies = draw(logits, [0.9], settings(top_k=1))
    assert tokens == [0]
    assert logprobs == pytest.approx([-math.log(2)])
    assert entropies == pytest.approx([1.5 * math.log(2)])


def test_temperature_is_in_the_logprob():
    # Logits 0 and ln 2 at temperature 1/2 are 0 and ln 4: p = 1/5, 4/5.
    tokens, logprobs, _ = draw([0.0, math.log(2)], [0.19, 0.21], settings(0.5))
    assert tokens == [0, 1]
    assert logprobs == pytest.approx([math.log(1 / 5), math.log(4 / 5)])


def test_greedy_takes_the_likeliest_whatever_the_number():
    # p = 1/4, 3/4 at temperature 1, which is what a greedy draw reports.
    tokens, logprobs, entropies = draw([0.0, math.log(3)], [0.0, ALMOST_ONE], settings(0.0))
    assert tokens == [1, 1]
    assert logprobs == pytest.approx([math.log(3 / 4)] * 2)
    assert entropies == pytest.approx([-0.25 * math.log(0.25) - 0.75 * math.log(0.75)] * 2)


def test_entropy_of_a_sure_thing_is_zero_not_nan():
    _, _, entropies = draw([0.0, -math.inf, -500.0], [0.5], settings())
    assert entropies == [0.0]


# --- truncate -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("top_k", "top_p", "expected"),
    [
        (0, 1.0, [0.5, 0.125, 0.25, 0.125]),
        (2, 1.0, [0.5, 0.0, 0.25, 0.0]),
        (0, 0.5, [0.5, 0.0, 0.0, 0.0]),  # 0.5 is reached by the first token alone
        (0, 0.51, [0.5, 0.0, 0.25, 0.0]),  # and 0.51 is not
        (0, 0.75, [0.5, 0.0, 0.25, 0.0]),
        (2, 0.67, [0.5, 0.0, 0.25, 0.0]),  # 0.5 / 0.75 = 0.667 of what top_k left
        (2, 0.66, [0.5, 0.0, 0.0, 0.0]),
        (1, 0.01, [0.5, 0.0, 0.0, 0.0]),  # never nothing
    ],
)
def test_truncation_by_hand(top_k, top_p, expected):
    probabilities_BV = torch.tensor([[0.5, 0.125, 0.25, 0.125]])
    assert truncate(probabilities_BV, top_k, top_p).tolist() == [expected]
    assert probabilities_BV.tolist() == [[0.5, 0.125, 0.25, 0.125]]  # the caller's stay whole


def test_rows_are_truncated_one_by_one():
    probabilities_BV = torch.tensor([[0.9, 0.1], [0.3, 0.7]])
    found = truncate(probabilities_BV, 1, 1.0)
    assert found.tolist() == [[pytest.approx(0.9), 0.0], [0.0, pytest.approx(0.7)]]


# --- cut_at_stop ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("one two", (), "one two"),
        ("one two", ("three",), "one two"),
        ("one two", (" two",), "one"),
        ("one two", ("two", "ne"), "o"),  # the first in the text, not in the list
        ("aXbXc", ("X",), "a"),
        ("Xabc", ("X",), ""),
    ],
)
def test_text_ends_before_the_first_stop(text, stop, expected):
    assert cut_at_stop(text, stop) == expected
