"""Prompts and completions laid out as one token tree.

The rows of a step share most of their tokens: a system text and worked examples, then the prompt of
a group, often even the first tokens of the answers. Padded rows compute each of them again; the
tree computes each distinct prefix once. Nodes stand in depth-first order, so a node's descendants
are the nodes that follow it up to `ends_N`, and "is an ancestor of" is two comparisons.

Everything here is plain lists and pure functions over them; `attention.py` gives the tree to a
model. The layout follows from the tokens alone, so equal rows give equal trees in any order.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True, slots=True)
class TokenTree:
    """A set of token rows as a prefix tree in depth-first order.

    N nodes, B rows, R scored tokens of all rows one after the other, K nodes whose next-token
    distribution is needed.
    """

    tokens_N: list[int]
    positions_N: list[int]
    """Depth of the node: the position its token has in every row through it."""
    ends_N: list[int]
    """One past the last descendant; node i is an ancestor of j when i < j < ends_N[i]."""
    head_nodes_K: list[int]
    """Nodes the output head is applied to: the parents of scored tokens, ascending."""
    head_R: list[int]
    """For each scored token, which of the K head nodes predicts it."""
    targets_R: list[int]
    """For each scored token, its token id."""
    paths_BT: list[list[int]]
    """The nodes of each row's tokens, from the root on."""

    @property
    def size(self) -> int:
        """How many nodes there are."""
        return len(self.tokens_N)

    @property
    def leaves_B(self) -> list[int]:
        """The node of the last token of each row."""
        return [path_T[-1] for path_T in self.paths_BT]

    def blocks(self, limit: int = 128) -> list["Block"]:
        """Cut the tree into ranges of nodes that attend to their ancestors and to themselves.

        A subtree of at most `limit` nodes stays in one block, small neighbours share one; of a
        larger one the unbranched stem becomes blocks of its own, of at most `limit` nodes, and the
        branches are cut in turn.
        """
        blocks: list[Block] = []
        forests: list[tuple[tuple[tuple[int, int], ...], int, int]] = [((), 0, self.size)]
        while forests:
            ancestors, start, stop = forests.pop()
            while start < stop:
                end = self.ends_N[start]
                while end < stop and self.ends_N[end] - start <= limit:
                    end = self.ends_N[end]
                if end - start > limit:
                    stem = self._stem(start)
                    for first in range(start, stem, limit):
                        above = ancestors if first == start else (*ancestors, (start, first))
                        blocks.append(Block(above, first, min(first + limit, stem)))
                    forests.append(((*ancestors, (start, stem)), stem, end))
                else:
                    blocks.append(Block(ancestors, start, end))
                start = end
        return sorted(blocks, key=lambda block: block.start)

    def trunk_length(self) -> int:
        """Length of the prefix that every row shares (0 when they share nothing)."""
        return self._stem(0) if self.ends_N[0] == self.size else 0

    def _stem(self, start: int) -> int:
        """One past the last node of the unbranched path that begins at `start`."""
        node = start + 1
        while node < self.ends_N[start] and self.ends_N[node] == self.ends_N[start]:
            node += 1
        return node


@dataclass(frozen=True, slots=True)
class Block:
    """Nodes [start, stop) of a tree, and the ranges of nodes that are ancestors of them all."""

    ancestors: tuple[tuple[int, int], ...]
    start: int
    stop: int


def build_tree(rows_BT: Sequence[Sequence[int]], prompt_lengths_B: Sequence[int]) -> TokenTree:
    """Merge the common prefixes of `rows_BT` (prompt then completion tokens) into a tree.

    The tokens after the first `prompt_lengths_B[b]` of row b are its scored ones; pass the whole
    length to score nothing. A prompt must not be empty: its last token predicts the first answer
    token. Sorting the rows puts shared prefixes side by side, so one pass suffices.
    """
    tokens: list[int] = []
    positions: list[int] = []
    ends: list[int] = []
    paths_BT: list[list[int]] = [[] for _ in rows_BT]
    path: list[int] = []
    previous: Sequence[int] = ()
    for b in sorted(range(len(rows_BT)), key=lambda b: tuple(rows_BT[b])):
        row = rows_BT[b]
        shared = common_prefix(previous, row)
        for node in path[shared:]:
            ends[node] = len(tokens)
        path = path[:shared]
        for position in range(shared, len(row)):
            path.append(len(tokens))
            tokens.append(row[position])
            positions.append(position)
            ends.append(0)
        paths_BT[b] = path
        previous = row
    for node in path:
        ends[node] = len(tokens)
    heads_R, targets_R = _scored_edges(rows_BT, prompt_lengths_B, paths_BT)
    head_nodes = sorted(set(heads_R))
    index = {node: k for k, node in enumerate(head_nodes)}
    return TokenTree(
        tokens_N=tokens,
        positions_N=positions,
        ends_N=ends,
        head_nodes_K=head_nodes,
        head_R=[index[node] for node in heads_R],
        targets_R=targets_R,
        paths_BT=paths_BT,
    )


def tree_mask(ends: Int[Tensor, " N"], start: int, stop: int) -> Bool[Tensor, "M M"]:
    """Who may see whom among nodes [start, stop): True where the column is an ancestor or itself.

    Shape [M, M] with M = stop - start, rows are queries.
    """
    nodes = torch.arange(start, stop, device=ends.device)
    return (nodes[None, :] <= nodes[:, None]) & (nodes[:, None] < ends[None, start:stop])


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """How many first tokens two rows share; of sorted rows, first and last tell it for all."""
    limit = min(len(left), len(right))
    for i in range(limit):
        if left[i] != right[i]:
            return i
    return limit


def _scored_edges(
    rows_BT: Sequence[Sequence[int]],
    prompt_lengths_B: Sequence[int],
    paths_BT: Sequence[Sequence[int]],
) -> tuple[list[int], list[int]]:
    """Parent node and token of every scored token, row by row."""
    parents_R: list[int] = []
    targets_R: list[int] = []
    for row_T, length, path_T in zip(rows_BT, prompt_lengths_B, paths_BT, strict=True):
        parents_R += path_T[length - 1 : len(row_T) - 1]
        targets_R += row_T[length:]
    return parents_R, targets_R
