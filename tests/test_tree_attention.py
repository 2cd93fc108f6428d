"""Attention over a tree by blocks, against one dense product with a mask, in double precision."""

import random

import pytest
import torch

from tunestone.core import attention
from tunestone.core.attention import TreePlan
from tunestone.core.tree import TokenTree, build_tree

HEADS, KEY_HEADS, WIDTH = 6, 2, 16


def bushy_tree() -> TokenTree:
    """A trunk longer than a block, and answers that share their first tokens."""
    rng = random.Random(0)
    answers = [[rng.randrange(3) for _ in range(rng.randrange(5, 60))] for _ in range(30)]
    return build_tree([[1] * 150 + answer for answer in answers], [1] * 30)


def dense(tree: TokenTree, query, key, value, scale: float) -> torch.Tensor:
    """Every node with every node, what is no ancestor masked out."""
    nodes = torch.arange(tree.size)
    ends = torch.tensor(tree.ends_N)
    seen = (nodes[None, :] <= nodes[:, None]) & (nodes[:, None] < ends[None, :])
    key, value = (t.repeat_interleave(HEADS // KEY_HEADS, dim=1) for t in (key, value))
    scores = (query @ key.mT * scale).masked_fill(~seen, float("-inf"))
    return scores.softmax(dim=-1) @ value


@pytest.mark.parametrize("by_hand", [True, False])
def test_outputs_and_gradients(monkeypatch, by_hand: bool) -> None:
    monkeypatch.setattr(attention, "is_served", lambda tensor: by_hand)
    tree = bushy_tree()
    assert max(len(block.ancestors) for block in tree.blocks()) > 2
    torch.manual_seed(0)
    shapes = [(1, heads, tree.size, WIDTH) for heads in (HEADS, KEY_HEADS, KEY_HEADS)]
    exact = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    given = [tensor.detach().float().requires_grad_() for tensor in exact]
    weights = torch.randn(shapes[0])
    reference = dense(tree, *exact, 0.3)
    (reference * weights.double()).sum().backward()
    output = TreePlan(tree, torch.device("cpu")).attend(0, *given, 0.3)
    (output * weights).sum().backward()
    torch.testing.assert_close(output, reference.float(), rtol=1e-4, atol=1e-5)
    for own, its in zip(given, exact, strict=True):
        torch.testing.assert_close(own.grad, its.grad.float(), rtol=1e-4, atol=1e-4)
