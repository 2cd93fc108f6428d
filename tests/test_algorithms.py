"""Every algorithm against its paper: padded rows, masks and loops, nothing of core/loss.py.

The slow version knows rewards, sampled log-probabilities and the network; the learner goes through
advantages, weights, packing and the token tree. Loss, gradient and clip share must be the same.
"""

import math
import statistics
from dataclasses import dataclass

import pytest
import torch

from steps import (
    NAN,
    assert_same_gradients,
    gradients_after,
    moved_policy,
    off_policy_groups,
    truncated,
)
from tunestone.config import TrainConfig
from tunestone.core.loss import ALGORITHMS

# A graded group, one with a failed grader, and one that agrees (it counts in the normaliser).
REWARDS_PG = [[1.0, 0.0, 0.25, 0.75], [0.0, 1.0, NAN, 0.5], [0.5, 0.5, 0.5, 0.5]]


@dataclass
class SlowRow:
    """One usable completion and its group's verdict."""

    prompt: list[int]
    tokens: tuple[int, ...]
    sampled: tuple[float, ...]
    advantage: float
    counted: bool
    """In the clip share: not so in a group that agrees, unless a KL term keeps it."""


def slow_advantages(name, rewards):
    """Of one group, in double precision; None where there is no reward."""
    present = [r for r in rewards if not math.isnan(r)]
    mean = statistics.fmean(present)
    found = []
    for reward in rewards:
        if math.isnan(reward):
            found.append(None)
        elif name == "dr_grpo":  # arXiv 2503.20783: no division
            found.append(reward - mean)
        elif name == "rloo":  # arXiv 2402.14740: the mean of the others
            found.append(reward - (sum(present) - reward) / (len(present) - 1))
        else:
            found.append((reward - mean) / (statistics.stdev(present) + 1e-4))
    return found


def slow_rows(groups, config):
    """The completions that count; a truncated one does not when they are masked."""
    rows = []
    for group, rewards in zip(groups, REWARDS_PG, strict=True):
        advantages = slow_advantages(config.algorithm, rewards)
        counted = any(advantages) or config.kl_coefficient > 0
        for answer, advantage in zip(group.completions_G, advantages, strict=True):
            masked = config.mask_truncated and answer.finish_reason == "length"
            if advantage is not None and not masked:
                row = (group.prompt_T, answer.tokens, answer.logprobs, advantage, counted)
                rows.append(SlowRow(*row))
    return rows


def padded_logprobs(network, rows, temperature):
    """Log-probability of each answer token, by row, from one padded batch."""
    texts = [[*row.prompt, *row.tokens] for row in rows]
    tokens_BT = torch.zeros(len(texts), max(map(len, texts)), dtype=torch.long)
    mask_BT = torch.zeros_like(tokens_BT)
    for b, text in enumerate(texts):
        tokens_BT[b, : len(text)] = torch.tensor(text)
        mask_BT[b, : len(text)] = 1
    logits_BTV = network(input_ids=tokens_BT, attention_mask=mask_BT).logits / temperature
    logprobs_BTV = torch.log_softmax(logits_BTV, dim=-1)
    return [
        [logprobs_BTV[b, len(row.prompt) + t - 1, token] for t, token in enumerate(row.tokens)]
        for b, row in enumerate(rows)
    ]


def slow_terms(name, logprobs, row, config):
    """What each token of a row gains, and on which side it is clipped (-1, 0, 1)."""
    low, high, gain = 1 - config.clip_low, 1 + config.clip_high, row.advantage
    changes = [new - old for new, old in zip(logprobs, row.sampled, strict=True)]
    if name == "gspo":  # arXiv 2507.18071, equation 7: one ratio for the whole answer
        changes = [sum(changes) / len(changes)] * len(changes)
    terms, sides = [], []
    for change, logprob in zip(changes, logprobs, strict=True):
        ratio = torch.exp(change)
        above, below = ratio.item() > high, ratio.item() < low
        if name == "cispo":  # arXiv 2506.13585, equation 4: the weight is a constant
            terms.append(min(ratio.item(), high) * gain * logprob)
            sides.append(int(above))
            continue
        is_clipped = (gain > 0 and above) or (gain < 0 and below)
        bound = high if above else low
        terms.append(torch.tensor(bound * gain) if is_clipped else ratio * gain)
        sides.append((1 if above else -1) if is_clipped else 0)
    return terms, sides


