"""Lambda reward: the frame of one, with everything but your own rule.

Copy this file, write `score`, and point a job at `generic.lambda_handler`. It needs nothing but
Python's standard library. As it stands, the reward is 1 when the reference answer is the last line
of the answer.

Three habits worth keeping: the same answer always gets the same reward; a better answer always
gets a higher one; and a reference that cannot be used raises an error, which is then reported,
instead of a 0 that would be learnt from.
"""

from typing import Any


def lambda_handler(event: Any, context: Any) -> list[dict[str, Any]]:
    """One result per sample: `id`, `aggregate_reward_score` and `metrics_list`."""
    samples = event.get("trajectories", []) if isinstance(event, dict) else event
    return [result_of(sample) for sample in samples]


def result_of(sample: dict[str, Any]) -> dict[str, Any]:
    """Score one sample, and report the parts of the score beside it."""
    reward, parts = score(answer_of(sample), reference_of(sample), sample)
    return {
        "id": sample["id"],
        "aggregate_reward_score": float(reward),
        "metrics_list": [
            {"name": name, "value": float(value), "type": "Metric"} for name, value in parts.items()
        ],
    }


def score(answer: str, reference: Any, sample: dict[str, Any]) -> tuple[float, dict[str, float]]:
    """Your rule: a number (0 to 1, say) and named parts of it, which may be empty.

    `sample["metadata"]` holds every further key of the data row, and `sample["messages"]` the
    conversation, the answer included.
    """
    if reference is None:
        raise ValueError(f"sample {sample.get('id')!r} has no reference answer")
    lines = answer.strip().splitlines() or [""]
    is_right = lines[-1].strip().casefold() == str(reference).strip().casefold()
    return float(is_right), {"answered": float(bool(answer.strip()))}


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
