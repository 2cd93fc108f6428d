"""What the recipes' generators share: balanced rows in disjoint splits, and worked examples.

Train, validation and test can never share a content: each belongs to exactly one split by a hash
that does not depend on the seed, so they stay disjoint across seeds as well.
"""

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

Row = dict[str, Any]
Kind = TypeVar("Kind")
Draw = Callable[[random.Random, Kind], tuple[str, Row]]
"""A random row of one kind, and what of it must not be in two splits."""

SIZES = {"train": 640, "validation": 64, "test": 256}
"""Rows of each split."""
_MOST_TRIES = 2_000


def split_of(content: str) -> str:
    """The only split in which this content may appear: 7 in 10 train, 1 validation, 2 test."""
    digest = hashlib.sha256(content.encode()).digest()
    return ("test", "test", "validation", *["train"] * 7)[digest[0] % 10]


def dialog(system: str, examples: Sequence[tuple[str, str]], question: str) -> list[dict[str, str]]:
    """The messages of a row. Equal beginnings cost a batch hardly more than one of them."""
    messages = [{"role": "system", "content": system}]
    for asked, answered in examples:
        messages += [
            {"role": "user", "content": asked},
            {"role": "assistant", "content": answered},
        ]
    return [*messages, {"role": "user", "content": question}]


def question_of(row: Mapping[str, Any]) -> str:
    """What the row asks, without the worked examples."""
    return str(row["messages"][-1]["content"])


def make_split(
    draw: Draw[Kind], kinds: Sequence[Kind], *, split: str, count: int, seed: str
) -> list[Row]:
    """`count` different rows of a split, the kinds in turn, so that they stay balanced.

    A kind that is named twice is drawn twice as often. Raises ValueError when a kind has no more
    different rows to give.
    """
    rng = random.Random(f"{seed}-{split}")
    rows: dict[str, Row] = {}
    turns = _turns(kinds, rng)
    while len(rows) < count:
        row = _fresh(draw, next(turns), rng, split=split, taken=rows)
        rows[question_of(row)] = row
    return list(rows.values())


def _turns(kinds: Sequence[Kind], rng: random.Random) -> Iterator[Kind]:
    """All kinds in a random order, endlessly, each round in another one."""
    while True:
        yield from rng.sample(kinds, len(kinds))


def _fresh(
    draw: Draw[Kind], kind: Kind, rng: random.Random, *, split: str, taken: Mapping[str, Row]
) -> Row:
    for _ in range(_MOST_TRIES):
        content, row = draw(rng, kind)
        if split_of(content) == split and question_of(row) not in taken:
            return row
    raise ValueError(f"there are too few different rows of kind {kind!r} for the split '{split}'.")
