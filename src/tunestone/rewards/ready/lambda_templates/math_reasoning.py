"""Lambda reward: mathematical reasoning, checked against the right number.

Copy this file, change what you need, and point a job at `math_reasoning.lambda_handler`. It needs
nothing but Python's standard library. The model is asked to end with `#### <number>`:

    1.0   the number after the last #### is the reference's
    0.1   there is a number after ####, but the wrong one
    0.0   otherwise

A sample without a usable reference raises an error: that is a fault of the data, which a reward of
0 would hide.
"""

import re
from decimal import Decimal
from typing import Any

FORMAT_REWARD = 0.1
"""For a wrong number in the right place; it teaches the format first. Keep it small."""

NUMBER = r"-?[0-9][0-9,]*(?:\.[0-9]+)?"
ANSWER = re.compile(r"####[ \t]*\$?[ \t]*(" + NUMBER + r")[ \t]*[%.]?[ \t]*\Z")


def lambda_handler(event: Any, context: Any) -> list[dict[str, Any]]:
    """One result per sample: `id`, `aggregate_reward_score` and `metrics_list`."""
    samples = event.get("trajectories", []) if isinstance(event, dict) else event
    return [result_of(sample) for sample in samples]


def result_of(sample: dict[str, Any]) -> dict[str, Any]:
    """Score one sample."""
    expected = reference_number(sample)
    # Only the end of the text counts: whoever lists many numbers has answered with the last one.
    match = ANSWER.search(answer_of(sample).rstrip()[-200:])
    is_right = match is not None and to_number(match[1]) == expected
    reward = 1.0 if is_right else FORMAT_REWARD if match else 0.0
    return {
        "id": sample["id"],
        "aggregate_reward_score": reward,
        "metrics_list": [
            {"name": "correct", "value": float(is_right), "type": "Metric"},
            {"name": "formatted", "value": float(match is not None), "type": "Metric"},
        ],
    }


def reference_number(sample: dict[str, Any]) -> Decimal:
    """The right number: the one after ####, or the last one of the reference answer."""
    reference = reference_of(sample)
    text = str(reference) if isinstance(reference, str | int | float) else ""
    tail = text.rpartition("####")[2]
    numbers = re.findall(NUMBER, tail)
    if not numbers:
        raise ValueError(f"sample {sample.get('id')!r}: no number in {reference!r}")
    return to_number(numbers[-1])


def to_number(text: str) -> Decimal:
    """The exact value, thousands commas aside, so that 72 and 72.0 are equal."""
    return Decimal(text.replace(",", ""))


def answer_of(sample: dict[str, Any]) -> str:
    """The text of the model's answer, the last message; it may come as a list of text blocks."""
    messages = sample.get("messages") or [{}]
    content = messages[-1].get("content") or ""
    if isinstance(content, list):
        return "".join(block.get("text", "") for block in content if isinstance(block, dict))
    return str(content)


def reference_of(sample: dict[str, Any]) -> Any:
    """The reference answer: at the top level or under `metadata`, bare or as `{"text": ...}`."""
    reference = sample.get("reference_answer")
    if reference is None:
        reference = (sample.get("metadata") or {}).get("reference_answer")
    if isinstance(reference, dict):
        for name in ("final_answer", "answer", "text"):
            if reference.get(name) is not None:
                return reference[name]
    return reference
