"""The token tree against hand-drawn trees and against slow sets of prefixes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tunestone.core.tree import Block, TokenTree, build_tree, tree_mask


@st.composite
def rows_and_lengths(draw):
    """A few rows over three tokens (so that they share a lot), each with a prompt length."""
    rows = draw(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9), min_size=1))
    return rows, [draw(st.integers(1, len(row))) for row in rows]


def path_to(tree: TokenTree, leaf: int) -> list[int]:
    """The nodes whose descendants include `leaf`, and `leaf`: what `ends_N` is there for."""
    return [node for node in range(leaf + 1) if tree.ends_N[node] > leaf]


def parents(tree: TokenTree) -> list[int | None]:
    """The parent of each node, found by depth: the last earlier node that is one less deep."""
    found: list[int | None] = []
    for node, depth in enumerate(tree.positions_N):
        above = [i for i in range(node) if tree.positions_N[i] == depth - 1]
        found.append(above[-1] if depth else None)
    return found


def ancestors(tree: TokenTree, node: int) -> set[int]:
    """By walking up from parent to parent; `ends_N` is not looked at."""
    parent = parents(tree)
    walked: set[int] = set()
    while (above := parent[node]) is not None:
        walked.add(above)
        node = above
    return walked


# --- by hand --------------------------------------------------------------------------------


def test_rows_with_a_common_prompt_share_its_nodes():
    # prompt 5 6, answers 7 8 / 7 9 / 4; sorted: 5 6 4, 5 6 7 8, 5 6 7 9
    # node      0  1  2  3  4  5
    # token     5  6  4  7  8  9
    # depth     0  1  2  2  3  3
    # end       6  6  3  6  5  6
    tree = build_tree([[5, 6, 7, 8], [5, 6, 7, 9], [5, 6, 4]], [2, 2, 2])
    assert tree.tokens_N == [5, 6, 4, 7, 8, 9]
    assert tree.positions_N == [0, 1, 2, 2, 3, 3]
    assert tree.ends_N == [6, 6, 3, 6, 5, 6]
    assert tree.leaves_B == [4, 5, 2]
    assert tree.size == 6
    assert tree.trunk_length() == 2
    # Scored, row by row: 7 after node 1, 8 after 3; 7 after 1, 9 after 3; 4 after 1.
    assert tree.head_nodes_K == [1, 3]
    assert tree.head_R == [0, 1, 0, 1, 0]
    assert tree.targets_R == [7, 8, 7, 9, 4]


def test_rows_without_a_common_token_make_a_forest():
    # node 0 1 | 2 3, two roots: the second row comes first
    tree = build_tree([[9, 1], [3, 1]], [1, 1])
    assert tree.tokens_N == [3, 1, 9, 1]
    assert tree.positions_N == [0, 1, 0, 1]
    assert tree.ends_N == [2, 2, 4, 4]
    assert tree.leaves_B == [3, 1]
    assert tree.trunk_length() == 0
    assert tree.head_nodes_K == [0, 2]
    assert tree.head_R == [1, 0]


def test_equal_rows_share_everything_but_are_scored_one_by_one():
    tree = build_tree([[1, 2, 3], [1, 2, 3]], [1, 2])
    assert tree.tokens_N == [1, 2, 3]
    assert tree.ends_N == [3, 3, 3]
    assert tree.leaves_B == [2, 2]
    # First row: 2 after node 0, 3 after node 1; second: 3 after node 1.
    assert tree.head_nodes_K == [0, 1]
    assert tree.head_R == [0, 1, 1]
    assert tree.targets_R == [2, 3, 3]


def test_a_row_that_is_a_prefix_of_another_ends_inside():
    # 1 2 lies on the way to 1 2 3 4; the unbranched stem goes on below its leaf.
    tree = build_tree([[1, 2, 3, 4], [1, 2]], [1, 1])
    assert tree.tokens_N == [1, 2, 3, 4]
    assert tree.ends_N == [4, 4, 4, 4]
    assert tree.leaves_B == [3, 1]
    assert tree.trunk_length() == 4
    assert tree.targets_R == [2, 3, 4, 2]
    assert tree.head_R == [0, 1, 2, 0]


def test_a_single_row_is_a_path():
    tree = build_tree([[7, 7, 7]], [2])
    assert (tree.tokens_N, tree.positions_N, tree.ends_N) == ([7, 7, 7], [0, 1, 2], [3, 3, 3])
    assert (tree.head_nodes_K, tree.head_R, tree.targets_R) == ([1], [0], [7])
    assert tree.blocks() == [Block((), 0, 3)]


def test_a_whole_row_as_prompt_scores_nothing():
    tree = build_tree([[1, 2], [1, 3]], [2, 2])
    assert (tree.head_nodes_K, tree.head_R, tree.targets_R) == ([], [], [])


def test_blocks_by_hand():
    # The tree of the first test: stem 0 1, then the subtrees 2 (one node) and 3 (three nodes).
    tree = build_tree([[5, 6, 7, 8], [5, 6, 7, 9], [5, 6, 4]], [2, 2, 2])
    assert tree.blocks(6) == [Block((), 0, 6)]
    # 5: the whole is too large by one; below the stem, 2 and 3..5 fit together.
    assert tree.blocks(5) == [Block((), 0, 2), Block(((0, 2),), 2, 6)]
    # 3: they no longer fit together.
    assert tree.blocks(3) == [
        Block((), 0, 2),
        Block(((0, 2),), 2, 3),
        Block(((0, 2),), 3, 6),
    ]
    # 1: the stem is cut too, and the subtree at 3; its leaves see two ranges of ancestors.
    assert tree.blocks(1) == [
        Block((), 0, 1),
        Block(((0, 1),), 1, 2),
        Block(((0, 2),), 2, 3),
        Block(((0, 2),), 3, 4),
        Block(((0, 2), (3, 4)), 4, 5),
        Block(((0, 2), (3, 4)), 5, 6),
    ]


def test_mask_by_hand():
    # 5 -> 6 -> 4 and 5 -> 6 -> 7: the two leaves do not see each other.
    tree = build_tree([[5, 6, 4], [5, 6, 7]], [1, 1])
    mask = tree_mask(torch.tensor(tree.ends_N), 0, 4)
    assert mask.int().tolist() == [
        [1, 0, 0, 0],
        [1, 1, 0, 0],
        [1, 1, 1, 0],
        [1, 1, 0, 1],
    ]
    assert tree_mask(torch.tensor(tree.ends_N), 2, 4).int().tolist() == [[1, 0], [0, 1]]


# --- for all trees --------------------------------------------------------------------------


@given(rows_and_lengths())
def test_every_row_can_be_read_back_along_its_path(drawn):
    rows, lengths = drawn
    tree = build_tree(rows, lengths)
    for row, leaf in zip(rows, tree.leaves_B, strict=True):
        path = path_to(tree, leaf)
        assert [tree.tokens_N[node] for node in path] == row
        assert [tree.positions_N[node] for node in path] == list(range(len(row)))


@given(rows_and_lengths())
def test_there_is_one_node_for_each_distinct_prefix(drawn):
    rows, lengths = drawn
    prefixes = {tuple(row[:end]) for row in rows for end in range(1, len(row) + 1)}
    assert build_tree(rows, lengths).size == len(prefixes)


@given(rows_and_lengths())
def test_scored_tokens_hang_on_the_right_heads(drawn):
    rows, lengths = drawn
    tree = build_tree(rows, lengths)
    edges = [
        (row[:end], row[end])
        for row, length in zip(rows, lengths, strict=True)
        for end in range(length, len(row))
    ]
    heads = [path_to(tree, tree.head_nodes_K[k]) for k in tree.head_R]
    found = [[tree.tokens_N[node] for node in path] for path in heads]
    assert found == [prefix for prefix, _ in edges]
    assert tree.targets_R == [token for _, token in edges]
    assert tree.head_nodes_K == sorted({path[-1] for path in heads})


@given(rows_and_lengths(), st.randoms())
def test_the_order_of_rows_changes_only_whose_leaf_is_where(drawn, random):
    rows, lengths = drawn
    order = list(range(len(rows)))
    random.shuffle(order)
    tree = build_tree(rows, lengths)
    shuffled = build_tree([rows[b] for b in order], [lengths[b] for b in order])
    assert shuffled.tokens_N == tree.tokens_N
    assert shuffled.positions_N == tree.positions_N
    assert shuffled.ends_N == tree.ends_N
    assert shuffled.head_nodes_K == tree.head_nodes_K
    assert shuffled.leaves_B == [tree.leaves_B[b] for b in order]


@given(rows_and_lengths())
def test_the_trunk_is_what_all_rows_share_until_the_first_branch(drawn):
    rows, lengths = drawn
    longest = max(rows, key=len)
    shared = 0  # a row may end on the trunk, so only the rows that go on have to agree
    while shared < len(longest) and all(
        row[: shared + 1] == longest[: min(shared + 1, len(row))] for row in rows
    ):
        shared += 1
    assert build_tree(rows, lengths).trunk_length() == shared


@pytest.mark.parametrize("limit", [1, 2, 8, 256])
@given(rows_and_lengths())
def test_blocks_partition_the_nodes_and_reach_all_ancestors(limit, drawn):
    tree = build_tree(*drawn)
    blocks = tree.blocks(limit)
    assert [node for b in blocks for node in range(b.start, b.stop)] == list(range(tree.size))
    for block in blocks:
        above = [node for start, stop in block.ancestors for node in range(start, stop)]
        assert len(above) == len(set(above))
        for node in range(block.start, block.stop):
            assert set(above) <= ancestors(tree, node)
            assert ancestors(tree, node) - set(above) <= set(range(block.start, node))


@pytest.mark.parametrize("limit", [1, 2, 8, 256])
@given(rows_and_lengths())
def test_a_block_exceeds_its_limit_only_as_an_unbranched_stem(limit, drawn):
    tree = build_tree(*drawn)
    parent = parents(tree)
    for block in tree.blocks(limit):
        if block.stop - block.start > limit:
            stem = range(block.start + 1, block.stop)
            assert [parent[node] for node in stem] == [node - 1 for node in stem]
            assert [tree.ends_N[node] for node in stem] == [tree.ends_N[block.start]] * len(stem)


@given(rows_and_lengths(), st.data())
def test_mask_equals_a_walk_to_the_root(drawn, data):
    tree = build_tree(*drawn)
    start = data.draw(st.integers(0, tree.size - 1))
    stop = data.draw(st.integers(start + 1, tree.size))
    mask = tree_mask(torch.tensor(tree.ends_N), start, stop).tolist()
    for query in range(start, stop):
        seen = {start + column for column, visible in enumerate(mask[query - start]) if visible}
        assert seen == {n for n in ancestors(tree, query) | {query} if start <= n < stop}
