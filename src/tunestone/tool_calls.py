"""Tool calls out of a model's text, in the forms that open models were trained to write them.

    Hermes, Qwen, SmolLM    <tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>
    Qwen Coder              the same around <function=add><parameter=a>1</parameter></function>
    Mistral                 [TOOL_CALLS][{"name": "add", "arguments": {"a": 1}}], add[ARGS]{"a": 1}
    Llama                   <|python_tag|>{"name": "add", "parameters": {"a": 1}}; ...
    gpt-oss                 <|channel|>commentary to=functions.add <|constrain|>json<|message|>{...}
    any                     the whole text is such an object, several or a list of them, or
                            add{"a": 1}: what is left of the others without their special tokens

The last forms have no mark of their own, so they count only when the name is that of a tool that
was offered: an answer in JSON may well have a `name`. What looks like a call but is broken stays
text.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

_BLOCK = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
_FUNCTION = re.compile(r"\s*<function=([^>\s]+)>(.*?)(?:</function>\s*|\Z)", re.DOTALL)
_PARAMETER = re.compile(r"<parameter=([^>\s]+)>\n?(.*?)\n?</parameter>", re.DOTALL)
_MISTRAL = re.compile(r"\[TOOL_CALLS\]\s*")
_MISTRAL_NAMED = re.compile(r"\s*([\w.-]+)\s*(?:\[CALL_ID\]\w*\s*)?\[ARGS\]\s*")
_LLAMA = re.compile(r"<\|python_tag\|>\s*")
_HARMONY = re.compile(
    r"(?:<\|start\|>assistant )?(?:(?:<\|channel\|>)?(?:commentary|analysis) )?"
    r"to=functions\.([\w-]+)"
    r"\s*(?:<\|channel\|>(?:commentary|analysis))?\s*(?:<\|constrain\|>)?(?:json)?\s*"
    r"(?:<\|message\|>)?\s*(?=\{)"
)
_FENCE = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL)
_NAMED = re.compile(r"\s*([\w.-]+)\s*(?=\{)")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not in the standard")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """What a model wants called."""

    name: str
    arguments_json: str
    """The arguments as JSON text, an object unless the model wrote something else."""


def parse_tool_calls(text: str, tools: Sequence[Mapping[str, Any]]) -> tuple[str, list[ToolCall]]:
    """The text without its tool calls, and the calls in the order they stand in.

    `tools` are those that were offered, in the OpenAI shape. Without a call the text comes back as
    it is, else stripped. Never raises: text of a model can be anything.
    """
    for read in (_read_blocks, _read_mistral, _read_llama, _read_harmony):
        rest, calls = read(text)
        if calls:
            return rest.strip(), calls
    calls = _read_bare(text, {str(_function(tool).get("name")) for tool in tools})
    return ("", calls) if calls else (text, [])


def _read_blocks(text: str) -> tuple[str, list[ToolCall]]:
    calls: list[ToolCall] = []

    def take(match: re.Match[str]) -> str:
        found = _read_block(match[1])
        calls.extend(found)
        return "" if found else match[0]

    return _BLOCK.sub(take, text), calls


def _read_block(body: str) -> list[ToolCall]:
    function = _FUNCTION.fullmatch(body)
    if function is None:
        return _to_calls(_decode_all(body))
    arguments = {name: _read_parameter(value) for name, value in _PARAMETER.findall(function[2])}
    return [ToolCall(function[1], _encode(arguments))]


def _read_parameter(value: str) -> Any:
    """JSON where it is some, else the text."""
    known = _decode_all(value)
    return known[0] if len(known) == 1 else value


def _read_mistral(text: str) -> tuple[str, list[ToolCall]]:
    mark = _MISTRAL.search(text)
    if mark is None:
        return text, []
    calls: list[ToolCall] = []
    place = mark.end()
    while named := _MISTRAL_NAMED.match(text, place):
        value, place = _decode(text, named.end())
        if value is None:
            break
        calls.append(ToolCall(named[1], _encode(value)))
        again = _MISTRAL.match(text, place)
        place = again.end() if again else place
    if not calls:
        value, place = _decode(text, mark.end())
        calls = _to_calls(value if isinstance(value, list) else [value])
    return text[: mark.start()] + text[place:], calls


def _read_llama(text: str) -> tuple[str, list[ToolCall]]:
    mark = _LLAMA.search(text)
    if mark is None:
        return text, []
    return text[: mark.start()], _to_calls(_decode_all(text[mark.end() :]))


def _read_harmony(text: str) -> tuple[str, list[ToolCall]]:
    calls: list[ToolCall] = []
    kept, end = "", 0
    for mark in _HARMONY.finditer(text):
        if mark.start() < end:
            continue  # it stands inside the arguments of the call before
        value, place = _decode(text, mark.end())
        if value is not None:
            calls.append(ToolCall(mark[1], _encode(value)))
            kept, end = kept + text[end : mark.start()], place
            end += len("<|call|>") if text.startswith("<|call|>", end) else 0
    return kept + text[end:], calls


def _read_bare(text: str, names: Collection[str]) -> list[ToolCall]:
    named = _NAMED.match(text)
    if named and named[1] in names:
        arguments = _decode_all(text[named.end() :])
        return [ToolCall(named[1], _encode(arguments[0]))] if len(arguments) == 1 else []
    fenced = _FENCE.fullmatch(text.strip())
    values = _decode_all(fenced[1] if fenced else text)
    if len(values) == 1 and isinstance(values[0], list):
        values = values[0]
    calls = _to_calls(values)
    return calls if all(call.name in names for call in calls) else []


def _to_calls(values: Sequence[Any]) -> list[ToolCall]:
    """The calls, or none at all when one of the values is no call."""
    calls = [_to_call(value) for value in values]
    return [call for call in calls if call] if all(calls) else []


def _to_call(value: Any) -> ToolCall | None:
    if not isinstance(value, dict):
        return None
    call = _function(value)
    name = call.get("name")
    if not isinstance(name, str) or not name:
        return None
    arguments = next((call[key] for key in ("arguments", "parameters") if key in call), None)
    if arguments is None:
        return ToolCall(name, "{}") if set(call) <= {"name", "arguments", "parameters"} else None
    return ToolCall(name, arguments if isinstance(arguments, str) else _encode(arguments))


def _function(call: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is under `function`, in the shape that OpenAI's chat has; else the whole."""
    inner = call.get("function")
    return inner if isinstance(inner, Mapping) else call


def _decode_all(text: str) -> list[Any]:
    """The JSON values that fill the text, apart by spaces, commas or semicolons; else none."""
    values, place = [], _skip(text, 0)
    while place < len(text):
        value, place = _decode(text, place)
        if value is None:
            return []
        values.append(value)
        place = _skip(text, place)
    return values


def _skip(text: str, place: int) -> int:
    while place < len(text) and text[place] in " \t\r\n,;":
        place += 1
    return place


def _decode(text: str, place: int) -> tuple[Any, int]:
    """The JSON value that begins here and where it ends; None for none (and for null)."""
    try:
        return _DECODER.raw_decode(text, place)
    except (ValueError, RecursionError):
        return None, place


def _encode(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
