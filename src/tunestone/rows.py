"""One row of a data file: JSON text -> object -> `Prompt`, with complaints that name its place."""

import difflib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from tunestone.errors import DataError
from tunestone.types import Prompt

ROLES = ("system", "developer", "user", "assistant", "tool")
RESERVED_KEYS = frozenset({"messages", "tools", "id"})
"""The keys of a row that Tunestone reads itself; every other key is the reward's."""

_ROLE_ALIASES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}
_JSON_NAMES = {
    type(None): "null",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a data file we are; every complaint about a row is made through it."""

    path: str
    line: int

    def error(self, message: str, *, remedy: str) -> DataError:
        """A complaint about this place."""
        return DataError(message, path=self.path, line=self.line, remedy=remedy)


def parse_object(text: str, place: Place, *, first: bool) -> dict[str, Any]:
    """The JSON object of a line; `first`: no row came before it. Raises DataError."""
    one_per_line = "Write one whole JSON object per line."
    if first and text.lstrip().startswith("["):
        raise place.error(
            "the file holds a JSON array, not JSONL.",
            remedy="Write one object per line, without the array's brackets and commas.",
        )
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=finite)
    except json.JSONDecodeError as error:
        raise place.error(
            f"invalid JSON at column {error.colno}: {error.msg}.", remedy=one_per_line
        ) from error
    except (ValueError, RecursionError) as error:
        raise place.error(f"invalid JSON: {error}.", remedy=one_per_line) from error
    if not isinstance(value, dict):
        raise place.error(f"the row is {_kind(value)}, not an object.", remedy=one_per_line)
    if "\\ud" in text.lower():
        _check_surrogates(value, place)
    return value


def finite(text: str) -> float:
    """For `json.loads`: a number that can be written as JSON again; 1e999, infinite, cannot.

    Raises ValueError.
    """
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is too large for a number")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number; write null or a string")


def _check_surrogates(row: dict[str, Any], place: Place) -> None:
    """Half a surrogate pair parses as JSON, then breaks every tokenizer and every later write."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise place.error(
            "a \\ud8xx escape without its second half is not a character.",
            remedy="Write the character itself, or both halves of the pair.",
        ) from error


def parse_prompt(row: dict[str, Any], place: Place) -> Prompt:
    """The prompt of a row, every field checked. Raises DataError."""
    return Prompt(
        id=_parse_id(row.get("id"), place),
        messages=_parse_messages(row, place),
        row={key: value for key, value in row.items() if key not in RESERVED_KEYS},
        tools=_parse_tools(row.get("tools"), place),
        source=f"{place.path}:{place.line}",
    )


def parse_completions(row: dict[str, Any], place: Place) -> tuple[dict[str, Any], list[str]]:
    """The row without its completions, and these. Raises DataError when there are none."""
    row = dict(row)
    found = row.pop("completions", None)
    if "completion" in row:
        found = [row.pop("completion")]
    messages = row.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    if found is None and isinstance(last, dict) and last.get("role") == "assistant":
        row["messages"], found = row["messages"][:-1], [last.get("content")]
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found) or not found:
        raise place.error(
            "the row holds no completion to grade.",
            remedy='Add "completion": "..." or "completions": ["...", ...], or end `messages` '
            "with the assistant's turn.",
        )
    return row, found


def _parse_id(value: Any, place: Place) -> str:
    if value is None:
        return f"row-{place.line}"
    if isinstance(value, str) and value:
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    got = "empty" if value == "" else _kind(value)
    raise place.error(
        f"`id` is {got}.", remedy="Use a string or a number, or leave `id` out of all rows."
    )


def _parse_messages(row: dict[str, Any], place: Place) -> tuple[dict[str, Any], ...]:
    if "messages" not in row:
        raise place.error(
            "`messages` is missing.",
            remedy=_rename(row) or 'Add "messages": [{"role": "user", "content": "..."}].',
        )
    turns = row["messages"]
    if not isinstance(turns, list):
        raise place.error(
            f"`messages` is {_kind(turns)}, not a list.", remedy="Make it a list of turns."
        )
    if not turns:
        raise place.error("`messages` is empty.", remedy="Add at least one user turn.")
    messages = tuple(_parse_turn(turn, f"messages[{i}]", place) for i, turn in enumerate(turns))
    _check_order([message["role"] for message in messages], place)
    return messages


def _check_order(roles: list[str], place: Place) -> None:
    if "system" in roles[1:]:
        raise place.error(
            f"`messages[{roles.index('system', 1)}]` is a system turn, which may only come first.",
            remedy="Move its text into the first turn.",
        )
    if "user" not in roles:
        raise place.error(
            "`messages` has no user turn.",
            remedy='Add {"role": "user", "content": "..."} with what is asked.',
        )
    if roles[-1] == "assistant":
        raise place.error(
            "the last message is an assistant turn, but the assistant's answer is what is trained.",
            remedy="Put the answer into `reference_answer`; "
            "the prompt must end with the user's turn.",
        )


