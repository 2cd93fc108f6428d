"""One answer while it is drawn: its tokens, what of its text may be shown, and how it ends."""

from collections.abc import Collection
from dataclasses import dataclass

from tunestone.engine.decoder import Row
from tunestone.engine.drawing import TokenChooser
from tunestone.engine.text import StopFilter, TextStream
from tunestone.generation import (
    Delta,
    Ended,
    EndReason,
    GenerationEvent,
    GenerationRequest,
    TokenLogprob,
)


@dataclass(frozen=True, slots=True)
class _Pending:
    """A token that no delta has told of yet."""

    begins: int
    """How many characters the answer had before it."""
    logprob: TokenLogprob | None


class Answer:
    """Answer `index` to a request."""

    def __init__(
        self,
        request: GenerationRequest,
        index: int,
        *,
        chooser: TokenChooser,
        stream: TextStream,
        end_tokens: Collection[int],
        max_tokens: int,
    ) -> None:
        self.chooser = chooser
        self.row: Row | None = None
        """Its place in the decoder, from its first token to its last."""
        self.tokens: list[int] = []
        self.ended = False
        self._request = request
        self._index = index
        self._stream = stream
        self._stops = StopFilter(request.stop)
        self._end_tokens = end_tokens
        self._max_tokens = max_tokens
        self._decoded = 0  # characters that came out of the stream
        self._shown = 0  # characters that deltas told
        self._pending: list[_Pending] = []

    def take(self, token: int, logprob: TokenLogprob | None) -> list[GenerationEvent]:
        """Go on by a token: what there is to tell."""
        self.tokens.append(token)
        if token in self._end_tokens:
            return self._finish("stop", "")
        self.chooser.accept(token)
        self._pending.append(_Pending(self._decoded, logprob))
        text = self._stream.push(token)
        self._decoded += len(text)
        text = self._stops.push(text)
        matcher = self.chooser.matcher
        if self._stops.found:
            return self._finish("stop_string", text)
        if matcher is not None and matcher.is_complete:
            return self._finish("stop", text)
        if len(self.tokens) >= self._max_tokens:
            return self._finish("length", text)
        return self._delta(text) if text else []

    def end_at_once(self) -> list[GenerationEvent]:
        """The end of an answer of which no token was wanted."""
        return self._finish("length", "")

    def _finish(self, reason: EndReason, text: str) -> list[GenerationEvent]:
        self.ended = True
        if not self._stops.found:
            text += self._stops.push(self._stream.flush())
        if self._stops.found:
            reason = "stop_string"
        else:
            text += self._stops.flush()
        told = self._delta(text, everything=not self._stops.found)
        ended = Ended(
            self._request.id, self._index, reason, len(self.tokens), stop_string=self._stops.found
        )
        return [*told, ended]

    def _delta(self, text: str, *, everything: bool = False) -> list[GenerationEvent]:
        """Text to show, with the tokens that begin in it, or with all that were not told of."""
        self._shown += len(text)
        told = [p for p in self._pending if everything or p.begins < self._shown]
        self._pending = self._pending[len(told) :]
        if not text and not told:
            return []
        logprobs = tuple(p.logprob for p in told if p.logprob is not None)
        return [Delta(self._request.id, self._index, text, len(told), logprobs)]
