"""Data files: one JSON object per line -> `Prompt`, and rows -> a data file.

Two shapes are read, and a file may mix them, because one is a subset of the other: Amazon
Bedrock's (`messages`, `reference_answer`, `id`, `tools`, any other key) and OpenAI's (`messages`,
`tools`, any other key). Whatever is not `messages`, `tools` or `id` belongs to the reward and is
passed on untouched. The whole file is checked before anything is trained: the first fault stops
the load with a `DataError` that names file, line and remedy, since a row dropped in silence is a
row nobody misses until the numbers are wrong.

Left out on purpose: images and audio (the models here read text), a smallest and a largest number
of rows (the services set limits, a laptop does not), and row schemas beyond the prompt (what
`reference_answer` must look like is the reward's business).
"""

import difflib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BufferedReader
from os import fsync, getpid
from pathlib import Path
from typing import Any, NoReturn

from tunestone.errors import DataError, StorageError
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
class _Place:
    """Where in a data file we are; every complaint about a row is made through it."""

    path: str
    line: int

    def error(self, message: str, *, remedy: str) -> DataError:
        return DataError(message, path=self.path, line=self.line, remedy=remedy)


def load_prompts(path: Path) -> list[Prompt]:
    """Read a JSONL file of Bedrock's or OpenAI's shape, in file order.

    Content given as text blocks becomes one string, blocks joined by a line break. A row without
    `id` (or with `null`) is called `row-<line number>`; a number is taken as its string. Blank
    lines are skipped but counted, a byte order mark is accepted.

    Raises DataError, with `path` and 1-based `line`, at the first unusable row.
    """
    prompts: list[Prompt] = []
    line_of_id: dict[str, int] = {}
    for line, text in _read_lines(path):
        place = _Place(str(path), line)
        prompt = _parse_prompt(_parse_object(text, place, first=not prompts), place)
        if prompt.id in line_of_id:
            raise place.error(
                f"the id {prompt.id!r} is already used on line {line_of_id[prompt.id]}.",
                remedy="Give each row its own `id`, or leave `id` out of all rows.",
            )
        line_of_id[prompt.id] = line
        prompts.append(prompt)
    if not prompts:
        raise DataError(
            "the file is empty.",
            path=str(path),
            remedy='Write one JSON object per line, each with a "messages" list.',
        )
    return prompts


def find_overlap(train: Sequence[Prompt], heldout: Sequence[Prompt]) -> list[tuple[str, str]]:
    """Pairs (train id, held-out id) whose messages are equal: a leak into the evaluation.

    All such pairs, in held-out order, then train order. Equal means the same turns with the same
    keys and texts; the order of keys, `tools`, ids and reference answers do not matter.
    """
    train_ids: dict[str, list[str]] = {}
    for prompt in train:
        train_ids.setdefault(_message_key(prompt), []).append(prompt.id)
    return [
        (train_id, prompt.id)
        for prompt in heldout
        for train_id in train_ids.get(_message_key(prompt), ())
    ]


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as JSONL, whole or not at all (temporary file beside it, then a rename).

    Raises DataError with the 1-based line when a row is not JSON (NaN and infinity are not), and
    StorageError when the file cannot be written; a file that was there before is then unharmed.
    """
    temporary = path.with_name(f".{path.name}.{getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            for line, row in enumerate(rows, start=1):
                file.write(_encode_row(row, _Place(str(path), line)))
            file.flush()
            fsync(file.fileno())  # the rename must not reach the disk before the bytes do
        temporary.replace(path)
    except OSError as error:
        raise StorageError(
            f"{path}: the file cannot be written: {error.strerror}.",
            remedy="Check that the folder exists, may be written to, and has room.",
        ) from error
    finally:
        if temporary.exists():
            temporary.unlink()


def fingerprint(path: Path) -> str:
    """SHA-256 of the file in hexadecimal, read in blocks. Raises DataError if unreadable."""
    with _open(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open(path: Path) -> BufferedReader:
    try:
        return path.open("rb")
    except FileNotFoundError as error:
        names = [other.name for other in path.parent.glob("*") if other.is_file()]
        raise DataError(
            "the file does not exist.",
            path=str(path),
            remedy="Check the path." + _did_you_mean(path.name, names),
        ) from error
    except IsADirectoryError as error:
        raise DataError(
            "this is a folder, not a file.", path=str(path), remedy="Name one JSONL file in it."
        ) from error
    except OSError as error:
        raise DataError(
            f"the file cannot be read: {error.strerror}.",
            path=str(path),
            remedy="Check the path and who may read it.",
        ) from error


def _read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(1-based line number, text) of every line that is not blank."""
    with _open(path) as file:
        for line, raw in enumerate(file, start=1):
            try:
                text = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise _Place(str(path), line).error(
                    f"byte 0x{raw[error.start]:02x} at offset {error.start} of the line "
                    "is not valid UTF-8.",
                    remedy="Save the file as UTF-8.",
                ) from error
            if line == 1:
                text = text.removeprefix("\ufeff")
            if text.strip():
                yield line, text


