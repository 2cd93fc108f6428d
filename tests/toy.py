"""Toy runs: a tiny model, a few prompts, a reward that it can learn in seconds."""

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunestone.config import TrainConfig, resolve
from tunestone.core.prepare import prepare
from tunestone.core.run import Watch, create, execute
from tunestone.runlog import RunFolder
from tunestone.types import Grade, Grader, Sample

REWARD = '''
def letters(prompt, completion, row):
    """Share of the first four characters that are ASCII letters."""
    return sum(c.isascii() and c.isalpha() for c in completion[:4]) / 4

def flaky(prompt, completion, row):
    if ord(completion[:1] or "a") % 4 == 0:
        raise ValueError("a multiple of four")
    return letters(prompt, completion, row)

def broken(prompt, completion, row):
    return row["no such key"]

def constant(prompt, completion, row):
    return 1.0

def nothing(prompt, completion, row):
    return 0.0
'''

SETTINGS = {
    "batch_size": 4,
    "group_size": 8,
    "max_completion_tokens": 6,
    "lora_rank": 0,
    "learning_rate": 1e-2,
    "warmup_steps": 0,
    "max_steps": 8,
    "eval_every": 2,
    "threads": 1,
}


class ConstantGrader:
    """Gives every completion 1, but fails on those whose number of order is in `failing`."""

    def __init__(self, failing: range = range(0)) -> None:
        self._failing = failing
        self._numbers = itertools.count(1)

    def grade(self, samples: Sequence[Sample]) -> list[Grade]:
        return [
            Grade(None, "ValueError: late") if next(self._numbers) in self._failing else Grade(1.0)
            for _ in samples
        ]


def train_with(run: RunFolder, grader: Grader) -> None:
    """Train a toy run with a grader of the test's own."""
    config = TrainConfig.model_validate(run.config()["config"])
    trainer = prepare(run, config, grader, lambda message: None)
    trainer.train(watch=lambda record: None, stop_requested=lambda: False)


def toy_run(folder: Path, model: Path, *, reward: str = "letters", **settings: Any) -> RunFolder:
    """A run folder that is ready to be executed."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "reward.py").write_text(REWARD)
    for name, first, count in (("train", 0, 12), ("validation", 12, 4), ("test", 16, 8)):
        rows = [
            {"id": f"{name}-{i}", "messages": [{"role": "user", "content": f"Say {i}"}]}
            for i in range(first, first + count)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text)
    values = {
        **SETTINGS,
        "model": str(model),
        "data": str(folder / "train.jsonl"),
        "validation": str(folder / "validation.jsonl"),
        "test": str(folder / "test.jsonl"),
        "reward": f"{folder / 'reward.py'}:{reward}",
        **settings,
    }
    config, origins = resolve(layers=[("toy", values)])
    return create(folder / "run", config, origins, task="toy")


def silent(
    *,
    step: Callable[[Mapping[str, Any]], None] = lambda record: None,
    say: Callable[[str], None] = lambda message: None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> Watch:
    """A watch that shows nothing."""
    return Watch(
        say=say,
        planned=lambda trainer, heldout, cost: None,
        measured=lambda name, scores: None,
        step=step,
        stop_requested=stop_requested,
    )


def run_to_end(run: RunFolder, **watch: Any) -> dict[str, Any]:
    """Execute the run in this process and return its report."""
    return execute(run, silent(**watch))


def without_times(record: Mapping[str, Any]) -> dict[str, Any]:
    """A metrics record without what depends on the clock and the machine."""
    machine = ("seconds", "per_second", "memory")
    return {k: v for k, v in record.items() if not any(word in k for word in machine)}
