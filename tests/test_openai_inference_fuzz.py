"""Whatever is sent as JSON, the inference APIs answer or refuse; they never fail.

From a body that uses everything, each value in turn is taken away or replaced by each of many odd
ones: that reaches every corner, which random bodies do not.
"""

import copy
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from live_server import running, services_in
from scripted_engine import ScriptedEngine
from tunestone.api.openai import ROUTES, render_error

ODD = (None, True, -1, 1.5, 10**400, "", "\0", [], [[]], {}, {"x": []})
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
FUNCTION = {"name": "add", "description": "Adds.", "parameters": SCHEMA, "strict": True}
SAMPLING = {"model": "smollm2-135m", "temperature": 1.0, "top_p": 1.0, "metadata": {"a": "b"}}
PENALTIES = {
    "n": 2,
    "stop": ["x"],
    "seed": 1,
    "frequency_penalty": 0.1,
    "presence_penalty": 0.1,
    "logit_bias": {"1": 1},
}
FULL: dict[str, dict[str, Any]] = {
    "chat/completions": {
        **SAMPLING,
        **PENALTIES,
        "messages": [
            {"role": "system", "content": "Be brief.", "name": "s"},
            {"role": "user", "content": [{"type": "text", "text": "2 + 2"}]},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "c",
                        "type": "function",
                        "function": {"name": "add", "arguments": "{}"},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "c", "content": "4"},
        ],
        "tools": [{"type": "function", "function": FUNCTION}],
        "tool_choice": {"type": "function", "function": {"name": "add"}},
        "parallel_tool_calls": False,
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
        "max_tokens": 5,
        "logprobs": True,
        "top_logprobs": 2,
        "reasoning_effort": "low",
        "stream": True,
        "stream_options": {"include_usage": True},
    },
    "completions": {
        **SAMPLING,
        **PENALTIES,
        "prompt": ["a", "b"],
        "max_tokens": 5,
        "best_of": 3,
        "echo": True,
        "logprobs": 2,
    },
    "responses": {
        **SAMPLING,
        "instructions": "Be brief.",
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "2 + 2"}]},
            {"type": "reasoning", "id": "rs_1", "summary": []},
            {"type": "function_call", "call_id": "c", "name": "add", "arguments": "{}"},
            {
                "type": "function_call_output",
                "call_id": "c",
                "output": [{"type": "input_text", "text": "4"}],
            },
            {"type": "message", "role": "assistant", "content": "Hm."},
        ],
        "tools": [{"type": "function", **FUNCTION}],
        "tool_choice": {"type": "function", "name": "add"},
        "text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}},
        "reasoning": {"effort": "low", "summary": "auto"},
        "include": ["message.output_text.logprobs"],
        "top_logprobs": 2,
        "max_output_tokens": 5,
        "previous_response_id": None,
        "store": True,
    },
}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of everything inside."""
    keys = (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    for key in keys:
        yield (*path, key)
        yield from places(value[key], (*path, key))


def changed(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for *above, key in places(body):
        for odd in (*ODD, places):
            other = copy.deepcopy(body)
            inner = other
            for step in above:
                inner = inner[step]
            if odd is places:
                del inner[key]
            else:
                inner[key] = odd
            yield other


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    services = services_in(tmp_path_factory.mktemp("data"), engine=ScriptedEngine(lambda _: "a b"))
    with running(services, ROUTES, {"openai": render_error}) as url:
        yield url


@pytest.mark.parametrize("path", FULL)
def test_no_body_makes_it_fail(url, path):
    with httpx2.Client() as client:
        assert client.post(f"{url}/v1/{path}", json=FULL[path]).status_code == 200
        for body in changed(FULL[path]):
            answer = client.post(f"{url}/v1/{path}", json=body)
            assert answer.status_code in {200, 400, 404}, (body, answer.text)
            if answer.status_code == 200:
                assert "server_error" not in answer.text, body
            else:
                error = answer.json()["error"]
                assert error["type"] == "invalid_request_error"
                assert error["message"], body
