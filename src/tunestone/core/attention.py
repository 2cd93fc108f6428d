"""How a Hugging Face model gets to see a token tree.

transformers lets one register an attention function. Ours asks a *plan*, handed through the model
as a keyword, how the nodes of this forward attend: `TreePlan` for a whole tree (training and
prefill), `DecodePlan` (decode_plan.py) for one new token of every living row. A model that does not
pass keywords to its attention, slides a window shorter than the text, or caps its logits in a way
of its own is not served: we raise `TreeUnsupportedError`, the caller falls back to padded rows.
"""

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from tunestone.core.linear import is_served
from tunestone.core.tree import TokenTree, tree_mask
from tunestone.core.tree_attention import MaskedBlock, tree_attention_cpu

IMPLEMENTATION = "tunestone"


class TreeUnsupportedError(Exception):
    """This model's attention cannot be laid out as a tree; padded rows still work."""


class AttentionPlan(Protocol):
    """Decides which keys each query sees, layer by layer."""

    longest: int
    """Longest path in tokens, to compare with a sliding window."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Query [1, H, N, D] with key and value [1, H_kv, N, D] -> output of query's shape."""
        ...


class TreePlan:
    """Attention over a whole tree, block by block: each to its ancestors and to itself.

    With `record=True` keys and values of every layer are kept, which makes it the prefill.
    """

    def __init__(self, tree: TokenTree, device: torch.device, *, record: bool = False) -> None:
        self.longest = max(tree.positions_N) + 1
        self.keys_values: dict[int, tuple[Tensor, Tensor]] = {}
        self._record = record
        ends = torch.tensor(tree.ends_N, device=device)
        self._blocks = []
        for block in tree.blocks():
            own_MM = tree_mask(ends, block.start, block.stop)
            above = sum(stop - start for start, stop in block.ancestors)
            bias_MS = torch.zeros(len(own_MM), above + len(own_MM), device=device)
            bias_MS[:, above:].masked_fill_(~own_MM, float("-inf"))
            self._blocks.append(MaskedBlock(block, bias_MS))

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """See `AttentionPlan.attend`."""
        if self._record:
            self.keys_values[layer] = (key, value)
        if is_served(query) and query.shape[-1] == value.shape[-1]:
            return tree_attention_cpu(query, key, value, self._blocks, scale)
        shared = query.shape[1] // key.shape[1]
        parts = [
            # With a mask, kernels for GPUs want as many key heads as query heads.
            scaled_dot_product_attention(
                query[:, :, masked.block.start : masked.block.stop],
                masked.seen(key).repeat_interleave(shared, dim=1),
                masked.seen(value).repeat_interleave(shared, dim=1),
                attn_mask=masked.bias_MS.to(query.dtype),
                scale=scale,
            )
            for masked in self._blocks
        ]
        return torch.cat(parts, dim=2)


def plan_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The function transformers calls for every layer; the plan comes in `kwargs`."""
    plan: AttentionPlan | None = kwargs.get("plan")
    if plan is None:
        raise TreeUnsupportedError("the model does not hand keywords on to its attention")
    window = kwargs.get("sliding_window")
    if window is not None and plan.longest > window:
        raise TreeUnsupportedError(f"text of {plan.longest} tokens exceeds the window of {window}")
    if kwargs.get("softcap") is not None or kwargs.get("s_aux") is not None:
        raise TreeUnsupportedError("the model changes its attention logits")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    layer = getattr(module, "layer_idx", None)
    if layer is None:
        raise TreeUnsupportedError("the model does not number its attention layers")
    return plan.attend(layer, query, key, value, scale).transpose(1, 2), None


# No mask function is registered, so transformers builds no mask: the plan knows who sees whom.
AttentionInterface.register(IMPLEMENTATION, plan_attention)
