"""Lambda reward: is the answer in the form that was asked for?

Copy this file, edit the constraints below, and point a job at
`format_constraints.lambda_handler`. It needs nothing but Python's standard library. The reward is
the share of constraints that hold, each of which is also reported as a metric. An empty answer has
0: constraints such as "not too long" must not pay for silence.

A row may carry constraints of its own, as extra keys: `required_phrases` and `forbidden_phrases`
(lists of strings), `max_words` (a number).
"""

import json
from typing import Any

TAGS = ["think", "answer"]
"""Each must stand exactly once, in this order, with something in it."""
ANSWER_IS_JSON = False
"""Whether what stands in the last of TAGS must be a JSON object."""
REQUIRED_KEYS: list[str] = []
"""Keys that this object must have."""
MAX_WORDS = 500
"""Longest answer, unless the row says otherwise."""


def lambda_handler(event: Any, context: Any) -> list[dict[str, Any]]:
    """One result per sample: `id`, `aggregate_reward_score` and `metrics_list`."""
    samples = event.get("trajectories", []) if isinstance(event, dict) else event
    return [result_of(sample) for sample in samples]


def result_of(sample: dict[str, Any]) -> dict[str, Any]:
    """Score one sample."""
    checks = check(answer_of(sample), sample.get("metadata") or {})
    return {
        "id": sample["id"],
        "aggregate_reward_score": sum(checks.values()) / len(checks),
        "metrics_list": [
            {"name": name, "value": float(holds), "type": "Metric"}
            for name, holds in checks.items()
        ],
    }


def check(answer: str, row: dict[str, Any]) -> dict[str, bool]:
    """Name of each constraint -> whether it holds."""
    contents = [content_of(answer, tag) for tag in TAGS]
    folded = answer.casefold()
    checks = {f"has_{tag}": bool(content) for tag, content in zip(TAGS, contents, strict=True)}
    places = [answer.find(f"<{tag}>") for tag in TAGS]
    checks["in_order"] = all(contents) and places == sorted(places)
    checks["short_enough"] = len(answer.split()) <= row.get("max_words", MAX_WORDS)
    for phrase in row.get("required_phrases", []):
        checks[f"says {phrase}"] = phrase.casefold() in folded
    for phrase in row.get("forbidden_phrases", []):
        checks[f"avoids {phrase}"] = phrase.casefold() not in folded
    if ANSWER_IS_JSON:
        value = parse_object(contents[-1] if contents else answer)
        checks["is_json"] = value is not None
        for key in REQUIRED_KEYS:
            checks[f"has_key_{key}"] = value is not None and key in value
    return checks if answer.strip() else dict.fromkeys(checks, False)


def content_of(text: str, tag: str) -> str:
    """What stands between the tags, or nothing unless both stand exactly once."""
    opening, closing = f"<{tag}>", f"</{tag}>"
    if text.count(opening) != 1 or text.count(closing) != 1:
        return ""
    return text.partition(opening)[2].partition(closing)[0].strip()


def parse_object(text: str) -> dict[str, Any] | None:
    """The JSON object in the text, or None."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def answer_of(sample: dict[str, Any]) -> str:
    """The text of the model's answer, the last message; it may come as a list of text blocks."""
    messages = sample.get("messages") or [{}]
    content = messages[-1].get("content") or ""
    if isinstance(content, list):
        return "".join(block.get("text", "") for block in content if isinstance(block, dict))
    return str(content)
