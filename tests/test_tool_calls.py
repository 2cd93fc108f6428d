"""Tool calls: each form that models write, and text that only looks like one."""

import json
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunestone.tool_calls import ToolCall, parse_tool_calls

TOOLS = [{"type": "function", "function": {"name": name}} for name in ("add", "get_weather")]
ADD = ToolCall("add", '{"a": 1, "b": "ü"}')
JSON = '{"name": "add", "arguments": {"a": 1, "b": "ü"}}'
ARGUMENTS = '{"a": 1, "b": "ü"}'


@pytest.mark.parametrize(
    ("text", "rest", "calls"),
    [
        (f"I add.\n<tool_call>\n{JSON}\n</tool_call>", "I add.", [ADD]),
        (f"<tool_call>{JSON}</tool_call> and <tool_call>{JSON}</tool_call>", "and", [ADD, ADD]),
        (f"<tool_call>{JSON}", "", [ADD]),  # the end token came in place of the closing mark
        ('<tool_call>{"name": "stop"}</tool_call>', "", [ToolCall("stop", "{}")]),
        (
            "<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n<parameter=b>\nü\n"
            "</parameter>\n</function>\n</tool_call>",
            "",
            [ADD],
        ),
        (f"[TOOL_CALLS][{JSON}]", "", [ADD]),
        (f"[TOOL_CALLS] [{JSON}, {JSON}]", "", [ADD, ADD]),
        (f"[TOOL_CALLS]add[ARGS]{ARGUMENTS}[TOOL_CALLS]add[ARGS]{ARGUMENTS}", "", [ADD, ADD]),
        (f"<|python_tag|>{JSON.replace('arguments', 'parameters')}; {JSON}", "", [ADD, ADD]),
        (
            "<|channel|>commentary to=functions.add <|constrain|>json<|message|>"
            f"{ARGUMENTS}<|call|>",
            "",
            [ADD],
        ),
        (f"Thinking. commentary to=functions.add json{ARGUMENTS}", "Thinking.", [ADD]),
        (f" to=functions.add<|channel|>commentary json<|message|>{ARGUMENTS}", "", [ADD]),
        (JSON, "", [ADD]),
        (f"```json\n{JSON}\n```", "", [ADD]),
        (f"[{JSON}]", "", [ADD]),
        (f'{{"type": "function", "function": {JSON}}}', "", [ADD]),
        (f"add{ARGUMENTS}", "", [ADD]),
        ('{"name": "add", "arguments": "{}"}', "", [ToolCall("add", "{}")]),
    ],
)
def test_calls_are_read_in_every_form(text, rest, calls):
    assert parse_tool_calls(text, TOOLS) == (rest, calls)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  plain words ",
        '{"name": "Ada", "arguments": {}}',  # no such tool: an answer in JSON
        '{"name": "add", "age": 3}',
        '{"result": 1}',
        "[1, 2]",
        f"{JSON} is what I would call",
        "<tool_call>add(1)</tool_call>",
        "<tool_call>[]</tool_call>",
        '<tool_call>{"name": "add", "arguments": NaN}</tool_call>',
        '<tool_call>{"nom": "add"}</tool_call>',
        "[TOOL_CALLS] none",
        "<|python_tag|>print(1)",
        "to=functions.add json",
        "<tool_call>" + "[" * 100_000,
    ],
)
def test_what_is_no_call_stays_as_it_is(text):
    assert parse_tool_calls(text, TOOLS) == (text, [])


def test_a_bare_call_needs_an_offered_tool():
    assert parse_tool_calls(JSON, []) == (JSON, [])
    assert parse_tool_calls(f"<tool_call>{JSON}</tool_call>", [])[1] == [ADD]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            ["<tool_call>", "</tool_call>", "[TOOL_CALLS]", "add[ARGS]", JSON, "to=functions.add"]
        )
        | st.text(string.printable, max_size=5),
        max_size=8,
    )
)
def test_any_text_is_read_and_arguments_are_json(parts):
    text = "".join(parts)
    rest, calls = parse_tool_calls(text, TOOLS)
    for call in calls:
        assert isinstance(json.loads(call.arguments_json), dict | list | str | int | float | bool)
    assert calls or rest == text
