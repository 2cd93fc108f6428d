"""The correctness gate: from the same weights, completions and rewards, TRL's loss and gradients.

    .venv-bench/bin/python -m sides.gate        (in benchmarks/)

Both sides run their own code from rewards to gradients: ours `Learner.update` over the token tree,
TRL `_generate_and_score_completions` (its generation replaced by given completions) and
`compute_loss` in two micro-batches. One group of three has no signal: ours leaves it out, TRL does
not. Off-policy means that the sampled log-probabilities are moved, so that the clip acts.

Where the definitions differ, TRL is set to ours: its CISPO bounds the ratio by `epsilon_high`
itself, ours by 1 + clip_high; its KL term is multiplied by the ratio (`use_bias_correction_kl`),
ours is the plain k3; GSPO is its `grpo` with a ratio per sequence.
"""

import math
import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging
from trl import GRPOConfig, GRPOTrainer

from tunestone.config import TrainConfig
from tunestone.core.learner import Group, Learner
from tunestone.core.loss import ALGORITHMS
from tunestone.core.model import BaseModel, Policy
from tunestone.types import Completion

TOLERANCE = 5e-5  # relative; fp32 sums in another order
_RANK, _GROUP, _LONGEST, _MICRO_BATCHES = 4, 4, 12, 2
_CLIP_LOW, _CLIP_HIGH = 0.2, 0.28
_REWARDS_PG = [[1.0, 0.0, 0.25, 0.5], [0.5, 0.5, 0.5, 0.5], [0.0, 0.0, 1.0, 0.0]]
_PAD, _END, _FIRST, _VOCABULARY = 0, 1, 2, 64
_TRL_NAMES: dict[str, dict[str, Any]] = {
    "dapo": {"loss_type": "dapo"},
    "grpo": {"loss_type": "grpo"},
    "dr_grpo": {"loss_type": "dr_grpo", "scale_rewards": "none"},
    "cispo": {"loss_type": "cispo", "epsilon_high": 1 + _CLIP_HIGH},
    "gspo": {"loss_type": "grpo", "importance_sampling_level": "sequence"},
}


@dataclass(frozen=True, slots=True)
class Case:
    """One line of the gate's table."""

    algorithm: str
    adapter: str
    kl_coefficient: float
    off_policy: bool


@dataclass(frozen=True, slots=True)
class _Drawn:
    """Given completions: 3 prompts x 4, in TRL's order."""

    prompts_B: list[list[int]]
    completions_B: list[list[int]]
    shift_BT: list[list[float]]
    """What the sampled log-probabilities are moved by, off-policy."""


def run_gate() -> list[dict[str, Any]]:
    """A record for every case: `loss_difference`, `gradient_difference` (relative), `passed`."""
    logging.disable_progress_bar()
    adapters, coefficients = ("lora", "full"), (0.0, 0.1)
    with tempfile.TemporaryDirectory(prefix="gate_") as name:
        _write_model(Path(name))
        return [
            _compare(Case(algorithm, adapter, coefficient, off_policy), Path(name))
            for algorithm, adapter, coefficient, off_policy in product(
                _TRL_NAMES, adapters, coefficients, (False, True)
            )
        ]


def table(records: list[dict[str, Any]]) -> str:
    """The records for a person."""
    lines = [f"{'algorithm':<10}{'weights':<9}{'beta':<6}{'policy':<8}{'loss':>10}{'gradient':>11}"]
    for each in records:
        lines.append(
            f"{each['algorithm']:<10}{each['adapter']:<9}{each['kl_coefficient']:<6}"
            f"{'off' if each['off_policy'] else 'on':<8}{each['loss_difference']:>10.1e}"
            f"{each['gradient_difference']:>11.1e}{'' if each['passed'] else '  FAILED'}"
        )
    return "\n".join(lines)


