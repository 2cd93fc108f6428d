"""From log-probabilities to the loss: pure functions that return their metrics.

All work on R scored tokens, the rows one after the other. An algorithm is a choice of three
functions (advantage, objective, weights), listed in `ALGORITHMS`; the loop never compares names.

Left out of the papers: GSPO's per-token variant, and CISPO's lower bound (its authors set none).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tunestone.core import advantage

Objective = Callable[..., tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class ScoredTokens:
    """What the loss needs to know of R tokens besides the policy's log-probabilities."""

    sampled_R: Float[Tensor, " R"]
    """Log-probability (nats) each token was drawn with."""
    advantages_R: Float[Tensor, " R"]
    weights_R: Float[Tensor, " R"]
    """Share of each token in the step's loss; the normaliser is already inside."""
    rows_R: Int[Tensor, " R"]
    """Which row a token belongs to, 0.. ascending."""
    base_R: Float[Tensor, " R"] | None = None
    """Log-probability under the base model, when there is a KL term."""


def policy_loss(
    logprobs_R: Float[Tensor, " R"],
    tokens: ScoredTokens,
    objective: Objective,
    *,
    clip: tuple[float, float],
    kl_coefficient: float = 0.0,
) -> tuple[Float[Tensor, ""], dict[str, float]]:
    """The loss, summed (not averaged) over tokens, and sums for the metrics.

    Since the weights hold the normaliser, losses of parts of a step add up to the step's loss. The
    KL term is the unbiased, never negative estimator k3 (Schulman 2020) against the base model.
    """
    objective_R, clipped_R = objective(logprobs_R, tokens, clip)
    loss = -(tokens.weights_R * objective_R).sum()
    drift_R = logprobs_R.detach() - tokens.sampled_R
    metrics = {
        "tokens": float(len(logprobs_R)),
        "clipped": float(clipped_R.sum()),
        "kl_sampling": float((drift_R.expm1() - drift_R).sum()),
        "kl_base": 0.0,
    }
    if tokens.base_R is not None:
        gap_R = tokens.base_R - logprobs_R
        kl_R = gap_R.expm1() - gap_R
        loss = loss + kl_coefficient * (tokens.weights_R * kl_R).sum()
        metrics["kl_base"] = float(kl_R.detach().sum())
    return loss, metrics


def token_ratio(
    logprobs_R: Float[Tensor, " R"], tokens: ScoredTokens, clip: tuple[float, float]
) -> tuple[Float[Tensor, " R"], Bool[Tensor, " R"]]:
    """PPO's clipped objective per token, with separate bounds below and above (DAPO)."""
    ratio_R = (logprobs_R - tokens.sampled_R).exp()
    return _clipped(ratio_R, tokens.advantages_R, clip)


def sequence_ratio(
    logprobs_R: Float[Tensor, " R"], tokens: ScoredTokens, clip: tuple[float, float]
) -> tuple[Float[Tensor, " R"], Bool[Tensor, " R"]]:
    """One ratio per row, the geometric mean of its tokens': GSPO (arXiv 2507.18071)."""
    rows = int(tokens.rows_R[-1]) + 1
    change_R = logprobs_R - tokens.sampled_R
    lengths_B = torch.bincount(tokens.rows_R, minlength=rows)
    mean_B = change_R.new_zeros(rows).index_add(0, tokens.rows_R, change_R) / lengths_B
    return _clipped(mean_B.exp()[tokens.rows_R], tokens.advantages_R, clip)


def clipped_weight(
    logprobs_R: Float[Tensor, " R"], tokens: ScoredTokens, clip: tuple[float, float]
) -> tuple[Float[Tensor, " R"], Bool[Tensor, " R"]]:
    """REINFORCE with a capped, constant importance weight: CISPO (arXiv 2506.13585).

    No token loses its gradient; only its weight is bounded by 1 + the upper clip.
    """
    ratio_R = (logprobs_R - tokens.sampled_R).detach().exp()
    capped_R = ratio_R.clamp_max(1 + clip[1])
    return capped_R * tokens.advantages_R * logprobs_R, ratio_R > 1 + clip[1]


def _clipped(
    ratio_R: Tensor, advantages_R: Tensor, clip: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    low, high = clip
    free_R = ratio_R * advantages_R
    bounded_R = ratio_R.clamp(1 - low, 1 + high) * advantages_R
    return torch.minimum(free_R, bounded_R), bounded_R < free_R


Weights = Callable[[Tensor, int], Tensor]
"""(lengths_B, 0 for a row that does not count; longest allowed) -> weight of a row's tokens."""


def by_token(lengths_B: Int[Tensor, " B"], longest: int) -> Float[Tensor, " B"]:
    """Every token of the step weighs the same: DAPO (arXiv 2503.14476)."""
    return torch.full(lengths_B.shape, 1.0) / lengths_B.sum().clamp_min(1)


def by_row(lengths_B: Int[Tensor, " B"], longest: int) -> Float[Tensor, " B"]:
    """Every row weighs the same, its tokens share that: the original GRPO."""
    rows = (lengths_B > 0).sum().clamp_min(1)
    return 1.0 / (lengths_B.clamp_min(1) * rows)


def by_budget(lengths_B: Int[Tensor, " B"], longest: int) -> Float[Tensor, " B"]:
    """A constant, 1 / (rows x longest allowed): Dr. GRPO, so that length earns nothing."""
    rows = (lengths_B > 0).sum().clamp_min(1)
    return torch.full(lengths_B.shape, 1.0 / (float(rows) * longest))


def by_sequence(lengths_B: Int[Tensor, " B"], longest: int) -> Float[Tensor, " B"]:
    """A row counts with the sum over its tokens, rows are averaged: REINFORCE on whole answers."""
    return torch.full(lengths_B.shape, 1.0) / (lengths_B > 0).sum().clamp_min(1)


@dataclass(frozen=True, slots=True)
class Algorithm:
    """Three choices that make a member of the GRPO family."""

    advantage: Callable[[Tensor], Tensor]
    objective: Objective
    weights: Weights


ALGORITHMS = {
    "dapo": Algorithm(advantage.group_normalised, token_ratio, by_token),
    "grpo": Algorithm(advantage.group_normalised, token_ratio, by_row),
    "dr_grpo": Algorithm(advantage.centred, token_ratio, by_budget),
    "gspo": Algorithm(advantage.group_normalised, sequence_ratio, by_row),
    "cispo": Algorithm(advantage.group_normalised, clipped_weight, by_token),
    "rloo": Algorithm(advantage.leave_one_out, token_ratio, by_sequence),
}
