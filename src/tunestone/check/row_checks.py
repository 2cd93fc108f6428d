"""What the rows hold besides their prompts: reference answers, their balance, markers, tools.

The bounds on balance (70 %) and on prompts without a marker (5 %) are ours.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tunestone.check.answers import is_empty, value_of
from tunestone.check.findings import EVIDENCE, Finding, Json, counted, excerpt, percent
from tunestone.check.markers import asks_for, find_markers
from tunestone.duplicates import prompt_text
from tunestone.types import Prompt

_FEW_VALUES, _ROWS_PER_VALUE, _UNBALANCED = 10, 5, 0.7
_MARKER_SHARE = 0.05  # prompts without the marker, above which it is no oversight of a few rows


def check_answers(training: Sequence[Prompt]) -> Iterator[Finding]:
    """Missing, empty, and of different kinds."""
    present = [prompt for prompt in training if prompt.row.get("reference_answer") is not None]
    if not present:
        yield Finding(
            "advice",
            "no_reference_answers",
            "No row has a `reference_answer`.",
            "Fine when the reward needs none; else add it to every row.",
        )
        return
    empty = [prompt for prompt in present if is_empty(prompt.row["reference_answer"])]
    missing = [prompt for prompt in training if prompt.row.get("reference_answer") is None]
    for rows, code, what in (
        (missing, "missing_reference_answers", "no `reference_answer`, the others do"),
        (empty, "empty_reference_answers", "an empty `reference_answer`"),
    ):
        if rows:
            yield Finding(
                "warning",
                code,
                f"{len(rows)} of {counted(len(training), 'row')} "
                f"{'has' if len(rows) == 1 else 'have'} {what}.",
                "Fill them in or remove the rows: no answer to them can be right.",
                tuple({"id": row.id, "where": row.source} for row in rows[:EVIDENCE]),
            )
    kinds = _group_by_shape(present)
    if len(kinds) > 1:
        shown = ", ".join(f"{shape} ({len(rows)} of {len(present)})" for shape, rows in kinds[:4])
        yield Finding(
            "warning",
            "mixed_reference_answers",
            f"Reference answers have {len(kinds)} shapes: {shown}.",
            "Give all rows the same type and keys, or be sure that the reward reads each shape.",
            tuple({"shape": shape, "id": rows[0].id} for shape, rows in kinds[:EVIDENCE]),
        )
    if not empty and not missing and len(kinds) == 1:
        yield Finding(
            "ok", "reference_answers", f"Every row has a reference answer, {kinds[0][0]}."
        )


def _group_by_shape(prompts: Sequence[Prompt]) -> list[tuple[str, list[Prompt]]]:
    """(shape, rows of it), the most frequent first. The shape of an object is its keys."""
    groups: dict[str, list[Prompt]] = defaultdict(list)
    for prompt in prompts:
        groups[_shape(prompt.row["reference_answer"])].append(prompt)
    return sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))


def _shape(value: Any) -> str:
    if isinstance(value, Mapping):
        return "an object with " + ", ".join(sorted(value))
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string"}
    return names.get(type(value), "a list")


def check_balance(training: Sequence[Prompt]) -> Iterator[Finding]:
    """For answers of few values, labels: does one of them nearly always hit?"""
    answers = [prompt.row.get("reference_answer") for prompt in training]
    values = Counter(value_of(answer) for answer in answers if not is_empty(answer))
    total = sum(values.values())
    if not 1 <= len(values) <= _FEW_VALUES or total < _ROWS_PER_VALUE * max(2, len(values)):
        return
    (top, count), *_ = values.most_common(1)
    shown = ", ".join(f"{excerpt(v)!r} {percent(n / total)}" for v, n in values.most_common(5))
    if count > _UNBALANCED * total:
        yield Finding(
            "warning",
            "unbalanced_answers",
            f"The answer is nearly always the same: {shown}. Answering {excerpt(top)!r} to "
            f"everything is right for {percent(count / total)} of the rows.",
            "Add rows with the other answers, or the model will learn to guess.",
        )
    else:
        yield Finding("ok", "balanced_answers", f"{len(values)} different answers: {shown}.")


def check_markers(training: Sequence[Prompt], reward_source: str) -> Iterator[Finding]:
    """Whether prompts ask for what the reward looks for; nothing when that is unknown."""
    markers = find_markers(reward_source) if reward_source else []
    if not markers:
        return
    names = " or ".join(f"`{marker.name}`" for marker in markers)
    silent = [prompt for prompt in training if not asks_for(prompt_text(prompt), markers)]
    share = 1 - len(silent) / len(training)
    if share < 1 - _MARKER_SHARE:
        yield Finding(
            "warning",
            "marker_not_asked_for",
            f"The reward looks for {names}, but {percent(1 - share)} of the prompts never mention "
            "it.",
            "Say in the prompt how the answer must be written, best with an example.",
            tuple({"id": p.id, "prompt": excerpt(prompt_text(p))} for p in silent[:EVIDENCE]),
        )
    else:
        yield Finding(
            "ok",
            "marker_asked_for",
            f"The reward looks for {names}, and {percent(share)} of the prompts ask for it.",
        )


def check_tools(training: Sequence[Prompt]) -> Iterator[Finding]:
    """Whether all rows have the same tools, each fully described."""
    with_tools = [prompt for prompt in training if prompt.tools]
    if not with_tools:
        return
    versions: dict[str, dict[str, Prompt]] = defaultdict(dict)
    bare = set()
    for prompt in with_tools:
        for tool in prompt.tools:
            name = tool["function"]["name"]
            versions[name].setdefault(key_of(tool), prompt)
            if not tool["function"].get("description") or "parameters" not in tool["function"]:
                bare.add(name)
    torn = {name: list(rows.values()) for name, rows in versions.items() if len(rows) > 1}
    faults = [
        *(
            [f"{len(with_tools)} of {len(training)} rows"]
            if len(with_tools) < len(training)
            else []
        ),
        *(f"`{name}` is defined in {len(rows)} ways" for name, rows in torn.items()),
        *(f"`{name}` lacks a description or parameters" for name in sorted(bare)),
    ]
    if not faults:
        yield Finding("ok", "tools", f"All rows have tools, {len(versions)} in all, defined once.")
        return
    yield Finding(
        "warning" if torn or bare else "advice",
        "inconsistent_tools",
        f"Tools are not the same in all rows: {'; '.join(faults[:5])}.",
        "Define each tool once, with description and parameters, and give it to every row.",
        tuple({"tool": name, **ids_of(rows)} for name, rows in list(torn.items())[:EVIDENCE]),
    )


def ids_of(rows: Sequence[Prompt]) -> dict[str, Json]:
    """The ids of a few rows, as evidence."""
    return {"ids": [row.id for row in rows[: 2 * EVIDENCE]]}


def key_of(value: Any) -> str:
    """JSON that is equal for equal values."""
    return json.dumps(value, sort_keys=True)
