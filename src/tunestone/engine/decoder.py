"""One forward of one base for everybody: pieces of prompts and the newest token of every answer.

`PackedDecoder` puts all tokens in one line, whichever adapters they need, and attends with the
plan of `cache.py`. Models whose attention takes no plan (windows shorter than the text, recurrent
layers, logits changed in their own way) get a `PlainDecoder`: each question has transformers' own
cache and forwards of its own, its answers side by side. Correct for any causal model, slower.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from inspect import signature
from typing import Any, Protocol

import torch
from torch import Tensor

from tunestone.core.model import BaseModel, tree_attention
from tunestone.engine.adapters import Adapter, AdapterHooks, Stretch
from tunestone.engine.cache import CacheRow, PromptCache, PromptPiece, RowPools, StepPlan


@dataclass(slots=True, eq=False)
class Reading:
    """A prompt on its way into the model, and then what its answers begin with."""

    tokens: Sequence[int]
    adapter: Adapter | None
    answers: int
    """How many answers will be drawn."""
    cache: Any
    """The decoder's own."""
    read: int = 0
    """Tokens that were put through the model."""

    @property
    def is_complete(self) -> bool:
        """Whether the first tokens of the answers can be drawn."""
        return self.read == len(self.tokens)


@dataclass(slots=True, eq=False)
class Row:
    """One answer's place in a decoder."""

    reading: Reading
    index: int
    """Which of the prompt's answers it is."""
    place: Any = None
    """The decoder's own."""


@dataclass(frozen=True, slots=True)
class Piece:
    """The next `count` tokens of a prompt; logits of all of them are wanted, or of the last."""

    reading: Reading
    count: int
    wants_all: bool = False


class Decoder(Protocol):
    """The seam between the scheduler and a way to run the model."""

    reads_whole: bool
    """Whether a prompt must be put through in one piece."""

    def open(self, tokens: Sequence[int], adapter: Adapter | None, answers: int) -> Reading:
        """Begin with a prompt."""
        ...

    def start(self, reading: Reading, index: int) -> Row:
        """A row for an answer, once its prompt is complete. All of a prompt's start together."""
        ...

    def drop(self, row: Row) -> None:
        """Forget an answer that ended."""
        ...

    def reset(self) -> None:
        """Forget all answers, after a forward that failed."""
        ...

    def forward(
        self, pieces: Sequence[Piece], rows: Sequence[Row], newest_R: Sequence[int]
    ) -> tuple[list[Tensor], Tensor]:
        """Logits of each piece, [count or 1, V], and of each row after its newest token, [R, V].

        `rows` are all rows that were started and not dropped. fp32.
        """
        ...


@dataclass(slots=True)
class _Line:
    """The tokens of one forward as they stand in line."""

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    stretches: list[Stretch] = field(default_factory=list)

    def add(self, tokens: Sequence[int], first: int, adapter: Adapter | None) -> int:
        """Append tokens at positions `first`, `first` + 1, ...; gives the place of the first."""
        start = len(self.tokens)
        self.tokens += tokens
        self.positions += range(first, first + len(tokens))
        if adapter is not None:
            if self.stretches and self.stretches[-1][1:] == (start, adapter):
                start_before = self.stretches.pop()[0]
                self.stretches.append((start_before, len(self.tokens), adapter))
            else:
                self.stretches.append((start, len(self.tokens), adapter))
        return start


