"""Fast decoder layers against transformers' own: outputs, gradients, and which are served."""

from pathlib import Path

import pytest
import torch

from tiny import write_tiny_model
from tunestone.core.attention import TreeUnsupportedError
from tunestone.core.blocks import FastBlock, is_served
from tunestone.core.logprobs import tree_logprobs
from tunestone.core.model import Policy, fast_view, load_base
from tunestone.core.tree import build_tree

ROWS = [[9, 8, 7, *answer] for answer in ([1, 2, 3], [1, 2, 4, 5], [6], [6, 6, 6, 6, 6])]
KINDS = ["llama", "qwen2", "qwen3", "gpt2"]


def policy_of(folder: Path, architecture: str, lora_rank: int) -> Policy:
    """A policy whose adapter, if it has one, does something, and whose norms are not all ones."""
    base = load_base(str(write_tiny_model(folder, architecture=architecture)))
    generator = torch.Generator().manual_seed(0)
    policy = Policy(base, lora_rank=lora_rank)
    with torch.no_grad():
        for name, parameter in policy.network.named_parameters():
            if "lora_B" in name or "norm" in name or name.endswith("bias"):
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    policy.refresh()
    return policy


def logprobs_and_gradients(policy: Policy, network) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    policy.network.zero_grad()
    logprobs_R = tree_logprobs(network, build_tree(ROWS, [3] * len(ROWS)), 0.9)
    (logprobs_R * torch.arange(1.0, len(logprobs_R) + 1)).sum().backward()
    gradients = {n: p.grad.clone() for n, p in policy.trainable.items() if p.grad is not None}
    return logprobs_R.detach(), gradients


@pytest.mark.parametrize("lora_rank", [4, 0])
@pytest.mark.parametrize("architecture", KINDS)
def test_the_view_has_the_gradients_of_the_network(
    tmp_path: Path, architecture: str, lora_rank: int
) -> None:
    policy = policy_of(tmp_path, architecture, lora_rank)
    plain_R, plain = logprobs_and_gradients(policy, policy.network)
    fast_R, fast = logprobs_and_gradients(policy, policy.view)
    torch.testing.assert_close(fast_R, plain_R, rtol=1e-5, atol=1e-5)
    assert plain.keys() == fast.keys()
    assert len(fast) >= 8
    for name, gradient in plain.items():
        torch.testing.assert_close(fast[name], gradient, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("architecture", KINDS)
def test_the_reference_is_the_base(tmp_path: Path, architecture: str) -> None:
    base = load_base(str(write_tiny_model(tmp_path, architecture=architecture)))
    tree = build_tree(ROWS, [3] * len(ROWS))
    with torch.no_grad():
        base_R = tree_logprobs(base.network, tree, 1.0)
        policy = Policy(base, lora_rank=4)
        for name, parameter in policy.trainable.items():
            if "lora_B" in name:
                parameter.normal_()
        policy.refresh()
        moved_R = tree_logprobs(policy.view, tree, 1.0)
        assert (moved_R - base_R).abs().max() > 1e-3
        with policy.reference() as network:
            torch.testing.assert_close(tree_logprobs(network, tree, 1.0), base_R)
        assert torch.equal(tree_logprobs(policy.view, tree, 1.0), moved_R)


@pytest.mark.parametrize(("architecture", "blocks"), [("llama", 2), ("qwen2", 2), ("qwen3", 0)])
def test_which_layers_are_served(tmp_path: Path, architecture: str, blocks: int) -> None:
    base = load_base(str(write_tiny_model(tmp_path, architecture=architecture)))
    view, layers = fast_view(base.network)
    assert sum(isinstance(module, FastBlock) for module in view.modules()) == blocks
    assert len(layers) == (2 * 4 if blocks else 2 * 7) + 1
    assert not any(isinstance(module, FastBlock) for module in base.network.modules())


def test_a_window_is_left_to_the_model(tmp_path: Path) -> None:
    base = load_base(str(write_tiny_model(tmp_path, architecture="mistral")))
    assert not is_served(base.network.model.layers[0])
    base.network.config.sliding_window = None
    assert is_served(base.network.model.layers[0])


def test_without_a_plan_the_layer_does_it_itself(tmp_path: Path) -> None:
    policy = policy_of(tmp_path, "llama", 4)
    tokens = torch.tensor([[5, 6, 7, 8], [1, 2, 3, 4]])
    with torch.no_grad():
        plain = policy.network(tokens).logits
        torch.testing.assert_close(policy.view(tokens).logits, plain, rtol=1e-4, atol=1e-4)


def test_the_view_without_a_plan_says_so_under_our_attention(tmp_path: Path) -> None:
    """A plan that gets lost on the way must not end in attention without a mask."""
    policy = policy_of(tmp_path, "llama", 4)
    policy.view.config._attn_implementation = "tunestone"
    with pytest.raises(TreeUnsupportedError):
        policy.view(torch.tensor([[5, 6]]))
