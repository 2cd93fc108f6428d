"""From what a sandboxed call came to, to the grade of its sample.

A program that gives rewards returns a number, or an object with `reward` and, if it likes,
`metrics`, a map of names to numbers. Anything else it returns is its own fault and becomes an
error on the sample; so does every call the sandbox had to end. Nothing is turned into a zero.
"""

import math
from collections.abc import Mapping
from typing import Any

from tunestone.rewards.sandbox import Outcome
from tunestone.rewards.sandbox.process import FailureKind
from tunestone.rewards.spec import failed
from tunestone.types import Grade, GradeFlag

_FLAGS: Mapping[FailureKind, GradeFlag] = {
    "raised": "python_grader_runtime_error",
    "row": "other_error",
    "timeout": "unresponsive_reward_error",
    "memory": "python_grader_server_error",
    "killed": "python_grader_server_error",
    "output": "python_grader_server_error",
}


class _WrongResultError(ValueError):
    """The program returned something that is no reward."""


def grade_of(outcome: Outcome) -> Grade:
    """The grade of one call: its reward and sub-scores, or the error with the flag of its kind.

    A result that is no finite number is a `python_grader_runtime_error`, as if it had raised.
    """
    if outcome.kind:
        printed = f"\nIt printed:\n{outcome.printed.rstrip()}" if outcome.printed.strip() else ""
        return _failed(outcome, outcome.error + printed, _FLAGS[outcome.kind])
    try:
        reward, metrics = _read_result(outcome.value)
    except _WrongResultError as error:
        return _failed(outcome, str(error), "python_grader_runtime_error")
    return Grade(reward=reward, seconds=outcome.seconds, metrics=metrics, attempts=outcome.attempts)


def _failed(outcome: Outcome, error: str, flag: GradeFlag) -> Grade:
    return failed(error, flag, seconds=outcome.seconds, attempts=outcome.attempts)


def _read_result(value: Any) -> tuple[float, dict[str, float]]:
    if not isinstance(value, dict):
        return _read_number(value, "the reward"), {}
    if "reward" not in value:
        keys = ", ".join(map(repr, value)) or "nothing"
        raise _WrongResultError(f"the result has no 'reward', only {keys}")
    metrics = value.get("metrics") or {}
    if not isinstance(metrics, dict):
        raise _WrongResultError(f"'metrics' must be an object, got {type(metrics).__name__}")
    scores = {
        str(name): _read_number(score, f"the sub-score {name!r}") for name, score in metrics.items()
    }
    return _read_number(value["reward"], "the reward"), scores


def _read_number(value: Any, what: str) -> float:
    if value is None:
        raise _WrongResultError(f"{what} must be a number, got None; is a `return` missing?")
    if not isinstance(value, int | float):
        raise _WrongResultError(f"{what} must be a number, got {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError:
        raise _WrongResultError(f"{what} is an integer too large for a float") from None
    if not math.isfinite(number):
        raise _WrongResultError(f"{what} must be finite, got {number}")
    return number
