"""Generation that shares what the rows share.

One prefill lays all prompts out as a token tree, so a system text and worked examples common to
them are computed once, and a prompt once for all its G completions. While decoding, each row owns
only the keys and values of its own answer; those of the trunk and of its prompt are shared. A row
that ends leaves the batch. The log-probabilities the tokens were drawn with are kept, so the
trainer needs no second forward for them.

Randomness is one uniform number per row and position, made from the seed alone: a completion
depends neither on which rows share its batch nor on when they leave.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from tunestone.core.attention import TreePlan
from tunestone.core.constraint import LazyGrammars
from tunestone.core.decode_plan import DecodePlan, FixedDecodePlan
from tunestone.core.decode_steps import (
    DecodeSteps,
    PlainSteps,
    RecordedSteps,
    Recorder,
    record_cuda_graph,
)
from tunestone.core.logprobs import tree_logits
from tunestone.core.model import BaseModel
from tunestone.core.tree import build_tree, common_prefix
from tunestone.types import Completion, FinishReason

_ROWS_AT_ONCE = 256  # bounds the logits (rows x vocabulary)
_ROWS_IN_CACHE = 16  # drawn at once, so that a few copies of their logits stay in the cache
_LOWEST = -1e4  # nats below the best token; stands for a logit of -inf
_PROMPT_TOKENS_AT_ONCE = 32_768  # bounds the cache of what prompts do not share


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to draw. Temperature 0 is greedy; top_k 0 and top_p 1 keep the whole vocabulary."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()
    grammar: Mapping[str, Any] | None = None
    """What each completion must be, as `core/grammar.py` takes it; None is any text."""


class CompletionSampler(Protocol):
    """The one-method seam between the loop and whatever generates."""

    def sample(
        self,
        prompts_PT: Sequence[Sequence[int]],
        group_size: int,
        params: SamplingParams,
        *,
        seed: Sequence[int] = (0,),
    ) -> list[list[Completion]]:
        """`group_size` completions per prompt, in order; the same seed gives the same ones."""
        ...


@dataclass(slots=True)
class _Row:
    """A completion while it is being drawn."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    finish_reason: FinishReason = "length"


