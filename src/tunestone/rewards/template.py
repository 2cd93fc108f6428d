"""Templates of OpenAI's graders: `{{ item.reference_answer }}`, `{{ sample.output_text }}`.

An expression is a namespace, `item` (the data row) or `sample` (what the model answered), and at
least one step: `.name`, `["any key"]` or `[0]`, and so on into nested values, as in
`{{sample.output_tools[0].function.name}}`. Text around expressions stays as it is, `}}` in it too.
A template is parsed once, by one regular expression; there are no filters, conditions or calls,
and nothing is ever evaluated.

Broken syntax and unknown namespaces are refused when a template is parsed. Whether a variable
exists shows only with a row and an answer at hand: then a `VariableError` carries the flag that the
grade gets. This module stays free of pydantic, for workers of the sandbox import it.

Left out of OpenAI's namespaces: `sample.output_audio`; our models do not speak.
"""

import difflib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn, Self, final

from tunestone.errors import RewardError
from tunestone.tool_calls import parse_tool_calls
from tunestone.types import GradeFlag, Sample

NAMESPACES = ("item", "sample")

_STEP = re.compile(r"""\.[\w-]+|\[-?[0-9]{1,9}\]|\["[^"]*"\]|\['[^']*'\]""")
_EXPRESSION = re.compile(rf"""\{{\{{\s*(?P<namespace>\w+)(?P<path>(?:{_STEP.pattern})*)\s*\}}\}}""")
_EXCERPT_CHARACTERS = 40
_REMEDY = (
    "Write {{ item.NAME }} for a key of the data row, {{ sample.output_text }} for the answer, "
    'and .name, ["key"] or [0] for what is nested in it.'
)


class VariableError(Exception):
    """A variable of a template has no value for one sample; `flag` says what kind of fault it is.

    Graders turn it into a grade that is an error; no person meets it as an exception.
    """

    flag: ClassVar[GradeFlag]
    blames_answer: ClassVar[bool] = False
    """Whether the model's answer lacks it, and neither the row nor the template is wrong."""


class UnknownVariableError(VariableError):
    """There is no such variable; the message names it and the nearest that there is."""

    flag = "invalid_variable_error"


class SampleParseError(VariableError):
    """The model's text is not what the variable needs, such as JSON for `sample.output_json`."""

    flag = "sample_parse_error"
    blames_answer = True


class MissingInAnswerError(UnknownVariableError):
    """The answer has no such part, as `sample.output_tools[0]` where it calls no tool."""

    blames_answer = True


@dataclass(frozen=True, slots=True)
class _Step:
    """One step into a value: a key or an index, and how it is written."""

    key: str | int
    text: str


@dataclass(frozen=True, slots=True)
class _Expression:
    """`item.a[0]`: a namespace and the steps from there."""

    namespace: str
    steps: tuple[_Step, ...]

    def find(self, namespaces: Mapping[str, Mapping[str, Any]]) -> Any:
        """The value it names. Raises VariableError."""
        value: Any = namespaces[self.namespace]
        path = self.namespace
        for place, step in enumerate(self.steps):
            try:
                value = _take(value, step, path)
            except UnknownVariableError as error:
                if self.namespace == "sample" and place > 0:
                    raise MissingInAnswerError(str(error)) from None
                raise
            path += step.text
        return value


