"""The recipe: right answers, disjoint splits, and a reward as strict as the score."""

import re

import pytest

from tunestone.errors import ConfigError
from tunestone.recipes import load_recipe, recipe_names
from tunestone.recipes.word_problems.data import EXAMPLES, ONE_STEP, TWO_STEP, generate, split_of
from tunestone.recipes.word_problems.reward import lenient, strict

OPERATIONS = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / b,
}


def question(row: dict) -> str:
    """The problem itself, without the worked examples."""
    return row["messages"][-1]["content"]


def core(row: dict) -> tuple[str, ...]:
    """The problem without names and things: the words all its tellings share, and its numbers."""
    words = re.sub(r"\b[A-Z][a-z]+\b", "N", question(row))
    things = r"apples|books|coins|eggs|pens|shells|stamps|stickers|cards"
    return re.sub(things, "T", words), row["operation"]


@pytest.mark.parametrize("seed", range(5))
def test_no_problem_is_in_two_splits(seed: int) -> None:
    """Neither the text nor the story with its numbers, within a seed and across seeds."""
    rows = generate(seed)
    other = generate(seed + 1)
    for left, right in (("train", "test"), ("train", "validation"), ("validation", "test")):
        assert not {core(r) for r in rows[left]} & {core(r) for r in rows[right]}
        assert not {core(r) for r in rows[left]} & {core(r) for r in other[right]}
    assert not {core(r) for r in generate(seed, level=2)["train"]} & {
        core(r) for r in rows["test_two_steps"]
    }


def test_sizes_and_balance() -> None:
    rows = generate(0)
    assert len(rows["train"]) == 640
    assert len(rows["test"]) >= 200
    assert len({question(row) for row in rows["test"]}) == len(rows["test"])
    count = sum(row["operation"] == "divide" for row in rows["test"])
    assert 0.15 < count / len(rows["test"]) < 0.25  # 2 of 10 stories


def test_one_step_answers_are_right() -> None:
    """Read the two numbers back out of the text and compute the answer in another way."""
    for split in generate(3)["train"][:300], generate(4)["test"]:
        for row in split:
            a, b = map(int, re.findall(r"\d+", question(row)))
            assert int(row["reference_answer"]) == OPERATIONS[row["operation"]](a, b)


def test_two_step_answers_are_right() -> None:
    compute = {
        "multiply-add": lambda a, b, c: a * b + c,
        "subtract-subtract": lambda a, b, c: a - b - c,
        "add-subtract": lambda b, a, c: a + b - c,
    }
    for row in generate(1, level=2)["train"][:300]:
        numbers = map(int, re.findall(r"\d+", question(row)))
        assert int(row["reference_answer"]) == compute[row["operation"]](*numbers)


def test_same_seed_same_rows() -> None:
    assert generate(7) == generate(7)
    assert generate(7)["train"] != generate(8)["train"]


def test_the_split_does_not_depend_on_the_telling() -> None:
    shares = [split_of(s.text, (a, b)) for s in ONE_STEP for a in range(30) for b in range(30)]
    assert 0.65 < shares.count("train") / len(shares) < 0.75
    assert not {s.text for s in ONE_STEP} & {s.text for s in TWO_STEP}


@pytest.mark.parametrize(
    ("text", "by_strict", "by_lenient"),
    [
        ("7 + 5 = 12\n#### 12", 1, 1),
        ("#### 12 ", 1, 1),
        ("####12", 1, 1),
        ("#### 1,2", 1, 1),  # commas are not counted as digits
        ("#### 12.", 0, 1),  # a full stop is not the format that was asked for
        ("12", 0, 1),
        ("#### 12 apples", 0, 1),
        ("#### 11 #### 12", 1, 1),
        ("#### 12\n#### 13", 0, 0),
        ("the answer is 12 and not 13", 0, 0),
        ("#### -12", 0, 0),
        ("", 0, 0),
        ("####", 0, 0),
    ],
)
def test_rewards(text: str, by_strict: float, by_lenient: float) -> None:
    row = {"reference_answer": "12"}
    assert strict([], text, row) == by_strict
    assert lenient([], text, row) == by_lenient


def test_worked_examples_earn_the_reward_they_show() -> None:
    for asked, answered in EXAMPLES:
        row = {"reference_answer": answered.rsplit(" ", 1)[1]}
        assert strict([], answered, row) == 1.0, asked


def test_recipes_are_found_by_name() -> None:
    assert "word_problems" in recipe_names()
    assert load_recipe("word_problems:2").level == 2
    with pytest.raises(ConfigError, match="Did you mean 'word_problems'"):
        load_recipe("word_problem")
    with pytest.raises(ConfigError, match="the level must be 1 or 2"):
        load_recipe("word_problems:9")
