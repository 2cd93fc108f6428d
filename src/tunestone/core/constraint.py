"""Completions held to a grammar while they are drawn, for both samplers.

Only the choice is constrained. The log-probabilities that training keeps stay those of the policy
over its whole vocabulary, as with top_k and top_p: a token that the grammar forced is then learnt
like any other, and the policy comes to write the form by itself.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor
from transformers import LogitsProcessor

from tunestone.core.grammar import Grammars, Matcher
from tunestone.core.model import BaseModel


def answer_grammar(response_format: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The grammar of OpenAI's `response_format`; None where any text will do."""
    if response_format is None or response_format.get("type") == "text":
        return None
    if response_format.get("type") == "json_schema":
        return {"type": "json_schema", "schema": response_format["json_schema"]["schema"]}
    return response_format


class LazyGrammars:
    """Grammars over the tokens of a model, made when the first one is asked for."""

    def __init__(self, base: BaseModel) -> None:
        self._base = base
        self._grammars: Grammars | None = None

    def constrain(self, grammar: Mapping[str, Any] | None, rows: int) -> "Constraint":
        """What `rows` completions are held to. Raises GrammarError when it cannot be enforced."""
        if grammar is None:
            return Constraint([])
        if self._grammars is None:
            base = self._base
            self._grammars = Grammars(
                base.tokenizer,
                vocabulary=base.network.config.vocab_size,
                end_tokens=base.end_tokens,
            )
        return Constraint([self._grammars.matcher(grammar) for _ in range(rows)])


class Constraint:
    """What may come next in each of B rows; without matchers it does nothing."""

    def __init__(self, matchers: Sequence[Matcher]) -> None:
        self._matchers = matchers

    def mask(self, logits_BV: Tensor, rows: Sequence[int]) -> Tensor | None:
        """The logits with -inf for what is forbidden in these rows; None: nothing is.

        Raises GrammarError when a grammar became too complex to follow.
        """
        if not self._matchers:
            return None
        allowed_BV = logits_BV.clone()
        for logits_V, row in zip(allowed_BV, rows, strict=True):
            self._matchers[row].forbid(logits_V)
        return allowed_BV

    def accept(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        """Go on in these rows past what was drawn."""
        if self._matchers:
            for row, token in zip(rows, tokens, strict=True):
                self._matchers[row].accept(token)


class GrammarProcessor(LogitsProcessor):
    """The same inside transformers' `generate`, where rows that have ended stay in the batch."""

    def __init__(
        self, constraint: Constraint, prompt_length: int, end_tokens: Collection[int]
    ) -> None:
        self._constraint = constraint
        self._prompt_length = prompt_length
        self._end_tokens = end_tokens
        self._living: list[int] | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """`scores` [B, V] of what follows `input_ids` [B, T], with -inf for what is forbidden."""
        if self._living is None:
            self._living = list(range(len(scores)))
        elif input_ids.shape[1] > self._prompt_length:
            drawn = input_ids[self._living, -1].tolist()
            self._constraint.accept(self._living, drawn)
            pairs = zip(self._living, drawn, strict=True)
            self._living = [row for row, token in pairs if token not in self._end_tokens]
        allowed = self._constraint.mask(scores[self._living], self._living)
        if allowed is None:
            return scores
        masked = scores.clone()
        masked[self._living] = allowed
        return masked
