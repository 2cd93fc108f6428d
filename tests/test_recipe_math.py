"""Word problems in levels: right answers, distractors that do not matter, and the curriculum."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from recipe_steps import recipe_grader, rewards
from tunestone.config import TrainConfig
from tunestone.data import load_prompts, write_rows
from tunestone.errors import RunError
from tunestone.recipes.math.curriculum import measured_rates, shares_by_signal
from tunestone.recipes.math.data import EXAMPLES, generate
from tunestone.recipes.splits import question_of
from tunestone.recipes.word_problems.data import generate as generate_word_problems
from tunestone.runlog import RunFolder, append_lines

ONE_STEP = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / b,
}
TWO_STEPS = {
    "multiply-add": lambda a, b, c: a * b + c,
    "subtract-subtract": lambda a, b, c: a - b - c,
    "add-subtract": lambda b, a, c: b + a - c,
}
DISTRACTOR = r"[^.?]*(?:years old|minutes|chairs|lives at number|degrees)[^.?]*\. "
ROWS = generate(0)


def test_answers_are_right_at_each_level() -> None:
    """Read the numbers back out of the text, that of the distractor left out."""
    for row in ROWS["train"][:300]:
        text = question_of(row)
        told = re.sub(DISTRACTOR, "", text) if row["level"] == 3 else text
        assert (told != text) == (row["level"] == 3)
        numbers = [int(digits) for digits in re.findall(r"\d+", told)]
        compute = (TWO_STEPS if row["level"] == 2 else ONE_STEP)[row["operation"]]
        assert int(row["reference_answer"]) == compute(*numbers), text


def test_levels_have_their_shares() -> None:
    """Eight in ten of 256 test rows are one step; two steps and a distractor are one each."""
    levels = [row["level"] for row in ROWS["test"]]
    assert [abs(levels.count(level) - count) <= 5 for level, count in ((1, 205), (2, 26))] == [
        True,
        True,
    ]
    weighed = generate(0, sizes={"train": 100, "test": 40}, train_shares={1: 0.1, 2: 0.8, 3: 0.1})
    assert sum(row["level"] == 2 for row in weighed["train"]) == 80
    assert weighed["test"] == generate(0, sizes={"test": 40})["test"]


def test_no_problem_was_trained_on_in_word_problems() -> None:
    """One step here and there: a problem, names and things aside, is in the same split."""

    def core(row):
        plain = re.sub(DISTRACTOR, "", question_of(row))
        words = re.sub(r"\b[A-Z][a-z]+\b", "N", plain)
        return re.sub(r"apples|books|coins|eggs|pens|shells|stamps|stickers|cards", "T", words)

    trained = {core(row) for row in generate_word_problems(0)["train"]}
    assert not trained & {core(row) for row in ROWS["test"]}


@pytest.mark.parametrize(
    ("text", "strict", "lenient"),
    [
        ("6 * 4 = 24\n#### 24", 1, 1),
        ("#### 24", 1, 1),
        ("24", 0, 1),
        ("#### 24\n7 more is 31", 0, 0),
        ("#### 25", 0, 0),
        ("####", 0, 0),
    ],
)
def test_rewards(text: str, strict: float, lenient: float) -> None:
    row = {"messages": [{"role": "user", "content": "?"}], "reference_answer": "24"}
    for which, expected in (("reward", strict), ("lenient_reward", lenient)):
        with recipe_grader("math", which) as grader:
            assert rewards(grader, [row], [text]) == [expected]


def test_worked_examples_earn_what_they_show_and_a_constant_earns_little() -> None:
    rows = [
        {"messages": [{"role": "user", "content": asked}], "reference_answer": said.split()[-1]}
        for asked, said in EXAMPLES
    ]
    with recipe_grader("math") as grader:
        assert rewards(grader, rows, [said for _, said in EXAMPLES]) == [1] * 5
        answers = [row["reference_answer"] for row in ROWS["test"]]
        commonest = max(set(answers), key=answers.count)
        given = rewards(grader, ROWS["test"], [f"#### {commonest}"] * len(answers))
        assert sum(given) / len(given) < 0.08


def test_shares_follow_from_the_chance_of_signal() -> None:
    """G = 2: 1 - p^2 - (1-p)^2 = 2p(1-p). p = 0.5: 0.5; p = 0.1: 0.18; p = 0: 0.

    0.5 / 0.68 = 0.7353, 0.18 / 0.68 = 0.2647, and 0 is raised to 0.05; over 1.05.
    """
    shares = shares_by_signal({1: 0.5, 2: 0.1, 3: 0.0}, group_size=2)
    expected = {1: 0.7353 / 1.05, 2: 0.2647 / 1.05, 3: 0.05 / 1.05}
    assert shares == pytest.approx(expected, abs=1e-4)
    assert sum(shares.values()) == pytest.approx(1)
    assert shares_by_signal({1: 0.0, 2: 1.0}, group_size=8) == {1: 0.5, 2: 0.5}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run whose base passed 1 of 2 one-step rows, none of 2 two-step ones."""
    run = RunFolder.create(tmp_path / "run")
    messages = [{"role": "user", "content": "?"}]
    rows = [{"messages": messages, "level": level} for level in (1, 2, 1, 2)]
    write_rows(tmp_path / "validation.jsonl", rows)
    config = TrainConfig(validation=str(tmp_path / "validation.jsonl"), group_size=2)
    run.write_config({"config": config.model_dump(mode="json")})
    prompts = load_prompts(tmp_path / "validation.jsonl")
    for step, passed in ((0, (1, 0, 0, 0)), (5, (1, 1, 1, None))):
        scored = zip(prompts, passed, strict=True)
        records = [{"step": step, "prompt_id": p.id, "reward": reward} for p, reward in scored]
        append_lines(run.validation, records)
    return run


def test_pass_rates_are_read_from_a_run(run: RunFolder) -> None:
    assert measured_rates(run, step=0) == {1: 0.5, 2: 0.0}
    assert measured_rates(run, step=5) == {1: 1.0, 2: 1.0}  # what could not be graded left out
    with pytest.raises(RunError, match="has no pass rates by level at step 3"):
        measured_rates(run, step=3)


def test_the_curriculum_is_written_as_a_task(run: RunFolder, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tunestone.recipes.math.curriculum", run.path]
    done = subprocess.run([*command, tmp_path / "task"], capture_output=True, text=True, check=True)
    assert "level 1: passes 0.50, gets 0.95 of the training rows" in done.stdout
    levels = [prompt.row["level"] for prompt in load_prompts(tmp_path / "task" / "train.jsonl")]
    assert levels.count(1) / len(levels) == pytest.approx(0.95, abs=0.01)
