"""Chat turns as models' templates expect them, for training and for answering alike.

What is trained and what is asked later must be the same tokens, so both go through here.
"""

import json
from collections.abc import Mapping
from typing import Any

from tunestone.errors import RequestError


def plain_turn(message: Mapping[str, Any]) -> dict[str, Any]:
    """A turn with content that is one string, and arguments of tool calls that are a mapping.

    Few templates know OpenAI's role `developer`; it is `system` to them. Raises RequestError for a
    turn without a role, or with content that is not text.
    """
    turn = dict(message)
    if not isinstance(turn.get("role"), str):
        raise RequestError("A message has no role.")
    if turn["role"] == "developer":
        turn["role"] = "system"
    content = turn.get("content")
    turn["content"] = "" if content is None else plain_content(content)
    if turn.get("tool_calls"):
        turn["tool_calls"] = [_plain_call(call) for call in turn["tool_calls"]]
    return turn


def plain_content(content: Any) -> str:
    """Content as one string. Raises RequestError for a part that is not text."""
    if isinstance(content, str):
        return content
    texts = []
    for part in content:
        kind = part.get("type", "text") if isinstance(part, Mapping) else type(part).__name__
        if kind not in {"text", "input_text", "output_text"} or not isinstance(part["text"], str):
            raise RequestError(f"A message holds '{kind}'; only text can be read here.")
        texts.append(part["text"])
    return "".join(texts)


def _plain_call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = dict(call.get("function") or {})
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            function["arguments"] = json.loads(arguments) if arguments.strip() else {}
        except json.JSONDecodeError:
            function["arguments"] = arguments  # what the model wrote was no JSON; show it as it was
    return {**call, "function": function}
