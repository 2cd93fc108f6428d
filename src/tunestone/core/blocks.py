"""Decoder layers of the Llama shape, computed with fewer operations and less memory.

Llama, Qwen2, Mistral and what shares their layer: RMS norm, attention with rotary positions, RMS
norm, gated feed-forward. Products of the same input are one product (q, k and v; gate and up), and
the backward is written by hand: it keeps, for each token, the layer's input, the rotated queries
and keys, the values, what attention gave, the middle of the layer and the gate's input, and
computes the rest again where that is cheap. Other layers stay as they are.

M tokens of C numbers; attention has H query heads and Hkv key heads of D numbers.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import silu
from transformers.models.llama.modeling_llama import LlamaDecoderLayer
from transformers.models.mistral.modeling_mistral import MistralDecoderLayer
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer

from tunestone.core.linear import FastLinear

_SERVED = (LlamaDecoderLayer, MistralDecoderLayer, Qwen2DecoderLayer)


def is_served(layer: nn.Module) -> bool:
    """Whether `FastBlock` computes this layer: a known kind, no window, the gate a SiLU."""
    if type(layer) not in _SERVED:
        return False
    attention: Any = layer.self_attn
    windowed = getattr(attention, "sliding_window", None) or (
        isinstance(layer, MistralDecoderLayer) and attention.config.sliding_window
    )
    feed_forward: Any = layer.mlp
    act = feed_forward.act_fn
    return not windowed and (isinstance(act, nn.SiLU) or type(act).__name__ == "SiLUActivation")


class FastBlock(nn.Module):
    """A decoder layer, given to an attention plan; without a plan the layer does it itself."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self._layer = layer
        attention, feed_forward = layer.self_attn, layer.mlp
        self.to_heads = FastLinear(attention.q_proj, attention.k_proj, attention.v_proj)
        self.from_heads = FastLinear(attention.o_proj)
        self.gate_up = FastLinear(feed_forward.gate_proj, feed_forward.up_proj)
        self.down = FastLinear(feed_forward.down_proj)
        self._norm, self._middle_norm = layer.input_layernorm, layer.post_attention_layernorm
        self._width = attention.head_dim
        self._heads = attention.config.num_attention_heads
        self._rotated = self._heads + attention.config.num_key_value_heads

    @property
    def layers(self) -> tuple[FastLinear, ...]:
        """Its linear layers."""
        return (self.to_heads, self.from_heads, self.gate_up, self.down)

    def forward(
        self,
        hidden_states: Tensor,
        *,
        position_embeddings: tuple[Tensor, Tensor],
        plan: Any = None,
        **kwargs: Any,
    ) -> Tensor:
        """[B, T, C] -> [B, T, C]."""
        if plan is None:
            plainly: Tensor = self._layer(
                hidden_states, position_embeddings=position_embeddings, **kwargs
            )
            return plainly
        batch, length, width = hidden_states.shape
        input_MC = hidden_states.reshape(-1, width)
        cos, sin = (
            part.expand(batch, length, -1).flatten(end_dim=1) for part in position_embeddings
        )
        attention = self._layer.self_attn
        heads = [
            head.view(batch, length, -1, self._width).transpose(1, 2)
            for head in self._open(input_MC, cos, sin)
        ]
        attended = plan.attend(attention.layer_idx, *heads, attention.scaling)
        attended_MC = attended.transpose(1, 2).reshape(batch * length, -1)
        return self._close(input_MC, attended_MC).view(batch, length, -1)

    def _open(self, input_MC: Tensor, cos_MD: Tensor, sin_MD: Tensor) -> tuple[Tensor, ...]:
        if not torch.is_grad_enabled() or self.to_heads.is_base:
            return self.to_queries_keys_values(input_MC, cos_MD, sin_MD)
        given = (self._norm.weight, *self.to_heads.parameters_in_line())
        heads: tuple[Tensor, ...] = _Open.apply(input_MC, cos_MD, sin_MD, self, *given)
        return heads

    def _close(self, input_MC: Tensor, attended_MC: Tensor) -> Tensor:
        if not torch.is_grad_enabled() or self.down.is_base:
            return self.from_attended(input_MC, attended_MC)[0]
        given = (
            *self.from_heads.parameters_in_line(),
            self._middle_norm.weight,
            *self.gate_up.parameters_in_line(),
            *self.down.parameters_in_line(),
        )
        output: Tensor = _Close.apply(input_MC, attended_MC, self, *given)
        return output

    def to_queries_keys_values(
        self, input_MC: Tensor, cos_MD: Tensor, sin_MD: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries [M, H, D] and keys [M, Hkv, D], and values."""
        normed_MC = rms_norm(input_MC, self._norm)[0]
        heads_MHD = self.to_heads.compute(normed_MC).unflatten(-1, (-1, self._width))
        turned_MHD = rotate(heads_MHD[:, : self._rotated], cos_MD, sin_MD)
        queries, keys = turned_MHD[:, : self._heads], turned_MHD[:, self._heads :]
        # A copy of the values, or the queries and keys before their turn would stay with them.
        return queries, keys, heads_MHD[:, self._rotated :].clone()

    def gradients_to_heads(
        self, input_MC: Tensor, cos_MD: Tensor, sin_MD: Tensor, heads: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor | None, list[Tensor | None]]:
        """Backward of `to_queries_keys_values`: of the input, the norm, and the layers."""
        to_queries, to_keys, to_values = heads
        outputs = [rotate(to_queries, cos_MD, -sin_MD), rotate(to_keys, cos_MD, -sin_MD), to_values]
        normed_MC, scale_M1 = rms_norm(input_MC, self._norm)
        to_normed_MC, others = self.to_heads.gradients(
            normed_MC, [output.flatten(start_dim=1) for output in outputs]
        )
        to_input, to_norm = rms_norm_gradients(input_MC, scale_M1, self._norm, to_normed_MC)
        return to_input, to_norm, others

    def from_attended(self, input_MC: Tensor, attended_MC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The layer's output, and what the backward needs: the middle [M, C], gate and up."""
        middle_MC = self.from_heads.compute(attended_MC).add_(input_MC)
        gate_up = self.gate_up.compute(rms_norm(middle_MC, self._middle_norm)[0])
        gate, up = gate_up.chunk(2, dim=-1)
        return self.down.compute(silu(gate).mul_(up)).add_(middle_MC), middle_MC, gate_up

    def gradients_from_attended(
        self, attended_MC: Tensor, middle_MC: Tensor, gate_up: Tensor, to_output_MC: Tensor
    ) -> tuple[Tensor, Tensor, list[Tensor | None]]:
        """Backward of `from_attended`: of input, attended, and the parameters in their order."""
        gate, up = gate_up.chunk(2, dim=-1)
        activated = silu(gate)
        to_gated, of_down = self.down.gradients(activated * up, [to_output_MC])
        to_up = activated.mul_(to_gated)
        to_gate = torch.ops.aten.silu_backward(to_gated.mul_(up), gate)
        normed_MC, scale_M1 = rms_norm(middle_MC, self._middle_norm)
        to_normed_MC, of_gate_up = self.gate_up.gradients(normed_MC, [to_gate, to_up])
        to_middle_MC, of_norm = rms_norm_gradients(
            middle_MC, scale_M1, self._middle_norm, to_normed_MC
        )
        to_middle_MC += to_output_MC
        to_attended_MC, of_heads = self.from_heads.gradients(attended_MC, [to_middle_MC])
        return to_middle_MC, to_attended_MC, [*of_heads, of_norm, *of_gate_up, *of_down]


class _Open(torch.autograd.Function):
    """`FastBlock.to_queries_keys_values` with gradients."""

    @staticmethod
    def forward(
        ctx: Any, input_MC: Tensor, cos_MD: Tensor, sin_MD: Tensor, block: FastBlock, *given: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(input_MC, cos_MD, sin_MD)
        ctx.block = block
        return block.to_queries_keys_values(input_MC, cos_MD, sin_MD)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        to_input, to_norm, others = ctx.block.gradients_to_heads(*ctx.saved_tensors, gradients)
        return to_input, None, None, None, to_norm, *others


class _Close(torch.autograd.Function):
    """`FastBlock.from_attended` with gradients."""

    @staticmethod
    def forward(
        ctx: Any, input_MC: Tensor, attended_MC: Tensor, block: FastBlock, *given: Tensor
    ) -> Tensor:
        output, middle_MC, gate_up = block.from_attended(input_MC, attended_MC)
        ctx.save_for_backward(attended_MC, middle_MC, gate_up)
        ctx.block = block
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        to_input, to_attended, others = ctx.block.gradients_from_attended(
            *ctx.saved_tensors, gradients[0]
        )
        return to_input, to_attended, None, *others


def rotate(heads_MHD: Tensor, cos_MD: Tensor, sin_MD: Tensor) -> Float[Tensor, "M H D"]:
    """Rotary positions (arXiv 2104.09864), halves as pairs; with -sin it is its own transpose."""
    half = heads_MHD.shape[-1] // 2
    cos, sin = cos_MD[:, None], sin_MD[:, None]
    turned = heads_MHD * cos
    turned[..., :half].addcmul_(heads_MHD[..., half:], sin[..., :half], value=-1.0)
    turned[..., half:].addcmul_(heads_MHD[..., :half], sin[..., half:])
    return turned


def rms_norm(input_MC: Tensor, norm: Any) -> tuple[Float[Tensor, "M C"], Float[Tensor, "M 1"]]:
    """The normed input (arXiv 1910.07467) and the factor of each row, 1 / root mean square."""
    squares_M1 = torch.linalg.vector_norm(input_MC, dim=-1, keepdim=True).square_()
    scale_M1 = squares_M1.div_(input_MC.shape[-1]).add_(norm.variance_epsilon).rsqrt_()
    return (input_MC * scale_M1).mul_(norm.weight), scale_M1


def rms_norm_gradients(
    input_MC: Tensor, scale_M1: Tensor, norm: Any, to_normed_MC: Tensor
) -> tuple[Float[Tensor, "M C"], Float[Tensor, " C"] | None]:
    """Backward of `rms_norm`: of the input, and of the norm's weight where that is trained."""
    unit_MC = input_MC * scale_M1
    to_weight = (to_normed_MC * unit_MC).sum(dim=0) if norm.weight.requires_grad else None
    to_unit_MC = to_normed_MC * norm.weight
    along_M1 = torch.linalg.vecdot(to_unit_MC, unit_MC).div_(input_MC.shape[-1])[:, None]
    return to_unit_MC.sub_(unit_MC.mul_(along_M1)).mul_(scale_M1), to_weight
