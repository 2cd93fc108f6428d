"""Fast linear layers against PyTorch's own and PEFT's, in double precision where it matters."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from tunestone.core import linear
from tunestone.core.linear import FastLinear, product

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(params=["oneDNN", "PyTorch"], autouse=True)
def library(request, monkeypatch):
    """Both ways to multiply: as on this machine, and as where oneDNN is missing."""
    if request.param == "PyTorch":
        monkeypatch.setattr(linear, "is_served", lambda tensor: False)
    return request.param


def adapted(layer: nn.Module, *, seed: int = 0) -> LoraLayer:
    """The layer with LoRA of rank 3 that does something."""
    torch.manual_seed(seed)
    config = LoraConfig(r=3, lora_alpha=7, target_modules=["layer"], fan_in_fan_out=False)
    lora = get_peft_model(nn.ModuleDict({"layer": layer}), config).base_model.model["layer"]
    nn.init.normal_(lora.lora_B["default"].weight)
    return lora


def gradients(output: torch.Tensor, weights: torch.Tensor, parameters) -> list[torch.Tensor]:
    return torch.autograd.grad((output * weights).sum(), parameters)


def test_a_product_takes_any_layout() -> None:
    torch.manual_seed(0)
    left, right = torch.randn(6, 40)[:, ::2], torch.randn(33, 20).t()
    torch.testing.assert_close(product(left, right), left @ right, **CLOSE)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5,), (2, 3), (1,)])
def test_a_plain_layer(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    plain = nn.Linear(20, 33, bias=bias)
    fast = FastLinear(plain)
    assert fast.is_trained
    input_K = torch.randn(*shape, 20, requires_grad=True)
    weights = torch.randn(*shape, 33)
    torch.testing.assert_close(fast(input_K), plain(input_K), **CLOSE)
    wanted = [input_K, *plain.parameters()]
    for own, its in zip(
        gradients(fast(input_K), weights, wanted),
        gradients(plain(input_K), weights, wanted),
        strict=True,
    ):
        torch.testing.assert_close(own, its, **CLOSE)
    with torch.no_grad():
        torch.testing.assert_close(fast(input_K), plain(input_K), **CLOSE)


@pytest.mark.parametrize("make", [lambda: nn.Linear(20, 33), lambda: Conv1D(33, 20)])
def test_a_layer_with_an_adapter(make) -> None:
    torch.manual_seed(0)
    lora = adapted(make())
    fast = FastLinear(lora)
    trained = [p for p in lora.parameters() if p.requires_grad]
    assert len(trained) == 2
    input_K = torch.randn(4, 20, requires_grad=True)
    weights = torch.randn(4, 33)
    exact = copy.deepcopy(lora).double()
    exactly = exact(input_K.double())
    torch.testing.assert_close(fast(input_K).double(), exactly, **CLOSE)
    its = gradients(
        exactly,
        weights.double(),
        [input_K, *(p for p in exact.parameters() if p.requires_grad)],
    )
    for own, reference in zip(
        gradients(fast(input_K), weights, [input_K, *trained]), its, strict=True
    ):
        torch.testing.assert_close(own.double(), reference.double(), rtol=1e-4, atol=1e-4)


def test_layers_side_by_side_are_their_outputs_in_line() -> None:
    torch.manual_seed(0)
    layers = [adapted(nn.Linear(20, width), seed=width) for width in (16, 5, 5)]
    fast = FastLinear(*layers)
    trained = [p for layer in layers for p in layer.parameters() if p.requires_grad]
    input_K = torch.randn(7, 20, requires_grad=True)
    weights = torch.randn(7, 26)
    together = torch.cat([layer(input_K) for layer in layers], dim=-1)
    torch.testing.assert_close(fast(input_K), together, **CLOSE)
    wanted = [input_K, *trained]
    for own, its in zip(
        gradients(fast(input_K), weights, wanted),
        gradients(together, weights, wanted),
        strict=True,
    ):
        torch.testing.assert_close(own, its, rtol=1e-4, atol=1e-4)


def test_refresh_brings_changed_weights_in() -> None:
    lora = adapted(nn.Linear(20, 33))
    fast = FastLinear(lora)
    input_K = torch.randn(4, 20)
    with torch.no_grad():
        lora.lora_B["default"].weight.add_(1.0)
        assert not torch.allclose(fast(input_K), lora(input_K), **CLOSE)
        fast.refresh()
        torch.testing.assert_close(fast(input_K), lora(input_K), **CLOSE)


def test_the_base_leaves_the_adapter_out() -> None:
    lora = adapted(nn.Linear(20, 33))
    fast = FastLinear(lora)
    fast.is_base = True
    input_K = torch.randn(4, 20)
    with torch.no_grad():
        torch.testing.assert_close(fast(input_K), lora.base_layer(input_K), **CLOSE)


@pytest.mark.parametrize("library", ["oneDNN"], indirect=True)  # PyTorch's own do not promise it
def test_a_row_does_not_depend_on_the_rows_beside_it() -> None:
    """What makes a completion's bits those of a batch of another size."""
    fast = FastLinear(nn.Linear(64, 48))
    input_K = torch.randn(70, 64)
    with torch.no_grad():
        assert torch.equal(fast(input_K)[:9], fast(input_K[:9]))
