"""Log-probabilities of completions under a network: over a token tree, and over padded rows.

Both give the same numbers. The tree is the fast way and the rows are the plain one: tests, the check
at the start of a run, and models whose attention a tree cannot express use the rows.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tunestone.core.attention import TreePlan
from tunestone.core.model import tree_attention
from tunestone.core.tree import TokenTree

_CHUNK = 128  # head rows handled at once; bounds the temporary copies of the logits


def tree_logprobs(network: nn.Module, tree: TokenTree, temperature: float) -> Float[Tensor, " R"]:
    """Log-probability (nats) of every scored token of the tree, row by row, at `temperature`.

    The output head is applied only to the K nodes that predict a scored token. Raises
    TreeUnsupportedError for a model whose attention cannot be laid out so.
    """
    device = next(network.parameters()).device
    inputs: dict[str, Any] = {
        "input_ids": torch.tensor([tree.tokens_N], device=device),
        "position_ids": torch.tensor([tree.positions_N], device=device),
        "logits_to_keep": torch.tensor(tree.head_nodes_K, device=device),
        "plan": TreePlan(tree, device),
        "use_cache": False,
    }
    with tree_attention(network):
        logits_KV = network(**inputs).logits[0].float()
    head_R = torch.tensor(tree.head_R, device=device)
    targets_R = torch.tensor(tree.targets_R, device=device)
    logprobs_R: Tensor = _PickLogprobs.apply(logits_KV, head_R, targets_R, temperature)
    return logprobs_R


class _PickLogprobs(torch.autograd.Function):
    """log softmax(logits_KV / temperature)[head_R, targets_R], in the memory of the logits alone.

    The gradient is written over the logits: a vocabulary wide, they are the largest tensor of a
    step, and autograd's own way holds four of that size.
    """

    @staticmethod
    def forward(
        ctx: Any, logits_KV: Tensor, head_R: Tensor, targets_R: Tensor, temperature: float
    ) -> Tensor:
        chunks = [chunk.div(temperature).logsumexp(dim=-1) for chunk in logits_KV.split(_CHUNK)]
        logsumexp_K = torch.cat(chunks)
        ctx.logits_KV, ctx.temperature = logits_KV.detach(), temperature
        ctx.save_for_backward(logsumexp_K, head_R, targets_R)
        return logits_KV[head_R, targets_R] / temperature - logsumexp_K[head_R]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient_R,) = gradients
        logsumexp_K, head_R, targets_R = ctx.saved_tensors
        gradient_KV = ctx.logits_KV
        weight_K = torch.zeros_like(logsumexp_K).index_add(0, head_R, gradient_R)
        rows = zip(
            gradient_KV.split(_CHUNK),
            logsumexp_K.split(_CHUNK),
            weight_K.split(_CHUNK),
            strict=True,
        )
        for chunk, logsumexp, weight in rows:
            chunk.div_(ctx.temperature).sub_(logsumexp[:, None]).exp_().mul_(-weight[:, None])
        gradient_KV.index_put_((head_R, targets_R), gradient_R, accumulate=True)
        return gradient_KV.div_(ctx.temperature), None, None, None


def rows_logprobs(
    network: nn.Module,
    rows_BT: Sequence[Sequence[int]],
    prompt_lengths_B: Sequence[int],
    temperature: float,
    *,
    pad_token: int,
) -> Float[Tensor, " R"]:
    """The same numbers from rows padded on the right, one beside the other, as others do it."""
    device = next(network.parameters()).device
    longest = max(map(len, rows_BT))
    padded = [[*row, *[pad_token] * (longest - len(row))] for row in rows_BT]
    lengths_B = torch.tensor([len(row) for row in rows_BT], device=device)
    mask_BT = torch.arange(longest, device=device)[None, :] < lengths_B[:, None]
    tokens_BT = torch.tensor(padded, device=device)
    output = network(input_ids=tokens_BT, attention_mask=mask_BT.long(), use_cache=False)
    logits_BTV = output.logits[:, :-1].float() / temperature
    logprobs_BT = logits_BTV.gather(-1, tokens_BT[:, 1:, None]).squeeze(-1) - logits_BTV.logsumexp(
        dim=-1
    )
    scored = [
        logprobs_BT[b, prompt_lengths_B[b] - 1 : len(row) - 1] for b, row in enumerate(rows_BT)
    ]
    return torch.cat(scored)
