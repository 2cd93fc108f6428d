"""reasoning-gym's own scorers, one per dataset, some of which give partial credit.

A row holds the entry as reasoning-gym made it, under `reasoning_gym`, or its keys `question`,
`answer` and `metadata` beside the messages. Several scorers call `eval` on what the model wrote, so
all of them run in the sandbox.
"""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, Literal, final

from pydantic import Field

from tunestone.rewards.ready.extraction import UnusableReferenceError
from tunestone.rewards.ready.scoring import SandboxedGrader, open_sandboxed, require_package
from tunestone.rewards.spec import Context, Spec
from tunestone.types import Sample


@final
class ReasoningGym(Spec):
    """What reasoning-gym's scorer gives, mostly 0..1; sub-score `formatted`."""

    type: Literal["reasoning_gym"] = "reasoning_gym"
    dataset: str = ""
    """Name of the dataset, such as `leg_counting`; empty takes the row's
    `metadata.source_dataset`."""
    style: Literal["answer_tag", "whole"] = "answer_tag"
    """Where the answer stands: in the last `<answer>` tag, as reasoning-gym's prompts ask for it,
    or in the whole completion."""
    timeout_seconds: float = Field(default=10.0, gt=0)
    """Wall time one answer may take."""

    def open(self, context: Context, stack: ExitStack) -> SandboxedGrader:
        """The grader; its workers end with the stack.

        Raises RewardError without reasoning-gym, or when it has no such dataset.
        """
        require_package("reasoning_gym", package="reasoning-gym", extra="recipes")
        return open_sandboxed(
            {
                "scorer": "reasoning_gym",
                "options": {"dataset": self.dataset, "style": self.style},
            },
            self._arguments,
            seconds=self.timeout_seconds,
            context=context,
            stack=stack,
        )

    def _arguments(self, sample: Sample) -> Mapping[str, Any]:
        entry = read_entry(sample.prompt.row)
        if not self.dataset and not entry["metadata"].get("source_dataset"):
            raise UnusableReferenceError(
                "the row has no metadata.source_dataset, and the reward names no dataset."
            )
        return {"entry": entry}


def read_entry(row: Mapping[str, Any]) -> dict[str, Any]:
    """reasoning-gym's entry in a row, also where it was stored as a JSON text.

    Raises UnusableReferenceError when a key is missing.
    """
    entry = _parse(row.get("reasoning_gym", row), "reasoning_gym")
    missing = [key for key in ("answer", "metadata") if key not in entry]
    if missing:
        raise UnusableReferenceError(
            f"the row has no reasoning-gym entry: {' and '.join(missing)} missing; write the entry "
            "under the key reasoning_gym."
        )
    metadata = _parse(entry["metadata"], "metadata")
    return {
        "question": entry.get("question", ""),
        "answer": entry["answer"],
        "metadata": metadata,
    }


def _parse(value: Any, name: str) -> Mapping[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise UnusableReferenceError(f"{name} of the row is a text but not JSON.") from None
    if not isinstance(value, Mapping):
        raise UnusableReferenceError(f"{name} of the row is not an object.")
    return value
