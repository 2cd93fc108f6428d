"""Small off-policy training steps, and a learner whose gradients can be read."""

import dataclasses
import math
import random

import torch

from tunestone.core.learner import Group, Learner
from tunestone.core.loss import ALGORITHMS
from tunestone.core.model import BaseModel, Policy
from tunestone.types import Completion

NAN = float("nan")
END = 256  # the tiny tokenizer's end token
TRUNK = list(range(10, 30))


class ReadableLearner(Learner):
    """Stops where the optimizer would step: keeps the gradients by name and leaves the weights."""

    gradients: dict[str, torch.Tensor]

    def _step(self, learning_rate: float) -> float:
        trainable = self._policy.trainable
        self.gradients = {name: p.grad.clone() for name, p in trainable.items()}
        self.optimizer.zero_grad(set_to_none=True)
        return math.nan


def moved_policy(base: BaseModel, *, lora_rank: int = 4, seed: int = 0) -> Policy:
    """A policy that has already left its base: LoRA's B is not zero any more."""
    policy = Policy(base, lora_rank=lora_rank, with_reference=True)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in policy.trainable.items():
            if "lora_A" not in name:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    policy.refresh()
    return policy


def row_logprobs(network, prompt, tokens, temperature):
    """Log-probability of each token after `prompt`: one plain row, no padding, no tree."""
    logits = network(input_ids=torch.tensor([[*prompt, *tokens]])).logits[0] / temperature
    logprobs = torch.log_softmax(logits, dim=-1)
    return [logprobs[len(prompt) + t - 1, token] for t, token in enumerate(tokens)]


def completion(tokens, logprobs, finish_reason="stop") -> Completion:
    """One that was not sampled but written down."""
    numbers = tuple(float(number) for number in logprobs)
    return Completion(tuple(tokens), numbers, (0.0,) * len(numbers), "", finish_reason)


def off_policy_groups(policy, rewards_PG, config) -> list[Group]:
    """A group for each list of rewards, drawn from a policy unlike today's.

    Prompts share 20 tokens and own 10, answers have 3 to 12 tokens and begin alike. The sampled
    log-probabilities differ from the policy's by up to 0.8 either way, more between rows than
    within one, so that ratios of tokens and of rows leave the clip range on both sides.
    """
    rng = random.Random(3)
    advantages_PG = ALGORITHMS[config.algorithm].advantage(torch.tensor(rewards_PG)).tolist()
    groups = []
    for p, rewards_G in enumerate(rewards_PG):
        prompt = [*TRUNK, *rng.choices(range(200), k=10)]
        completions, advantages = [], []
        for g, reward in enumerate(rewards_G):
            tokens = [40 + p, *rng.choices(range(60, 64), k=rng.randrange(1, 11)), END]
            with torch.no_grad():
                now = row_logprobs(policy.network, prompt, tokens, config.temperature)
            shift = rng.choice([-0.5, 0.5])
            drawn = [float(x) + shift + rng.uniform(-0.3, 0.3) for x in now]
            completions.append(completion(tokens, drawn))
            advantages.append(None if math.isnan(reward) else advantages_PG[p][g])
        groups.append(Group(prompt, completions, advantages))
    return groups


def on_policy(policy, group: Group) -> Group:
    """The group with the log-probabilities its tokens have under the policy."""
    kept = []
    for drawn in group.completions_G:
        with torch.no_grad():
            now = row_logprobs(policy.network, group.prompt_T, list(drawn.tokens), 1.0)
        kept.append(dataclasses.replace(drawn, logprobs=tuple(map(float, now))))
    return dataclasses.replace(group, completions_G=kept)


def truncated(group: Group, g: int) -> Group:
    """The group with completion `g` cut off."""
    cut = dataclasses.replace(group.completions_G[g], finish_reason="length")
    completions = [cut if i == g else c for i, c in enumerate(group.completions_G)]
    return dataclasses.replace(group, completions_G=completions)


def gradients_after(policy, config, groups):
    """(metrics, gradients by name) of one accumulation over the groups."""
    learner = ReadableLearner(policy, config)
    metrics = learner.update(groups, learning_rate=0.0)
    return metrics, learner.gradients


def assert_same_gradients(found, expected):
    """Equal to fp32 rounding, and not all zero."""
    assert found.keys() == expected.keys()
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    assert largest > 0
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5 * largest, msg=name)