class Sampler:
    """Draws completions from a network with shared prefixes."""

    def __init__(
        self, network: nn.Module, base: BaseModel, *, record: Recorder | None = None
    ) -> None:
        """`record` makes decoding steps replayable; on a GPU they are as CUDA graphs anyway."""
        self._network = network
        self._base = base
        self._record = record or (record_cuda_graph if base.device.type == "cuda" else None)
        self._grammars = LazyGrammars(base)

    @torch.inference_mode()
    def sample(
        self,
        prompts_PT: Sequence[Sequence[int]],
        group_size: int,
        params: SamplingParams,
        *,
        seed: Sequence[int] = (0,),
    ) -> list[list[Completion]]:
        """`group_size` completions per prompt, in order; the same seed gives the same ones."""
        uniforms_BT = np.random.default_rng(list(seed)).random(
            (len(prompts_PT) * group_size, params.max_tokens)
        )
        ordered = [tuple(prompt_T) for prompt_T in prompts_PT]
        own = max(map(len, ordered)) - common_prefix(min(ordered), max(ordered))
        at_once = max(1, min(_ROWS_AT_ONCE // group_size, _PROMPT_TOKENS_AT_ONCE // max(1, own)))
        groups: list[list[Completion]] = []
        for start in range(0, len(prompts_PT), at_once):
            some = prompts_PT[start : start + at_once]
            first = start * group_size
            uniforms = uniforms_BT[first : first + len(some) * group_size]
            rows = self._decode(some, group_size, params, torch.from_numpy(uniforms))
            drawn = self._finish(rows, params)
            groups += [drawn[i : i + group_size] for i in range(0, len(drawn), group_size)]
        return groups

    def _decode(
        self,
        prompts_PT: Sequence[Sequence[int]],
        group_size: int,
        params: SamplingParams,
        uniforms_BT: Tensor,
    ) -> list[_Row]:
        steps, logits_PV, positions_P = self._prefill(prompts_PT, group_size)
        rows = [_Row() for _ in range(len(prompts_PT) * group_size)]
        device = logits_PV.device
        uniforms_BT = uniforms_BT.to(device)
        living = torch.arange(len(rows), device=device)
        constraint = self._grammars.constrain(params.grammar, len(rows))
        logits_BV = logits_PV.repeat_interleave(group_size, dim=0)
        positions_B = positions_P.repeat_interleave(group_size)
        for t in range(params.max_tokens):
            allowed_BV = constraint.mask(logits_BV, living.tolist())
            tokens_B, logprobs_B, entropies_B = draw_tokens(
                logits_BV, uniforms_BT[living, t], params, allowed_BV
            )
            constraint.accept(living.tolist(), tokens_B.tolist())
            drawn = [rows[b] for b in living.tolist()]
            self._extend(drawn, tokens_B, logprobs_B, entropies_B, params)
            going = torch.tensor(
                [i for i, row in enumerate(drawn) if row.finish_reason == "length"], device=device
            ).long()
            if len(going) == 0 or t + 1 == params.max_tokens:
                break
            if len(going) < len(drawn):
                steps.keep(going)
                living, positions_B, tokens_B = living[going], positions_B[going], tokens_B[going]
            positions_B = positions_B + 1
            logits_BV = steps.next_logits(tokens_B, positions_B)
        return rows

    def _prefill(
        self, prompts_PT: Sequence[Sequence[int]], group_size: int
    ) -> tuple[DecodeSteps, Tensor, Tensor]:
        """What decodes, logits after each prompt [P, V], position of its last token [P]."""
        tree = build_tree(prompts_PT, [len(prompt) for prompt in prompts_PT])
        device = self._base.device
        prefill = TreePlan(tree, device, record=True)
        unique = sorted(set(tree.leaves_B))
        logits = tree_logits(self._network, tree, unique, prefill).float()
        order = torch.tensor([unique.index(leaf) for leaf in tree.leaves_B], device=device)
        positions_P = torch.tensor([tree.positions_N[i] for i in tree.leaves_B], device=device)
        steps: DecodeSteps
        if self._record is None:
            steps = PlainSteps(self._network, DecodePlan(prefill, tree, group_size))
        else:
            plan = FixedDecodePlan(prefill, tree, group_size)
            rows = len(prompts_PT) * group_size
            steps = RecordedSteps(self._network, plan, rows, self._record)
        return steps, logits[order], positions_P

    def _extend(
        self,
        rows: Sequence[_Row],
        tokens_B: Tensor,
        logprobs_B: Tensor,
        entropies_B: Tensor,
        params: SamplingParams,
    ) -> None:
        numbers = zip(tokens_B.tolist(), logprobs_B.tolist(), entropies_B.tolist(), strict=True)
        for row, (token, logprob, entropy) in zip(rows, numbers, strict=True):
            row.tokens.append(token)
            row.logprobs.append(logprob)
            row.entropies.append(entropy)
            if token in self._base.end_tokens or (params.stop and self._hits_stop(row, params)):
                row.finish_reason = "stop"

    def _hits_stop(self, row: _Row, params: SamplingParams) -> bool:
        # A stop string ends in the newest token, and no token is shorter than a byte.
        longest = max(len(stop.encode()) for stop in params.stop)
        tail = self._base.tokenizer.decode(row.tokens[-longest - 1 :])
        return any(stop in tail for stop in params.stop)

    def _finish(self, rows: Sequence[_Row], params: SamplingParams) -> list[Completion]:
        texts = self._base.tokenizer.batch_decode(
            [row.tokens for row in rows], skip_special_tokens=True
        )
        return [
            Completion(
                tokens=tuple(row.tokens),
                logprobs=tuple(row.logprobs),
                entropies=tuple(row.entropies),
                text=cut_at_stop(text, params.stop),
                finish_reason=row.finish_reason,
            )
            for row, text in zip(rows, texts, strict=True)
        ]


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """The text before the first stop string in it."""
    return text[: min([text.find(s) for s in stop if s in text], default=len(text))]


def draw_tokens(
    logits_BV: Tensor,
    uniforms_B: Tensor,
    params: SamplingParams,
    constrained_BV: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Token, its log-probability, and the entropy of the distribution, each [B].

    Drawn by inverting the cumulative distribution at one uniform number per row. Log-probability
    and entropy are those of the whole distribution at the temperature, before top_k, top_p and
    the grammar. `constrained_BV` are the logits with -inf where the grammar forbids a token.
    """
    rows = [slice(i, i + _ROWS_IN_CACHE) for i in range(0, len(logits_BV), _ROWS_IN_CACHE)]
    parts = [
        _draw_some(
            logits_BV[some],
            uniforms_B[some],
            params,
            None if constrained_BV is None else constrained_BV[some],
        )
        for some in rows
    ]
    tokens_B, logprobs_B, entropies_B = (torch.cat(column) for column in zip(*parts, strict=True))
    return tokens_B, logprobs_B, entropies_B


def _draw_some(
    logits_BV: Tensor,
    uniforms_B: Tensor,
    params: SamplingParams,
    constrained_BV: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    below_BV, weights_BV, total_B = _weigh(logits_BV, params.temperature)
    entropies_B = _entropies(below_BV, weights_BV, total_B)
    if params.temperature == 0.0:
        tokens_B = (logits_BV if constrained_BV is None else constrained_BV).argmax(dim=-1)
    else:
        if constrained_BV is not None:
            weights_BV = _weigh(constrained_BV, params.temperature)[1]
        tokens_B = pick(truncate(weights_BV, params.top_k, params.top_p), uniforms_B)
    logprobs_B = below_BV.gather(-1, tokens_B[:, None])[:, 0] - total_B.log()
    return tokens_B, logprobs_B, entropies_B


def pick(allowed_BV: Tensor, uniforms_B: Tensor) -> Tensor:
    """Tokens [B]: where the running sums of `allowed_BV`, not scaled, pass the uniform numbers."""
    cumulative_BV = allowed_BV.cumsum(dim=-1)
    # Scaled by the true total, so that rounding can never point past the last allowed token.
    points_B = uniforms_B.to(cumulative_BV.dtype) * cumulative_BV[:, -1]
    tokens_B = torch.searchsorted(cumulative_BV, points_B[:, None], right=True)[:, 0]
    tokens_B = tokens_B.clamp_max(allowed_BV.shape[-1] - 1)
    if bool(allowed_BV.gather(-1, tokens_B[:, None]).all()):
        return tokens_B
    last_B = allowed_BV.shape[-1] - 1 - allowed_BV.flip(-1).ne(0).int().argmax(dim=-1)
    return torch.minimum(tokens_B, last_B)


def distribution(logits_BV: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities and probabilities [B, V], and entropies [B] in nats.

    At `temperature`, or at 1 when that is 0 (greedy).
    """
    below_BV, weights_BV, total_B = _weigh(logits_BV, temperature)
    entropies_B = _entropies(below_BV, weights_BV, total_B)
    return below_BV - total_B.log()[:, None], weights_BV / total_B[:, None], entropies_B


def _weigh(logits_BV: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Logits below the best one, their exponentials, and the sum of these."""
    scaled_BV = logits_BV if temperature in (0.0, 1.0) else logits_BV / temperature
    below_BV = scaled_BV - scaled_BV.amax(dim=-1, keepdim=True)
    below_BV.clamp_min_(_LOWEST)
    weights_BV = below_BV.exp()
    return below_BV, weights_BV, weights_BV.sum(dim=-1)


def _entropies(below_BV: Tensor, weights_BV: Tensor, total_B: Tensor) -> Tensor:
    return total_B.log() - torch.linalg.vecdot(weights_BV, below_BV) / total_B


def truncate(probabilities_BV: Tensor, top_k: int, top_p: float) -> Tensor:
    """Zero all but the `top_k` likeliest and the smallest set that holds `top_p`; not rescaled."""
    if top_k == 0 and top_p >= 1.0:
        return probabilities_BV
    ranked_BV, order_BV = probabilities_BV.sort(dim=-1, descending=True)
    if top_k:
        ranked_BV[:, top_k:] = 0.0
    if top_p < 1.0:
        before_BV = ranked_BV.cumsum(dim=-1) - ranked_BV
        total_B = ranked_BV.sum(dim=-1, keepdim=True)
        ranked_BV = ranked_BV.masked_fill(before_BV >= top_p * total_B, 0.0)
    return torch.zeros_like(ranked_BV).scatter(-1, order_BV, ranked_BV)
