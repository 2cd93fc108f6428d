"""One optimizer step: what takes part, what does not, and what the weights learn from it."""

import math

import pytest
import torch
from transformers import LlamaForCausalLM

from steps import (
    END,
    NAN,
    TRUNK,
    ReadableLearner,
    assert_same_gradients,
    completion,
    gradients_after,
    moved_policy,
    off_policy_groups,
    on_policy,
    row_logprobs,
    truncated,
)
from tiny import WINDOW, write_tiny_model
from tunestone.config import TrainConfig
from tunestone.core.learner import Group, Learner
from tunestone.core.loss import ALGORITHMS
from tunestone.core.model import Policy, load_base
from tunestone.core.tree import build_tree

MIXED, AGREED = [1.0, 0.0, 0.25], [0.5, 0.5, 0.5]
EVERY_ALGORITHM = sorted(ALGORITHMS)


def rows_of(groups):
    """(rows, prompt lengths) of all completions with an advantage."""
    rows, lengths = [], []
    for group in groups:
        for answer, advantage in zip(group.completions_G, group.advantages_G, strict=True):
            if advantage is not None:
                rows.append([*group.prompt_T, *answer.tokens])
                lengths.append(len(group.prompt_T))
    return rows, lengths


def without(group, g):
    """The group as if completion `g` had never been drawn."""
    keep = [i for i in range(len(group.completions_G)) if i != g]
    return Group(
        group.prompt_T,
        [group.completions_G[i] for i in keep],
        [group.advantages_G[i] for i in keep],
    )


# --- packing --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY_ALGORITHM)
def test_the_result_does_not_depend_on_the_packing(tiny_base, name):
    whole = TrainConfig(algorithm=name, kl_coefficient=0.1, microbatch_tokens=4096)
    alone = TrainConfig(algorithm=name, kl_coefficient=0.1, microbatch_tokens=64)
    policy = moved_policy(tiny_base)
    groups = off_policy_groups(policy, [MIXED, AGREED, [0.0, 2.0, 1.0]], whole)
    metrics, expected = gradients_after(policy, whole, groups)
    split_metrics, found = gradients_after(policy, alone, groups)
    # One tree shares the trunk of 20 tokens; three trees hold it three times.
    assert metrics["tree_nodes"] == build_tree(*rows_of(groups)).size
    assert split_metrics["tree_nodes"] == metrics["tree_nodes"] + 2 * len(TRUNK)
    assert_same_gradients(found, expected)
    for key in ("loss", "clip_share", "kl_sampling", "kl_base"):
        assert split_metrics[key] == pytest.approx(metrics[key], rel=1e-4), key


def test_padded_positions_count_what_rows_would_need(tiny_base):
    config = TrainConfig(microbatch_tokens=4096)
    policy = moved_policy(tiny_base)
    groups = off_policy_groups(policy, [MIXED, MIXED], config)
    metrics, _ = gradients_after(policy, config, groups)
    rows, _ = rows_of(groups)
    assert metrics["padded_positions"] == 6 * max(map(len, rows))
    assert metrics["tree_nodes"] < metrics["padded_positions"] / 2


# --- who takes part -------------------------------------------------------------------------


def test_a_group_without_signal_is_skipped_but_counts_in_the_normaliser(tiny_base):
    config = TrainConfig()  # dapo: divided by the tokens of the step
    policy = moved_policy(tiny_base)
    groups = off_policy_groups(policy, [MIXED, AGREED], config)
    metrics, found = gradients_after(policy, config, groups)
    assert metrics["tree_nodes"] == build_tree(*rows_of(groups[:1])).size
    alone_metrics, alone = gradients_after(policy, config, groups[:1])
    # Same sums, over more tokens.
    own, other = (sum(len(c.tokens) for c in group.completions_G) for group in groups)
    share = own / (own + other)
    assert metrics["loss"] == pytest.approx(alone_metrics["loss"] * share, rel=1e-5)
    assert_same_gradients(found, {name: share * g for name, g in alone.items()})