def _compare(case: Case, folder: Path) -> dict[str, Any]:
    drawn = _draw(random.Random(3))
    policy = _moved_policy(case, folder)
    our_loss, our_gradients = _ours(case, policy, drawn)
    trl_loss, trl_gradients = _trl(case, policy, drawn, folder)
    largest = max(float(gradient.abs().max()) for gradient in trl_gradients.values())
    gap = max(
        float((our_gradients[name] - gradient).abs().max())
        for name, gradient in trl_gradients.items()
    )
    # On-policy the terms of a loss may cancel to zero, so its scale is that of its terms.
    scale = max(abs(trl_loss), _mean_advantage(case.algorithm))
    differences = {
        "loss_difference": abs(our_loss - trl_loss) / scale,
        "gradient_difference": gap / largest,
    }
    passed = largest > 0 and all(value <= TOLERANCE for value in differences.values())
    return {
        "algorithm": case.algorithm,
        "adapter": case.adapter,
        "kl_coefficient": case.kl_coefficient,
        "off_policy": case.off_policy,
        **differences,
        "passed": passed,
    }


def _mean_advantage(algorithm: str) -> float:
    advantages_PG = ALGORITHMS[algorithm].advantage(torch.tensor(_REWARDS_PG))
    return float(advantages_PG.abs().mean())


# --- what both are given --------------------------------------------------------------------