def slow_mean(name, terms_BT, config):
    """The papers' normalisers."""
    sums = [sum(terms) for terms in terms_BT]
    lengths = [len(terms) for terms in terms_BT]
    if name in ("dapo", "cispo"):  # 1 / sum of lengths
        return sum(sums) / sum(lengths)
    if name in ("grpo", "gspo"):  # mean of rows, each the mean of its tokens
        return sum(s / n for s, n in zip(sums, lengths, strict=True)) / len(sums)
    if name == "dr_grpo":  # a constant
        return sum(sums) / (len(sums) * config.max_completion_tokens)
    return sum(sums) / len(sums)  # rloo: mean of whole answers


def slow_step(policy, groups, config):
    """(loss, gradients, clipped tokens below, above) as the papers have it."""
    name = config.algorithm
    rows = slow_rows(groups, config)
    policy.network.zero_grad()
    logprobs_BT = padded_logprobs(policy.network, rows, config.temperature)
    with torch.no_grad(), policy.reference() as network:
        base_BT = padded_logprobs(network, rows, config.temperature)
    pairs = [slow_terms(name, lp, row, config) for lp, row in zip(logprobs_BT, rows, strict=True)]
    kl_BT = [
        [torch.exp(q - p) - (q - p) - 1 for p, q in zip(logprobs, base, strict=True)]
        for logprobs, base in zip(logprobs_BT, base_BT, strict=True)
    ]
    gain = slow_mean(name, [terms for terms, _ in pairs], config)
    loss = config.kl_coefficient * slow_mean(name, kl_BT, config) - gain
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in policy.trainable.items()}
    policy.network.zero_grad()
    counted = [sides for row, (_, sides) in zip(rows, pairs, strict=True) if row.counted]
    sides = [side for row_sides in counted for side in row_sides]
    return loss.item(), gradients, sides.count(-1), sides.count(1)


@pytest.mark.parametrize("kl_coefficient", [0.0, 0.1])
@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_learner_equals_the_paper(tiny_base, name, kl_coefficient):
    config = TrainConfig(
        algorithm=name, kl_coefficient=kl_coefficient, temperature=0.8, max_completion_tokens=40
    )
    policy = moved_policy(tiny_base)
    groups = off_policy_groups(policy, REWARDS_PG, config)
    loss, expected, below, above = slow_step(policy, groups, config)
    assert above >= 3
    assert below >= 3 or name == "cispo"
    metrics, found = gradients_after(policy, config, groups)
    assert metrics["loss"] == pytest.approx(loss, rel=1e-4, abs=1e-6)
    assert_same_gradients(found, expected)
    counted = [row for row in slow_rows(groups, config) if row.counted]
    tokens = sum(len(row.tokens) for row in counted)
    assert metrics["clip_share"] == pytest.approx((below + above) / tokens)
    assert len(counted) == (11 if kl_coefficient else 7)


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_masked_truncated_completions_are_left_out(tiny_base, name):
    config = TrainConfig(
        algorithm=name, kl_coefficient=0.1, mask_truncated=True, max_completion_tokens=40
    )
    policy = moved_policy(tiny_base)
    groups = off_policy_groups(policy, REWARDS_PG, config)
    groups = [truncated(groups[0], 1), groups[1], truncated(groups[2], 3)]
    loss, expected, _, _ = slow_step(policy, groups, config)
    metrics, found = gradients_after(policy, config, groups)
    assert metrics["loss"] == pytest.approx(loss, rel=1e-4, abs=1e-6)
    assert_same_gradients(found, expected)


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_every_weight_trained_equals_the_paper_too(tiny_base, name):
    config = TrainConfig(algorithm=name, kl_coefficient=0.1, lora_rank=0, max_completion_tokens=40)
    policy = moved_policy(tiny_base, lora_rank=0)
    groups = off_policy_groups(policy, REWARDS_PG, config)
    loss, expected, _, _ = slow_step(policy, groups, config)
    metrics, found = gradients_after(policy, config, groups)
    assert metrics["loss"] == pytest.approx(loss, rel=1e-4, abs=1e-6)
    assert_same_gradients(found, expected)
