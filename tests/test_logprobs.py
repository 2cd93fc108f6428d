"""Log-probabilities and gradients: tree = padded rows = one plain row at a time."""

import math

import pytest
import torch

from tiny import WINDOW, write_tiny_model
from tunestone.core.attention import TreeUnsupportedError
from tunestone.core.logprobs import _PickLogprobs, rows_logprobs, tree_logprobs
from tunestone.core.model import Policy, load_base
from tunestone.core.tree import build_tree

ARCHITECTURES = ["llama", "qwen2", "qwen3", "gpt2"]
# Two groups that share a system text, one of them with equal answers and an answer that is the
# beginning of another; then a prompt that shares nothing.
SHARED = ([7, 8, 9, 20, 21], [[30, 31, 32], [30, 31], [30, 40], [30, 31, 32]])
SIBLING = ([7, 8, 9, 25], [[50], [51, 52, 53, 54, 55, 56]])
STRANGER = ([100, 101], [[7, 8, 9], [256]])


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def rows_of(*groups):
    """(rows, prompt lengths) of groups (prompt, answers)."""
    rows = [[*prompt, *answer] for prompt, answers in groups for answer in answers]
    return rows, [len(prompt) for prompt, answers in groups for _ in answers]


def naive_logprobs(network, rows, lengths, temperature):
    """One row at a time, no padding, no mask, the whole vocabulary, plain log_softmax."""
    picked = []
    for row, length in zip(rows, lengths, strict=True):
        logits = network(input_ids=torch.tensor([row])).logits[0]
        logprobs = torch.log_softmax(logits / temperature, dim=-1)
        picked += [logprobs[t - 1, row[t]] for t in range(length, len(row))]
    return torch.stack(picked)


def gradients_of(network, logprobs_R):
    """Gradients of a sum in which every token has a weight of its own, by parameter."""
    network.zero_grad()
    weights_R = torch.linspace(-1.0, 2.0, len(logprobs_R))
    (weights_R * logprobs_R).sum().backward()
    named = network.named_parameters()
    return {name: p.grad.clone() for name, p in named if p.grad is not None}


def assert_same_gradients(left, right):
    assert left.keys() == right.keys()
    for name, gradient in left.items():
        assert float(gradient.abs().max()) > 0, name
        scale = float(gradient.abs().max())
        torch.testing.assert_close(
            gradient, right[name], rtol=1e-4, atol=1e-5 * max(1.0, scale), msg=name
        )


def assert_all_ways_agree(network, rows, lengths, *, temperature, pad_token):
    tree = build_tree(rows, lengths)
    by_tree = tree_logprobs(network, tree, temperature)
    from_tree = gradients_of(network, by_tree)
    by_rows = rows_logprobs(network, rows, lengths, temperature, pad_token=pad_token)
    from_rows = gradients_of(network, by_rows)
    naive = naive_logprobs(network, rows, lengths, temperature)
    from_naive = gradients_of(network, naive)
    torch.testing.assert_close(by_tree, naive, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(by_rows, naive, rtol=1e-5, atol=1e-5)
    assert float(naive.detach().std()) > 0.3  # a flat distribution would agree with anything
    assert_same_gradients(from_naive, from_tree)
    assert_same_gradients(from_naive, from_rows)


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """A tiny model of every architecture the tree can lay out."""
    return {
        name: str(write_tiny_model(tmp_path_factory.mktemp(name), architecture=name))
        for name in ARCHITECTURES
    }


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("lora_rank", [0, 4])
def test_tree_rows_and_single_rows_agree(folders, architecture, lora_rank, temperature):
    base = load_base(folders[architecture])
    policy = Policy(base, lora_rank=lora_rank)
    trained = policy.trainable
    assert all(("lora" in name) == bool(lora_rank) for name in trained)
    with torch.no_grad():  # LoRA's B starts at zero, which would hide A from the gradient
        for name, parameter in trained.items():
            if "lora_B" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=seeded(1)))
    rows, lengths = rows_of(SHARED, SIBLING, STRANGER)
    assert_all_ways_agree(
        policy.network, rows, lengths, temperature=temperature, pad_token=base.pad_token
    )


@pytest.mark.parametrize("groups", [[SHARED], [STRANGER], [SIBLING, STRANGER]])
def test_they_agree_with_and_without_shared_prompts(tiny_base, groups):
    rows, lengths = rows_of(*groups)
    assert_all_ways_agree(
        tiny_base.network, rows, lengths, temperature=1.0, pad_token=tiny_base.pad_token
    )


