"""GSM8K in rows of our shape, from a local folder or the hub.

`TUNESTONE_GSM8K` names a folder with `train.jsonl` and `test*.jsonl` as OpenAI published them
(`question` and `answer`, which ends in `#### 72`). Without it `openai/gsm8k` is loaded through the
package `datasets`. Nothing of the data set is part of this package, the worked example included.
"""

import importlib.util
import os
import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunestone.errors import ConfigError, DataError
from tunestone.recipes import splits
from tunestone.rows import Place, parse_object

FOLDER_VARIABLE = "TUNESTONE_GSM8K"
SYSTEM = "Solve the problem step by step. End with a line of #### and the answer as a number."
EXAMPLES = (
    (
        "A farmer fills 6 crates with 24 apples each. Half of the apples are sold at $0.50 a "
        "piece. How many dollars does the farmer earn?",
        "There are 6 * 24 = 144 apples.\nHalf of them are 144 / 2 = 72 apples.\n"
        "They bring 72 * 0.50 = 36 dollars.\n#### 36",
    ),
)
LEVELS = (1,)
WITHOUT_SIGNAL = {
    "smollm2-135m": "it solves about 1 problem in 200, so in 96 of 100 groups of 8 no answer is "
    "right, and a group that agrees teaches nothing."
}
_CALCULATOR = re.compile(r"<<.*?>>")


def generate(
    seed: int, *, level: int = 1, sizes: Mapping[str, int] = splits.SIZES
) -> dict[str, list[splits.Row]]:
    """Rows for each split. Validation is part of the published training set; test is the test set.

    Raises DataError when the data cannot be found or are not GSM8K.
    """
    training, test = _load()
    rng = random.Random(f"{seed}-gsm8k")
    rng.shuffle(training)
    rng.shuffle(test)
    held = sizes["validation"]
    return {
        "train": training[held:],
        "validation": training[:held],
        "test": test[: sizes["test"]],
    }


def _load() -> tuple[list[splits.Row], list[splits.Row]]:
    """The rows of the published training set and test set."""
    folder = os.environ.get(FOLDER_VARIABLE, "")
    if not folder:
        return _load_from_hub()
    tests = sorted(Path(folder).glob("test*.jsonl"))
    train = Path(folder) / "train.jsonl"
    if not tests or not train.is_file():
        raise DataError(
            "there is no train.jsonl with a test.jsonl beside it.",
            path=folder,
            remedy=f"{FOLDER_VARIABLE} names a folder with both, as github.com/openai/"
            "grade-school-math has them.",
        )
    return _read(train), _read(tests[0])


def _load_from_hub() -> tuple[list[splits.Row], list[splits.Row]]:
    if importlib.util.find_spec("datasets") is None:
        raise ConfigError(
            "The recipe gsm8k loads openai/gsm8k with the package datasets, which is missing.",
            remedy="pip install 'tunestone[datasets]', or name a folder with the files in "
            f"{FOLDER_VARIABLE}.",
        )
    loaded = importlib.import_module("datasets").load_dataset("openai/gsm8k", "main")
    train, test = (
        [
            _to_row(problem, Place(f"openai/gsm8k {name}", number))
            for number, problem in enumerate(loaded[name], start=1)
        ]
        for name in ("train", "test")
    )
    return train, test


def _read(path: Path) -> list[splits.Row]:
    rows: list[splits.Row] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        place = Place(str(path), number)
        if line.strip():
            rows.append(_to_row(parse_object(line, place, first=not rows), place))
    return rows


def _to_row(problem: Mapping[str, Any], place: Place) -> splits.Row:
    question, answer = problem.get("question"), problem.get("answer")
    if not isinstance(question, str) or not isinstance(answer, str) or "####" not in answer:
        raise place.error(
            "this is no problem of GSM8K: it needs `question`, and `answer` with ####.",
            remedy=f"Point {FOLDER_VARIABLE} at the files as published.",
        )
    steps, _, final = answer.rpartition("####")
    return {
        "messages": splits.dialog(SYSTEM, EXAMPLES, question),
        "reference_answer": final.strip().replace(",", ""),
        "steps": len(_CALCULATOR.findall(steps)),
    }