def test_skipping_changes_nothing(tiny_base):
    # 1e-30 is not zero, so this group is not skipped; it adds nothing that fp32 could see.
    config = TrainConfig()
    policy = moved_policy(tiny_base)
    mixed, agreed = off_policy_groups(policy, [MIXED, AGREED], config)
    faint = Group(agreed.prompt_T, agreed.completions_G, [1e-30] * 3)
    metrics, expected = gradients_after(policy, config, [mixed, faint])
    skipped_metrics, found = gradients_after(policy, config, [mixed, agreed])
    assert metrics["tree_nodes"] > skipped_metrics["tree_nodes"]
    assert metrics["loss"] == pytest.approx(skipped_metrics["loss"], rel=1e-4)
    assert_same_gradients(found, expected)


def test_with_a_kl_term_a_group_without_signal_trains(tiny_base):
    config = TrainConfig(kl_coefficient=0.1)
    policy = moved_policy(tiny_base)
    groups = off_policy_groups(policy, [AGREED], config)
    metrics, found = gradients_after(policy, config, groups)
    assert metrics["loss"] > 0
    assert metrics["kl_base"] > 0
    assert max(float(gradient.abs().max()) for gradient in found.values()) > 1e-4


def test_a_step_without_any_signal_leaves_the_weights_alone(tiny_base):
    config = TrainConfig()
    policy = moved_policy(tiny_base)
    groups = off_policy_groups(policy, [AGREED, AGREED], config)
    before = {name: weight.clone() for name, weight in policy.weights().items()}
    metrics = Learner(policy, config).update(groups, learning_rate=0.01)
    assert metrics == dict.fromkeys(metrics, 0.0)
    assert all(torch.equal(before[name], w) for name, w in policy.weights().items())


@pytest.mark.parametrize("kl_coefficient", [0.0, 0.1])
@pytest.mark.parametrize("name", EVERY_ALGORITHM)
def test_a_completion_without_reward_might_as_well_not_exist(tiny_base, name, kl_coefficient):
    config = TrainConfig(algorithm=name, kl_coefficient=kl_coefficient)
    policy = moved_policy(tiny_base)
    groups = off_policy_groups(policy, [[1.0, NAN, 0.0], MIXED], config)
    assert groups[0].advantages_G[1] is None
    metrics, found = gradients_after(policy, config, groups)
    shorter, expected = gradients_after(policy, config, [without(groups[0], 1), groups[1]])
    assert metrics == pytest.approx(shorter, nan_ok=True)
    assert_same_gradients(found, expected)


@pytest.mark.parametrize("name", EVERY_ALGORITHM)
def test_a_masked_truncated_completion_might_as_well_not_exist(tiny_base, name):
    config = TrainConfig(algorithm=name, kl_coefficient=0.1, mask_truncated=True)
    policy = moved_policy(tiny_base)
    first, second = off_policy_groups(policy, [MIXED, MIXED], config)
    metrics, found = gradients_after(policy, config, [truncated(first, 0), second])
    shorter, expected = gradients_after(policy, config, [without(first, 0), second])
    assert metrics["loss"] == pytest.approx(shorter["loss"], rel=1e-5)
    assert_same_gradients(found, expected)


def test_a_truncated_completion_trains_unless_masked(tiny_base):
    policy = moved_policy(tiny_base)
    groups = off_policy_groups(policy, [MIXED], TrainConfig())
    _, expected = gradients_after(policy, TrainConfig(), groups)
    _, found = gradients_after(policy, TrainConfig(), [truncated(groups[0], 0)])
    assert_same_gradients(found, expected)


def test_a_group_whose_grades_all_failed_adds_nothing(tiny_base):
    config = TrainConfig(kl_coefficient=0.1, microbatch_tokens=64)
    policy = moved_policy(tiny_base)
    groups = off_policy_groups(policy, [[NAN, NAN, NAN], MIXED], config)
    _, found = gradients_after(policy, config, groups)
    _, expected = gradients_after(policy, config, groups[1:])
    assert_same_gradients(found, expected)


