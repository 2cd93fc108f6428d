"""GSM8K from a local folder: rows of our shape, and clear words where there is nothing to load."""

import json
from pathlib import Path

import pytest

from recipe_steps import read_back, recipe_grader, rewards
from tunestone.errors import ConfigError, DataError
from tunestone.recipes.gsm8k import data

PROBLEM = {
    "question": "A box holds 1,200 nails. How many do 3 boxes hold?",
    "answer": "They hold 3 * 1200 = <<3*1200=3600>>3600 nails.\n#### 3,600",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten problems to train on and four to test, as OpenAI writes them."""
    for name, count in (("train.jsonl", 10), ("test_first.jsonl", 4)):
        rows = [{**PROBLEM, "question": f"{name} {i}: {PROBLEM['question']}"} for i in range(count)]
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv(data.FOLDER_VARIABLE, str(tmp_path))
    return tmp_path


def test_rows_from_a_folder(folder: Path, tmp_path: Path) -> None:
    splits = data.generate(0, sizes={"validation": 3, "test": 2})
    assert {name: len(rows) for name, rows in splits.items()} == {
        "train": 7,
        "validation": 3,
        "test": 2,
    }
    (first, *_) = read_back(tmp_path, splits["train"])
    assert first.row == {"reference_answer": "3600", "steps": 1}
    held = {row["messages"][-1]["content"] for row in splits["validation"]}
    assert not held & {row["messages"][-1]["content"] for row in splits["train"]}
    assert data.generate(0, sizes={"validation": 3, "test": 2}) == splits
    assert data.generate(1, sizes={"validation": 3, "test": 2}) != splits


def test_rewards(folder: Path) -> None:
    rows = data.generate(0, sizes={"validation": 1, "test": 1})["test"] * 4
    texts = ["3 * 1200 = 3600\n#### 3600", "#### 3,600", "It is 3600.", "#### 360"]
    with recipe_grader("gsm8k") as strict, recipe_grader("gsm8k", "lenient_reward") as lenient:
        assert rewards(strict, rows, texts) == [1, 1, 0, 0]
        assert rewards(lenient, rows, texts) == [1, 1, 1, 0]


def test_a_folder_without_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(data.FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(DataError, match=r"no train\.jsonl with a test\.jsonl beside it"):
        data.generate(0)


def test_other_data_is_refused_with_its_line(folder: Path) -> None:
    with (folder / "train.jsonl").open("a") as file:
        file.write('{"question": "What?", "answer": "42"}\n')
    with pytest.raises(DataError, match=r"train\.jsonl:11: this is no problem of GSM8K"):
        data.generate(0)


def test_without_the_package_the_remedy_names_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(data.FOLDER_VARIABLE, raising=False)
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"tunestone\[datasets\].*TUNESTONE_GSM8K"):
        data.generate(0)
