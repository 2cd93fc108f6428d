"""Attention over a token tree on a CPU, block by block, with gradients.

Each block of nodes attends to the ranges of nodes above it and to itself. The products and the
softmax are PyTorch's flash kernel for CPUs (arXiv 2205.14135), forward and backward called by hand:
autograd would fill a gradient as large as the whole tree for every range of every block.

H query heads, Hkv key heads, N nodes of D numbers; a block has M nodes and sees S.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tunestone.core.tree import Block

_FLASH = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_FLASH_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@dataclass(frozen=True, slots=True)
class MaskedBlock:
    """A block and what is added to its scores: 0 where a node is seen, else -inf."""

    block: Block
    bias_MS: Float[Tensor, "M S"]

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """The nodes it sees: ancestors of all, then itself."""
        return (*self.block.ancestors, (self.block.start, self.block.stop))

    def seen(self, tensor: Tensor) -> Tensor:
        """[1, Hkv, N, D] -> [1, Hkv, S, D]."""
        parts = [tensor[:, :, start:stop] for start, stop in self.ranges]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)

    def add_seen(self, total: Tensor, seen: Tensor) -> None:
        """Add [1, Hkv, S, D] to the nodes of `total` [1, Hkv, N, D] they belong to."""
        parts = seen.split([stop - start for start, stop in self.ranges], dim=2)
        for (start, stop), part in zip(self.ranges, parts, strict=True):
            total[:, :, start:stop] += part


def tree_attention_cpu(
    query: Tensor, key: Tensor, value: Tensor, blocks: Sequence[MaskedBlock], scale: float
) -> Float[Tensor, "1 H N D"]:
    """Softmax attention; query [1, H, N, D], key and value [1, Hkv, N, D]."""
    output: Tensor = _TreeAttention.apply(query, key, value, blocks, scale)
    return output


class _TreeAttention(torch.autograd.Function):
    """See `tree_attention_cpu`."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        blocks: Sequence[MaskedBlock],
        scale: float,
    ) -> Tensor:
        # Heads inside, as the next layer wants them: the copy kept for the backward is the result.
        output_NHD = query.new_empty(query.shape[2], query.shape[1], value.shape[3])
        sums = []
        for masked in blocks:
            nodes = slice(masked.block.start, masked.block.stop)
            part, sum_ = _FLASH(
                query[:, :, nodes],
                masked.seen(key),
                masked.seen(value),
                attn_mask=masked.bias_MS,
                scale=scale,
            )
            output_NHD[nodes] = part[0].transpose(0, 1)
            sums.append(sum_)
        output = output_NHD.transpose(0, 1)[None]
        ctx.save_for_backward(query, key, value, output)
        ctx.blocks, ctx.scale, ctx.sums = blocks, scale, sums
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, output = ctx.saved_tensors
        to_query = torch.empty_like(query)
        to_key, to_value = torch.zeros_like(key), torch.zeros_like(value)
        for masked, sum_ in zip(ctx.blocks, ctx.sums, strict=True):
            nodes = slice(masked.block.start, masked.block.stop)
            to_query[:, :, nodes], to_keys, to_values = _FLASH_BACKWARD(
                gradients[0][:, :, nodes],
                query[:, :, nodes],
                masked.seen(key),
                masked.seen(value),
                output[:, :, nodes],
                sum_,
                0.0,
                False,
                attn_mask=masked.bias_MS,
                scale=ctx.scale,
            )
            masked.add_seen(to_key, to_keys)
            masked.add_seen(to_value, to_values)
        return to_query, to_key, to_value, None, None
