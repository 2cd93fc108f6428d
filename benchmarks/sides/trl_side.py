"""TRL's side: `python -m sides.trl_side JOB`, GRPOTrainer with our settings, one step at a time.

Settings that decide the numbers are those of ours (algorithm, clip bounds, optimizer); those that
decide the speed are TRL's best on a CPU: fp32, no gradient checkpointing, all completions of a step
generated at once. `trl_defaults` leaves precision and checkpointing to TRL.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from sides.protocol import Turns, peak_mib
from sides.workloads import Workload, reward
from tunestone.runlog import read_lines

_NEVER = 1000  # steps, more than any measurement has


class _TimedTrainer(GRPOTrainer):
    """Keeps the seconds of generation and rewards, and what was generated, of the last step."""

    phases: dict[str, float]
    record: dict[str, Any]

    def _generate(self, prompts: list[Any]) -> Any:
        start = time.perf_counter()
        output = super()._generate(prompts)
        prompt_ids, completion_ids = output[:2]
        self.phases = {"sample": time.perf_counter() - start}
        self.record = {
            "completions": len(completion_ids),
            "prompt_tokens": sum(map(len, prompt_ids)) // self.num_generations,
            "generated_tokens": sum(map(len, completion_ids)),
        }
        return output

    def _calculate_rewards(self, *arguments: Any) -> torch.Tensor:
        start = time.perf_counter()
        rewards_B1: torch.Tensor = super()._calculate_rewards(*arguments)
        self.phases["grade"] = time.perf_counter() - start
        rewards_PG = rewards_B1.view(-1, self.num_generations)
        has_signal_P = rewards_PG.amax(dim=1) > rewards_PG.amin(dim=1)
        self.record["reward"] = float(rewards_PG.mean())
        self.record["signal_share"] = float(has_signal_P.float().mean())
        return rewards_B1


class _OneStepAtATime(TrainerCallback):
    """Blocks where a step begins. Its seconds end with the step: not TRL's logging after it, nor
    its fetching of the next batch."""

    def __init__(self, turns: Turns) -> None:
        self.trainer: Any = None
        self._turns = turns
        self._start = self._seconds = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step:
            phases = self.trainer.phases
            learn = self._seconds - sum(phases.values())
            self._turns.answer(
                seconds=self._seconds,
                phases={**phases, "learn": learn},
                peak_mib=peak_mib(),
                **self.trainer.record,
            )
        self._turns.wait()
        self._start = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._seconds = time.perf_counter() - self._start


def main() -> None:
    """Train until the parent wants no more."""
    turns = Turns()
    job = json.loads(sys.argv[1])
    workload = Workload(**job["workload"])
    torch.set_num_threads(workload.threads)
    worth = reward(workload)

    def rewards(completions: list[Any], reference_answer: list[str], **_: Any) -> list[float]:
        pairs = zip(completions, reference_answer, strict=True)
        return [worth({"reference_answer": a}, c[0]["content"]) for c, a in pairs]

    rows = read_lines(Path(job["folder"]) / "trl.jsonl")
    columns = [{"prompt": r["messages"], "reference_answer": r["reference_answer"]} for r in rows]
    callback = _OneStepAtATime(turns)
    callback.trainer = _TimedTrainer(
        model=job["model"],
        reward_funcs=rewards,
        args=_settings(workload, job),
        train_dataset=Dataset.from_list(columns),
        peft_config=_lora(workload.lora_rank) if workload.lora_rank else None,
        callbacks=[callback],
    )
    parameters = callback.trainer.model.parameters()
    turns.answer(trainable=sum(p.numel() for p in parameters if p.requires_grad))
    callback.trainer.train()


def _settings(workload: Workload, job: dict[str, Any]) -> GRPOConfig:
    plain = {"bf16": False, "fp16": False, "gradient_checkpointing": False}
    exact = {"min_new_tokens": workload.completion_tokens} if workload.kind == "fixed" else None
    return GRPOConfig(
        output_dir=str(Path(job["folder"]) / "trl"),
        use_cpu=True,
        model_init_kwargs={"dtype": "float32", "attn_implementation": "sdpa"},
        per_device_train_batch_size=workload.trl_micro_batch,
        gradient_accumulation_steps=workload.prompts * workload.group // workload.trl_micro_batch,
        num_generations=workload.group,
        max_completion_length=workload.completion_tokens,
        generation_kwargs=exact,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        loss_type="dapo",
        epsilon=0.2,
        epsilon_high=0.28,
        beta=0.0,
        learning_rate=workload.learning_rate,
        lr_scheduler_type="constant",
        adam_beta2=0.95,
        weight_decay=0.0,
        max_grad_norm=1.0,
        max_steps=_NEVER,
        shuffle_dataset=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        seed=job["seed"],
        **({} if workload.trl_defaults else plain),
    )


def _lora(rank: int) -> LoraConfig:
    return LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules="all-linear",
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
    )


if __name__ == "__main__":
    main()
