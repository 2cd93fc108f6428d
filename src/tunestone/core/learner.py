"""One optimizer step from graded groups: the tree, the loss, the gradient.

Groups are packed into micro-batches of about `microbatch_tokens` tree nodes, whole groups only;
the loss weights are fixed for the whole step beforehand, so the result does not depend on the
packing. A group whose advantages are all zero adds nothing to the gradient and is left out (with a
KL term it does add something and stays).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from tunestone.config import TrainConfig
from tunestone.core.attention import TreeUnsupportedError
from tunestone.core.logprobs import rows_logprobs, tolerance, tree_logprobs
from tunestone.core.loss import ALGORITHMS, ScoredTokens, policy_loss
from tunestone.core.model import Policy
from tunestone.core.tree import build_tree, common_prefix
from tunestone.errors import DivergedError
from tunestone.types import Completion


@dataclass(frozen=True, slots=True)
class Group:
    """One prompt with its completions and what they earned."""

    prompt_T: list[int]
    completions_G: list[Completion]
    advantages_G: list[float | None]
    """None for a completion without a reward: it takes no part in the step."""


class Learner:
    """Moves a policy's weights. Holds the optimizer; everything else comes with the call."""

    def __init__(self, policy: Policy, config: TrainConfig) -> None:
        self._policy = policy
        self._config = config
        self._algorithm = ALGORITHMS[config.algorithm]
        self._with_kl = config.kl_coefficient > 0
        self.uses_tree = True
        self.optimizer = torch.optim.AdamW(
            list(policy.trainable.values()),
            lr=config.learning_rate,
            betas=(0.9, 0.95),
            weight_decay=0.0,
        )

    def update(self, groups_P: Sequence[Group], *, learning_rate: float) -> dict[str, float]:
        """Train on the groups and return the step's metrics."""
        weights_PG = self._weights(groups_P)
        keep = [
            (group, weights_G)
            for group, weights_G in zip(groups_P, weights_PG, strict=True)
            if any(group.advantages_G)
            or (self._with_kl and any(a is not None for a in group.advantages_G))
        ]
        batches = self._pack(keep)
        metrics = {"loss": 0.0, "gradient_norm": 0.0, "tree_nodes": 0.0, "padded_positions": 0.0}
        metrics["sampling_gap"] = 0.0
        sums: dict[str, float] = {}
        passes = self._config.updates_per_batch if batches else 0
        for number in range(passes):
            metrics["loss"] = 0.0
            for batch in batches:
                self._accumulate(batch, metrics, sums)
            if number == 0:  # later, the weights are not those that sampled
                metrics["sampling_gap"] = sums["sampling_gap"] / max(1.0, sums["tokens"])
            metrics["gradient_norm"] = self._step(learning_rate)
        tokens = max(1.0, sums.get("tokens", 0.0))
        metrics["clip_share"] = sums.get("clipped", 0.0) / tokens
        metrics["kl_sampling"] = sums.get("kl_sampling", 0.0) / tokens
        metrics["kl_base"] = sums.get("kl_base", 0.0) / tokens
        return metrics

    def check_tree(self, group: Group) -> float:
        """Compare tree and sampler with plain rows on one group; on a difference use rows.

        Returns the largest difference in nats (infinite when the model cannot do trees).
        """
        rows = [[*group.prompt_T, *completion.tokens] for completion in group.completions_G]
        lengths = [len(group.prompt_T)] * len(rows)
        with torch.no_grad():
            try:
                self.uses_tree = True
                shared_R = self._logprobs(self._policy.view, rows, lengths)
                self.uses_tree = False
                plain_R = self._logprobs(self._policy.network, rows, lengths)
                drawn_R = torch.tensor([x for c in group.completions_G for x in c.logprobs])
                gaps_2R = torch.stack([shared_R, drawn_R.to(plain_R.device)]) - plain_R
                difference = float(gaps_2R.abs().max())
            except (TreeUnsupportedError, TypeError):  # TypeError: its forward takes no `plan`
                difference = math.inf
        self.uses_tree = difference <= tolerance(self._policy.network)
        return difference

    def optimizer_tensors(self) -> dict[str, Tensor]:
        """Moments and step counts by parameter name, for a checkpoint."""
        state = self.optimizer.state
        return {
            f"optimizer.{key}.{name}": value
            for name, parameter in self._policy.trainable.items()
            for key, value in state.get(parameter, {}).items()
        }

    def load_optimizer_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `optimizer_tensors` gave, of an optimizer that has not stepped too."""
        self.optimizer.state.clear()
        for name, parameter in self._policy.trainable.items():
            keys = ("step", "exp_avg", "exp_avg_sq")
            if f"optimizer.step.{name}" in tensors:
                self.optimizer.state[parameter] = {
                    key: tensors[f"optimizer.{key}.{name}"].to(
                        "cpu" if key == "step" else parameter.device
                    )
                    for key in keys
                }

    def _weights(self, groups_P: Sequence[Group]) -> list[list[float]]:
        """Weight of a token of every completion, normalised over the whole step."""
        lengths_PG = [
            [
                0 if advantage is None or self._masked(completion) else len(completion.tokens)
                for completion, advantage in zip(
                    group.completions_G, group.advantages_G, strict=True
                )
            ]
            for group in groups_P
        ]
        flat_B = torch.tensor([n for lengths_G in lengths_PG for n in lengths_G], dtype=torch.long)
        weights_B = self._algorithm.weights(flat_B, self._config.max_completion_tokens)
        weights = iter(torch.where(flat_B > 0, weights_B, 0.0).tolist())
        return [[next(weights) for _ in lengths_G] for lengths_G in lengths_PG]

    def _masked(self, completion: Completion) -> bool:
        return self._config.mask_truncated and completion.finish_reason == "length"

    def _pack(
        self, groups: Sequence[tuple[Group, list[float]]]
    ) -> list[list[tuple[Group, list[float]]]]:
        """In order, by an upper bound of the nodes each group adds; a group is never split."""
        batches: list[list[tuple[Group, list[float]]]] = []
        used = math.inf
        for group, weights_G in groups:
            nodes = len(group.prompt_T) + sum(len(c.tokens) for c in group.completions_G)
            shared = common_prefix(batches[-1][0][0].prompt_T, group.prompt_T) if batches else 0
            if used + nodes - shared > self._config.microbatch_tokens:
                batches.append([])
                used = shared = 0
            batches[-1].append((group, weights_G))
            used += nodes - shared
        return batches

    def _accumulate(
        self,
        batch: Sequence[tuple[Group, list[float]]],
        metrics: dict[str, float],
        sums: dict[str, float],
    ) -> None:
        rows, lengths, tokens = _rows(batch, self._policy.base.device)
        logprobs_R = self._logprobs(self._policy.view, rows, lengths, metrics)
        if self._with_kl:
            with torch.no_grad(), self._policy.reference() as network:
                tokens = replace(tokens, base_R=self._logprobs(network, rows, lengths))
        loss, counts = policy_loss(
            logprobs_R,
            tokens,
            self._algorithm.objective,
            clip=(self._config.clip_low, self._config.clip_high),
            kl_coefficient=self._config.kl_coefficient,
        )
        loss.backward()
        metrics["loss"] += float(loss.detach())
        counts["sampling_gap"] = float((logprobs_R.detach() - tokens.sampled_R).abs().sum())
        for name, value in counts.items():
            sums[name] = sums.get(name, 0.0) + value

    def _logprobs(
        self,
        network: nn.Module,
        rows: Sequence[Sequence[int]],
        lengths: Sequence[int],
        metrics: dict[str, float] | None = None,
    ) -> Tensor:
        temperature = self._config.temperature
        if metrics is not None:
            metrics["padded_positions"] += len(rows) * max(map(len, rows))
        if not self.uses_tree:
            pad = self._policy.base.pad_token
            return rows_logprobs(network, rows, lengths, temperature, pad_token=pad)
        tree = build_tree(rows, lengths)
        if metrics is not None:
            metrics["tree_nodes"] += tree.size
        return tree_logprobs(network, tree, temperature)

    def _step(self, learning_rate: float) -> float:
        parameters = list(self._policy.trainable.values())
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        if not norm.isfinite():
            raise DivergedError(
                f"The gradient of this step is {float(norm)}: the training has diverged.",
                remedy="Start a new run with a lower learning_rate.",
            )
        for settings in self.optimizer.param_groups:
            settings["lr"] = learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._policy.refresh()
        return float(norm)


def _rows(
    batch: Sequence[tuple[Group, list[float]]], device: torch.device
) -> tuple[list[list[int]], list[int], ScoredTokens]:
    """Rows of the usable completions, their prompt lengths, and what the loss needs to know."""
    rows: list[list[int]] = []
    lengths: list[int] = []
    sampled: list[float] = []
    advantages: list[float] = []
    weights: list[float] = []
    owners: list[int] = []
    for group, weights_G in batch:
        members = zip(group.completions_G, group.advantages_G, weights_G, strict=True)
        for completion, advantage, weight in members:
            if advantage is None:
                continue
            count = len(completion.tokens)
            sampled += completion.logprobs
            advantages += [advantage] * count
            weights += [weight] * count
            owners += [len(rows)] * count
            rows.append([*group.prompt_T, *completion.tokens])
            lengths.append(len(group.prompt_T))
    tokens = ScoredTokens(
        sampled_R=torch.tensor(sampled, device=device),
        advantages_R=torch.tensor(advantages, device=device),
        weights_R=torch.tensor(weights, device=device),
        rows_R=torch.tensor(owners, device=device),
    )
    return rows, lengths, tokens
