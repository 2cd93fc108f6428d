"""Sampling and training speed against the plain ways, on the same model in the same run.

    .venv/bin/python benchmarks/speed.py [--model FOLDER] [--repeats 5]

Sampling: our sampler against `transformers.generate` on the word problems' prompts with a fixed
length of 32 tokens, so that both do the same work. Training: forward and backward over the tree
against padded rows (a micro-batch per group, as memory allows), on completions of natural length.
Both pairs are interleaved, medians and ranges are reported, and the numbers that must agree are
compared first. Writes benchmarks/results/speed.json.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from tunestone.core.logprobs import rows_logprobs, tree_logprobs
from tunestone.core.model import Policy, load_base
from tunestone.core.prepare import available_threads
from tunestone.core.run import versions
from tunestone.core.sampler import Sampler, SamplingParams
from tunestone.core.tree import build_tree
from tunestone.recipes import load_recipe
from tunestone.types import Prompt

RESULTS = Path(__file__).parent / "results" / "speed.json"
PROMPTS, GROUP, FIXED = 4, 8, 32


def main() -> None:
    """Run everything and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(available_threads())
    base = load_base(arguments.model)
    policy = Policy(base, lora_rank=32)
    rows = load_recipe("word_problems").generate(0)["train"][:PROMPTS]
    prompts = [base.encode(Prompt(id="", messages=tuple(row["messages"]))) for row in rows]
    results = {
        "workload": f"{PROMPTS} prompts x {GROUP} completions, prompts of about "
        f"{statistics.median(map(len, prompts))} tokens with three worked examples in common",
        "sampling": sampling(policy, prompts, arguments.repeats),
        "training": training(policy, prompts, arguments.repeats),
        "machine": {"processor": cpu_name(), "threads": torch.get_num_threads(), **versions()},
    }
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


def sampling(policy: Policy, prompts: list[list[int]], repeats: int) -> dict[str, object]:
    """Tokens per second with a fixed length."""
    endless = replace(policy.base, end_tokens=frozenset())
    sampler = Sampler(policy.view, endless)
    params = SamplingParams(max_tokens=FIXED)
    widest = max(map(len, prompts))
    pad = policy.base.pad_token
    padded = [[pad] * (widest - len(prompt)) + prompt for prompt in prompts for _ in range(GROUP)]
    tokens_BT = torch.tensor(padded)
    mask_BT = torch.tensor([[int(i >= widest - len(p)) for i in range(widest)] for p in prompts])

    def ours() -> None:
        sampler.sample(prompts, GROUP, params)

    def plain() -> None:
        with torch.inference_mode():
            policy.view.generate(
                tokens_BT,
                attention_mask=mask_BT.repeat_interleave(GROUP, dim=0),
                max_new_tokens=FIXED,
                min_new_tokens=FIXED,
                do_sample=True,
                top_k=0,
            )

    seconds, ratio = interleaved({"tunestone": ours, "transformers.generate": plain}, repeats)
    tokens = PROMPTS * GROUP * FIXED
    speed = {name: tokens / values["median"] for name, values in seconds.items()}
    return {"seconds": seconds, "ratio": ratio, "tokens_per_second": speed}


def training(policy: Policy, prompts: list[list[int]], repeats: int) -> dict[str, object]:
    """Completions per second of a forward and backward, tree against padded rows."""
    sampler = Sampler(policy.view, policy.base)
    groups = sampler.sample(prompts, GROUP, SamplingParams(max_tokens=40))
    rows = [[*p, *c.tokens] for p, g in zip(prompts, groups, strict=True) for c in g]
    lengths = [len(p) for p in prompts for _ in range(GROUP)]
    tree = build_tree(rows, lengths)

    def ours() -> torch.Tensor:
        logprobs_R = tree_logprobs(policy.network, tree, 1.0)
        logprobs_R.sum().backward()
        return logprobs_R.detach()

    def plain() -> torch.Tensor:
        parts = []
        for start in range(0, len(rows), GROUP):
            some = slice(start, start + GROUP)
            part_R = rows_logprobs(
                policy.network, rows[some], lengths[some], 1.0, pad_token=policy.base.pad_token
            )
            part_R.sum().backward()
            parts.append(part_R.detach())
        return torch.cat(parts)

    difference = float((ours() - plain()).abs().max())
    assert difference < 1e-3, f"tree and rows disagree by {difference}"
    seconds, ratio = interleaved({"tunestone": ours, "padded rows": plain}, repeats)
    policy.network.zero_grad()
    starts = range(0, len(rows), GROUP)
    positions = sum(GROUP * max(map(len, rows[start : start + GROUP])) for start in starts)
    return {
        "seconds": seconds,
        "ratio": ratio,
        "tree_nodes": tree.size,
        "padded_positions": positions,
        "tree_nodes_per_second": tree.size / seconds["tunestone"]["median"],
        "padded_positions_per_second": positions / seconds["padded rows"]["median"],
        "largest_logprob_difference": difference,
    }


def interleaved(
    ways: dict[str, Callable[[], object]], repeats: int
) -> tuple[dict[str, dict[str, float]], float]:
    """Run the ways in turn, the first round unmeasured: seconds, and second way over first."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(repeats + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if round_:
                seconds[name].append(time.perf_counter() - start)
    summary = {
        name: {"median": statistics.median(values), "low": min(values), "high": max(values)}
        for name, values in seconds.items()
    }
    first, second = (values["median"] for values in summary.values())
    return summary, second / first


def cpu_name() -> str:
    """The processor's name where Linux tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
