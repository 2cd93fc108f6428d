"""Base against tuned: the same held-out prompts, greedy, paired.

`score` answers and grades prompts with whatever network a sampler holds; `compare` turns two such
scores into a report with intervals and a paired test. For rewards of 0 and 1 the mean is an
accuracy (Wilson interval, Newcombe's for the difference, exact McNemar); for others the paired
bootstrap and a permutation test are used.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunestone import stats
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
    samples = _samples(examples, completions)
    lenient_grades = lenient_grader.grade(samples) if lenient_grader is not None else []
    refuse_failing(lenient_grades)
    return Scores(
        texts=[completion.text for completion in completions],
        rewards=_rewards(grades),
        lenient=_rewards(lenient_grades) if lenient_grades else None,
        lengths=[len(completion.tokens) for completion in completions],
        failed=[i for i, grade in enumerate(grades) if grade.reward is None],
        lenient_errors=sum(grade.reward is None for grade in lenient_grades),
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
    groups = sampler.sample([example.tokens for example in examples], 1, params)
    completions = [completion for (completion,) in groups]
    grades = grader.grade(_samples(examples, completions))
    refuse_failing(grades)
    return Answered(completions, grades)


def _samples(examples: Sequence[Example], completions: Sequence[Completion]) -> list[Sample]:
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


def _rewards(grades: Sequence[Grade]) -> list[float]:
    """Rewards with the lowest one, at most 0, in place of a failed grade: to fail never pays."""
    given = [grade.reward for grade in grades if grade.reward is not None]
    worst = min(0.0, *given) if given else 0.0
    return [worst if grade.reward is None else grade.reward for grade in grades]


def compare(examples: Sequence[Example], base: Scores, tuned: Scores) -> dict[str, Any]:
    """The numbers of report.json. `relative_gain` is None unless the base scored above 0."""
    binary = base.binary and tuned.binary
    gained = [b < t for b, t in zip(base.rewards, tuned.rewards, strict=True)]
    lost = [b > t for b, t in zip(base.rewards, tuned.rewards, strict=True)]
    difference = tuned.mean_reward - base.mean_reward
    low, high = stats.paired_difference_interval(base.rewards, tuned.rewards)
    if binary:
        test, p_value = "exact McNemar", stats.mcnemar_exact(sum(lost), sum(gained))
    else:
        test = "paired sign-flip permutation"
        p_value = stats.paired_permutation_p(base.rewards, tuned.rewards)
    return {
        "n": len(examples),
        "score": "accuracy" if binary else "mean reward",
        "base": _summary(base, binary=binary),
        "tuned": _summary(tuned, binary=binary),
        "difference": difference,
        "difference_ci95": [low, high],
        "relative_gain": difference / base.mean_reward if base.mean_reward > 0 else None,
        "test": test,
        "p_value": p_value,
        "gained": sum(gained),
        "lost": sum(lost),
        "examples": _before_and_after(examples, base, tuned),
        "regressions": [
            example.prompt.id for example, worse in zip(examples, lost, strict=True) if worse
        ],
    }


def _summary(scores: Scores, *, binary: bool) -> dict[str, Any]:
    count = len(scores.rewards)
    return {
        "accuracy": scores.mean_reward,
        "ci95": list(stats.wilson_interval(round(sum(scores.rewards)), count)) if binary else None,
        "lenient_accuracy": sum(scores.lenient) / count if scores.lenient else None,
        "lenient_ci95": _lenient_interval(scores.lenient),
        "length_mean": sum(scores.lengths) / count,
        "grade_errors": scores.errors,
        "lenient_grade_errors": scores.lenient_errors,
    }


def _lenient_interval(lenient: Sequence[float] | None) -> list[float] | None:
    if not lenient or not set(lenient) <= {0.0, 1.0}:
        return None
    return list(stats.wilson_interval(round(sum(lenient)), len(lenient)))


def _before_and_after(
    examples: Sequence[Example], base: Scores, tuned: Scores, count: int = 3
) -> list[Mapping[str, Any]]:
    """A few prompts answered by both, the first of each kind: gained, lost, same."""
    change = [t - b for b, t in zip(base.rewards, tuned.rewards, strict=True)]
    kinds = [
        next((i for i, c in enumerate(change) if c > 0), None),
        next((i for i, c in enumerate(change) if c < 0), None),
        next((i for i, c in enumerate(change) if c == 0), None),
    ]
    chosen = [i for i in kinds if i is not None]
    chosen += [i for i in range(len(examples)) if i not in chosen]
    return [
        {
            "prompt": examples[i].prompt.messages[-1]["content"],
            "base": base.texts[i],
            "tuned": tuned.texts[i],
            "base_reward": base.rewards[i],
            "tuned_reward": tuned.rewards[i],
        }
        for i in chosen[:count]
    ]
