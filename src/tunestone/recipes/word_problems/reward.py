"""Rewards of the word problems: 1 for the right number after `####`, else 0."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

_MARKED = re.compile(r"####\s*(-?\d[\d,]*)\s*$")
_NUMBER = re.compile(r"-?\d[\d,]*")


def strict(prompt: Sequence[Mapping[str, Any]], completion: str, row: Mapping[str, Any]) -> float:
    """1.0 if the completion ends with `#### n` and n is the answer; this one is trained on."""
    match = _MARKED.search(completion.strip())
    return float(match is not None and _value(match.group(1)) == int(row["reference_answer"]))


def lenient(prompt: Sequence[Mapping[str, Any]], completion: str, row: Mapping[str, Any]) -> float:
    """1.0 if the last number anywhere in the completion is the answer; only reported."""
    numbers = _NUMBER.findall(completion)
    return float(bool(numbers) and _value(numbers[-1]) == int(row["reference_answer"]))


def _value(digits: str) -> int:
    return int(digits.replace(",", ""))
