"""Log-probabilities of completions under a network: over a token tree, and over padded rows.

Both give the same numbers. The tree is the fast way and the rows are the plain one: tests, the
check at the start of a run, and models whose attention a tree cannot express use the rows.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tunestone.core.attention import TreePlan
from tunestone.core.model import tree_attention
from tunestone.core.tree import TokenTree

_CHUNK = 16  # head rows handled at once, so that their logits stay in the cache


def tree_logprobs(network: nn.Module, tree: TokenTree, temperature: float) -> Float[Tensor, " R"]:
    """Log-probability (nats) of every scored token of the tree, row by row, at `temperature`.

    Raises TreeUnsupportedError for a model whose attention cannot be laid out so.
    """
    device = next(network.parameters()).device
    logits_KV = tree_logits(network, tree, tree.head_nodes_K, TreePlan(tree, device)).float()
    head_R = torch.tensor(tree.head_R, device=device)
    targets_R = torch.tensor(tree.targets_R, device=device)
    logprobs_R: Tensor = _PickLogprobs.apply(logits_KV, head_R, targets_R, temperature)
    return logprobs_R


def tree_logits(
    network: nn.Module, tree: TokenTree, nodes_K: Sequence[int], plan: TreePlan
) -> Float[Tensor, "K V"]:
    """Logits after some nodes of a tree, in the network's precision; `plan` is the tree's."""
    device = next(network.parameters()).device
    inputs: dict[str, Any] = {
        "input_ids": torch.tensor([tree.tokens_N], device=device),
        "position_ids": torch.tensor([tree.positions_N], device=device),
        "logits_to_keep": torch.tensor(nodes_K, device=device),
        "plan": plan,
        "use_cache": False,
    }
    with tree_attention(network):
        logits_KV: Tensor = network(**inputs).logits[0]
    return logits_KV


class _PickLogprobs(torch.autograd.Function):
    """log softmax(logits_KV / temperature)[head_R, targets_R], in the memory of the logits alone.

    The gradient is written over the logits: a vocabulary wide, they are the largest tensor of a
    step, and autograd's own way holds four of that size.
    """

    @staticmethod
    def forward(
        ctx: Any, logits_KV: Tensor, head_R: Tensor, targets_R: Tensor, temperature: float
    ) -> Tensor:
        scaled = (_scaled(chunk, temperature) for chunk in logits_KV.split(_CHUNK))
        logsumexp_K = torch.cat([chunk.logsumexp(dim=-1) for chunk in scaled])
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
            if ctx.temperature != 1.0:
                chunk.div_(ctx.temperature)
            weight = -weight / ctx.temperature
            chunk.sub_(logsumexp[:, None]).exp_().mul_(weight[:, None])
        gradient_KV.index_put_((head_R, targets_R), gradient_R / ctx.temperature, accumulate=True)
        return gradient_KV, None, None, None


def _scaled(logits: Tensor, temperature: float) -> Tensor:
    return logits if temperature == 1.0 else logits / temperature


def rows_logprobs(
    network: nn.Module,
    rows_BT: Sequence[Sequence[int]],
    prompt_lengths_B: Sequence[int],
    temperature: float,
    *,
    pad_token: int,
) -> Float[Tensor, " R"]:
    """The same numbers from rows padded on the right, one beside the other, as others do it."""
    logits_BTV = padded_logits(network, rows_BT, pad_token=pad_token)[:, :-1] / temperature
    logsumexp_BT = logits_BTV.logsumexp(dim=-1)
    scored = []
    for b, (row_T, length) in enumerate(zip(rows_BT, prompt_lengths_B, strict=True)):
        targets = torch.tensor(row_T[length:], device=logits_BTV.device)
        steps = slice(length - 1, len(row_T) - 1)
        picked = logits_BTV[b, steps].gather(-1, targets[:, None])[:, 0]
        scored.append(picked - logsumexp_BT[b, steps])
    return torch.cat(scored)


def tolerance(network: nn.Module) -> float:
    """Largest difference of a log-probability between two ways that counts as rounding, in nats."""
    return 0.25 if next(network.parameters()).dtype == torch.bfloat16 else 1e-3


def padded_logits(
    network: nn.Module, rows_BT: Sequence[Sequence[int]], *, pad_token: int
) -> Float[Tensor, "B T V"]:
    """Logits (fp32) at every position of rows padded on the right."""
    device = next(network.parameters()).device
    longest = max(map(len, rows_BT))
    tokens_BT = torch.tensor([[*r, *[pad_token] * (longest - len(r))] for r in rows_BT])
    lengths_B = torch.tensor([len(row) for row in rows_BT])
    mask_BT = (torch.arange(longest)[None, :] < lengths_B[:, None]).long()
    output = network(
        input_ids=tokens_BT.to(device), attention_mask=mask_BT.to(device), use_cache=False
    )
    logits_BTV: Tensor = output.logits.float()
    return logits_BTV