# --- what is learnt -------------------------------------------------------------------------


def on_policy_group(policy, answers, advantages):
    """A group whose sampled log-probabilities are today's."""
    with torch.no_grad():
        drawn = [row_logprobs(policy.network, TRUNK, tokens, 1.0) for tokens in answers]
    completions = [completion(*pair) for pair in zip(answers, drawn, strict=True)]
    return Group(TRUNK, completions, advantages)


@pytest.mark.parametrize("name", EVERY_ALGORITHM)
def test_the_end_token_is_learnt(tiny_base, name):
    # Both answers begin with 5; ending is rewarded, going on is not.
    policy = Policy(tiny_base, lora_rank=4)
    group = on_policy_group(policy, [[5, END], [5, 9]], [1.0, -1.0])
    before = row_logprobs(policy.network, TRUNK, [5, END], 1.0)[1].item()
    learner = Learner(policy, TrainConfig(algorithm=name, warmup_steps=0))
    for _ in range(3):
        learner.update([group], learning_rate=0.01)
    after = row_logprobs(policy.network, TRUNK, [5, END], 1.0)[1].item()
    assert after > before + 0.1
    view = row_logprobs(policy.view, TRUNK, [5, END], 1.0)[1].item()
    assert view == pytest.approx(after, abs=1e-4)  # sampling sees what was learnt


def test_another_end_token_is_another_gradient(tiny_base):
    policy = moved_policy(tiny_base)
    # -2, -3: whatever was drawn; only the last target differs between the two groups.
    ended = Group(TRUNK, [completion([5, END], [-2.0, -3.0])], [1.0])
    other = Group(TRUNK, [completion([5, END + 1], [-2.0, -3.0])], [1.0])
    _, left = gradients_after(policy, TrainConfig(algorithm="cispo"), [ended])
    _, right = gradients_after(policy, TrainConfig(algorithm="cispo"), [other])
    assert all(not torch.allclose(left[name], right[name]) for name in left)


def test_the_first_of_several_updates_is_on_policy_and_the_second_is_not(tiny_base, tiny_folder):
    policy = Policy(tiny_base, lora_rank=4)
    answers = [[5, 6, 7, END], [8, 9, END]]
    group = on_policy_group(policy, answers, [1.0, -1.0])
    once = Learner(policy, TrainConfig(updates_per_batch=1)).update([group], learning_rate=0.5)
    assert once["clip_share"] == 0.0
    assert once["kl_sampling"] == pytest.approx(0.0, abs=1e-6)

    policy = Policy(load_base(str(tiny_folder)), lora_rank=4)
    twice = Learner(policy, TrainConfig(updates_per_batch=2)).update([group], learning_rate=0.5)
    # Half of the tokens looked at belong to the first update, which clips none.
    assert 0.0 < twice["clip_share"] <= 0.5
    assert twice["kl_sampling"] > 0.01


def test_the_learning_rate_of_the_call_is_the_one_that_counts(tiny_base):
    # AdamW's first step moves every weight with a gradient by the learning rate.
    policy = moved_policy(tiny_base)
    groups = off_policy_groups(policy, [MIXED], TrainConfig())
    before = {name: weight.clone() for name, weight in policy.weights().items()}
    metrics = Learner(policy, TrainConfig()).update(groups, learning_rate=3e-4)
    moves = [float((w - before[name]).abs().max()) for name, w in policy.weights().items()]
    assert max(moves) == pytest.approx(3e-4, rel=1e-3)
    assert metrics["gradient_norm"] > 0


# --- tree or rows ---------------------------------------------------------------------------


