"""Three completions that show what an alert is about, out of the step that raised it."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tunestone.rewards.ready.penalties import score_repetition

_COUNT = 3
_CHARACTERS = 300

Line = Mapping[str, Any]
"""Of samples.jsonl."""


def examples_for(code: str, lines: Sequence[Line]) -> list[dict[str, Any]]:
    """The completions of a step that show this sign best, shortened; ties in their order."""
    weigh = _WEIGHTS[code](lines)
    chosen = sorted(lines, key=weigh, reverse=True)[:_COUNT]
    return [_example(line) for line in chosen]


def _example(line: Line) -> dict[str, Any]:
    text = line["text"]
    shown = {name: line[name] for name in ("prompt_id", "index", "step")}
    shown["text"] = text if len(text) <= _CHARACTERS else f"{text[:_CHARACTERS]} ..."
    shown["reward"] = line["reward"]
    for name in ("shadow_reward", "error"):
        if line.get(name) is not None:
            shown[name] = line[name]
    return shown


Weigh = Callable[[Line], float]


def _plainly(weigh: Weigh) -> Callable[[Sequence[Line]], Weigh]:
    """For signs that a completion shows by itself."""
    return lambda lines: weigh


def _by_likeness(lines: Sequence[Line]) -> Weigh:
    """How many of its group say the same."""
    counts = Counter((line["prompt_id"], line["text"]) for line in lines)
    return lambda line: counts[line["prompt_id"], line["text"]]


def _by_agreement(lines: Sequence[Line]) -> Weigh:
    """How many of its group earn the same."""
    counts = Counter((line["prompt_id"], line["reward"]) for line in lines)
    return lambda line: counts[line["prompt_id"], line["reward"]]


def _reward(line: Line) -> float:
    return float("-inf") if line["reward"] is None else float(line["reward"])


def _surprise(line: Line) -> float:
    return -sum(line["logprobs"]) / len(line["logprobs"])


def _overpaid(line: Line) -> float:
    """Reward above the shadow reward; those that have both first."""
    if line["reward"] is None or line.get("shadow_reward") is None:
        return float("-inf")
    return float(line["reward"] - line["shadow_reward"])


_WEIGHTS: dict[str, Callable[[Sequence[Line]], Weigh]] = {
    "entropy_collapse": _by_likeness,
    "length_explosion": _plainly(lambda line: len(line["tokens"])),
    "truncated_completions": _plainly(
        lambda line: (line["finish_reason"] == "length") - min(1.0, max(0.0, _reward(line))) / 2
    ),
    "repetition": _plainly(lambda line: score_repetition(line["text"])[1]["repetition"]),
    "identical_completions": _by_likeness,
    "no_signal": _by_agreement,
    "reward_saturated": _plainly(_reward),
    "low_reward_plateau": _plainly(_reward),
    "train_validation_divergence": _plainly(_reward),
    "shadow_divergence": _plainly(_overpaid),
    "grader_errors": _plainly(
        lambda line: bool(line["error"]) or 0.5 * bool(line.get("shadow_error"))
    ),
    "gradient_spike": _plainly(lambda line: abs(line["advantage"] or 0.0)),
    "sampling_mismatch": _plainly(_surprise),
}
"""Alert -> what makes a completion a good example of it."""
