"""Held-out prompts answered greedily and graded, with whatever network a sampler holds.

The loop validates with `answer`; base and tuned model are measured with `score` (`measure.py`), and
`comparison.py` sets the two against each other.
"""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tunestone.config import TrainConfig
from tunestone.core.constraint import answer_grammar
from tunestone.core.model import BaseModel
from tunestone.core.sampler import CompletionSampler, SamplingParams
from tunestone.errors import RewardError
from tunestone.types import Completion, Grade, Grader, Prompt, Sample


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt with its tokens under the model's chat template."""

    prompt: Prompt
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Answered:
    """One greedy completion for each of a list of examples, with its grade."""

    completions: list[Completion]
    grades: list[Grade]
    seconds: float
    """Wall time of answering, all examples together; grading is not in it."""

    @property
    def errors(self) -> int:
        """How many could not be graded."""
        return sum(grade.reward is None for grade in self.grades)

    @property
    def graded_reward(self) -> float:
        """Mean over what was graded; for choosing among checkpoints of one run."""
        return statistics.fmean(g.reward for g in self.grades if g.reward is not None)


@dataclass(frozen=True, slots=True)
class Scores:
    """What one model earned on a list of examples, in their order."""

    texts: list[str]
    rewards: list[float]
    """A completion whose grader failed counts as the worst here: in a comparison to fail never
    pays. `failed` says which they were."""
    lenient: list[float] | None
    lengths: list[int]
    failed: list[int]
    """Positions of the examples whose grading failed."""
    lenient_errors: int = 0
    seconds: float = 0.0
    """Wall time of answering, all examples together; grading is not in it."""
    prompt_ids: list[str] = field(default_factory=list)

    @property
    def errors(self) -> int:
        """How many could not be graded."""
        return len(self.failed)

    @property
    def binary(self) -> bool:
        """Whether all rewards are 0 or 1, so that their mean is an accuracy."""
        return set(self.rewards) <= {0.0, 1.0}

    @property
    def mean_reward(self) -> float:
        """Mean over all examples."""
        return sum(self.rewards) / len(self.rewards)


def encode_prompts(
    base: BaseModel,
    prompts: Sequence[Prompt],
    *,
    longest: int,
    template: Mapping[str, Any] | None = None,
) -> tuple[list[Example], int]:
    """Examples of at most `longest` tokens, and how many prompts were too long.

    `template`: further variables of the chat template.
    """
    examples = [Example(prompt, tuple(base.encode(prompt, template))) for prompt in prompts]
    short = [example for example in examples if len(example.tokens) <= longest]
    return short, len(examples) - len(short)


def score(
    sampler: CompletionSampler,
    examples: Sequence[Example],
    grader: Grader,
    config: TrainConfig,
    *,
    lenient_grader: Grader | None = None,
) -> Scores:
    """Greedy completions of `examples`, graded. Raises RewardError when most grades fail."""
    answered = answer(sampler, examples, grader, config)
    completions, grades = answered.completions, answered.grades
    samples = samples_of(examples, completions)
    lenient_grades = lenient_grader.grade(samples) if lenient_grader is not None else []
    refuse_failing(lenient_grades)
    return Scores(
        texts=[completion.text for completion in completions],
        rewards=rewards_of(grades),
        lenient=rewards_of(lenient_grades) if lenient_grades else None,
        lengths=[len(completion.tokens) for completion in completions],
        failed=[i for i, grade in enumerate(grades) if grade.reward is None],
        lenient_errors=sum(grade.reward is None for grade in lenient_grades),
        seconds=answered.seconds,
        prompt_ids=[example.prompt.id for example in examples],
    )


def answer(
    sampler: CompletionSampler, examples: Sequence[Example], grader: Grader, config: TrainConfig
) -> Answered:
    """Greedy completions of `examples`, graded. Raises RewardError when most grades fail."""
    params = SamplingParams(
        config.max_completion_tokens,
        temperature=0.0,
        stop=config.stop,
        grammar=answer_grammar(config.response_format),
    )
    start = time.perf_counter()
    groups = sampler.sample([example.tokens for example in examples], 1, params)
    seconds = time.perf_counter() - start
    completions = [completion for (completion,) in groups]
    grades = grader.grade(samples_of(examples, completions))
    refuse_failing(grades)
    return Answered(completions, grades, seconds)


def samples_of(examples: Sequence[Example], completions: Sequence[Completion]) -> list[Sample]:
    """What a grader gets to see of one completion for each example."""
    return [
        Sample(example.prompt, completion.text, completion.finish_reason == "length")
        for example, completion in zip(examples, completions, strict=True)
    ]


def refuse_failing(grades: Sequence[Grade]) -> None:
    """Raise RewardError with the first traceback when more than half of the grades failed."""
    errors = [grade.error for grade in grades if grade.error is not None]
    if len(errors) > len(grades) / 2:
        raise RewardError(
            f"The reward failed on {len(errors)} of {len(grades)} completions. The first failure:\n"
            f"{errors[0]}",
            remedy="Mend the reward.",
        )


def rewards_of(grades: Sequence[Grade]) -> list[float]:
    """Rewards with the lowest one, at most 0, in place of a failed grade: to fail never pays."""
    given = [grade.reward for grade in grades if grade.reward is not None]
    worst = min(0.0, *given) if given else 0.0
    return [worst if grade.reward is None else grade.reward for grade in grades]
