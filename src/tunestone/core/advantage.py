"""From rewards to advantages: how much better a completion is than its group.

Pure functions on `rewards_PG`; NaN marks a completion that has no reward (its grader failed). Such
a completion takes no part in its group's statistics and gets advantage 0. A group whose rewards all
agree gives advantage 0 everywhere: it carries no signal.
"""

import torch
from jaxtyping import Float
from torch import Tensor

_EPSILON = 1e-4


def group_normalised(rewards_PG: Float[Tensor, "P G"]) -> Float[Tensor, "P G"]:
    """(reward - group mean) / (group standard deviation + 1e-4), as in GRPO (arXiv 2402.03300).

    The deviation is the unbiased one (n - 1), as TRL computes it.
    """
    centred_PG = centred(rewards_PG)
    count_P1 = _valid(rewards_PG).sum(dim=1, keepdim=True)
    variance_P1 = centred_PG.square().sum(dim=1, keepdim=True) / (count_P1 - 1).clamp_min(1)
    return centred_PG / (variance_P1.sqrt() + _EPSILON)


def centred(rewards_PG: Float[Tensor, "P G"]) -> Float[Tensor, "P G"]:
    """reward - group mean, without the division: Dr. GRPO (arXiv 2503.20783)."""
    mean_P1 = rewards_PG.nanmean(dim=1, keepdim=True)
    centred_PG = (rewards_PG - mean_P1).nan_to_num(nan=0.0)
    # Rounding in the mean must not turn "all equal" into a signal.
    spread_P1 = _nan_max(rewards_PG) + _nan_max(-rewards_PG)
    return torch.where(spread_P1 > 0, centred_PG, 0.0)


def leave_one_out(rewards_PG: Float[Tensor, "P G"]) -> Float[Tensor, "P G"]:
    """reward - mean of the *other* rewards of the group: RLOO (arXiv 2402.14740)."""
    count_P1 = _valid(rewards_PG).sum(dim=1, keepdim=True)
    return centred(rewards_PG) * count_P1 / (count_P1 - 1).clamp_min(1)


def _valid(rewards_PG: Tensor) -> Tensor:
    return ~rewards_PG.isnan()


def _nan_max(rewards_PG: Tensor) -> Tensor:
    return rewards_PG.nan_to_num(nan=float("-inf")).amax(dim=1, keepdim=True)
