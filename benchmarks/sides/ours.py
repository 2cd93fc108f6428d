"""Our side: `python -m sides.ours JOB`, the trainer of the product, one step at a time.

The loop blocks in `watch`, which it calls after every step. The base is validated on two rows
within the seconds of the first step; no later step validates or saves.
"""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sides.protocol import Turns, peak_mib
from sides.workloads import Workload, reward
from tunestone.config import TrainConfig
from tunestone.core.model import load_base
from tunestone.core.prepare import prepare
from tunestone.core.train import LoopState, Trainer
from tunestone.runlog import RunFolder
from tunestone.types import Grade, Sample

_NEVER = 1000  # steps, more than any measurement has


@dataclass(frozen=True, slots=True)
class _PlainGrader:
    """The workload's reward, called in this process."""

    workload: Workload

    def grade(self, samples: Sequence[Sample]) -> list[Grade]:
        worth = reward(self.workload)
        return [Grade(worth(sample.prompt.row, sample.text)) for sample in samples]


def main() -> None:
    """Train until the parent wants no more."""
    turns = Turns()
    job = json.loads(sys.argv[1])
    trainer = _trainer(Workload(**job["workload"]), job)
    order = trainer._next_prompts(LoopState(), len(trainer.training))
    turns.answer(
        order=[trainer.training[i].prompt.id for i in order],
        trainable=sum(weight.numel() for weight in trainer.policy.trainable.values()),
    )
    turns.wait()
    start = time.perf_counter()

    def watch(record: Mapping[str, Any]) -> None:
        nonlocal start
        turns.answer(
            seconds=time.perf_counter() - start,
            phases=record["seconds"],
            completions=record["completions"],
            prompt_tokens=round(record["prompt_length_mean"] * record["groups"]),
            generated_tokens=record["completion_tokens"],
            peak_mib=peak_mib(),
            reward=record["reward_mean"],
            signal_share=record["signal_share"],
        )
        turns.wait()
        start = time.perf_counter()

    trainer.train(watch=watch, stop_requested=lambda: False)


def _trainer(workload: Workload, job: Mapping[str, Any]) -> Trainer:
    folder = Path(job["folder"])
    config = TrainConfig(
        model=job["model"],
        data=str(folder / "train.jsonl"),
        validation=str(folder / "validation.jsonl"),
        batch_size=workload.prompts,
        group_size=workload.group,
        max_completion_tokens=workload.completion_tokens,
        lora_rank=workload.lora_rank,
        learning_rate=workload.learning_rate,
        warmup_steps=0,
        max_steps=_NEVER,
        eval_every=_NEVER,
        seed=job["seed"],
        threads=workload.threads,
    )
    base = load_base(config.model, full_precision=config.lora_rank == 0)
    if workload.kind == "fixed":
        base = replace(base, end_tokens=frozenset())  # every completion gets its full length
    run = RunFolder.create(folder / "run")
    return prepare(run, config, _PlainGrader(workload), _say, base=base)


def _say(message: str) -> None:
    print(message, file=sys.stderr)


if __name__ == "__main__":
    main()
