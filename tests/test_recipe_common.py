"""What holds for every recipe that makes its own data."""

import importlib
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from recipe_steps import FEW, as_text, read_back, recipe_grader, rewards
from tunestone.config import resolve
from tunestone.data import load_prompts
from tunestone.errors import ConfigError
from tunestone.recipes import Recipe, load_recipe, recipe_names, write_task
from tunestone.recipes.splits import make_split, question_of, split_of

MAKING = ["math", "extraction", "moderation", "code", "sql"]
HERE = Path(__file__).resolve().parents[1] / "src" / "tunestone" / "recipes"


def module(name: str):
    return importlib.import_module(f"tunestone.recipes.{name}.data")


def content(row: dict) -> str:
    """What makes two rows the same task, read from the row and not from the generator."""
    if row["reference_answer"].startswith("{"):
        facts = json.loads(row["reference_answer"])
        return f"{facts['customer']}, {facts['item']}, {facts['quantity']}"
    shared = "class" in row or row["reference_answer"].isdigit()
    return question_of(row) if shared else row["reference_answer"]


def test_the_recipes_there_are() -> None:
    assert recipe_names() == sorted([*MAKING, "gsm8k", "word_problems"])


@pytest.mark.parametrize("name", MAKING)
def test_splits_share_nothing_within_a_seed_and_across(name: str) -> None:
    one, other = (module(name).generate(seed, sizes=FEW) for seed in (0, 1))
    for left, right in (("train", "test"), ("train", "validation"), ("validation", "test")):
        contents = {content(row) for row in one[left]}
        assert not contents & {content(row) for row in one[right]}
        assert not contents & {content(row) for row in other[right]}


@pytest.mark.parametrize("name", MAKING)
def test_a_seed_decides_the_rows(name: str) -> None:
    first = as_text(module(name).generate(3, sizes=FEW))
    assert as_text(module(name).generate(3, sizes=FEW)) == first
    assert as_text(module(name).generate(4, sizes=FEW)) != first


@pytest.mark.parametrize("name", MAKING)
def test_every_level_makes_different_prompts_that_can_be_read(name: str, tmp_path: Path) -> None:
    for level in module(name).LEVELS:
        rows = module(name).generate(0, level=level, sizes={"train": 24})["train"]
        assert len({question_of(row) for row in rows}) == 24
        prompts = read_back(tmp_path, rows)
        # The system turn and the worked examples are the same in all rows: the tree's trunk.
        assert len({as_text([dict(m) for m in prompt.messages[:-1]]) for prompt in prompts}) == 1


@pytest.mark.parametrize("name", MAKING)
def test_worked_examples_are_no_rows(name: str) -> None:
    asked = {question for question, _ in module(name).EXAMPLES}
    rows = module(name).generate(0, sizes=FEW)
    assert not asked & {question_of(row) for split in rows.values() for row in split}


@pytest.mark.parametrize("name", MAKING)
def test_whole_splits_have_their_size_at_every_level(name: str) -> None:
    for level in module(name).LEVELS:
        rows = module(name).generate(0, level=level)
        sizes = {split: len(each) for split, each in rows.items()}
        assert sizes == {"train": 640, "validation": 64, "test": 256}


@pytest.mark.parametrize("name", [*MAKING, "gsm8k"])
def test_settings_are_valid_and_explained(name: str) -> None:
    recipe = load_recipe(name)
    config, origins = resolve(layers=[(f"recipe {name}", recipe.settings)])
    assert origins["max_completion_tokens"] == origins["stop"] == f"recipe {name}"
    assert config.max_completion_tokens <= 72 or name == "gsm8k"
    page = (HERE / name / "README.md").read_text()
    assert f"tunestone train {name}" in page
    assert page.count("<!-- begin result -->") == (name in MAKING)


@pytest.mark.parametrize("name", MAKING)
def test_an_empty_answer_and_chatter_earn_nothing(name: str) -> None:
    rows = module(name).generate(0, sizes={"test": 2})["test"]
    for text in ("", "I am sorry, I cannot help with that."):
        with recipe_grader(name) as grader:
            assert max(rewards(grader, rows, [text] * 2)) <= 0, text


def test_a_level_that_is_not_there_is_refused() -> None:
    assert load_recipe("extraction").level == 2
    with pytest.raises(ConfigError, match="the level must be 1 or 2 or 3, as in 'extraction:3'"):
        load_recipe("extraction:7")


def test_a_recipe_is_written_out_as_files(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tunestone.recipes", "moderation:1", tmp_path / "mine"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"tunestone check {tmp_path / 'mine' / 'train.jsonl'} --config" in done.stdout
    assert len(load_prompts(tmp_path / "mine" / "test.jsonl")) == 256


def test_the_settings_written_name_the_rows_beside_them(tmp_path: Path) -> None:
    recipe = load_recipe("extraction")
    rows = module("extraction").generate(0, sizes={"train": 2, "test": 2})
    path = write_task(tmp_path, recipe.settings, {**rows, "test_more": rows["test"]})
    written = load_recipe("extraction").settings | {
        "data": str(tmp_path / "train.jsonl"),
        "test": str(tmp_path / "test.jsonl"),
    }
    assert tomllib.loads(path.read_text()) == written
    assert (tmp_path / "test_more.jsonl").is_file()


def test_hopeless_models_are_refused_beforehand() -> None:
    with pytest.raises(ConfigError, match="gsm8k has no signal with 'smollm2-135m'"):
        load_recipe("gsm8k").refuse_hopeless("smollm2-135m")
    load_recipe("gsm8k").refuse_hopeless("Qwen/Qwen2.5-0.5B-Instruct")
    for name in MAKING:
        Recipe(name, 1, {}).refuse_hopeless("smollm2-135m")


def test_shares_of_the_splits() -> None:
    """7, 1 and 2 in 10 of 256 values of a byte: 178, 25 or 26, and 52."""
    found = [split_of(f"content {i}") for i in range(4000)]
    assert 0.67 < found.count("train") / 4000 < 0.72
    assert 0.18 < found.count("test") / 4000 < 0.23


def test_kinds_take_turns_and_running_dry_is_told() -> None:
    def draw(rng, kind):
        number = rng.randrange(1000 if kind == "wide" else 3)
        return f"{kind} {number}", {"messages": [{"content": f"{kind} {number}"}]}

    rows = make_split(draw, ["wide"], split="train", count=10, seed="0")
    assert len(rows) == 10
    with pytest.raises(ValueError, match="too few different rows of kind 'narrow'"):
        make_split(draw, ["wide", "narrow"], split="train", count=10, seed="0")
