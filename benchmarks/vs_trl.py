"""Tunestone and TRL's GRPOTrainer side by side: same machine, model, prompts, reward, in turn.

    .venv-bench/bin/python benchmarks/vs_trl.py [--full | --only NAME ...] [--steps 5]
    .venv-bench/bin/python benchmarks/vs_trl.py --learning [--seeds 0 1 2]

First the correctness gate: nothing is measured unless both sides give the same loss and gradients.
Then each workload: two processes that take turns of three steps, the first step of each dropped.
Results are merged by name into benchmarks/results/vs_trl.json, so parts can be measured again.
Nothing else should run on the machine.
"""

import argparse
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything of Hugging Face is imported

from measuring import RESULTS, is_dirty, write
from sides import results
from sides.gate import run_gate, table
from sides.learning import SEEDS, STEPS, learn
from sides.pair import Bench, run_pair
from sides.workloads import Workload, default_set, full_set

from tunestone.core import embedded
from tunestone.core.prepare import available_threads

_GSM8K = Path(__file__).resolve().parents[2] / "shared" / "data" / "gsm8k" / "train.jsonl"


def main() -> None:
    """The gate, then what was asked for."""
    options = _options()
    if options.list:
        print("\n".join(workload.name for workload in full_set(options.threads)))
        return
    if is_dirty():
        print("Note: the code differs from the commit that the results will name.")
    _refuse_failing_gate(options.results)
    bench = Bench(_folder(options.model), options.gsm8k, lambda text: print(text, flush=True))
    if options.learning:
        for seed in options.seeds:
            steps = options.learning_steps
            curves = learn(bench, seed=seed, steps=steps, threads=options.threads)
            results.merge(options.results, "learning", curves, by="seed")
        return
    for workload in _chosen(options):
        if workload.kind == "gsm8k" and not options.gsm8k.is_file():
            print(f"{workload.name}: skipped, there is no {options.gsm8k}.")
            continue
        _measure(bench, workload, options.steps, options.results)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=embedded.NAME, help="the embedded one, or a folder")
    parser.add_argument("--steps", type=int, default=5, help="measured steps of each side")
    parser.add_argument("--full", action="store_true", help="the whole grid: many hours")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these workloads only")
    parser.add_argument("--list", action="store_true", help="print the workloads' names")
    parser.add_argument("--learning", action="store_true", help="reward against wall-clock")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="of --learning")
    parser.add_argument("--learning-steps", type=int, default=STEPS)
    parser.add_argument("--threads", type=int, default=available_threads())
    parser.add_argument("--gsm8k", type=Path, default=_GSM8K, help="its train.jsonl")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args()


def _refuse_failing_gate(path: Path) -> None:
    """Print and store the gate's table; leave when a line of it failed."""
    records = run_gate()
    print(table(records), flush=True)
    write(path, gate=records)
    if not all(record["passed"] for record in records):
        sys.exit("The two sides do not compute the same: nothing is measured.")


def _folder(model: str) -> str:
    """The model as a folder that both sides can load."""
    return str(embedded.fetch_embedded() if model == embedded.NAME else Path(model).resolve())


def _chosen(options: argparse.Namespace) -> list[Workload]:
    known = {workload.name: workload for workload in full_set(options.threads)}
    if not options.only:
        return list(known.values()) if options.full else default_set(options.threads)
    unknown = [name for name in options.only if name not in known]
    if unknown:
        sys.exit(f"There is no workload '{unknown[0]}'; --list prints all names.")
    return [known[name] for name in options.only]


def _measure(bench: Bench, workload: Workload, steps: int, path: Path) -> None:
    bench.say(f"{workload.name}: {workload.adapter}, {workload.threads} threads")
    ours, theirs = run_pair(bench, workload, steps=steps + 1)
    entry = results.summarise(workload, ours[1:], theirs[1:])
    results.merge(path, "workloads", entry, by="name")
    bench.say(
        f"  {entry['ours_completions_per_second']:.2f} against "
        f"{entry['trl_completions_per_second']:.2f} completions/s: {entry['ratio']:.1f}x"
    )


if __name__ == "__main__":
    main()
