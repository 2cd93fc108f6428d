"""The loss by hand: three tokens, two rows, numbers that fit in a comment."""

import math

import jaxtyping
import pytest
import torch

from tunestone.config import AlgorithmName
from tunestone.core.loss import (
    ALGORITHMS,
    ScoredTokens,
    by_budget,
    by_row,
    by_sequence,
    by_token,
    clipped_weight,
    policy_loss,
    sequence_ratio,
    token_ratio,
)

CLIP = (0.2, 0.28)
LN = math.log


def three_tokens(advantages, *, rows=(0, 0, 1), weights=(1.0, 1.0, 1.0), base=None):
    """Tokens drawn with probability 1/4 each; row 0 holds two of them, row 1 one."""
    return ScoredTokens(
        sampled_R=torch.tensor([LN(0.25)] * 3),
        advantages_R=torch.tensor(advantages),
        weights_R=torch.tensor(weights),
        rows_R=torch.tensor(rows),
        base_R=None if base is None else torch.tensor(base).log(),
    )


def now(*ratios):
    """Log-probabilities of a policy that gives each token `ratio` times 1/4."""
    return torch.tensor([LN(0.25 * ratio) for ratio in ratios], requires_grad=True)


def gradient(logprobs_R, tokens, objective, **settings):
    """Of the loss, by token."""
    loss, _ = policy_loss(logprobs_R, tokens, objective, clip=CLIP, **settings)
    loss.backward()
    return logprobs_R.grad.tolist()


# --- token_ratio ----------------------------------------------------------------------------


def test_token_ratio_of_good_tokens_stops_at_the_upper_bound():
    # A = 2. Ratios 0.5, 1, 2 -> min(r, clip(r, 0.8, 1.28)) = 0.5, 1, 1.28 -> times 2
    objective_R, clipped_R = token_ratio(now(0.5, 1.0, 2.0), three_tokens([2.0] * 3), CLIP)
    assert objective_R.tolist() == pytest.approx([1.0, 2.0, 2.56])
    assert clipped_R.tolist() == [False, False, True]


def test_token_ratio_of_bad_tokens_stops_at_the_lower_bound():
    # A = -2. -2r against -2 clip(r): the smaller of -1, -1.6; -2, -2; -4, -2.56
    objective_R, clipped_R = token_ratio(now(0.5, 1.0, 2.0), three_tokens([-2.0] * 3), CLIP)
    assert objective_R.tolist() == pytest.approx([-1.6, -2.0, -4.0])
    assert clipped_R.tolist() == [True, False, False]


def test_token_ratio_gradient_vanishes_only_where_clipped():
    # d(-w r A)/d logp = -w r A: with w = 0.5, A = 2: -0.5, -1, and 0 for the clipped one
    tokens = three_tokens([2.0] * 3, weights=[0.5] * 3)
    assert gradient(now(0.5, 1.0, 2.0), tokens, token_ratio) == pytest.approx([-0.5, -1.0, 0.0])


# --- sequence_ratio -------------------------------------------------------------------------


def test_sequence_ratio_is_the_geometric_mean_of_a_row():
    # Row 0: ratios 0.5 and 8, geometric mean sqrt(4) = 2, above 1.28; row 1: 1.1 alone.
    # A = 3 for row 0, -1 for row 1: 1.28 x 3 = 3.84 on both tokens, and -1.1
    tokens = three_tokens([3.0, 3.0, -1.0])
    objective_R, clipped_R = sequence_ratio(now(0.5, 8.0, 1.1), tokens, CLIP)
    assert objective_R.tolist() == pytest.approx([3.84, 3.84, -1.1])
    assert clipped_R.tolist() == [True, True, False]


def test_sequence_ratio_gradient_spreads_over_the_row():
    # Row 0: 1/2 and 2, geometric mean s = 1. Its loss is -(w1 + w2) s A = -(1 + 2) x 3 x s, and
    # ds/dlogp = s / 2, so -4.5 each. Row 1 (s = 0.9, A = -1, w = 1): 0.9.
    tokens = three_tokens([3.0, 3.0, -1.0], weights=[1.0, 2.0, 1.0])
    found = gradient(now(0.5, 2.0, 0.9), tokens, sequence_ratio)
    assert found == pytest.approx([-4.5, -4.5, 0.9])


# --- clipped_weight -------------------------------------------------------------------------


def test_clipped_weight_caps_the_weight_and_keeps_the_gradient():
    # min(r, 1.28) A log p, with A = 2: 0.5 x 2 ln(1/8), 1 x 2 ln(1/4), 1.28 x 2 ln(1/2)
    tokens = three_tokens([2.0] * 3)
    objective_R, clipped_R = clipped_weight(now(0.5, 1.0, 2.0), tokens, CLIP)
    assert objective_R.tolist() == pytest.approx([LN(1 / 8), 2 * LN(1 / 4), 2.56 * LN(1 / 2)])
    assert clipped_R.tolist() == [False, False, True]
    # The weight is a constant: the gradient is -min(r, 1.28) A and never 0.
    found = gradient(now(0.5, 1.0, 2.0), tokens, clipped_weight)
    assert found == pytest.approx([-1.0, -2.0, -2.56])


def test_clipped_weight_has_no_lower_bound():
    objective_R, clipped_R = clipped_weight(now(0.01, 1.0, 1.0), three_tokens([-1.0] * 3), CLIP)
    assert objective_R.tolist()[0] == pytest.approx(-0.01 * LN(0.0025))
    assert not clipped_R.any()


# --- the sum, the KL term, the metrics -------------------------------------------------------


