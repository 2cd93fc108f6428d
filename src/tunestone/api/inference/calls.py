"""Tool calls: held back from a text that is being written, and enforced where they must come."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tunestone.tool_calls import ToolCall, parse_tool_calls

_MARKS = (
    "<tool_call>",
    "[TOOL_CALLS]",
    "<|python_tag|>",
    "<|channel|>commentary to=",
    "<|channel|>analysis to=",
)
_BARE = ("{", "[", "`")
"""With what a call without a mark begins: JSON, or a fence around it."""
_MOST_CALLS = 8
"""How many calls at once an enforced answer may have."""


class CallGate:
    """Lets text pass until a tool call may have begun; from there on it waits for the end."""

    def __init__(self, tools: Sequence[Mapping[str, Any]]) -> None:
        """`tools` are those that were offered, in the OpenAI shape."""
        self._tools = tools
        self._shown = False
        self._held = ""

    def feed(self, text: str) -> str:
        """What surely is no part of a call."""
        self._held += text
        if not self._shown and self._held.lstrip()[:1] in ("", *_BARE):
            return ""
        place = _call_place(self._held)
        passed, self._held = self._held[:place], self._held[place:]
        self._shown = self._shown or bool(passed)
        return passed

    def finish(self) -> tuple[str, list[ToolCall]]:
        """The rest of the text, and the calls in it."""
        rest, calls = parse_tool_calls(self._held, self._tools)
        self._held = ""
        return (rest if rest.strip() or not calls else ""), calls


def _call_place(text: str) -> int:
    """Where a mark stands or may have begun."""
    for place, letter in enumerate(text):
        if letter in "<[" and any(
            text.startswith(mark, place) or mark.startswith(text[place:]) for mark in _MARKS
        ):
            return place
    return len(text)


def call_grammar(
    tools: Sequence[Mapping[str, Any]],
    *,
    name: str = "",
    several: bool = False,
    answer: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A grammar that lets the model write nothing but calls of these tools.

    The calls have the form that most open models know, `<tool_call>` around a JSON object. `name`
    leaves one tool only; `several` allows more than one call; `answer` is the JSON schema of what
    may come instead of calls.
    """
    functions = [tool["function"] for tool in tools]
    chosen = [function for function in functions if name in ("", function["name"])]
    more = f'("\\n" call){{0,{_MOST_CALLS - 1}}}' if several else ""
    other = " | answer" if answer is not None else ""
    lines = [
        f"start: call {more}{other}",
        "call: " + " | ".join(f"call{i}" for i in range(len(chosen))),
    ]
    for i, function in enumerate(chosen):
        opening = f'<tool_call>\n{{"name": {json.dumps(function["name"])}, "arguments": '
        lines.append(f'call{i}: {json.dumps(opening)} arguments{i} "}}\\n</tool_call>"')
        # A rule of its own for each schema: what it refers to is found from its own root.
        schema = function.get("parameters") or {"type": "object"}
        lines.append(f"arguments{i}: %json {json.dumps(schema)}")
    if answer is not None:
        lines.append(f"answer: %json {json.dumps(answer)}")
    return {"type": "lark", "lark": "\n".join(lines) + "\n"}