def _parse_object(text: str, place: _Place, *, first: bool) -> dict[str, Any]:
    one_per_line = "Write one whole JSON object per line."
    if first and text.lstrip().startswith("["):
        raise place.error(
            "the file holds a JSON array, not JSONL.",
            remedy="Write one object per line, without the array's brackets and commas.",
        )
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
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


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number; write null or a string")


def _check_surrogates(row: dict[str, Any], place: _Place) -> None:
    """Half a surrogate pair parses as JSON, then breaks every tokenizer and every later write."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise place.error(
            "a \\ud8xx escape without its second half is not a character.",
            remedy="Write the character itself, or both halves of the pair.",
        ) from error


def _parse_prompt(row: dict[str, Any], place: _Place) -> Prompt:
    return Prompt(
        id=_parse_id(row.get("id"), place),
        messages=_parse_messages(row, place),
        row={key: value for key, value in row.items() if key not in RESERVED_KEYS},
        tools=_parse_tools(row.get("tools"), place),
        source=f"{place.path}:{place.line}",
    )


def _parse_id(value: Any, place: _Place) -> str:
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


def _parse_messages(row: dict[str, Any], place: _Place) -> tuple[dict[str, Any], ...]:
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


def _check_order(roles: list[str], place: _Place) -> None:
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


def _parse_turn(turn: Any, field: str, place: _Place) -> dict[str, Any]:
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


def _parse_role(role: Any, field: str, place: _Place) -> str:
    if role is None:
        raise place.error(f"`{field}.role` is missing.", remedy=f"Use one of {', '.join(ROLES)}.")
    if not isinstance(role, str) or role not in ROLES:
        nearest = f" Did you mean `{_ROLE_ALIASES[role]}`?" if role in _ROLE_ALIASES else ""
        raise place.error(
            f"`{field}.role` is {json.dumps(role)}, which is not a known role.",
            remedy=f"Use one of {', '.join(ROLES)}." + (nearest or _did_you_mean(role, ROLES)),
        )
    return role


def _parse_content(content: Any, field: str, place: _Place) -> str:
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


def _parse_block(block: Any, field: str, place: _Place) -> str:
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


def _check_tool_calls(calls: Any, field: str, place: _Place) -> None:
    shape = 'Write [{"type": "function", "function": {"name": "...", "arguments": "..."}}].'
    if not isinstance(calls, list) or not calls:
        raise place.error(f"`{field}` is not a list of calls.", remedy=shape)
    for i, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not _is_name(function.get("name")):
            raise place.error(f"`{field}[{i}].function.name` is missing.", remedy=shape)


def _parse_tools(tools: Any, place: _Place) -> tuple[dict[str, Any], ...]:
    if tools is None:
        return ()
    if not isinstance(tools, list):
        raise place.error(
            f"`tools` is {_kind(tools)}, not a list.", remedy="Make it a list of tools."
        )
    for i, tool in enumerate(tools):
        _check_tool(tool, f"tools[{i}]", place)
    return tuple(tools)


def _check_tool(tool: Any, field: str, place: _Place) -> None:
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


def _encode_row(row: Mapping[str, Any], place: _Place) -> bytes:
    try:
        return json.dumps(dict(row), ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except (TypeError, ValueError) as error:
        raise place.error(
            f"the row cannot be written as JSON: {error}.",
            remedy="Use strings, finite numbers, booleans, null, lists and objects only.",
        ) from error


def _message_key(prompt: Prompt) -> str:
    return json.dumps([dict(message) for message in prompt.messages], sort_keys=True)


def _rename(row: dict[str, Any]) -> str:
    nearest = difflib.get_close_matches("messages", row, n=1)
    return f"Rename `{nearest[0]}` to `messages`." if nearest else ""


def _kind(value: Any) -> str:
    return _JSON_NAMES[type(value)]


def _did_you_mean(word: Any, known: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(str(word), list(known), n=1)
    return f" Did you mean `{nearest[0]}`?" if nearest else ""