def test_they_agree_over_several_blocks(tiny_base):
    # 3 prompts x 3 answers of 60 tokens on a trunk of 40 and stems of 50: 40 + 3 x (50 + 180)
    # = 730 nodes: the trunk and each stem are blocks of their own, and of the answers of 60 two fit
    # into a block of 128.
    def text(length, start):
        return [(start + 7 * i) % 250 for i in range(length)]

    trunk = text(40, 3)
    groups = [
        (trunk + text(50, 10 * p), [text(60, 100 + p + 5 * g) for g in range(3)]) for p in range(3)
    ]
    rows, lengths = rows_of(*groups)
    tree = build_tree(rows, lengths)
    assert tree.size == 730
    assert [len(block.ancestors) for block in tree.blocks()] == [0, 1, 2, 2, 1, 2, 2, 1, 2, 2]
    assert_all_ways_agree(
        tiny_base.network, rows, lengths, temperature=1.0, pad_token=tiny_base.pad_token
    )


def test_blocks_nest_two_levels_deep(tiny_base):
    # A stem of 10, two branches with a stem of 20 each, and three answers of 100 on either:
    # a branch has 320 nodes, so its answers see two ranges of ancestors.
    def text(length, start):
        return [(start + 7 * i) % 250 for i in range(length)]

    groups = [
        (text(10, 0) + text(20, 10 + p), [text(100, 100 + g) for g in range(3)]) for p in range(2)
    ]
    rows, lengths = rows_of(*groups)
    ranges = [len(block.ancestors) for block in build_tree(rows, lengths).blocks()]
    assert max(ranges) == 2
    assert_all_ways_agree(
        tiny_base.network, rows, lengths, temperature=1.0, pad_token=tiny_base.pad_token
    )


def test_the_attention_setting_is_put_back(tiny_base):
    rows, lengths = rows_of(SHARED)
    tree_logprobs(tiny_base.network, build_tree(rows, lengths), 1.0)
    assert tiny_base.network.config._attn_implementation == "sdpa"


def test_a_window_shorter_than_the_text_is_refused(tmp_path):
    base = load_base(str(write_tiny_model(tmp_path, architecture="mistral")))
    fits = [list(range(20, 20 + WINDOW))]
    expected = naive_logprobs(base.network, fits, [3], 1.0)
    torch.testing.assert_close(tree_logprobs(base.network, build_tree(fits, [3]), 1.0), expected)
    too_long = [list(range(20, 21 + WINDOW))]
    with pytest.raises(TreeUnsupportedError, match="text of 9 tokens exceeds the window of 8"):
        tree_logprobs(base.network, build_tree(too_long, [3]), 1.0)
    assert base.network.config._attn_implementation == "sdpa"


# --- the hand-written gradient --------------------------------------------------------------


def plain_pick(logits_KV, head_R, targets_R, temperature):
    return torch.log_softmax(logits_KV / temperature, dim=-1)[head_R, targets_R]


@pytest.mark.parametrize("temperature", [1.0, 0.5, 1.7])
@pytest.mark.parametrize("heads", [1, 5, 300])  # 300: more than two chunks of 128
def test_the_picked_gradient_equals_autograds(heads, temperature):
    logits_KV = 3 * torch.randn(heads, 11, generator=seeded(0), dtype=torch.float64)
    head_R = torch.randint(heads, (4 * heads,), generator=seeded(1))
    targets_R = torch.randint(11, (4 * heads,), generator=seeded(2))
    # Pairs come twice and more often, as they do when two answers begin with the same token.
    head_R, targets_R = torch.cat([head_R, head_R]), torch.cat([targets_R, targets_R])
    weights_R = torch.randn(len(head_R), generator=seeded(3), dtype=torch.float64)

    expected_KV = logits_KV.clone().requires_grad_()
    expected_R = plain_pick(expected_KV, head_R, targets_R, temperature)
    (weights_R * expected_R).sum().backward()
    own_KV = logits_KV.clone().requires_grad_()
    # The gradient is written over the logits, so they must not be a leaf that is used again.
    own_R = _PickLogprobs.apply(own_KV * 1.0, head_R, targets_R, temperature)
    (weights_R * own_R).sum().backward()

    torch.testing.assert_close(own_R, expected_R, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(own_KV.grad, expected_KV.grad, rtol=1e-12, atol=1e-12)


def test_the_picked_gradient_by_hand():
    # One head, two tokens, logits 0 and ln 3: p = 1/4 and 3/4. Token 0 is picked twice with
    # weights 2 and 1: gradient = (2 + 1) * (onehot - p) = 3 * (3/4, -3/4) = (2.25, -2.25).
    logits_KV = torch.tensor([[0.0, math.log(3)]], requires_grad=True)
    picked_R = _PickLogprobs.apply(logits_KV * 1.0, torch.tensor([0, 0]), torch.tensor([0, 0]), 1.0)
    assert picked_R.exp().tolist() == pytest.approx([0.25, 0.25])
    (picked_R * torch.tensor([2.0, 1.0])).sum().backward()
    assert logits_KV.grad.tolist() == [pytest.approx([2.25, -2.25])]
