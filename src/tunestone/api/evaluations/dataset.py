"""The rows of an evaluation: Bedrock's `{"prompt", "referenceResponse", "category"}`, or our own.

Answers that exist already may stand in a row of Bedrock's form:
`"modelResponses": [{"response": "...", "modelIdentifier": "..."}]`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunestone.errors import DataError
from tunestone.rows import Place, parse_object, parse_prompt
from tunestone.types import Prompt

_TEXT_KEYS = ("text", "answer", "final_answer", "ground_truth", "value", "response")
"""Where a reference answer that is an object keeps its text, in this order."""


@dataclass(frozen=True, slots=True)
class Item:
    """One prompt to answer."""

    prompt: Prompt
    reference: str | None
    """Text of the right answer, where there is one."""
    record: Mapping[str, Any]
    """The row as it came."""
    given: Mapping[str, str]
    """Model -> its answer, of those that stand in the row."""


def read_items(path: Path, name: str) -> list[Item]:
    """All rows of a JSONL file. `name` is what complaints call it. Raises DataError."""
    items: list[Item] = []
    with path.open(encoding="utf-8") as lines:
        for number, text in enumerate(lines, 1):
            if text.strip():
                items.append(_read_item(text, Place(name, number), first=not items))
    if not items:
        raise DataError("The dataset holds no rows.", path=name)
    return items


def _read_item(text: str, place: Place, *, first: bool) -> Item:
    record = parse_object(text, place, first=first)
    row = record
    if "prompt" in record and "messages" not in record:
        if not isinstance(record["prompt"], str):
            raise place.error("`prompt` is no text.", remedy='Write {"prompt": "..."}.')
        row = {key: value for key, value in record.items() if key != "prompt"}
        row["messages"] = [{"role": "user", "content": record["prompt"]}]
        if "referenceResponse" in record:
            row.setdefault("reference_answer", record["referenceResponse"])
    given = _read_given(record.get("modelResponses", []), place)
    prompt = parse_prompt(row, place)
    return Item(prompt, _text_of(row.get("reference_answer")), record, given)


def _read_given(responses: Any, place: Place) -> dict[str, str]:
    try:
        return {str(one["modelIdentifier"]): str(one["response"]) for one in responses}
    except (TypeError, KeyError):
        raise place.error(
            "`modelResponses` is no list of answers.",
            remedy='Write [{"response": "...", "modelIdentifier": "..."}].',
        ) from None


def _text_of(reference: Any) -> str | None:
    if isinstance(reference, Mapping):
        inner = [reference[key] for key in _TEXT_KEYS if key in reference]
        values = inner or (list(reference.values()) if len(reference) == 1 else [])
        return _text_of(values[0]) if values else None
    return None if reference is None or isinstance(reference, list) else str(reference)
