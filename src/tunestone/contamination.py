"""Held-out prompts that stand in the training data, exactly or nearly.

A model may know their answers by heart, so a gain on them proves little. Equal means the same
turns; nearly equal is the rule of `duplicates.py`.
"""

from collections.abc import Sequence
from typing import Any

from tunestone.duplicates import find_near, prompt_text
from tunestone.rows import message_key
from tunestone.types import Prompt

_NO_CASE: dict[str, Any] = {"similarity": 0.0}


def find_contamination(training: Sequence[Prompt], heldout: Sequence[Prompt]) -> dict[str, Any]:
    """How many held-out prompts were trained on, and each of them with its likest training prompt.

    `{"training_prompts", "equal", "near", "cases": [{"heldout", "training", "similarity"}]}`, ids
    and a share in `cases`; a prompt that is equal to one is not counted as near to another.
    """
    trained = {message_key(prompt): prompt.id for prompt in reversed(training)}
    equal = {i: trained[key] for i, p in enumerate(heldout) if (key := message_key(p)) in trained}
    cases = {i: {"training": id_, "similarity": 1.0} for i, id_ in equal.items()}
    for pair in find_near([prompt_text(prompt) for prompt in (*training, *heldout)]):
        i = pair.second - len(training)
        crosses = pair.first < len(training) <= pair.second
        if crosses and i not in equal and pair.similarity > cases.get(i, _NO_CASE)["similarity"]:
            cases[i] = {"training": training[pair.first].id, "similarity": pair.similarity}
    return {
        "training_prompts": len(training),
        "equal": len(equal),
        "near": len(cases) - len(equal),
        "cases": [{"heldout": heldout[i].id, **cases[i]} for i in sorted(cases)],
    }
