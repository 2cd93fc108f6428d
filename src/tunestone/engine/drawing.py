"""From logits to the next token of each answer, every answer by its own settings.

Randomness is one uniform number per token from the answer's own generator, made from seed and index
alone: an answer does not depend on who else is being answered. The log-probabilities shown are
those of the whole vocabulary at temperature 1, before penalties, biases and grammars.
"""

import os
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tunestone.core.grammar import Matcher
from tunestone.core.sampler import distribution, pick, truncate
from tunestone.engine.text import TokenBytes
from tunestone.errors import GrammarError
from tunestone.generation import GenerationRequest, TokenChance, TokenLogprob

_BEST = 1024  # tokens that hold nearly all probability of nearly all distributions
_COLDEST = 1e-4  # below it a temperature is greedy; dividing by it would overflow


class TokenChooser:
    """What decides the tokens of one answer, besides the model."""

    def __init__(self, request: GenerationRequest, index: int, matcher: Matcher | None) -> None:
        self.temperature = request.temperature if request.temperature >= _COLDEST else 0.0
        self.top_p = request.top_p
        self.top_k = request.top_k
        self._frequency = request.frequency_penalty
        self._presence = request.presence_penalty
        self._bias = {int(token): bias for token, bias in request.logit_bias.items()}
        self.matcher = matcher
        self.error: GrammarError | None = None
        """Why this answer cannot go on; others can."""
        self._counts: Counter[int] = Counter()
        seed = int.from_bytes(os.urandom(8), "big") if request.seed is None else request.seed
        self._uniforms = np.random.default_rng([seed % 2**64, index])

    @property
    def adjusts(self) -> bool:
        """Whether `adjust` would change anything."""
        return bool(self._bias or self.matcher or self._frequency or self._presence)

    def uniform(self) -> float:
        """The number that the next token is drawn by; to be asked once per token."""
        return float(self._uniforms.random())

    def adjust(self, logits_V: Tensor) -> None:
        """Apply penalties for what was drawn before, biases and the grammar, in place."""
        if self._counts and (self._frequency or self._presence):
            drawn = torch.tensor(list(self._counts), device=logits_V.device)
            times = torch.tensor(list(self._counts.values()), device=logits_V.device)
            logits_V[drawn] -= self._frequency * times + self._presence
        for token, bias in self._bias.items():
            logits_V[token] += bias
        if self.matcher is not None and self.error is None:
            try:
                self.matcher.forbid(logits_V)
            except GrammarError as error:
                self.error = error

    def accept(self, token: int) -> None:
        """Remember what was drawn."""
        self._counts[token] += 1
        if self.matcher is not None and self.error is None:
            try:
                self.matcher.accept(token)
            except GrammarError as error:
                self.error = error


def draw(logits_BV: Tensor, choosers: Sequence[TokenChooser]) -> list[int]:
    """The next token of each answer. Logits are fp32 and stay as they are."""
    adjusted = [b for b, chooser in enumerate(choosers) if chooser.adjusts]
    if adjusted:
        logits_BV = logits_BV.clone()
        for b in adjusted:
            choosers[b].adjust(logits_BV[b])
    alike: dict[tuple[float, float, int], list[int]] = {}
    for b, chooser in enumerate(choosers):
        alike.setdefault((chooser.temperature, chooser.top_p, chooser.top_k), []).append(b)
    tokens_B = [0] * len(choosers)
    for (temperature, top_p, top_k), rows in alike.items():
        some_BV = logits_BV if len(rows) == len(choosers) else logits_BV[rows]
        uniforms = torch.tensor([choosers[b].uniform() for b in rows], dtype=torch.float64)
        if temperature == 0.0 or top_p == 0.0:
            chosen = some_BV.argmax(dim=-1)
        else:
            probabilities_BV = (some_BV / temperature).softmax(dim=-1)
            allowed_BV = narrow(probabilities_BV, top_k, top_p)
            chosen = pick(allowed_BV, uniforms.to(some_BV.device))
        for b, token in zip(rows, chosen.tolist(), strict=True):
            tokens_B[b] = token
    return tokens_B


def narrow(probabilities_BV: Tensor, top_k: int, top_p: float) -> Tensor:
    """What `truncate` gives, without sorting the whole vocabulary where its best tokens suffice."""
    size = probabilities_BV.shape[-1]
    if (top_k == 0 and top_p >= 1.0) or size <= _BEST:
        return truncate(probabilities_BV, top_k, top_p)
    best_BK, tokens_BK = probabilities_BV.topk(min(top_k or _BEST, _BEST), dim=-1)
    total_B = (best_BK if 0 < top_k <= _BEST else probabilities_BV).sum(dim=-1, keepdim=True)
    if top_k > _BEST or bool((best_BK.sum(dim=-1, keepdim=True) < top_p * total_B).any()):
        return truncate(probabilities_BV, top_k, top_p)
    before_BK = best_BK.cumsum(dim=-1) - best_BK
    best_BK = best_BK.masked_fill(before_BK >= top_p * total_B, 0.0)
    return torch.zeros_like(probabilities_BV).scatter(-1, tokens_BK, best_BK)


def show_chances(
    logits_NV: Tensor, tokens_N: Sequence[int], *, top: int, of: TokenBytes
) -> list[TokenLogprob]:
    """Each token's log-probability under its logits, and the `top` likeliest tokens' with it."""
    logprobs_NV, _, _ = distribution(logits_NV, 1.0)
    picked_N = logprobs_NV.gather(1, torch.tensor(tokens_N, device=logits_NV.device)[:, None])
    best = logprobs_NV.topk(min(top, logprobs_NV.shape[1]), dim=-1)
    return [
        TokenLogprob(
            _chance(token, picked, of),
            tuple(_chance(t, x, of) for t, x in zip(tokens, logprobs, strict=True)),
        )
        for token, picked, tokens, logprobs in zip(
            tokens_N,
            picked_N[:, 0].tolist(),
            best.indices.tolist(),
            best.values.tolist(),
            strict=True,
        )
    ]


def _chance(token: int, logprob: float, of: TokenBytes) -> TokenChance:
    data = of.of(token)
    return TokenChance(data.decode("utf-8", "replace"), logprob, tuple(data))