class PackedDecoder:
    """All tokens of all answers in one line."""

    reads_whole = False

    def __init__(self, base: BaseModel) -> None:
        self._base = base
        self._hooks = AdapterHooks(base.network)
        self._pools = RowPools()

    def open(self, tokens: Sequence[int], adapter: Adapter | None, answers: int) -> Reading:
        """See `Decoder`."""
        return Reading(tokens, adapter, answers, PromptCache(len(tokens)))

    @torch.inference_mode()
    def start(self, reading: Reading, index: int) -> Row:
        """See `Decoder`."""
        place = self._pools.start(reading.cache)
        if index == reading.answers - 1:
            reading.cache.layers.clear()  # every answer has its copy now
        return Row(reading, index, place)

    @torch.inference_mode()
    def drop(self, row: Row) -> None:
        """See `Decoder`."""
        self._pools.drop(row.place)

    def reset(self) -> None:
        """See `Decoder`."""
        self._pools = RowPools()

    @torch.inference_mode()
    def forward(
        self, pieces: Sequence[Piece], rows: Sequence[Row], newest_R: Sequence[int]
    ) -> tuple[list[Tensor], Tensor]:
        """See `Decoder`."""
        places: list[CacheRow] = [row.place for row in rows]
        self._pools.lengthen(places)
        line, node_of, starts = _Line(), {}, {}
        adapters = [
            item.adapter for item in (*(p.reading for p in pieces), *(r.reading for r in rows))
        ]
        for adapter in dict.fromkeys(adapters):  # neighbours share one product per layer
            for p, piece in enumerate(pieces):
                if piece.reading.adapter is adapter:
                    read, stop = piece.reading.read, piece.reading.read + piece.count
                    starts[p] = line.add(piece.reading.tokens[read:stop], read, adapter)
            for row, place, token in zip(rows, places, newest_R, strict=True):
                if row.reading.adapter is adapter:
                    node_of[id(place)] = line.add([token], place.length - 1, adapter)
        parts = [
            PromptPiece(piece.reading.cache, starts[p], starts[p] + piece.count)
            for p, piece in enumerate(pieces)
        ]
        plan = StepPlan(self._pools, node_of, parts, self._base.device)
        wanted = [
            list(range(part.start if piece.wants_all else part.stop - 1, part.stop))
            for piece, part in zip(pieces, parts, strict=True)
        ]
        heads = [node for nodes in wanted for node in nodes] + [node_of[id(p)] for p in places]
        logits_KV = self._run(line, plan, heads)
        for piece in pieces:
            piece.reading.read += piece.count
            piece.reading.cache.read += piece.count
        *of_pieces, of_rows = torch.split(logits_KV, [*map(len, wanted), len(rows)])
        return list(of_pieces), of_rows

    def _run(self, line: _Line, plan: StepPlan, heads: Sequence[int]) -> Tensor:
        device = self._base.device
        with tree_attention(self._base.network), self._hooks.applied(line.stretches):
            output = self._base.network(
                input_ids=torch.tensor([line.tokens], device=device),
                position_ids=torch.tensor([line.positions], device=device),
                logits_to_keep=torch.tensor(heads, device=device),
                plan=plan,
                use_cache=False,
            )
        logits_KV: Tensor = output.logits[0].float()
        return logits_KV


class PlainDecoder:
    """Each question by itself, with the cache its model brings."""

    reads_whole = True

    def __init__(self, base: BaseModel) -> None:
        self._base = base
        self._hooks = AdapterHooks(base.network)
        self._keeps_logits = "logits_to_keep" in signature(base.network.forward).parameters

    def open(self, tokens: Sequence[int], adapter: Adapter | None, answers: int) -> Reading:
        """See `Decoder`."""
        return Reading(tokens, adapter, answers, None)

    def start(self, reading: Reading, index: int) -> Row:
        """See `Decoder`."""
        return Row(reading, index)

    def drop(self, row: Row) -> None:
        """See `Decoder`. The place stays in its question's batch until all its answers ended."""

    def reset(self) -> None:
        """See `Decoder`. Nothing is kept here; questions hold their own caches."""

    @torch.inference_mode()
    def forward(
        self, pieces: Sequence[Piece], rows: Sequence[Row], newest_R: Sequence[int]
    ) -> tuple[list[Tensor], Tensor]:
        """See `Decoder`."""
        of_pieces = []
        for piece in pieces:
            reading = piece.reading
            tokens = [list(reading.tokens)] * reading.answers
            logits = self._run(reading, tokens, last_only=not piece.wants_all)
            of_pieces.append(logits[0] if piece.wants_all else logits[0, -1:])
            reading.read += piece.count
        of_rows: dict[int, Tensor] = {}
        for reading in dict.fromkeys(row.reading for row in rows):
            newest = {
                row.index: (r, token)
                for r, (row, token) in enumerate(zip(rows, newest_R, strict=True))
                if row.reading is reading
            }
            pad = self._base.pad_token  # for answers that ended; nobody reads what comes of them
            tokens = [[newest[i][1] if i in newest else pad] for i in range(reading.answers)]
            logits = self._run(reading, tokens, last_only=True)
            of_rows |= {r: logits[i, -1] for i, (r, _) in newest.items()}
        none = torch.empty(0, 0, device=self._base.device)
        stacked = torch.stack([of_rows[r] for r in range(len(rows))]) if rows else none
        return of_pieces, stacked

    def _run(
        self, reading: Reading, tokens_BT: Sequence[Sequence[int]], *, last_only: bool
    ) -> Tensor:
        """Logits [B, T, V] of the next tokens of all of a question's answers; T may be 1."""
        extra = {"logits_to_keep": 1} if last_only and self._keeps_logits else {}
        count = sum(map(len, tokens_BT))
        stretches = [] if reading.adapter is None else [(0, count, reading.adapter)]
        with self._hooks.applied(stretches):
            output = self._base.network(
                input_ids=torch.tensor(tokens_BT, device=self._base.device),
                past_key_values=reading.cache,
                use_cache=True,
                **extra,
            )
        reading.cache = output.past_key_values
        logits_BTV: Tensor = output.logits.float()
        return logits_BTV
