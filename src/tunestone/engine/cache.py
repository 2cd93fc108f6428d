"""Keys and values of all answers that one base is drawing.

A prompt is read into a buffer of its own, in pieces; then each of its answers gets a row in a pool
and starts with a copy. Rows of a pool have room for the same number of tokens, a power of two; a
row that outgrows its pool moves to the next, so at most half of what is held is padding, and a
forward attends pool by pool. `StepPlan` is the attention of one forward: all tokens stand in one
line, pieces of prompts and the newest token of every row, in any order.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

_SMALLEST = 64


def room_for(tokens: int) -> int:
    """Tokens a row of this length takes in memory."""
    return max(_SMALLEST, 1 << (tokens - 1).bit_length())


class PromptCache:
    """Keys and values of a prompt that is being read: [H_kv, T, D] per layer."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.read = 0
        """How many of its tokens were put through the model."""
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}

    def write(self, layer: int, key_HCD: Tensor, value_HCD: Tensor) -> tuple[Tensor, Tensor]:
        """Add the piece after the first `read` tokens; gives all keys and values up to its end."""
        if layer not in self.layers:
            shape = (len(key_HCD), self.length, key_HCD.shape[-1])
            value_shape = (*shape[:2], value_HCD.shape[-1])
            self.layers[layer] = (key_HCD.new_empty(shape), value_HCD.new_empty(value_shape))
        keys, values = self.layers[layer]
        stop = self.read + key_HCD.shape[1]
        keys[:, self.read : stop] = key_HCD
        values[:, self.read : stop] = value_HCD
        return keys[:, :stop], values[:, :stop]


@dataclass(slots=True, eq=False)
class CacheRow:
    """An answer's place: `slot` of the pool with rows of `room` tokens."""

    length: int
    """Tokens whose keys are held."""
    room: int = 0
    slot: int = 0


@dataclass(slots=True)
class _Pool:
    """Rows of one size, in slots 0, 1, ... without a gap: [R, H_kv, room, D] per layer."""

    rows: list[CacheRow] = field(default_factory=list)
    layers: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)


class RowPools:
    """The rows of all answers; see the module."""

    def __init__(self) -> None:
        self._pools: dict[int, _Pool] = {}

    def start(self, prompt: PromptCache) -> CacheRow:
        """A new row that begins with this prompt, all of which was read."""
        row = CacheRow(prompt.length)
        self._place(row, room_for(prompt.length + 1), prompt.layers)
        return row

    def drop(self, row: CacheRow) -> None:
        """Give the row's place back; the last row of its pool moves there."""
        pool = self._pools[row.room]
        last = pool.rows.pop()
        if last is not row:
            for keys, values in pool.layers.values():
                keys[row.slot, :, : last.length] = keys[last.slot, :, : last.length]
                values[row.slot, :, : last.length] = values[last.slot, :, : last.length]
            last.slot = row.slot
            pool.rows[row.slot] = last
        if not pool.rows:
            del self._pools[row.room]

    def lengthen(self, rows: Sequence[CacheRow]) -> None:
        """Make room for one more token of each row."""
        for row in rows:
            if row.length == row.room:
                layers = {
                    layer: (keys[row.slot].clone(), values[row.slot].clone())
                    for layer, (keys, values) in self._pools[row.room].layers.items()
                }
                self.drop(row)
                self._place(row, 2 * row.room, layers)
            row.length += 1

    def pools(self) -> list[tuple[Sequence[CacheRow], dict[int, tuple[Tensor, Tensor]]]]:
        """Rows and tensors of each pool, rows by slot."""
        return [(pool.rows, pool.layers) for pool in self._pools.values()]

    def _place(self, row: CacheRow, room: int, layers: dict[int, tuple[Tensor, Tensor]]) -> None:
        """Copy [H_kv, T, D] per layer, of which the first `row.length` count, into a free slot."""
        pool = self._pools.setdefault(room, _Pool())
        row.room, row.slot = room, len(pool.rows)
        pool.rows.append(row)
        for layer, given in layers.items():
            held = pool.layers.get(layer)
            if held is None or row.slot >= len(held[0]):
                held = pool.layers[layer] = _grown(held, given, row.slot, room)
            for own, new in zip(held, given, strict=True):
                own[row.slot, :, : row.length] = new[:, : row.length]


