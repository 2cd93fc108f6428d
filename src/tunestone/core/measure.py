"""What one model is worth on held-out prompts: greedy answers to all, several drawn to a few.

Greedy answers are what `report.json` compares. Drawn ones tell more than one answer can: how often
the model is right (avg@k), and whether it is right at all when it may try k times (pass@k). They
cost k completions a prompt, so only the first `MOST_DRAWN` prompts are drawn for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

from tunestone.config import TrainConfig
from tunestone.core.evaluate import (
    Example,
    Scores,
    refuse_failing,
    rewards_of,
    samples_of,
    score,
)
from tunestone.core.sampler import CompletionSampler
from tunestone.core.train import sampling_params
from tunestone.types import Grader

MOST_DRAWN = 64
"""Prompts that several answers are drawn to, at most; the end of a job must not take long."""
_TEST_DRAW = 3  # a purpose of random numbers, beside those of forecast.py (0) and train.py


@dataclass(frozen=True, slots=True)
class Drawn:
    """Several answers to each of the first examples, graded."""

    rewards_PG: list[list[float]]
    """As in `Scores.rewards`: a failed grade counts as the worst."""
    temperature: float
    errors: int
    """How many could not be graded."""

    @property
    def binary(self) -> bool:
        """Whether all rewards are 0 or 1, so that an answer is right or wrong."""
        return set(chain.from_iterable(self.rewards_PG)) <= {0.0, 1.0}


@dataclass(frozen=True, slots=True)
class Measured:
    """One model on held-out prompts."""

    greedy: Scores
    drawn: Drawn | None
    """None when no answers were to be drawn."""

    def as_record(self) -> dict[str, Any]:
        """For a JSON file; `from_record` reads it."""
        return {**asdict(self.greedy), "drawn": asdict(self.drawn) if self.drawn else None}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Measured":
        """What `as_record` gave, or a record of before there were drawn answers."""
        greedy = {name: value for name, value in record.items() if name != "drawn"}
        drawn = record.get("drawn")
        return cls(Scores(**greedy), Drawn(**drawn) if drawn else None)


def measure(
    sampler: CompletionSampler,
    examples: Sequence[Example],
    grader: Grader,
    config: TrainConfig,
    *,
    lenient_grader: Grader | None = None,
) -> Measured:
    """Answer and grade `examples`. Raises RewardError when most grades fail."""
    return Measured(
        greedy=score(sampler, examples, grader, config, lenient_grader=lenient_grader),
        drawn=draw(sampler, examples, grader, config) if config.test_samples else None,
    )


def draw(
    sampler: CompletionSampler, examples: Sequence[Example], grader: Grader, config: TrainConfig
) -> Drawn:
    """`test_samples` answers to each of the first examples, drawn as in training.

    The same seed for base and tuned model: what differs is the model, not the luck. Raises
    RewardError when most grades fail.
    """
    some, size = examples[:MOST_DRAWN], config.test_samples
    groups = sampler.sample(
        [example.tokens for example in some],
        size,
        sampling_params(config),
        seed=(config.seed, _TEST_DRAW),
    )
    repeated = [example for example in some for _ in range(size)]
    grades = grader.grade(samples_of(repeated, list(chain.from_iterable(groups))))
    refuse_failing(grades)
    rewards = rewards_of(grades)
    return Drawn(
        rewards_PG=[rewards[i : i + size] for i in range(0, len(rewards), size)],
        temperature=config.temperature,
        errors=sum(grade.reward is None for grade in grades),
    )


def count_drawn(config: TrainConfig, heldout: int) -> int:
    """Answers that `measure` draws besides the greedy ones, given `heldout` examples."""
    return config.test_samples * min(MOST_DRAWN, heldout)
