"""Steps shared by the tests of the recipes: rows of a recipe, and what its rewards give."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tunestone.data import load_prompts, write_rows
from tunestone.recipes import load_recipe
from tunestone.rewards.grader import open_grader
from tunestone.rewards.spec import Context
from tunestone.types import Grader, Prompt, Sample

FEW = {"train": 120, "validation": 24, "test": 48}
Row = Mapping[str, Any]


def rewards(grader: Grader, rows: Sequence[Row], texts: Sequence[str]) -> list[float]:
    """The reward of each text as the answer to the row beside it; none may fail."""
    samples = [
        Sample(Prompt(id=str(i), messages=tuple(row["messages"]), row=dict(row)), text)
        for i, (row, text) in enumerate(zip(rows, texts, strict=True))
    ]
    grades = grader.grade(samples)
    assert [grade.error for grade in grades] == [None] * len(samples)
    return [grade.reward for grade in grades]


@contextmanager
def recipe_grader(name: str, which: str = "reward") -> Iterator[Grader]:
    """The reward that a recipe's config.toml sets."""
    with ExitStack() as stack:
        yield open_grader(load_recipe(name).settings[which], Context(folder=Path()), stack)


def read_back(folder: Path, rows: Sequence[Row]) -> list[Prompt]:
    """The rows after they went through a data file."""
    write_rows(folder / "rows.jsonl", rows)
    return load_prompts(folder / "rows.jsonl")


def as_text(rows: object) -> str:
    return json.dumps(rows)
