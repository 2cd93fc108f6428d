"""Scores: to fail never pays."""

import pytest

from tunestone.config import TrainConfig
from tunestone.core.evaluate import Example, Scores, answer, refuse_failing, score
from tunestone.errors import RewardError
from tunestone.types import Completion, Grade, Prompt

EXAMPLES = [
    Example(Prompt(f"p{i}", ({"role": "user", "content": f"{i}?"},)), (1,)) for i in range(4)
]


class Fixed:
    """A sampler and grader in one: says nothing, and gives the rewards it was made with."""

    def __init__(self, *rewards: float | None) -> None:
        self.rewards = rewards

    def sample(self, prompts_PT, group_size, params, *, seed=(0,)):
        return [[Completion((1,), (0.0,), (0.0,), "", "stop")] for _ in prompts_PT]

    def grade(self, samples):
        return [Grade(r, None if r is not None else "it failed") for r in self.rewards]


def scores(*rewards: float | None) -> Scores:
    """What a model with these rewards on EXAMPLES scores."""
    fixed = Fixed(*rewards)
    return score(fixed, EXAMPLES, fixed, TrainConfig())


def test_a_failed_grade_counts_as_the_worst() -> None:
    """-4, -2, -1 and a failure: 0 would make failing the best answer of all."""
    failed = scores(-4.0, -2.0, -1.0, None)
    assert failed.rewards == [-4.0, -2.0, -1.0, -4.0]
    assert failed.errors == 1
    fixed = Fixed(-4.0, -2.0, -1.0, None)
    answered = answer(fixed, EXAMPLES, fixed, TrainConfig())
    assert answered.graded_reward == -7 / 3  # among checkpoints only what was graded counts
    assert scores(1.0, 2.0, 0.5, None).rewards == [1.0, 2.0, 0.5, 0.0]


def test_most_grades_failing_is_an_error() -> None:
    refuse_failing([Grade(1.0), Grade(None, "a")])
    with pytest.raises(RewardError, match=r"failed on 2 of 3 completions\. The first failure:\na"):
        refuse_failing([Grade(1.0), Grade(None, "a"), Grade(None, "b")])
