"""Reward against wall-clock on `word_problems`, for both sides, with equal samples and settings.

Both start from the same model, see the same prompts in the same order, draw as many completions
and take as many optimizer steps at the same learning rate; only the draws differ.
"""

from itertools import accumulate
from typing import Any

from sides.pair import Bench, Records, run_pair
from sides.workloads import Workload

STEPS = 12
SEEDS = (0, 1, 2)


def learn(bench: Bench, *, seed: int, steps: int, threads: int) -> dict[str, Any]:
    """One seed: for both sides `seconds` since the beginning and mean `reward`, per step."""
    workload = Workload("word_problems", "word_problems", 8, 8, 40, threads, learning_rate=3e-4)
    bench.say(f"learning, seed {seed}")
    ours, theirs = run_pair(bench, workload, steps=steps, seed=seed)
    return {
        "seed": seed,
        "steps": steps,
        "threads": threads,
        "learning_rate": workload.learning_rate,
        "ours": _curve(ours),
        "trl": _curve(theirs),
    }


def _curve(records: Records) -> dict[str, list[float]]:
    return {
        "seconds": list(accumulate(record["seconds"] for record in records)),
        "reward": [record["reward"] for record in records],
    }