class NoPlan(LlamaForCausalLM):
    """Refuses keywords it does not know. These are the ones PEFT always passes."""

    def forward(
        self,
        input_ids,
        attention_mask=None,
        inputs_embeds=None,
        labels=None,
        output_attentions=None,
        output_hidden_states=None,
        return_dict=None,
        use_cache=None,
    ):
        """Plain rows only."""
        return super().forward(input_ids, attention_mask=attention_mask, use_cache=use_cache)


class LosesPlan(LlamaForCausalLM):
    """Takes every keyword and does not hand them on."""

    def forward(self, input_ids, attention_mask=None, **kwargs):
        """Plain rows only."""
        return super().forward(input_ids, attention_mask=attention_mask, use_cache=False)


class OwnAttention(LlamaForCausalLM):
    """Takes the tree without a word, and attends from left to right all the same."""

    def forward(self, input_ids, attention_mask=None, plan=None, **kwargs):
        """Causal attention over whatever comes."""
        asked, self.config._attn_implementation = self.config._attn_implementation, "sdpa"
        try:
            return super().forward(input_ids, attention_mask=attention_mask, **kwargs)
        finally:
            self.config._attn_implementation = asked


def test_llama_is_trained_on_the_tree(tiny_base):
    policy = moved_policy(tiny_base)
    learner = ReadableLearner(policy, TrainConfig())
    group = on_policy(policy, off_policy_groups(policy, [MIXED], TrainConfig())[0])
    assert 0.0 <= learner.check_tree(group) < 1e-4
    assert learner.uses_tree


def test_a_sampler_that_kept_other_logprobs_is_not_trusted(tiny_base):
    """The kept log-probabilities are up to 0.8 off, though tree and rows agree."""
    policy = moved_policy(tiny_base)
    learner = ReadableLearner(policy, TrainConfig())
    group = off_policy_groups(policy, [MIXED], TrainConfig())[0]
    assert 0.2 < learner.check_tree(group) <= 0.8 + 1e-3
    assert not learner.uses_tree


@pytest.mark.parametrize(
    ("network_class", "expected"),
    [(NoPlan, math.inf), (LosesPlan, math.inf), (OwnAttention, None)],
)
def test_a_network_that_ignores_the_tree_is_trained_on_rows(
    tiny_base, tiny_folder, network_class, expected
):
    config = TrainConfig()
    proper = moved_policy(tiny_base)
    groups = off_policy_groups(proper, [MIXED, MIXED], config)
    metrics, gradients = gradients_after(proper, config, groups)

    odd = load_base(str(tiny_folder))
    odd.network.__class__ = network_class
    policy = moved_policy(odd)
    learner = ReadableLearner(policy, config)
    difference = learner.check_tree(groups[0])
    assert difference == expected if expected else 1e-3 < difference < math.inf
    assert not learner.uses_tree
    found = learner.update(groups, learning_rate=0.0)
    assert found["tree_nodes"] == 0.0
    assert found["loss"] == pytest.approx(metrics["loss"], rel=1e-4)
    assert_same_gradients(learner.gradients, gradients)


def windowed_step(tmp_path, config):
    """(policy, long group, short group) of a model with a sliding window."""
    policy = moved_policy(load_base(str(write_tiny_model(tmp_path, architecture="mistral"))))
    long_group = off_policy_groups(policy, [MIXED], config)[0]
    short = Group([1, 2], [completion([3, END], [-3.0, -3.0])], [1.0])
    assert 4 <= WINDOW < len(TRUNK)
    return policy, long_group, short


def test_a_sliding_window_is_trained_on_rows(tmp_path):
    config = TrainConfig()
    policy, group, _ = windowed_step(tmp_path, config)
    learner = Learner(policy, config)
    assert learner.check_tree(group) == math.inf
    before = {name: weight.clone() for name, weight in policy.weights().items()}
    metrics = learner.update([group], learning_rate=1e-3)
    assert metrics["gradient_norm"] > 0
    assert not any(torch.equal(before[name], w) for name, w in policy.weights().items())
