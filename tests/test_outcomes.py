"""From the outcome of a sandboxed call to a grade: numbers, sub-scores, and every kind of error."""

import math

import pytest

from tunestone.rewards.outcomes import grade_of
from tunestone.rewards.sandbox import Outcome
from tunestone.types import Grade


@pytest.mark.parametrize("value", [1, 1.0, True])
def test_a_number_is_the_reward(value):
    assert grade_of(Outcome(value=value, seconds=0.5, attempts=2)) == Grade(
        reward=1.0, seconds=0.5, attempts=2
    )


def test_an_object_gives_reward_and_sub_scores():
    outcome = Outcome(value={"reward": -0.25, "metrics": {"form": True, "length": 3}})
    assert grade_of(outcome) == Grade(reward=-0.25, metrics={"form": 1.0, "length": 3.0})
    assert grade_of(Outcome(value={"reward": 0, "metrics": None})) == Grade(reward=0.0)


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (None, "the reward must be a number, got None; is a `return` missing?"),
        ("1", "the reward must be a number, got str"),
        ([1.0], "the reward must be a number, got list"),
        (math.nan, "the reward must be finite, got nan"),
        (-math.inf, "the reward must be finite, got -inf"),
        (10**400, "the reward is an integer too large for a float"),
        ({"score": 1}, "the result has no 'reward', only 'score'"),
        ({}, "the result has no 'reward', only nothing"),
        ({"reward": None}, "the reward must be a number, got None; is a `return` missing?"),
        ({"reward": 1, "metrics": [1]}, "'metrics' must be an object, got list"),
        (
            {"reward": 1, "metrics": {"form": "good"}},
            "the sub-score 'form' must be a number, got str",
        ),
        (
            {"reward": 1, "metrics": {"form": math.inf}},
            "the sub-score 'form' must be finite, got inf",
        ),
    ],
)
def test_what_is_no_reward_is_an_error_of_the_program(value, error):
    grade = grade_of(Outcome(value=value, seconds=0.5))
    assert (grade.reward, grade.error, grade.seconds) == (None, error, 0.5)
    assert grade.flags == ("python_grader_runtime_error",)


@pytest.mark.parametrize(
    ("kind", "flag"),
    [
        ("raised", "python_grader_runtime_error"),
        ("timeout", "unresponsive_reward_error"),
        ("memory", "python_grader_server_error"),
        ("killed", "python_grader_server_error"),
        ("output", "python_grader_server_error"),
    ],
)
def test_every_kind_of_failure_has_its_flag(kind, flag):
    # A value beside the error must not win.
    outcome = Outcome(value=1.0, error="why", kind=kind, seconds=2.0, attempts=3)
    assert grade_of(outcome) == Grade(
        reward=None, error="why", seconds=2.0, attempts=3, flags=(flag,)
    )


def test_what_a_failed_call_printed_is_kept_with_its_error():
    grade = grade_of(Outcome(error="it exited", kind="killed", printed="loading\n"))
    assert grade.error == "it exited\nIt printed:\nloading"
    assert grade_of(Outcome(error="it exited", kind="killed")).error == "it exited"
