"""Answers that must obey a grammar: JSON, a JSON schema, a regular expression, or Lark rules.

At each token llguidance says which tokens can still lead to a valid answer; the others get no
probability. Between the parts of a JSON value at most sixteen blanks may stand: enough for any
indentation, and a small model cannot fill its answer with them.

https://github.com/guidance-ai/llguidance
"""

import json
import threading
from collections.abc import Collection, Mapping
from typing import Any

import llguidance
import numpy as np
import torch
from llguidance.hf import from_tokenizer
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask
from torch import Tensor

from tunestone.core.grammar_trial import try_out
from tunestone.errors import GrammarError

_BLANKS = r"[\x20\x0A\x0D\x09]{0,16}"
_KEPT = 64  # compiled grammars; a client asks with the same schema again and again


class Matcher:
    """Where one answer stands in its grammar."""

    def __init__(self, state: Any, vocabulary: int) -> None:
        self._state = state
        self._bits = allocate_token_bitmask(1, vocabulary)

    def forbid(self, logits_V: Tensor) -> None:
        """Set the logits of tokens that may not come next to -inf, in place.

        Raises GrammarError when the grammar became too complex to follow.
        """
        fill_next_token_bitmask(self._state, self._bits)
        self._check()
        allowed_V = np.unpackbits(self._bits[0].view(np.uint8), bitorder="little")
        forbidden_V = torch.from_numpy(allowed_V[: len(logits_V)] == 0)
        logits_V.masked_fill_(forbidden_V.to(logits_V.device), float("-inf"))

    def accept(self, token: int) -> None:
        """Go on past a token that was allowed."""
        self._state.consume_token(token)
        self._check()

    @property
    def is_complete(self) -> bool:
        """Whether nothing but an end token can follow."""
        return bool(self._state.is_stopped())

    def _check(self) -> None:
        if self._state.is_error():
            raise GrammarError(f"The grammar cannot be followed: {self._state.get_error()}")


class Grammars:
    """Grammars over the tokens of one model. The token table is built at the first one (0.3 s).

    Safe for several threads; a new grammar takes from a tenth of a second to some seconds.
    """

    def __init__(self, tokenizer: Any, *, vocabulary: int, end_tokens: Collection[int]) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = max(vocabulary, len(tokenizer))
        self._end_tokens = sorted(end_tokens)
        self._tokens: Any = None
        self._compiled: dict[str, Any] = {}
        self._changing = threading.Lock()

    def matcher(self, grammar: Mapping[str, Any]) -> Matcher:
        """A matcher at the start of an answer; for kinds see `GenerationRequest.grammar`.

        Raises GrammarError with the reason.
        """
        text = _grammar_text(grammar)
        compiled = self._compiled.get(text)
        if compiled is None:
            try_out(text)
            with self._changing:
                compiled = self._compile(text)
                while len(self._compiled) >= _KEPT:
                    del self._compiled[next(iter(self._compiled))]
                self._compiled[text] = compiled
        return Matcher(compiled.deep_copy(), self._vocabulary)

    def _compile(self, text: str) -> Any:
        if self._tokens is None:
            try:
                self._tokens = from_tokenizer(
                    self._tokenizer, n_vocab=self._vocabulary, eos_token=self._end_tokens
                )
            except ValueError as error:
                raise GrammarError(f"This model cannot answer by a grammar: {error}.") from error
        state = llguidance.LLMatcher(self._tokens, text, log_level=0)
        if state.is_error():
            raise GrammarError(f"The answer's format cannot be used: {state.get_error().strip()}")
        return state


def _grammar_text(grammar: Mapping[str, Any]) -> str:
    """In llguidance's own notation."""
    build = llguidance.LLMatcher
    match grammar:
        case {"type": "json_object"}:
            return _json_grammar({"type": "object"})
        case {"type": "json_schema", "schema": Mapping() as schema}:
            return _json_grammar(schema)
        case {"type": "regex", "regex": str(regex)}:
            return build.grammar_from_regex(regex)
        case {"type": "lark", "lark": str(lark)}:
            return build.grammar_from_lark(lark)
    raise GrammarError(
        f"There is no grammar in {json.dumps(dict(grammar), default=str)[:200]}.",
        remedy="Types are json_object, json_schema (with `schema`), regex and lark.",
    )


def _json_grammar(schema: Mapping[str, Any]) -> str:
    plain = {name: value for name, value in schema.items() if name != "x-guidance"}
    try:
        return llguidance.LLMatcher.grammar_from_json_schema(
            plain, overrides={"whitespace_pattern": _BLANKS}
        )
    except ValueError as error:  # such as a whole number beyond 64 bits
        raise GrammarError(f"The answer's format cannot be used: {error}.") from error