def _write_model(folder: Path) -> None:
    """Three random layers, and a tokenizer that nothing but TRL's constructor asks for."""
    config = LlamaConfig(
        vocab_size=_VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        tie_word_embeddings=True,
        pad_token_id=_PAD,
        bos_token_id=None,
        eos_token_id=_END,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({str(i): i for i in range(_VOCABULARY)}, unk_token="2"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token=str(_PAD), eos_token=str(_END)
    ).save_pretrained(folder)


def _moved_policy(case: Case, folder: Path) -> Policy:
    """A policy that has left its base: LoRA's B is not zero, and a KL term has a gradient."""
    network = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    base = BaseModel(network, None, frozenset({_END}), _PAD, str(folder))
    rank = _RANK if case.adapter == "lora" else 0
    policy = Policy(base, lora_rank=rank, with_reference=case.kl_coefficient > 0)
    generator = torch.Generator().manual_seed(1)
    moved = {
        name: weight + 0.1 * torch.randn(weight.shape, generator=generator)
        for name, weight in policy.weights().items()
    }
    policy.load_weights(moved)
    return policy


def _draw(rng: random.Random) -> _Drawn:
    """Prompts of 5 to 9 tokens that begin alike; completions of 2 to 12, most with an end."""
    trunk = rng.choices(range(_FIRST, _VOCABULARY), k=4)
    prompts_B, completions_B, shift_BT = [], [], []
    for rewards_G in _REWARDS_PG:
        prompt = trunk + rng.choices(range(_FIRST, _VOCABULARY), k=rng.randint(1, 5))
        for _ in rewards_G:
            tokens = rng.choices(range(_FIRST, _FIRST + 4), k=rng.randint(1, _LONGEST - 1))
            prompts_B.append(prompt)
            completions_B.append([*tokens, _END])
            row = rng.choice([-0.5, 0.5])  # rows differ more than tokens: sequences clip too
            shift_BT.append([row + rng.uniform(-0.3, 0.3) for _ in completions_B[-1]])
    return _Drawn(prompts_B, completions_B, shift_BT)


def _sampled(case: Case, policy: Policy, drawn: _Drawn) -> list[list[float]]:
    """Log-probability each token was drawn with: plain forwards, row by row."""
    sampled_BT = []
    for prompt, tokens, shift_T in zip(
        drawn.prompts_B, drawn.completions_B, drawn.shift_BT, strict=True
    ):
        with torch.no_grad():
            logits = policy.network(input_ids=torch.tensor([[*prompt, *tokens]])).logits[0]
        logprobs = logits[len(prompt) - 1 : -1].log_softmax(dim=-1)
        now_T = logprobs.gather(1, torch.tensor(tokens)[:, None])[:, 0].tolist()
        moved_T = [x + shift for x, shift in zip(now_T, shift_T, strict=True)]
        sampled_BT.append(moved_T if case.off_policy else now_T)
    return sampled_BT


# --- ours -----------------------------------------------------------------------------------


class _ReadableLearner(Learner):
    """Stops where the optimizer would step, and keeps the gradients by name."""

    gradients: dict[str, Tensor]

    def _step(self, learning_rate: float) -> float:
        trainable = self._policy.trainable.items()
        self.gradients = {name: p.grad.clone() for name, p in trainable if p.grad is not None}
        self.optimizer.zero_grad(set_to_none=True)
        return math.nan


def _ours(case: Case, policy: Policy, drawn: _Drawn) -> tuple[float, dict[str, Tensor]]:
    config = TrainConfig.model_validate(
        {
            "algorithm": case.algorithm,
            "kl_coefficient": case.kl_coefficient,
            "lora_rank": policy.lora_rank,
            "group_size": _GROUP,
            "max_completion_tokens": _LONGEST,
            "clip_low": _CLIP_LOW,
            "clip_high": _CLIP_HIGH,
            "microbatch_tokens": 64,
        }
    )
    advantages_PG = ALGORITHMS[case.algorithm].advantage(torch.tensor(_REWARDS_PG)).tolist()
    sampled_BT = _sampled(case, policy, drawn)
    groups = []
    for p, advantages_G in enumerate(advantages_PG):
        rows = range(p * _GROUP, (p + 1) * _GROUP)
        completions = [_completion(drawn.completions_B[b], sampled_BT[b]) for b in rows]
        groups.append(Group(drawn.prompts_B[rows[0]], completions, advantages_G))
    learner = _ReadableLearner(policy, config)
    metrics = learner.update(groups, learning_rate=0.0)
    return metrics["loss"], learner.gradients


def _completion(tokens: list[int], logprobs: list[float]) -> Completion:
    entropies = (0.0,) * len(tokens)
    return Completion(tuple(tokens), tuple(logprobs), entropies, "", "stop")


# --- TRL's ----------------------------------------------------------------------------------


class _GivenCompletions(GRPOTrainer):
    """TRL's trainer with completions that were drawn already."""

    drawn: _Drawn

    def _generate(self, prompts: list[Any]) -> Any:
        texts = ["" for _ in prompts]
        prompts_B, completions_B = self.drawn.prompts_B, self.drawn.completions_B
        return prompts_B, completions_B, None, texts, None, {}, None, []


def _trl(
    case: Case, policy: Policy, drawn: _Drawn, folder: Path
) -> tuple[float, dict[str, Tensor]]:
    trainer = _trl_trainer(case, drawn, folder)
    parameters = {name: p for name, p in trainer.model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for name, weight in policy.weights().items():
            parameters[name].copy_(weight)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = _MICRO_BATCHES
    inputs = trainer._generate_and_score_completions([{"prompt": ""} for _ in drawn.prompts_B])
    if case.off_policy:
        inputs["old_per_token_logps"] = torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(row) for row in _sampled(case, policy, drawn)], batch_first=True
        )
    loss = 0.0
    for part in _parts(inputs, len(drawn.prompts_B) // _MICRO_BATCHES):
        part_loss = trainer.compute_loss(trainer.model, part)
        part_loss.backward()
        loss += float(part_loss.detach())
    return loss, {name: p.grad for name, p in parameters.items() if p.grad is not None}


def _trl_trainer(case: Case, drawn: _Drawn, folder: Path) -> _GivenCompletions:
    rows = len(drawn.prompts_B)
    rewards = [reward for rewards_G in _REWARDS_PG for reward in rewards_G]
    lora = LoraConfig(
        r=_RANK, lora_alpha=2 * _RANK, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    settings = {
        "output_dir": str(folder / "trl"),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "model_init_kwargs": {"dtype": "float32"},
        "per_device_train_batch_size": rows // _MICRO_BATCHES,
        "gradient_accumulation_steps": _MICRO_BATCHES,
        "num_generations": _GROUP,
        "max_completion_length": _LONGEST,
        "epsilon": _CLIP_LOW,
        "epsilon_high": _CLIP_HIGH,
        "beta": case.kl_coefficient,
        "use_bias_correction_kl": False,
        "report_to": "none",
        **_TRL_NAMES[case.algorithm],
    }
    trainer = _GivenCompletions(
        model=str(folder),
        reward_funcs=lambda **_: rewards,
        args=GRPOConfig(**settings),
        train_dataset=Dataset.from_list([{"prompt": ""}] * rows),
        peft_config=lora if case.adapter == "lora" else None,
    )
    trainer.drawn = drawn
    return trainer


def _parts(inputs: dict[str, Tensor], size: int) -> Iterator[dict[str, Tensor]]:
    """The micro-batches; what is no row of the batch goes to each."""
    for start in range(0, len(inputs["prompt_ids"]), size):
        yield {k: v[start : start + size] if v.dim() else v for k, v in inputs.items()}


if __name__ == "__main__":
    print(table(run_gate()))
