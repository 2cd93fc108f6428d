"""How long a run will take on this machine: a short calibration with the real model and data.

A few groups are sampled and half of them learned from; nothing of it stays. Times grow linearly
with the work, so they are scaled to a whole step. Answers change their length while a model learns,
which no calibration can know: the range is what half and one and a half times the work would take.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from tunestone.core.evaluate import Example
from tunestone.core.learner import Group, Learner
from tunestone.core.train import Graded, Trainer, sampling_params

_GROUPS = 4


@dataclass(frozen=True, slots=True)
class Forecast:
    """Seconds of wall time."""

    step: float
    heldout_prompt: float
    """One greedy completion of a held-out prompt."""
    total: float
    low: float
    high: float


def forecast(trainer: Trainer, heldout: int) -> Forecast:
    """Measure, then extrapolate to all steps, validations and two passes over `heldout` prompts."""
    config = trainer.config
    examples = trainer.training[: min(_GROUPS, config.batch_size)]
    _learn(trainer, _sample(trainer, examples[:1])[0])  # the first use of memory is slow; not timed
    groups, sampled = _sample(trainer, examples)
    learned = _learn(trainer, groups)
    share = config.batch_size / len(examples)
    step = share * (sampled + learned)
    per_prompt = sampled / (len(examples) * config.group_size)
    validations = 1 + -(-trainer.steps // trainer.eval_every)
    answered = 2 * heldout + validations * len(trainer.validation)
    total = trainer.steps * step + answered * per_prompt
    return Forecast(step, per_prompt, total, low=0.5 * total, high=1.5 * total)


def _sample(trainer: Trainer, examples: Sequence[Example]) -> tuple[list[Graded], float]:
    start = time.perf_counter()
    groups = trainer.sampler.sample(
        [example.tokens for example in examples],
        trainer.config.group_size,
        sampling_params(trainer.config),
        seed=(trainer.config.seed, 0),
    )
    graded = [Graded(example, group) for example, group in zip(examples, groups, strict=True)]
    return graded, time.perf_counter() - start


def _learn(trainer: Trainer, graded_P: list[Graded]) -> float:
    """Seconds of one gradient over half of the groups: about as many carry signal, as a rule."""
    half = graded_P[: max(1, len(graded_P) // 2)]
    signs = [1.0 if g % 2 else -1.0 for g in range(trainer.config.group_size)]
    throwaway = Learner(trainer.policy, trainer.config)
    throwaway.uses_tree = trainer.learner.uses_tree
    start = time.perf_counter()
    # With learning rate 0 the weights keep their bits, and this optimizer is forgotten.
    throwaway.update(
        [Group(list(x.example.tokens), x.completions_G, list(signs)) for x in half],
        learning_rate=0.0,
    )
    return time.perf_counter() - start
