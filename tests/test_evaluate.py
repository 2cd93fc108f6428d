"""Scores and comparisons: to fail never pays, and a sign is never turned round."""

import pytest

from tunestone.config import TrainConfig
from tunestone.core.evaluate import Example, Scores, answer, compare, refuse_failing, score
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


def test_binary_rewards_are_compared_as_accuracy() -> None:
    """0 1 0 0 against 1 1 1 0: two gained, none lost; exact McNemar 2 x (1/2)^2 = 0.5."""
    report = compare(EXAMPLES, scores(0, 1, 0, 0), scores(1, 1, 1, 0))
    assert report["score"] == "accuracy"
    assert (report["base"]["accuracy"], report["tuned"]["accuracy"]) == (0.25, 0.75)
    assert (report["gained"], report["lost"], report["p_value"]) == (2, 0, 0.5)
    assert report["relative_gain"] == 2.0
    assert report["difference_ci95"][0] < 0.5 < report["difference_ci95"][1]
    assert report["regressions"] == []


def test_other_rewards_are_compared_by_their_mean() -> None:
    report = compare(EXAMPLES, scores(-1, -2, -1, -4), scores(-1, -1, -2, 0))
    assert report["score"] == "mean reward"
    assert report["base"]["ci95"] is None
    assert report["difference"] == 1.0
    assert report["relative_gain"] is None  # a share of a negative score means nothing
    assert report["regressions"] == ["p2"]
    shown = {e["prompt"]: (e["base_reward"], e["tuned_reward"]) for e in report["examples"]}
    assert shown == {"1?": (-2, -1), "2?": (-1, -2), "0?": (-1, -1)}  # gained, lost, same
