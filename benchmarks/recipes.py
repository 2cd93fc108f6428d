"""Train each recipe with several seeds, and write down what came of it.

    .venv/bin/python benchmarks/recipes.py [--only extraction] [--seeds 0 1 2]

First `tunestone check` looks at the recipe (seed 0); where it says no, nothing is trained. Then
each seed makes data, draws and LoRA's start anew. Base and tuned model answer the same held-out
prompts; an answer counts when it has the full reward of 1, whatever partial credit training gave.
The result goes to `result.json` in the recipe's folder and into its README. Runs are kept in
`runs/recipes/` and not repeated; take one away to have it anew. At most 15 minutes a seed on two
cores.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from tunestone.pace import seconds_spent
from tunestone.stats import paired_difference_interval, seed_interval

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / "src" / "tunestone" / "recipes"
RUNS = ROOT / "runs" / "recipes"
NAMES = ("math", "extraction", "moderation", "code", "sql")
"""Those that train the embedded model; gsm8k needs a larger one."""
_FULL_REWARD = 1.0


@dataclass(frozen=True, slots=True)
class SeedResult:
    """What one seed came to. Element i of both lists is the same held-out prompt."""

    seed: int
    base: list[float]
    """1 where the base was right, else 0."""
    tuned: list[float]
    minutes: float


def main() -> None:
    """Measure the recipes that are asked for, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=NAMES, nargs="+", default=NAMES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    for name in options.only:
        signal = check(name)
        result = summarise([train(name, seed) for seed in options.seeds])
        folder = RECIPES / name
        (folder / "result.json").write_text(json.dumps(result, indent=2) + "\n")
        page = folder / "README.md"
        page.write_text(fill(page.read_text(), "result", describe(result, signal)))
        print(f"{name}: {describe(result, signal)}")


def check(name: str) -> dict[str, Any]:
    """The facts of the check's section on signal. Exits when the check rules training out."""
    folder = RUNS / f"{name}-task"
    found = folder / "check" / "check.json"
    if not found.is_file():
        _run("-m", "tunestone.recipes", name, str(folder))
        rows, config = str(folder / "train.jsonl"), str(folder / "config.toml")
        command = ("check", rows, "--config", config, "--out", str(found.parent))
        _run("-m", "tunestone.cli", *command, statuses=(0, 1))  # 1: something is fatal
    sections = json.loads(found.read_text())["sections"]
    fatal = [f["message"] for s in sections for f in s["findings"] if f["level"] == "fatal"]
    if fatal:
        sys.exit(f"{name}: the check rules training out. {fatal[0]}")
    facts: dict[str, Any] = next(s["facts"] for s in sections if s["name"] == "signal")
    return facts


def train(name: str, seed: int) -> SeedResult:
    """The result of one run, which is trained, or continued, unless it is finished."""
    run = RUNS / f"{name}-seed{seed}"
    if not (run / "report.json").is_file():
        is_begun = (run / "config.json").is_file()
        new = (name, "--set", f"seed={seed}", "--out", str(run))
        _run("-m", "tunestone.cli", "train", *(("--resume", str(run)) if is_begun else new))
    return read_run(run, seed)


def read_run(run: Path, seed: int) -> SeedResult:
    """What a finished run's folder says: the held-out rewards of both models, and its time."""
    base, tuned = (
        [float(reward >= _FULL_REWARD) for reward in json.loads(file.read_text())["rewards"]]
        for file in (run / "base.json", run / "tuned.json")
    )
    report = json.loads((run / "report.json").read_text())
    return SeedResult(seed, base, tuned, seconds_spent(report) / 60)


def summarise(results: Sequence[SeedResult]) -> dict[str, Any]:
    """Means over the seeds; the interval is over seeds, or over the prompts of a single one."""
    bases = [fmean(result.base) for result in results]
    tuneds = [fmean(result.tuned) for result in results]
    differences = [tuned - base for base, tuned in zip(bases, tuneds, strict=True)]
    own = [paired_difference_interval(result.base, result.tuned) for result in results]
    base_accuracy, tuned_accuracy = fmean(bases), fmean(tuneds)
    gain = (tuned_accuracy - base_accuracy) / base_accuracy if base_accuracy else None
    return {
        "base_accuracy": base_accuracy,
        "tuned_accuracy": tuned_accuracy,
        "relative_gain": gain,
        "difference_ci95": list(seed_interval(differences, own, limits=(-1.0, 1.0))),
        "n": sum(len(result.base) for result in results),
        "seeds": [result.seed for result in results],
        "minutes": fmean(result.minutes for result in results),
        "per_seed": [
            {
                "seed": result.seed,
                "base_accuracy": base,
                "tuned_accuracy": tuned,
                "minutes": result.minutes,
            }
            for result, base, tuned in zip(results, bases, tuneds, strict=True)
        ],
    }


def describe(result: Mapping[str, Any], signal: Mapping[str, Any]) -> str:
    """The result as a table of Markdown with a sentence on what the check had said."""
    low, high = (100 * bound for bound in result["difference_ci95"])
    lines = [
        "| seed | base | tuned | minutes |",
        "|---|---|---|---|",
        *(_line(each, str(each["seed"])) for each in result["per_seed"]),
        _line(result, "mean"),
    ]
    gain = result["relative_gain"]
    relative = "" if gain is None else f" ({100 * gain:+.0f} % of the base's)"
    difference = 100 * (result["tuned_accuracy"] - result["base_accuracy"])
    expected = 100 * signal["signal_share_8"]
    over = f"{len(result['seeds'])} seeds" if len(result["seeds"]) > 1 else "its prompts"
    return "\n".join(lines) + (
        f"\n\nDifference {difference:+.1f} points{relative}, 95 % interval {low:+.1f} to "
        f"{high:+.1f} over {over}, on {result['n']} held-out prompts. Before training, "
        f"`tunestone check` expected signal in {expected:.0f} % of groups of 8."
    )


def _line(record: Mapping[str, Any], label: str) -> str:
    shares = (f"{100 * record[f'{name}_accuracy']:.1f} %" for name in ("base", "tuned"))
    return f"| {label} | {' | '.join(shares)} | {record['minutes']:.1f} |"


def fill(page: str, name: str, text: str) -> str:
    """The page with `text` between the markers of that name. Raises ValueError without them."""
    pattern = rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)"
    filled, count = re.subn(
        pattern, lambda match: f"{match[1]}{text}\n{match[2]}", page, flags=re.DOTALL
    )
    if count != 1:
        raise ValueError(f"the page has {count} sections '{name}', not one")
    return filled


def _run(*arguments: str, statuses: Collection[int] = (0,)) -> None:
    status = subprocess.run([sys.executable, *arguments], cwd=ROOT).returncode
    if status not in statuses:
        sys.exit(f"`{' '.join(arguments)}` ended with status {status}.")


if __name__ == "__main__":
    main()
