"""A curriculum by pass rate: how often each level is trained on follows from what a model passes.

    python -m tunestone.recipes.math.curriculum RUN my-math
    tunestone train --config my-math/config.toml

Only groups whose rewards differ teach. At pass rate p a group of G has signal with the chance
1 - p^G - (1 - p)^G, so a level gets training rows in proportion to that chance. No level gets less
than a twentieth: what is out of reach now need not stay so. Pass rates are those of the greedy
answers to the validation rows, by default the base's, which every run measures before it trains;
validation and test keep their own shares.

Left out: an order from easy to hard. The trainer shuffles each epoch, and shares say the same.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

from tunestone.config import TrainConfig
from tunestone.errors import RunError, TunestoneError
from tunestone.recipes import load_recipe, write_task
from tunestone.recipes.math.data import generate
from tunestone.runlog import RunFolder, read_lines

_LEAST_SHARE = 0.05


def main() -> None:
    """Write the rows of `math`, weighed by the pass rates that a run of it measured."""
    parser = argparse.ArgumentParser(
        prog="python -m tunestone.recipes.math.curriculum", description=main.__doc__
    )
    parser.add_argument("run", type=Path, help="a run folder of the recipe math")
    parser.add_argument("folder", type=Path, help="where to write rows and settings")
    parser.add_argument("--step", type=int, default=0, help="of the validation; 0 is the base")
    options = parser.parse_args()
    run = RunFolder.open(options.run)
    config = TrainConfig.model_validate(run.config()["config"])
    rates = measured_rates(run, step=options.step)
    shares = shares_by_signal(rates, group_size=config.group_size)
    for level, rate in rates.items():
        print(f"level {level}: passes {rate:.2f}, gets {shares[level]:.2f} of the training rows")
    rows = generate(config.seed, train_shares=shares)
    path = write_task(options.folder, load_recipe("math").settings, rows)
    print(f"Train with: tunestone train --config {path}")


def measured_rates(run: RunFolder, *, step: int) -> dict[int, float]:
    """Level -> share of its validation rows that the run passed at this step.

    Raises RunError when the run was not validated then, or its rows have no levels.
    """
    validation = run.config()["config"]["validation"]
    rows = read_lines(Path(validation)) if validation else []
    level_of = {f"row-{line}": row.get("level") for line, row in enumerate(rows, start=1)}
    passed: dict[int, list[float]] = defaultdict(list)
    for record in read_lines(run.validation):
        level = level_of.get(record["prompt_id"])
        if record["step"] == step and level is not None and record["reward"] is not None:
            passed[level].append(record["reward"])
    if not passed:
        raise RunError(
            f"'{run.path}' has no pass rates by level at step {step}.",
            remedy="Name a run of the recipe math and a step at which it was validated.",
        )
    return {level: fmean(rewards) for level, rewards in sorted(passed.items())}


def shares_by_signal(pass_rates: Mapping[int, float], *, group_size: int) -> dict[int, float]:
    """Level -> share of the training rows; they add up to 1."""
    chances = {
        level: 1 - rate**group_size - (1 - rate) ** group_size for level, rate in pass_rates.items()
    }
    total = sum(chances.values())
    if total == 0:
        return dict.fromkeys(pass_rates, 1 / len(pass_rates))
    raised = {level: max(_LEAST_SHARE, chance / total) for level, chance in chances.items()}
    return {level: share / sum(raised.values()) for level, share in raised.items()}


if __name__ == "__main__":
    try:
        main()
    except TunestoneError as error:
        sys.exit(f"error: {error}")
