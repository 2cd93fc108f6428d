"""A seeded generator of one- and two-step word problems.

Train, validation and test can never share a problem: a story with its numbers belongs to exactly
one split by a hash that does not depend on the seed, so they stay disjoint across seeds as well.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tunestone.recipes import splits

SYSTEM = "Solve the problem. Write the calculation, then #### and the answer."

EXAMPLES = (
    (
        "Tom has 7 apples and buys 5 more. How many apples does Tom have now?",
        "7 + 5 = 12\n#### 12",
    ),
    (
        "A shelf holds 6 books. How many books are on 4 shelves?",
        "6 * 4 = 24\n#### 24",
    ),
    (
        "Ann has 20 pens and gives 8 to Ben. How many pens does Ann have left?",
        "20 - 8 = 12\n#### 12",
    ),
)

LEVELS = (1, 2)
"""One step, two steps; the first is what the recipe's bare name means."""

NAMES = ("Ava", "Ben", "Clara", "Dan", "Ella", "Finn", "Gina", "Hugo", "Iris", "Jack", "Kate")
THINGS = ("apples", "books", "coins", "eggs", "pens", "shells", "stamps", "stickers", "cards")


@dataclass(frozen=True, slots=True)
class Story:
    """One kind of problem: a text with gaps, and how its numbers come about."""

    operation: str
    text: str
    draw: Callable[[random.Random], tuple[int, ...]]
    """Numbers in the order of the text's {a}, {b}, {c}."""
    solve: Callable[..., int]


def _two(
    low: int, high: int, low_b: int, high_b: int
) -> Callable[[random.Random], tuple[int, ...]]:
    return lambda rng: (rng.randint(low, high), rng.randint(low_b, high_b))


def _larger_first(rng: random.Random) -> tuple[int, ...]:
    a = rng.randint(20, 99)
    return a, rng.randint(5, a - 5)


def _divisible(rng: random.Random) -> tuple[int, ...]:
    b = rng.randint(2, 9)
    return b * rng.randint(2, 12), b


_ADD, _TIMES = _two(10, 60, 10, 39), _two(2, 12, 2, 12)
ONE_STEP = (
    Story(
        "add",
        "{n} has {a} {t} and finds {b} more. How many {t} does {n} have now?",
        _ADD,
        lambda a, b: a + b,
    ),
    Story(
        "add",
        "There are {a} {t} in one box and {b} in another. How many {t} are there in all?",
        _ADD,
        lambda a, b: a + b,
    ),
    Story(
        "add",
        "{n} has {a} {t}. {m} has {b} {t}. How many {t} do they have together?",
        _ADD,
        lambda a, b: a + b,
    ),
    Story(
        "subtract",
        "{n} has {a} {t} and loses {b} of them. How many {t} are left?",
        _larger_first,
        lambda a, b: a - b,
    ),
    Story(
        "subtract",
        "{n} has {a} {t}. {m} has {b} {t}. How many more {t} does {n} have?",
        _larger_first,
        lambda a, b: a - b,
    ),
    Story(
        "subtract",
        "{n} needs {a} {t} and already has {b}. How many {t} are missing?",
        _larger_first,
        lambda a, b: a - b,
    ),
    Story(
        "multiply", "A bag holds {a} {t}. How many {t} are in {b} bags?", _TIMES, lambda a, b: a * b
    ),
    Story(
        "multiply",
        "{n} buys {a} packs with {b} {t} each. How many {t} does {n} buy?",
        _TIMES,
        lambda a, b: a * b,
    ),
    Story(
        "divide",
        "{n} shares {a} {t} equally among {b} friends. How many {t} does each get?",
        _divisible,
        lambda a, b: a // b,
    ),
    Story(
        "divide",
        "{a} {t} are packed into {b} equal boxes. How many {t} are in each box?",
        _divisible,
        lambda a, b: a // b,
    ),
)


def _bags_and_more(rng: random.Random) -> tuple[int, ...]:
    return rng.randint(2, 9), rng.randint(2, 9), rng.randint(2, 20)


def _twice_taken(rng: random.Random) -> tuple[int, ...]:
    b, c = rng.randint(2, 20), rng.randint(2, 20)
    return b + c + rng.randint(1, 50), b, c


TWO_STEP = (
    Story(
        "multiply-add",
        "{n} has {a} bags of {b} {t} and {c} loose {t}. How many {t} in all?",
        _bags_and_more,
        lambda a, b, c: a * b + c,
    ),
    Story(
        "subtract-subtract",
        "{n} has {a} {t}, gives {b} to {m} and loses {c}. How many {t} are left?",
        _twice_taken,
        lambda a, b, c: a - b - c,
    ),
    Story(
        "add-subtract",
        "{n} has {b} {t}, finds {a} more and gives away {c}. How many {t} does {n} have now?",
        _twice_taken,
        lambda a, b, c: a + b - c,
    ),
)


def generate(
    seed: int, *, level: int = 1, sizes: Mapping[str, int] | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Rows in Bedrock's shape for each split; level 1 is one step, level 2 two steps.

    Whatever the level, `test_two_steps` shows how far the skill carries to longer problems.
    """
    stories = {1: ONE_STEP, 2: TWO_STEP}[level]
    rows = {
        split: _take(_problems(stories, split, random.Random(f"{seed}-{split}-{level}")), count)
        for split, count in (sizes or splits.SIZES).items()
    }
    rng = random.Random(f"{seed}-two-steps")
    rows["test_two_steps"] = _take(_problems(TWO_STEP, "test", rng), splits.SIZES["validation"])
    return rows


def split_of(story: str, numbers: tuple[int, ...]) -> str:
    """The only split in which this story may appear with these numbers."""
    return splits.split_of(content_of(story, numbers))


def content_of(story: str, numbers: tuple[int, ...]) -> str:
    """What a problem is, whoever has whatever things in it."""
    return f"{story}:{numbers}"


def _problems(
    stories: tuple[Story, ...], split: str, rng: random.Random
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Endless problems of one split, the stories in turn so that operations stay balanced."""
    while True:
        for story in rng.sample(stories, len(stories)):
            numbers = story.draw(rng)
            if split_of(story.text, numbers) != split:
                continue
            name, other = rng.sample(NAMES, 2)
            gaps = dict(zip("abc", numbers, strict=False))
            text = story.text.format(n=name, m=other, t=rng.choice(THINGS), **gaps)
            yield (
                text,
                {
                    "messages": splits.dialog(SYSTEM, EXAMPLES, text),
                    "reference_answer": str(story.solve(*numbers)),
                    "operation": story.operation,
                },
            )


def _take(problems: Iterator[tuple[str, dict[str, Any]]], count: int) -> list[dict[str, Any]]:
    """The first `count` different problems."""
    rows: dict[str, dict[str, Any]] = {}
    while len(rows) < count:
        text, row = next(problems)
        rows.setdefault(text, row)
    return list(rows.values())
