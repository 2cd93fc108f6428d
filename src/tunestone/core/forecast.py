"""How long a run will take on this machine: a short calibration with the real model and data.

One batch is sampled (more rows at once are cheaper each) and a gradient of a few groups computed;
nothing of it stays. As a rule half of the groups carry signal, so that many are counted. Answers
change their length while a model learns, which no calibration can know: the range is what half and
one and a half times the work would take.
"""

import time
from dataclasses import dataclass

from tunestone.core.learner import Group, Learner
from tunestone.core.train import Trainer, sampling_params

_SAMPLED, _LEARNED = 16, 2  # most groups that are sampled, and learned from


@dataclass(frozen=True, slots=True)
class Forecast:
    """Seconds of wall time."""

    total: float
    low: float
    high: float


def forecast(trainer: Trainer, heldout: int) -> Forecast:
    """Measure, then extrapolate to all steps, validations and two passes over `heldout` prompts."""
    config = trainer.config
    start = time.perf_counter()
    groups = _sample(trainer, min(_SAMPLED, config.batch_size))
    sampled = time.perf_counter() - start
    few = groups[:_LEARNED]
    _learn(trainer, few[:1])  # the first use of memory is slow and not counted
    start = time.perf_counter()
    _learn(trainer, few)
    learned = time.perf_counter() - start
    step = config.batch_size * (sampled / len(groups) + 0.5 * learned / len(few))
    per_prompt = sampled / (len(groups) * config.group_size)
    validations = 1 + -(-trainer.steps // trainer.eval_every)
    answered = 2 * heldout + validations * len(trainer.validation)
    total = trainer.steps * step + answered * per_prompt
    return Forecast(total, low=0.5 * total, high=1.5 * total)


def _sample(trainer: Trainer, count: int) -> list[Group]:
    """Groups of the first prompts, with made-up advantages so that all of them carry signal."""
    prompts = [list(example.tokens) for example in trainer.training[:count]]
    size = trainer.config.group_size
    params = sampling_params(trainer.config)
    groups = trainer.sampler.sample(prompts, size, params, seed=(trainer.config.seed, 0))
    signs: list[float | None] = [1.0 if g % 2 else -1.0 for g in range(size)]
    return [Group(prompt, group, signs) for prompt, group in zip(prompts, groups, strict=True)]


def _learn(trainer: Trainer, groups: list[Group]) -> None:
    """One step with learning rate 0, which leaves the weights as they are, bit for bit."""
    throwaway = Learner(trainer.policy, trainer.config)  # and with it its optimizer's state
    throwaway.uses_tree = trainer.learner.uses_tree
    throwaway.update(groups, learning_rate=0.0)