def _parse_turn(turn: Any, field: str, place: Place) -> dict[str, Any]:
    if not isinstance(turn, dict):
        raise place.error(
            f"`{field}` is {_kind(turn)}, not an object.",
            remedy='Write {"role": "user", "content": "..."}.',
        )
    role = _parse_role(turn.get("role"), field, place)
    if role == "assistant" and turn.get("tool_calls") is not None:
        _check_tool_calls(turn["tool_calls"], f"{field}.tool_calls", place)
        if turn.get("content") is None:
            return {**turn, "content": None}
    text = _parse_content(turn.get("content"), f"{field}.content", place)
    if role == "user" and not text.strip():
        raise place.error(f"`{field}.content` is blank.", remedy="Write what the user asks.")
    return {**turn, "content": text}


def _parse_role(role: Any, field: str, place: Place) -> str:
    if role is None:
        raise place.error(f"`{field}.role` is missing.", remedy=f"Use one of {', '.join(ROLES)}.")
    if not isinstance(role, str) or role not in ROLES:
        nearest = f" Did you mean `{_ROLE_ALIASES[role]}`?" if role in _ROLE_ALIASES else ""
        raise place.error(
            f"`{field}.role` is {json.dumps(role)}, which is not a known role.",
            remedy=f"Use one of {', '.join(ROLES)}." + (nearest or did_you_mean(role, ROLES)),
        )
    return role


def _parse_content(content: Any, field: str, place: Place) -> str:
    if content is None or content == []:
        raise place.error(f"`{field}` is missing.", remedy="Give the text of the turn.")
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise place.error(
            f"`{field}` is {_kind(content)}.",
            remedy='Use a string or a list of {"type": "text", "text": "..."} blocks.',
        )
    return "\n".join(_parse_block(block, f"{field}[{i}]", place) for i, block in enumerate(content))


def _parse_block(block: Any, field: str, place: Place) -> str:
    shape = 'Write the block as {"type": "text", "text": "..."}.'
    if not isinstance(block, dict) or "type" not in block:
        raise place.error(f"`{field}` is not a text block.", remedy=shape)
    if block["type"] != "text":
        raise place.error(
            f"`{field}` has type {json.dumps(block['type'])}, but prompts are text only.",
            remedy="Remove the block or describe it in words.",
        )
    if not isinstance(block.get("text"), str):
        raise place.error(
            f"`{field}.text` is {_kind(block.get('text'))}, not a string.", remedy=shape
        )
    return str(block["text"])


def _check_tool_calls(calls: Any, field: str, place: Place) -> None:
    shape = 'Write [{"type": "function", "function": {"name": "...", "arguments": "..."}}].'
    if not isinstance(calls, list) or not calls:
        raise place.error(f"`{field}` is not a list of calls.", remedy=shape)
    for i, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not _is_name(function.get("name")):
            raise place.error(f"`{field}[{i}].function.name` is missing.", remedy=shape)


def _parse_tools(tools: Any, place: Place) -> tuple[dict[str, Any], ...]:
    if tools is None:
        return ()
    if not isinstance(tools, list):
        raise place.error(
            f"`tools` is {_kind(tools)}, not a list.", remedy="Make it a list of tools."
        )
    for i, tool in enumerate(tools):
        _check_tool(tool, f"tools[{i}]", place)
    return tuple(tools)


def _check_tool(tool: Any, field: str, place: Place) -> None:
    shape = (
        'Write {"type": "function", "function": {"name": "...", "description": "...", '
        '"parameters": {JSON schema}}}.'
    )
    if not isinstance(tool, dict) or tool.get("type") != "function":
        raise place.error(f'`{field}.type` is not "function".', remedy=shape)
    function = tool.get("function")
    if not isinstance(function, dict) or not _is_name(function.get("name")):
        raise place.error(f"`{field}.function.name` is missing.", remedy=shape)
    for key, kind in (("description", str), ("parameters", dict)):
        value = function.get(key)
        if value is not None and not isinstance(value, kind):
            raise place.error(
                f"`{field}.function.{key}` is {_kind(value)}, not {_JSON_NAMES[kind]}.",
                remedy=shape,
            )


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def encode_row(row: Mapping[str, Any], place: Place) -> bytes:
    """A row as a line of a data file. Raises DataError when it is not JSON."""
    try:
        return json.dumps(dict(row), ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except (TypeError, ValueError) as error:
        raise place.error(
            f"the row cannot be written as JSON: {error}.",
            remedy="Use strings, finite numbers, booleans, null, lists and objects only.",
        ) from error


def message_key(prompt: Prompt) -> str:
    """Equal for prompts with equal messages, whatever the order of their keys."""
    return json.dumps([dict(message) for message in prompt.messages], sort_keys=True)


def _rename(row: dict[str, Any]) -> str:
    nearest = difflib.get_close_matches("messages", row, n=1)
    return f"Rename `{nearest[0]}` to `messages`." if nearest else ""


def _kind(value: Any) -> str:
    return _JSON_NAMES[type(value)]


def did_you_mean(word: Any, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` with the nearest known word, or nothing."""
    nearest = difflib.get_close_matches(str(word), list(known), n=1)
    return f" Did you mean `{nearest[0]}`?" if nearest else ""
