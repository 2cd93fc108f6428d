"""Word problems of three levels: one step, two steps, and one step with a number too many.

The stories are those of `word_problems`, and so are the splits: a story with its numbers is in the
same split there and here, whatever is told besides.
"""

import random
from collections.abc import Mapping
from typing import Any

from tunestone.recipes import splits
from tunestone.recipes.word_problems.data import (
    NAMES,
    ONE_STEP,
    THINGS,
    TWO_STEP,
    Story,
    content_of,
)

SYSTEM = "Solve the problem. Write each calculation on a line, then #### and the answer."
EXAMPLES = (
    (
        "Sue has 31 eggs and Max has 15. How many eggs do they have together?",
        "31 + 15 = 46\n#### 46",
    ),
    (
        "A shelf holds 6 books. How many books are on 4 shelves?",
        "6 * 4 = 24\n#### 24",
    ),
    (
        "Tim puts 18 cards into 3 equal piles. How many cards are in each pile?",
        "18 / 3 = 6\n#### 6",
    ),
    (
        "Tom has 7 apples, buys 5 more and eats 3. How many apples does Tom have now?",
        "7 + 5 = 12\n12 - 3 = 9\n#### 9",
    ),
    (
        "Ann has 20 pens and gives 8 to Ben. Ben is 11 years old. How many pens are left?",
        "20 - 8 = 12\n#### 12",
    ),
)

LEVELS = (0, 1, 2, 3)
"""0 mixes them by the shares below; 1 one step, 2 two steps, 3 one step and a distractor."""
SHARES = {1: 0.8, 2: 0.1, 3: 0.1}
"""Of each level in validation and test. What is measured by stays as it is."""
TRAIN_SHARES = {1: 0.8, 2: 0.1, 3: 0.1}
"""Of each level among the training rows; `curriculum.py` finds better ones for a model."""

_STORIES = {1: ONE_STEP, 2: TWO_STEP, 3: ONE_STEP}
_DISTRACTORS = (
    "{m} is {d} years old.",
    "The bus to town takes {d} minutes.",
    "There are {d} chairs in the room.",
    "{m} lives at number {d}.",
    "It is {d} degrees outside.",
)
_TURNS = 20
"""Shares are kept to one part in so many."""


def generate(
    seed: int,
    *,
    level: int = 0,
    sizes: Mapping[str, int] = splits.SIZES,
    train_shares: Mapping[int, float] = TRAIN_SHARES,
) -> dict[str, list[splits.Row]]:
    """Rows in Bedrock's shape for each split, with `level` and `operation` to slice by."""
    rows = {}
    for split, count in sizes.items():
        shares = train_shares if split == "train" else SHARES
        turns = _turns({level: 1.0} if level else shares)
        rows[split] = splits.make_split(
            _draw, turns, split=split, count=count, seed=f"{seed}-{level}"
        )
    return rows


def _turns(shares: Mapping[int, float]) -> list[int]:
    """The levels, each as often as its share asks for, at least once."""
    total = sum(shares.values())
    return [
        level
        for level, share in shares.items()
        for _ in range(max(1, round(_TURNS * share / total)))
    ]


def _draw(rng: random.Random, level: int) -> tuple[str, splits.Row]:
    story = rng.choice(_STORIES[level])
    numbers = story.draw(rng)
    text = _tell(story, numbers, rng, is_distracting=level == 3)
    row: dict[str, Any] = {
        "messages": splits.dialog(SYSTEM, EXAMPLES, text),
        "reference_answer": str(story.solve(*numbers)),
        "level": level,
        "operation": story.operation,
    }
    return content_of(story.text, numbers), row


def _tell(
    story: Story, numbers: tuple[int, ...], rng: random.Random, *, is_distracting: bool
) -> str:
    name, other = rng.sample(NAMES, 2)
    told, how_many, asked = story.text.rpartition("How many")
    if is_distracting:
        told += rng.choice(_DISTRACTORS) + " "
    gaps = dict(zip("abc", numbers, strict=False))
    return (told + how_many + asked).format(
        n=name, m=other, t=rng.choice(THINGS), d=rng.randint(3, 60), **gaps
    )