def test_the_loss_is_a_weighted_sum_not_a_mean():
    # All ratios 1, A = 1, -2, 4; weights 0.5, 0.25, 0.25: -(0.5 - 0.5 + 1) = -1
    tokens = three_tokens([1.0, -2.0, 4.0], weights=[0.5, 0.25, 0.25])
    loss, metrics = policy_loss(now(1.0, 1.0, 1.0), tokens, token_ratio, clip=CLIP)
    assert loss.item() == pytest.approx(-1.0)
    assert metrics == {"tokens": 3.0, "clipped": 0.0, "kl_sampling": 0.0, "kl_base": 0.0}


def test_the_kl_term_is_k3_against_the_base():
    # Policy 1/4 everywhere; base 1/2, 1/4, 1/8: q/p = 2, 1, 1/2.
    # k3 = q/p - 1 - ln(q/p) = 1 - ln 2, 0, -1/2 + ln 2: 0.306853, 0, 0.193147; their sum is 0.5
    # weights 1, 1, 2 -> 0.306853 + 0.386294 = 0.693147; times 0.1
    tokens = three_tokens([0.0] * 3, weights=[1.0, 1.0, 2.0], base=[0.5, 0.25, 0.125])
    loss, metrics = policy_loss(
        now(1.0, 1.0, 1.0), tokens, token_ratio, clip=CLIP, kl_coefficient=0.1
    )
    assert loss.item() == pytest.approx(0.0693147, abs=1e-6)
    assert metrics["kl_base"] == pytest.approx(0.5, abs=1e-6)
    # d k3 / d logp = 1 - q/p = -1, 0, 1/2; times weight and 0.1
    found = gradient(now(1.0, 1.0, 1.0), tokens, token_ratio, kl_coefficient=0.1)
    assert found == pytest.approx([-0.1, 0.0, 0.1], abs=1e-7)


def test_kl_sampling_is_k3_from_the_sampling_policy():
    # Drawn with q = 1/4, now p = 1/2, 1/4, 1/4: p/q = 2, 1, 1; 2 - 1 - ln 2 and twice 0
    tokens = three_tokens([1.0] * 3)
    _, metrics = policy_loss(now(2.0, 1.0, 1.0), tokens, token_ratio, clip=CLIP)
    assert metrics["kl_sampling"] == pytest.approx(1 - LN(2), abs=1e-6)


def test_parts_of_a_step_add_up():
    ratios, advantages, weights = (0.5, 1.5, 1.0), [1.0, 1.0, -1.0], [0.2, 0.3, 0.5]
    whole, counts = policy_loss(
        now(*ratios), three_tokens(advantages, weights=weights), sequence_ratio, clip=CLIP
    )
    parts = []
    for rows in ([0, 1], [2]):
        tokens = ScoredTokens(
            sampled_R=torch.tensor([LN(0.25)] * len(rows)),
            advantages_R=torch.tensor([advantages[i] for i in rows]),
            weights_R=torch.tensor([weights[i] for i in rows]),
            rows_R=torch.zeros(len(rows), dtype=torch.long),
        )
        logprobs_R = now(*[ratios[i] for i in rows])
        parts.append(policy_loss(logprobs_R, tokens, sequence_ratio, clip=CLIP))
    assert whole.item() == pytest.approx(sum(loss.item() for loss, _ in parts))
    for name, value in counts.items():
        assert value == pytest.approx(sum(metrics[name] for _, metrics in parts)), name


def test_clipped_counts_tokens():
    _, metrics = policy_loss(now(0.5, 1.0, 2.0), three_tokens([2.0] * 3), token_ratio, clip=CLIP)
    assert metrics["clipped"] == 1.0


def test_lengths_that_differ_are_refused():
    with pytest.raises(jaxtyping.TypeCheckError, match="advantages_R"):
        three_tokens([1.0, 1.0])
    with pytest.raises(jaxtyping.TypeCheckError, match="return value"):  # would be broadcast
        policy_loss(now(1.0), three_tokens([1.0] * 3), token_ratio, clip=CLIP)


# --- weights --------------------------------------------------------------------------------
# Three rows of 1, 0 (does not count) and 4 tokens; at most 10 are allowed.

LENGTHS = torch.tensor([1, 0, 4])


@pytest.mark.parametrize(
    ("weights", "first", "last"),
    [
        (by_token, 1 / 5, 1 / 5),  # 1 + 4 tokens
        (by_row, 1 / 2, 1 / 8),  # 2 rows; 1/2 shared by 1 and by 4 tokens
        (by_budget, 1 / 20, 1 / 20),  # 2 rows x 10
        (by_sequence, 1 / 2, 1 / 2),  # 2 rows
    ],
)
def test_weights_by_hand(weights, first, last):
    found = weights(LENGTHS, 10).tolist()
    assert [found[0], found[2]] == pytest.approx([first, last])


@pytest.mark.parametrize("weights", [by_token, by_row, by_budget, by_sequence])
def test_weights_stay_finite_when_no_row_counts(weights):
    assert weights(torch.tensor([0, 0]), 10).isfinite().all()


@pytest.mark.parametrize("weights", [by_token, by_row])
def test_weights_of_a_mean_sum_to_one(weights):
    lengths = torch.tensor([3, 1, 0, 7])
    total = sum(n * w for n, w in zip(lengths.tolist(), weights(lengths, 9).tolist(), strict=True))
    assert total == pytest.approx(1.0)


# --- the table ------------------------------------------------------------------------------


def test_every_algorithm_of_the_config_exists_and_no_other():
    assert set(ALGORITHMS) == set(AlgorithmName.__args__)


def test_no_two_algorithms_are_the_same():
    choices = [(a.advantage, a.objective, a.weights) for a in ALGORITHMS.values()]
    assert len(set(choices)) == len(choices)
