"""Linear layers by oneDNN, with LoRA merged into their weights.

Two things make a layer cheap. Its weight is W + scale x B A, so a forward is one product and not
three; the gradients of A and B need only the layer's input and the gradient of its output. And the
products go to oneDNN: on processors with AVX-512 that are not Intel's, PyTorch's default (MKL)
stays on AVX2 and reaches half of it or less (docs/performance.md). Where PyTorch has no oneDNN, and
on GPUs, the same layers use PyTorch's own products.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn.functional import linear

_ONEDNN = torch.ops.mkldnn
_ROWS = 64  # what weights are packed for; other numbers of rows work as well


def product(left_MK: Tensor, right_KN: Tensor) -> Float[Tensor, "M N"]:
    """left @ right in fp32; right may be a transposed view."""
    return _apply(left_MK.contiguous(), right_KN.t(), None)


class FastLinear(nn.Module):
    """Computes what one or several linear layers with the same input compute, side by side.

    With their LoRA adapters, if they have some. The parameters stay those of the `layers`; call
    `refresh` after they changed. M inputs of K numbers give N, the outputs of the layers in line.
    """

    def __init__(self, *layers: nn.Linear | LoraLayer) -> None:
        super().__init__()
        self._parts = [_Part(layer) for layer in layers]
        self.widths = [part.weight_NK.shape[0] for part in self._parts]
        """Outputs of each layer."""
        self.is_base = False
        """Leaves the adapters out, to compute the base model."""
        self.refresh()

    @property
    def weight(self) -> Tensor:
        """The weight of a single layer, without its adapter; some models look at it."""
        (part,) = self._parts
        return part.weight_NK

    @property
    def is_trained(self) -> bool:
        """Whether what it computes changes from step to step."""
        return any(p is not None and p.requires_grad for p in self.parameters_in_line())

    def parameters_in_line(self) -> list[Tensor | None]:
        """Weight, bias, A and B of each layer, None for what it has not; `gradients` follows."""
        return [tensor for part in self._parts for tensor in part.tensors()]

    @torch.no_grad()
    def refresh(self) -> None:
        """Merge and pack the weights as they are now."""
        self._merged = self._packed([part.merged() for part in self._parts])
        biases = [part.bias_N for part in self._parts]
        self._bias_N = (
            None if biases[0] is None else torch.cat([b for b in biases if b is not None])
        )

    def forward(self, input: Tensor) -> Tensor:
        """[..., K] -> [..., N]."""
        if not torch.is_grad_enabled() or self.is_base:
            return self.compute(input)
        output: Tensor = _Product.apply(input, self, *self.parameters_in_line())
        return output

    def compute(self, input_K: Tensor) -> Tensor:
        """The same without gradients."""
        weight = self._merged
        if self.is_base:
            weight = self._packed([part.weight_NK.detach() for part in self._parts])
        return _apply(input_K, weight, self._bias_N)

    def gradients(
        self, input_MK: Tensor, outputs: Sequence[Tensor]
    ) -> tuple[Float[Tensor, "M K"], list[Tensor | None]]:
        """Gradient of the input, and of what is trained among `parameters_in_line`.

        `outputs`: the gradient of each layer's output.
        """
        to_input = None
        others: list[Tensor | None] = []
        for part, output_MN in zip(self._parts, outputs, strict=True):
            part_MN = output_MN.contiguous()  # oneDNN is a hundred times slower on strided rows
            own = product(part_MN, part.weight_NK)
            to_input = own if to_input is None else to_input.add_(own)
            others += part.gradients(input_MK, part_MN, to_input)
        assert to_input is not None
        return to_input, others

    @staticmethod
    def _packed(weights: list[Tensor]) -> Tensor:
        weight_NK = weights[0] if len(weights) == 1 else torch.cat(weights)
        if not is_served(weight_NK):
            return weight_NK
        packed: Tensor = _ONEDNN._reorder_linear_weight(weight_NK, _ROWS)
        return packed


class _Part:
    """One linear layer with its adapter."""

    def __init__(self, layer: nn.Linear | LoraLayer) -> None:
        source: Any = layer.base_layer if isinstance(layer, LoraLayer) else layer
        # GPT-2 stores its weights the other way round.
        turned = not isinstance(source, nn.Linear)
        self.weight_NK: Tensor = source.weight.t() if turned else source.weight
        self.bias_N: Tensor | None = source.bias
        self._adapter: tuple[Tensor, Tensor] | None = None
        self._scale = 0.0
        if isinstance(layer, LoraLayer):
            name = layer.active_adapters[0]
            self._adapter = (layer.lora_A[name].weight, layer.lora_B[name].weight)
            self._scale = layer.scaling[name]

    def tensors(self) -> tuple[Tensor | None, ...]:
        """Weight, bias, A [rank, K] and B [N, rank]."""
        return (self.weight_NK, self.bias_N, *(self._adapter or (None, None)))

    def merged(self) -> Tensor:
        """W + scale x B A."""
        weight_NK = self.weight_NK.detach()
        if self._adapter is None:
            return weight_NK
        down_RK, up_NR = self._adapter
        return torch.addmm(weight_NK, up_NR, down_RK, alpha=self._scale)

    def gradients(
        self, input_MK: Tensor, gradient_MN: Tensor, to_input_MK: Tensor
    ) -> list[Tensor | None]:
        """Of `tensors`, where trained; the adapter's part is added to the input's gradient."""
        to_weight = to_bias = to_down = to_up = None
        if self.weight_NK.requires_grad:
            to_weight = product(gradient_MN.t(), input_MK)
        if self.bias_N is not None and self.bias_N.requires_grad:
            to_bias = gradient_MN.sum(dim=0)
        if self._adapter is not None:
            down_RK, up_NR = self._adapter
            inner_MR = product(gradient_MN, up_NR).mul_(self._scale)
            outer_MR = product(input_MK, down_RK.t()).mul_(self._scale)
            to_down = product(inner_MR.t(), input_MK)
            to_up = product(outer_MR.t(), gradient_MN).t()
            to_input_MK += product(inner_MR, down_RK)
        return [to_weight, to_bias, to_down, to_up]


class _Product(torch.autograd.Function):
    """`FastLinear` with gradients."""

    @staticmethod
    def forward(ctx: Any, input_K: Tensor, layer: FastLinear, *parameters: Tensor | None) -> Tensor:
        ctx.save_for_backward(input_K)
        ctx.layer = layer
        return layer.compute(input_K)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (input_K,) = ctx.saved_tensors
        layer: FastLinear = ctx.layer
        outputs = gradients[0].flatten(end_dim=-2).split(layer.widths, dim=-1)
        to_input, others = layer.gradients(input_K.flatten(end_dim=-2), outputs)
        return to_input.view_as(input_K), None, *others


def is_served(tensor: Tensor) -> bool:
    """Whether oneDNN takes products of it."""
    return (
        tensor.device.type == "cpu"
        and tensor.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and hasattr(_ONEDNN, "_linear_pointwise")
    )


def _apply(input_K: Tensor, weight: Tensor, bias_N: Tensor | None) -> Tensor:
    """Linear layer with a weight as it is, or packed."""
    if not is_served(input_K):
        return linear(input_K, weight, bias_N)
    output: Tensor = _ONEDNN._linear_pointwise(input_K, weight, bias_N, "none", [], "")
    return output
