"""What the sandbox costs: grades per second, and the share of a training that it takes.

    .venv/bin/python benchmarks/sandbox.py            about three minutes on 2 cores
    .venv/bin/python benchmarks/sandbox.py --grades   only the grades per second, in seconds

Throughput is that of a warm sandbox with a reward that does nothing, through the graders a user
has: a Python function (a fork per completion) and a Lambda handler (a fork per batch of 64). The
quickstart's training is run for a few steps with its reward in the sandbox and, interleaved, with
the same function called in this process. Medians; results go to benchmarks/results/sandbox.json.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tunestone.config import resolve
from tunestone.core.prepare import prepare
from tunestone.core.run import create, run_config
from tunestone.errors import SandboxError
from tunestone.recipes import load_recipe
from tunestone.recipes.word_problems.reward import strict
from tunestone.rewards.grader import open_grader
from tunestone.rewards.sandbox import choose_mechanism
from tunestone.rewards.spec import Context
from tunestone.types import Grade, Grader, Prompt, Sample

RESULTS = Path(__file__).parent / "results" / "sandbox.json"
ROUNDS, GRADES, STEPS, TRAININGS = 5, 2_000, 4, 1
FUNCTION = "def reward(prompt, completion, row):\n    return 1.0\n"
HANDLER = (
    "def lambda_handler(event, context):\n"
    "    return [{'id': s['id'], 'aggregate_reward_score': 1.0} for s in event]\n"
)


class InProcess:
    """The quickstart's reward, called here."""

    def grade(self, samples: Sequence[Sample]) -> list[Grade]:
        return [Grade(strict(s.prompt.messages, s.text, s.prompt.row)) for s in samples]


def grades_per_second(reward: str, folder: Path, mechanism: str) -> list[float]:
    """One figure per round; starting the workers is not counted."""
    sample = Sample(Prompt("row", ({"role": "user", "content": "?"},)), "answer")
    figures = []
    with ExitStack() as stack:
        grader = open_grader(reward, Context(folder, sandbox=mechanism), stack)
        grader.grade([sample] * 64)
        for _ in range(ROUNDS):
            start = time.perf_counter()
            grades = grader.grade([sample] * GRADES)
            figures.append(GRADES / (time.perf_counter() - start))
            assert all(grade.reward == 1.0 for grade in grades)
    return figures


def measure_throughput() -> dict[str, Any]:
    """Mechanism -> kind of reward -> grades per second."""
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "function.py").write_text(FUNCTION)
        (folder / "handler.py").write_text(HANDLER)
        for mechanism in ("bubblewrap", "landlock"):
            try:
                choose_mechanism(mechanism)
            except SandboxError as error:
                result[mechanism] = str(error)
                continue
            result[mechanism] = {
                kind: summary(grades_per_second(reward, folder, mechanism))
                for kind, reward in (
                    ("function", "function.py:reward"),
                    ("lambda handler, batches of 64", "handler.py:lambda_handler"),
                )
            }
    return result


def measure_training() -> dict[str, Any]:
    """Seconds of a step of the quickstart, its reward in the sandbox and in this process."""
    recipe = load_recipe("word_problems")
    seconds: dict[str, list[float]] = {"sandbox": [], "in_process": []}
    grading: list[float] = []
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        layers = [("recipe", recipe.settings), ("benchmark", {"max_steps": STEPS})]
        config, origins = resolve(layers=layers)
        sandboxed = open_grader(config.reward, Context(Path(name)), stack)
        graders: Mapping[str, Grader] = {"sandbox": sandboxed, "in_process": InProcess()}
        for number in range(TRAININGS):
            for kind, grader in graders.items():
                path = Path(name) / f"{kind}-{number}"
                run = create(path, config, origins, task="benchmark", splits=recipe.generate(0))
                trainer = prepare(run, run_config(run), grader, lambda message: None)
                records: list[Mapping[str, Any]] = []
                trainer.train(watch=records.append, stop_requested=lambda: False)
                steps = [
                    sum(v for k, v in record["seconds"].items() if k != "validate")
                    for record in records[1:]  # the first warms up
                ]
                seconds[kind] += steps
                if kind == "sandbox":
                    grading += [record["seconds"]["grade"] for record in records[1:]]
                print(kind, [round(step, 2) for step in steps])
    # Steps get shorter while the model learns, so each is compared with the same step of the other.
    pairs = zip(seconds["sandbox"], seconds["in_process"], strict=True)
    return {
        "step_seconds": {kind: summary(values) for kind, values in seconds.items()},
        "sandbox_over_in_process": summary([sandbox / plain for sandbox, plain in pairs]),
        "grading_seconds": summary(grading),
        "grading_share_of_a_step": sum(grading) / sum(seconds["sandbox"]),
    }


def summary(figures: Sequence[float]) -> dict[str, float]:
    """Median and range."""
    return {
        "median": round(statistics.median(figures), 3),
        "lowest": round(min(figures), 3),
        "highest": round(max(figures), 3),
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--grades", action="store_true", help="only the grades per second")
    only_grades = parser.parse_args().grades
    result: dict[str, Any] = {
        "machine": {"cores": os.cpu_count(), "processor": platform.processor()},
        "grades_per_second": measure_throughput(),
    }
    if not only_grades:
        result["quickstart_steps"] = measure_training()
        RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