@final
@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template. Make it with `Template.parse`."""

    source: str
    parts: tuple[str | _Expression, ...]
    """Text and expressions in turn, as they stand in the source."""

    @classmethod
    def parse(cls, source: str) -> Self:
        """The template written in `source`. Raises RewardError naming the character at fault."""
        parts: list[str | _Expression] = []
        end = 0
        while (start := source.find("{{", end)) >= 0:
            match = _EXPRESSION.match(source, start)
            if match is None or not match["path"] or match["namespace"] not in NAMESPACES:
                _refuse(source, start, match)
            steps = tuple(_read_step(text) for text in _STEP.findall(match["path"]))
            parts += [source[end:start], _Expression(match["namespace"], steps)]
            end = match.end()
        parts.append(source[end:])
        return cls(source, tuple(part for part in parts if part != ""))

    def render(self, item: Mapping[str, Any], sample: Mapping[str, Any]) -> str:
        """The text with every expression replaced by its value.

        A string stands as it is; any other value is written as JSON: `true`, `null`, `[1, 2]`.
        Raises VariableError.
        """
        namespaces = {"item": item, "sample": sample}
        return "".join(
            part if isinstance(part, str) else _write(part.find(namespaces)) for part in self.parts
        )

    def resolve(self, item: Mapping[str, Any], sample: Mapping[str, Any]) -> Any:
        """The value itself, of any JSON type, where the template is exactly one expression.

        Otherwise the rendered text. Raises VariableError.
        """
        if len(self.parts) == 1 and isinstance(self.parts[0], _Expression):
            return self.parts[0].find({"item": item, "sample": sample})
        return self.render(item, sample)


def item_view(sample: Sample) -> dict[str, Any]:
    """The namespace `item`: the keys of the data row, and `messages`, `tools` (if any) and `id`."""
    prompt = sample.prompt
    item = {**prompt.row, "messages": [dict(message) for message in prompt.messages]}
    if prompt.tools:
        item["tools"] = [dict(tool) for tool in prompt.tools]
    return {**item, "id": prompt.id}


def sample_view(sample: Sample) -> Mapping[str, Any]:
    """The namespace `sample`, each variable worked out when it is first asked for.

    `output_text`: the answer. `output_json`: the answer parsed as JSON, also out of a code fence.
    `output_tools`: its tool calls, in any form that `tool_calls.py` reads, in the shape of chat
    `tool_calls`, arguments as a JSON string. `choices`: the answer as one choice of a chat
    completion. The first three may raise SampleParseError when they are taken.
    """
    return _SampleView(sample)


@final
class _SampleView(Mapping[str, Any]):
    def __init__(self, sample: Sample) -> None:
        self._sample = sample
        self._known: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._known:
            self._known[name] = _SAMPLE_VARIABLES[name](self._sample)
        return self._known[name]

    def __contains__(self, name: object) -> bool:
        return name in _SAMPLE_VARIABLES  # without working it out

    def __iter__(self) -> Iterator[str]:
        return iter(_SAMPLE_VARIABLES)

    def __len__(self) -> int:
        return len(_SAMPLE_VARIABLES)


def _output_json(sample: Sample) -> Any:
    text = sample.text.strip()
    if text.startswith("```") and text.endswith("```"):
        text = text[3:-3].removeprefix("json")
    return _parse_json(text, "sample.output_json: the answer")


def _output_tools(sample: Sample) -> list[dict[str, Any]]:
    _, calls = parse_tool_calls(sample.text, sample.prompt.tools)
    if len(calls) < sample.text.count("<tool_call>"):
        _refuse_broken_calls(sample.text)
    return [
        {
            "id": f"call_{index}",
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments_json},
        }
        for index, call in enumerate(calls)
    ]


def _refuse_broken_calls(text: str) -> None:
    """Say what is wrong with the first `<tool_call>` block that is none."""
    for index, block in enumerate(text.split("<tool_call>")[1:]):
        body, closing, _ = block.partition("</tool_call>")
        what = f"sample.output_tools: tool call {index}"
        if not closing:
            raise SampleParseError(f"{what} has no </tool_call>")
        call = _parse_json(body, what)
        if not isinstance(call, dict) or not isinstance(call.get("name"), str):
            raise SampleParseError(f"{what} is no JSON object with a `name`")


def _choices(sample: Sample) -> list[dict[str, Any]]:
    message: dict[str, Any] = {"role": "assistant", "content": sample.text}
    try:
        calls = _output_tools(sample)
    except SampleParseError:
        calls = []  # a chat completion shows a broken call as plain content
    if calls:
        message["tool_calls"] = calls
    finish_reason = "length" if sample.truncated else "tool_calls" if calls else "stop"
    return [{"index": 0, "message": message, "finish_reason": finish_reason}]


_SAMPLE_VARIABLES: dict[str, Callable[[Sample], Any]] = {
    "output_text": lambda sample: sample.text,
    "output_json": _output_json,
    "output_tools": _output_tools,
    "choices": _choices,
}


def _parse_json(text: str, what: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except ValueError as error:
        raise SampleParseError(f"{what} is no JSON: {error}") from None
    except RecursionError:  # a model may well write ten thousand brackets
        raise SampleParseError(f"{what} is JSON that is nested too deeply") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not in the standard")


def _write(value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:
        raise SampleParseError("a value is nested too deeply to be written as JSON") from None


def _read_step(text: str) -> _Step:
    if text.startswith("."):
        return _Step(text[1:], text)
    inside = text[1:-1]
    return _Step(inside[1:-1] if inside[0] in "\"'" else int(inside), text)


def _take(value: Any, step: _Step, path: str) -> Any:
    """`value[step]`, or an UnknownVariableError that says what there is instead."""
    key = step.key
    if isinstance(value, Mapping) and isinstance(key, str):
        if key in value:
            return value[key]
        names = [str(name) for name in value]
        close = difflib.get_close_matches(key, names, n=1)
        there = f"did you mean {close[0]!r}?" if close else f"there is {_list(names)}"
    elif isinstance(value, list | tuple) and isinstance(key, int):
        if -len(value) <= key < len(value):
            return value[key]
        there = f"{path} has {len(value)} entries"
    else:
        there = f"{path} is {_describe(value)}"
    raise UnknownVariableError(f"{path}{step.text} does not exist; {there}")


def _list(names: list[str]) -> str:
    shown = ", ".join(map(repr, names[:12])) or "nothing"
    return shown + (", ..." if len(names) > 12 else "")


def _describe(value: Any) -> str:
    if isinstance(value, Mapping):
        return "an object, whose keys are strings"
    kinds = {str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    kinds |= {list: "a list, which takes an index such as [0]", type(None): "null"}
    return kinds.get(type(value), f"a {type(value).__name__}")


def _refuse(source: str, start: int, match: re.Match[str] | None) -> NoReturn:
    """Say what is wrong with the expression that opens at `start`."""
    excerpt = source[start : start + _EXCERPT_CHARACTERS]
    remedy = _REMEDY
    if match is None:
        closed = source.find("}}", start) >= 0
        fault = "is not a variable" if closed else "is never closed by }}"
    elif match["namespace"] not in NAMESPACES:
        fault = f"has no known namespace: {match['namespace']!r}"
        close = difflib.get_close_matches(match["namespace"], NAMESPACES, n=1)
        remedy = f"Did you mean {close[0]!r}? {_REMEDY}" if close else _REMEDY
    else:
        fault = f"names no variable of {match['namespace']}"
    raise RewardError(f"template: {excerpt!r} (character {start + 1}) {fault}.", remedy=remedy)
