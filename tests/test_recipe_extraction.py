"""Extraction: references fit the schema and the text, and only all fields right earn everything."""

import datetime
import json
import re

import pytest
from jsonschema import Draft202012Validator

from recipe_steps import recipe_grader, rewards
from tunestone.recipes import load_recipe
from tunestone.recipes.extraction.data import EXAMPLES, LEVELS, generate
from tunestone.recipes.splits import question_of

ROWS = {level: generate(0, level=level, sizes={"test": 48})["test"] for level in LEVELS}
SETTINGS = load_recipe("extraction").settings
SPOKEN = {
    2: "two", 3: "three", 4: "four", 5: "five", 6: "half a dozen", 7: "seven", 8: "eight",
    9: "nine", 10: "ten", 11: "eleven", 12: "a dozen", 15: "fifteen", 20: "twenty",
    24: "two dozen", 30: "thirty", 36: "three dozen",
}  # fmt: skip


@pytest.mark.parametrize("level", LEVELS)
def test_references_fit_the_schema_and_earn_everything(level: int) -> None:
    validator = Draft202012Validator(SETTINGS["reward"]["schema"])
    references = [row["reference_answer"] for row in ROWS[level]]
    assert all(validator.is_valid(json.loads(text)) for text in references)
    with recipe_grader("extraction") as grader:
        assert rewards(grader, ROWS[level], references) == [1.0] * 48


@pytest.mark.parametrize("level", LEVELS)
def test_every_fact_stands_in_the_text(level: int) -> None:
    for row in ROWS[level]:
        facts, text = json.loads(row["reference_answer"]), question_of(row)
        assert facts["customer"] in text
        assert facts["item"] in text
        assert f"{facts['total']:.2f}" in text
        assert datetime.date.fromisoformat(facts["date"]) in dates_in(text)
        assert re.search(rf"\b({facts['quantity']}|{SPOKEN[facts['quantity']]})\b", text)


def dates_in(text: str) -> list[datetime.date]:
    """Dates of whichever form, read with strptime."""
    forms = {
        r"\d{4}-\d\d-\d\d": ("%Y-%m-%d",),
        r"\d{1,2} [A-Z][a-z]+ \d{4}": ("%d %B %Y", "%d %b %Y"),
        r"[A-Z][a-z]+ \d{1,2}, \d{4}": ("%B %d, %Y",),
    }
    found = []
    for pattern, readings in forms.items():
        for piece in re.findall(pattern, text):
            for reading in readings:
                try:
                    found.append(datetime.datetime.strptime(piece, reading).date())
                except ValueError:
                    continue
    return found


def test_levels_differ_as_they_say() -> None:
    texts = {level: " ".join(map(question_of, rows)) for level, rows in ROWS.items()}
    words = re.compile(r"\bdozen\b|\bseven\b|\btwenty\b")
    assert not words.search(texts[1])
    assert words.search(texts[2])
    assert "make that" in texts[3]
    assert "make that" not in texts[2]
    assert {row["date_form"] for row in ROWS[3]} == {"day first", "month first", "short"}


def test_a_wrong_field_costs_its_share_and_a_wrong_form_costs_more() -> None:
    """Five fields of five: with one wrong, F1 is 2 * 4 / (5 + 5) = 0.8."""
    row = ROWS[2][0]
    right = json.loads(row["reference_answer"])
    constant = {**right, "customer": "X Y", "item": "z", "quantity": 1, "total": 1, "date": "d"}
    answers = {
        json.dumps({**right, "quantity": right["quantity"] + 1}): 0.8,
        json.dumps(dict(reversed(right.items()))): 1.0,
        json.dumps(constant): 0.0,
        json.dumps({**right, "quantity": "two"}): -0.5,  # the schema wants a number
        json.dumps({**right, "note": ""}): -0.5,
        json.dumps({key: right[key] for key in ("customer", "item")}): -0.5,
        row["reference_answer"][:-1]: -0.5,  # cut off
        "Here it is: " + row["reference_answer"]: -0.5,
        "": -0.5,
    }
    with recipe_grader("extraction") as grader:
        assert rewards(grader, [row] * len(answers), list(answers)) == list(answers.values())
    with recipe_grader("extraction", "lenient_reward") as grader:
        assert rewards(grader, [row], ["Here it is: " + row["reference_answer"]]) == [1.0]


def test_no_constant_answer_pays() -> None:
    """The likeliest constant, a row's own reference, shares hardly any field with the others."""
    answer = ROWS[2][0]["reference_answer"]
    with recipe_grader("extraction") as grader:
        given = rewards(grader, ROWS[2][1:], [answer] * 47)
    assert sum(given) / len(given) < 0.15
    assert max(given) < 1


def test_worked_examples_earn_what_they_show() -> None:
    rows = [
        {"messages": [{"role": "user", "content": asked}], "reference_answer": said}
        for asked, said in EXAMPLES
    ]
    with recipe_grader("extraction") as grader:
        assert rewards(grader, rows, [said for _, said in EXAMPLES]) == [1.0, 1.0]