def _grown(
    held: tuple[Tensor, Tensor] | None, like: tuple[Tensor, Tensor], rows: int, room: int
) -> tuple[Tensor, Tensor]:
    """Tensors with half as many slots again, zeros where nothing was written."""
    slots = max(1, rows + (rows + 1) // 2)
    grown = [tensor.new_zeros(slots, len(tensor), room, tensor.shape[-1]) for tensor in like]
    for new, old in zip(grown, held or (), strict=False):
        new[:rows] = old[:rows]
    return grown[0], grown[1]


@dataclass(frozen=True, slots=True)
class PromptPiece:
    """Tokens [start, stop) of a forward: the next ones of `prompt`."""

    prompt: PromptCache
    start: int
    stop: int


class StepPlan:
    """Attention of one forward; see `tunestone.core.attention.AttentionPlan`.

    `node_of`: row -> its newest token's place in the forward. Rows were lengthened for it already.
    """

    def __init__(
        self,
        pools: RowPools,
        node_of: dict[int, int],
        pieces: Sequence[PromptPiece],
        device: torch.device,
    ) -> None:
        self._pieces = [(piece, _piece_mask(piece, device)) for piece in pieces]
        self._parts = []
        self.longest = max(
            (piece.prompt.read + piece.stop - piece.start for piece in pieces), default=0
        )
        for rows, layers in pools.pools():
            nodes_R = torch.tensor([node_of[id(row)] for row in rows], device=device)
            lengths_R = torch.tensor([row.length for row in rows], device=device)
            longest = max(row.length for row in rows)
            self.longest = max(self.longest, longest)
            seen_RT = torch.arange(longest, device=device) < lengths_R[:, None]
            rows_mask = None if bool(seen_RT.all()) else seen_RT[:, None, None, :]
            self._parts.append((layers, nodes_R, lengths_R - 1, longest, rows_mask))

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Query [1, H, N, D] with key and value [1, H_kv, N, D] -> output of value's width."""
        output = query.new_empty(*query.shape[:3], value.shape[-1])
        for piece, mask in self._pieces:
            new = slice(piece.start, piece.stop)
            keys, values = piece.prompt.write(layer, key[0, :, new], value[0, :, new])
            output[0, :, new] = _attend_piece(query[0, :, new], keys, values, mask, scale)
        for layers, nodes_R, last_R, longest, rows_mask in self._parts:
            keys, values = layers[layer]
            rows_R = torch.arange(len(nodes_R), device=nodes_R.device)
            keys[rows_R, :, last_R] = key[0].index_select(1, nodes_R).transpose(0, 1)
            values[rows_R, :, last_R] = value[0].index_select(1, nodes_R).transpose(0, 1)
            heads, kv_heads, count = query.shape[1], key.shape[1], len(nodes_R)
            # Query heads that share a key stand as if they were several queries of it.
            grouped = query[0].index_select(1, nodes_R).transpose(0, 1)
            attended = scaled_dot_product_attention(
                grouped.reshape(count, kv_heads, heads // kv_heads, -1),
                keys[:count, :, :longest],
                values[:count, :, :longest],
                attn_mask=rows_mask,
                scale=scale,
            )
            output[0, :, nodes_R] = attended.reshape(count, heads, -1).transpose(0, 1)
        return output


def _piece_mask(piece: PromptPiece, device: torch.device) -> Tensor:
    """Who of the prompt's tokens up to the piece's end each token of the piece sees: [C, T]."""
    count = piece.stop - piece.start
    everything = torch.ones(count, piece.prompt.read + count, dtype=torch.bool, device=device)
    return everything.tril(piece.prompt.read)


def _attend_piece(
    query_HCD: Tensor, keys_HTD: Tensor, values_HTD: Tensor, mask_CT: Tensor, scale: float
) -> Tensor:
    return scaled_dot_product_attention(
        query_HCD[None],
        keys_HTD[None],
        values_HTD[None],
        attn_mask=mask_CT,
        scale=scale,
        enable_gqa=len(query_HCD) != len(keys_HTD),
    )[0]
