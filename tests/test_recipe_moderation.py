"""Moderation: balanced classes, disguises that can be read, and nothing for a constant answer."""

import json
import random
import tomllib
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest

from judge_server import Asked, Said, say, serve_judge
from recipe_steps import recipe_grader, rewards
from tunestone.config import resolve
from tunestone.recipes import load_recipe
from tunestone.recipes.moderation.data import CLASSES, EXAMPLES, POLICY, disguise, generate
from tunestone.recipes.splits import question_of
from tunestone.rewards.grader import open_grader
from tunestone.rewards.spec import Context

ROWS = generate(0)
FOLDER = Path(__file__).resolve().parents[1] / "src" / "tunestone" / "recipes" / "moderation"


def test_classes_are_balanced_in_every_split() -> None:
    for split, rows in ROWS.items():
        counts = Counter(row["class"] for row in rows)
        assert set(counts.values()) == {len(rows) // 4}, split
        assert all(row["reference_answer"] == CLASSES[row["class"]] for row in rows)


def test_a_share_is_disguised() -> None:
    for level, low, high in ((1, 0, 0), (2, 0.1, 0.3), (3, 0.25, 0.5)):
        rows = generate(0, level=level, sizes={"train": 200})["train"]
        share = sum(row["disguised"] for row in rows) / 200
        assert low <= share <= high, level
        marked = [row for row in rows if any(mark in question_of(row) for mark in ("*", "1d10t"))]
        assert all(row["disguised"] for row in marked)


def test_disguises() -> None:
    found = {disguise("idiot", random.Random(seed)) for seed in range(20)}
    assert found == {"1d10t", "i.d.i.o.t", "i***t"}


def test_what_is_said_is_in_one_split_only() -> None:
    """Undisguised comments, stripped of all they may begin and end with: disjoint."""
    cores = {split: {core(row) for row in rows} for split, rows in ROWS.items()}
    assert not cores["train"] & cores["test"]
    assert not cores["train"] & cores["validation"]


def core(row: dict) -> str:
    """The words from the first to the last that are no frill; frills end in a comma or colon."""
    text = question_of(row)
    for opening in ("Well, ", "Honestly, ", "To be clear, ", "Hm, ", "Listen, ", "Oh, ", "So, "):
        text = text.removeprefix(opening)
    for closing in (" Just saying.", " Bye.", " Cheers!", " Good night.", " I mean it."):
        text = text.removesuffix(closing)
    return text.lower()


@pytest.mark.parametrize("answer", CLASSES.values())
def test_a_constant_answer_earns_no_more_than_chance(answer: str) -> None:
    """Four classes of 64 rows: 64 / 256."""
    for which in ("reward", "lenient_reward"):
        with recipe_grader("moderation", which) as grader:
            given = rewards(grader, ROWS["test"], [answer] * 256)
        assert sum(given) / 256 == 0.25


def test_naming_all_rules_earns_nothing() -> None:
    hedge = " ".join(CLASSES.values())
    with recipe_grader("moderation") as grader:
        assert sum(rewards(grader, ROWS["validation"], [hedge] * 64)) == 0


@pytest.mark.parametrize(
    ("text", "strict", "lenient"),
    [
        ("remove: spam", 1, 1),
        ("  remove: spam\n", 1, 1),
        ("I say remove: spam.", 0, 1),
        ("remove: hate", 0, 0),  # half right is wrong
        ("keep: spam", 0, 0),
        ("spam", 0, 0),
        ("remove", 0, 0),
        ("", 0, 0),
    ],
)
def test_rewards(text: str, strict: float, lenient: float) -> None:
    row = {
        "messages": [{"role": "user", "content": "?"}],
        "reference_answer": CLASSES["advertising"],
    }
    for which, expected in (("reward", strict), ("lenient_reward", lenient)):
        with recipe_grader("moderation", which) as grader:
            assert rewards(grader, [row], [text]) == [expected]


def test_every_class_has_its_worked_example() -> None:
    assert {said for _, said in EXAMPLES} == set(CLASSES.values())


def test_the_judged_variant_asks_a_judge_that_does_not_see_the_answer() -> None:
    """A stand-in judge that says 1 to one of two answers; the right answer is not shown to it."""
    layer = tomllib.loads((FOLDER / "judged.toml").read_text())
    recipe = load_recipe("moderation")
    config, _ = resolve(layers=[("recipe", recipe.settings), ("judged.toml", layer)])
    assert config.lenient_reward == recipe.settings["lenient_reward"]
    asked_for = []

    def judge(asked: Asked) -> Said:
        asked_for.append(asked)
        return say(reasoning="", score=int("remove: " in asked.user.rpartition("ANSWER")[2]))

    row = next(row for row in ROWS["test"] if row["class"] == "fine")
    with serve_judge(judge) as served, ExitStack() as stack:
        reward = json.loads(json.dumps(config.reward))
        reward["endpoint"]["base_url"] = f"{served.url}/v1"
        grader = open_grader(reward, Context(folder=Path()), stack)
        row = {**row, "messages": row["messages"][-1:]}
        given = rewards(grader, [row] * 2, ["remove: hate", "nonsense"])
    assert sorted(given) == [0.0, 1.0]
    assert all(POLICY in asked.system for asked in asked_for)
    assert not any(CLASSES["fine"] in asked.user for asked in asked_for)
