"""The Responses API through the real openai client: whole, streaming, kept and read again."""

import json
from collections.abc import AsyncIterator

import openai
import pytest
from pydantic import BaseModel

from live_server import running, services_in
from scripted_engine import ScriptedEngine
from tunestone.api.openai import ROUTES, render_error
from tunestone.api.openai.response_store import ResponseStore
from tunestone.errors import RequestError, WorldError
from tunestone.generation import Delta, GenerationEvent, GenerationRequest, Started

ADD = {
    "type": "function",
    "name": "add",
    "description": "Adds.",
    "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    "strict": False,
}
SAYS = {
    "hello": "Hello there, friend.",
    "think": "<think>\nTwo and two.\n</think>\n\nIt is 4.",
    "call": 'Wait.\n<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call>',
    "json": '{"answer": 4}',
}


def script(request: GenerationRequest) -> str:
    return SAYS.get(request.messages[-1]["content"], SAYS["hello"])


class Breaker:
    """Refuses, or breaks in the middle."""

    async def generate(self, request: GenerationRequest) -> AsyncIterator[GenerationEvent]:
        if request.messages[-1]["content"] == "refuse":
            raise RequestError("The prompt is too long.")
        yield Started(request.id, 3)
        yield Delta(request.id, 0, "It", 1)
        raise WorldError("The engine died.")


@pytest.fixture(scope="module")
def engine():
    return ScriptedEngine(script)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def client(engine, folder):
    with running(services_in(folder, engine=engine), ROUTES, {"openai": render_error}) as url:
        yield openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def ask(client, input="hello", **more):
    return client.responses.create(**{"model": "smollm2-135m", "input": input, **more})


def test_a_whole_response(client, engine):
    answer = ask(
        client,
        instructions="Be brief.",
        max_output_tokens=50,
        temperature=0,
        top_p=0.5,
        metadata={"a": "b"},
        reasoning={"effort": "low"},
        user="me",
    )
    assert (answer.object, answer.status, answer.model) == ("response", "completed", "smollm2-135m")
    assert answer.output_text == SAYS["hello"]
    (message,) = answer.output
    assert (message.type, message.role, message.status) == ("message", "assistant", "completed")
    usage = answer.usage
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (7, 3, 10)
    assert (answer.instructions, answer.metadata, answer.temperature) == (
        "Be brief.",
        {"a": "b"},
        0,
    )
    assert (answer.reasoning.effort, answer.text.format.type) == ("low", "text")
    asked = engine.asked[-1]
    assert list(asked.messages) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hello"},
    ]
    assert (asked.max_tokens, asked.temperature, asked.top_p) == (50, 0, 0.5)
    assert asked.template["reasoning_effort"] == "low"


def test_a_response_cut_off_is_incomplete(client):
    answer = ask(client, max_output_tokens=2)
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert answer.output[0].status == "incomplete"
    last = list(ask(client, max_output_tokens=2, stream=True))[-1]
    assert (last.type, last.response.status) == ("response.incomplete", "incomplete")


def test_every_step_of_a_stream(client):
    events = list(ask(client, "think", stream=True))
    kinds = [event.type.removeprefix("response.") for event in events]
    assert [kind for i, kind in enumerate(kinds) if i == 0 or kinds[i - 1] != kind] == [
        "created",
        "in_progress",
        "output_item.added",
        "reasoning_part.added",
        "reasoning_text.delta",
        "reasoning_text.done",
        "reasoning_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    thoughts = [event.delta for event in events if event.type == "response.reasoning_text.delta"]
    texts = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert ("".join(thoughts), "".join(texts)) == ("Two and two.", "It is 4.")
    assert events[0].response.status == "in_progress"
    assert events[0].response.output == []
    final = events[-1].response
    assert [item.type for item in final.output] == ["reasoning", "message"]
    assert final.output_text == "It is 4."
    assert final.usage.output_tokens_details.reasoning_tokens > 0


def test_the_notebook_s_cell(client):
    """As in the gpt-oss and Qwen notebooks, which print what they know and skip the rest."""
    told: dict[str, str] = {}
    for text in ("think", "hello"):
        stream = ask(
            client,
            [{"role": "user", "content": text}],
            model="openai.gpt-oss-20b",
            stream=True,
            reasoning={"effort": "low"},
        )
        printed = ""
        for event in stream:
            if event.type == "response.reasoning_part.added":
                printed += "["
            elif event.type == "response.reasoning_part.done":
                printed += "]"
            elif event.type in ("response.reasoning_text.delta", "response.output_text.delta"):
                printed += event.delta
        told[text] = printed
    assert told == {"think": "[Two and two.]It is 4.", "hello": SAYS["hello"]}


@pytest.mark.parametrize("stream", [False, True])
def test_a_function_call_and_its_result(client, engine, stream):
    first = ask(client, "call", tools=[ADD], stream=stream)
    if stream:
        events = list(first)
        deltas = [e for e in events if e.type == "response.function_call_arguments.delta"]
        (done,) = [e for e in events if e.type == "response.function_call_arguments.done"]
        assert "".join(event.delta for event in deltas) == done.arguments
        first = events[-1].response
    assert engine.asked[-1].tools[0]["function"]["name"] == "add"
    message, call = first.output
    assert message.content[0].text.rstrip() == "Wait."
    assert (call.type, call.name, json.loads(call.arguments)) == ("function_call", "add", {"a": 2})
    answer = ask(
        client,
        [
            {"role": "user", "content": [{"type": "input_text", "text": "call"}]},
            *[item.model_dump(exclude_none=True) for item in first.output],
            {"type": "function_call_output", "call_id": call.call_id, "output": "4"},
        ],
        tools=[ADD],
    )
    assert answer.output_text == SAYS["hello"]
    user, assistant, result = engine.asked[-1].messages
    assert user == {"role": "user", "content": "call"}
    assert assistant["tool_calls"][0]["id"] == call.call_id
    assert result == {"role": "tool", "tool_call_id": call.call_id, "content": "4"}


def test_a_tool_choice_is_enforced(client, engine):
    ask(client, "call", tools=[ADD], tool_choice="required")
    assert "add" in engine.asked[-1].grammar["lark"]
    ask(client, "call", tools=[ADD], tool_choice={"type": "function", "name": "add"})
    assert "add" in engine.asked[-1].grammar["lark"]


class Sum(BaseModel):
    answer: int


def test_the_client_s_parse_and_stream_helpers(client, engine):
    parsed = client.responses.parse(model="smollm2-135m", input="json", text_format=Sum)
    assert parsed.output_parsed == Sum(answer=4)
    assert engine.asked[-1].grammar["schema"]["required"] == ["answer"]
    asked = {"model": "smollm2-135m", "input": "json", "text_format": Sum}
    with client.responses.stream(**asked) as stream:
        snapshots = [
            event.snapshot for event in stream if event.type == "response.output_text.delta"
        ]
        assert stream.get_final_response().output_parsed == Sum(answer=4)
    assert snapshots[-1] == '{"answer": 4}'
    with client.responses.stream(model="smollm2-135m", input="think") as stream:
        assert stream.get_final_response().output_text == "It is 4."
    with client.responses.stream(model="smollm2-135m", input="call", tools=[ADD]) as stream:
        assert stream.get_final_response().output[-1].name == "add"


def test_a_response_is_kept_and_goes_on(client, engine):
    first = ask(client, "call", tools=[ADD], instructions="Be brief.")
    again = client.responses.retrieve(first.id)
    assert again == first
    output = {
        "type": "function_call_output",
        "call_id": first.output[-1].call_id,
        "output": [{"type": "input_text", "text": "4"}],
    }
    second = ask(client, [output], previous_response_id=first.id)
    assert second.previous_response_id == first.id
    third = ask(client, "hello", previous_response_id=second.id)
    assert third.status == "completed"
    # Of what went before all turns are there, but not its instructions.
    assert [turn["role"] for turn in engine.asked[-1].messages] == [
        "user",
        "assistant",
        "tool",
        "assistant",
        "user",
    ]
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError, match=f"Response with id '{first.id}' not found."):
        client.responses.retrieve(first.id)
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, "hello", previous_response_id=second.id)
    assert caught.value.code == "previous_response_not_found"


def test_a_streamed_response_is_kept_before_its_end_is_told(client):
    last = list(ask(client, stream=True))[-1]
    assert client.responses.retrieve(last.response.id).output_text == SAYS["hello"]


def test_store_false_keeps_nothing(client):
    answer = ask(client, store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(answer.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.delete(answer.id)


def test_input_items_are_listed_by_the_real_pager(client):
    turns = [{"role": "user", "content": f"turn {i}"} for i in range(5)]
    answer = ask(client, turns)
    newest_first = list(client.responses.input_items.list(answer.id, limit=2))
    assert [item.content[0].text for item in newest_first] == [f"turn {i}" for i in (4, 3, 2, 1, 0)]
    oldest = client.responses.input_items.list(answer.id, order="asc", limit=1)
    assert oldest.data[0].content[0].text == "turn 0"
    assert oldest.has_more


def test_old_months_are_forgotten(tmp_path):
    for month in ("2020-01", "2020-02"):
        (tmp_path / "responses" / month).mkdir(parents=True)
    store = ResponseStore(tmp_path)
    name = "resp_" + "0" * 32
    store.write({"id": name, "output": [], "previous_response_id": None}, [])
    assert store.read(name) is not None
    assert store.read("../secret") is None
    months = sorted(path.name for path in (tmp_path / "responses").iterdir())
    assert len(months) == 2
    assert months[0] == "2020-02"


def test_logprobs(client, engine):
    ask(client, include=["message.output_text.logprobs"], top_logprobs=3)
    assert engine.asked[-1].logprobs == 3
    ask(client)
    assert engine.asked[-1].logprobs is None


PICTURE = [{"role": "user", "content": [{"type": "input_image", "image_url": "http://x"}]}]
LOST = [{"type": "function_call_output", "call_id": "c", "output": "4"}]


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"foo": 1}, "foo", "Unknown parameter: 'foo'."),
        ({"input": None}, "input", "Missing required parameter: 'input'."),
        (
            {"input": 3},
            "input",
            "Invalid type for 'input': expected a string or an array of items.",
        ),
        ({"input": [3]}, "input[0]", "Invalid type for 'input[0]': expected an object."),
        (
            {"input": [{"role": "x", "content": ""}]},
            "input[0].role",
            "Invalid value: 'x'. Supported",
        ),
        ({"input": [{"type": "x"}]}, "input[0].type", "Invalid value: 'x'. Supported values are: "),
        ({"input": PICTURE}, "input[0].content[0].type", "Invalid content type. input_image is"),
        ({"input": LOST}, "input", "No tool call found for function call output with call_id c."),
        ({"input": [{"role": "system", "content": "x"}]}, "input", "Invalid 'input': there is"),
        ({"temperature": 3}, "temperature", "Invalid 'temperature': decimal above maximum value."),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "Unsupported parameter: 'tools[0]"),
        ({"tools": [{"type": "function"}]}, "tools[0].name", "Missing required parameter: 'tools["),
        ({"background": True}, "background", "Unsupported parameter: 'background' is not"),
        ({"truncation": "auto"}, "truncation", "Unsupported parameter: 'truncation' is not"),
        ({"conversation": "c"}, "conversation", "Unsupported parameter: 'conversation' is not"),
        ({"include": ["file_search_call.results"]}, "include", "Unsupported parameter: 'include'"),
        (
            {"text": {"format": {"type": "json_schema", "name": "x"}}},
            "text.format.schema",
            "Missing required parameter: 'text.format.schema'.",
        ),
        ({"previous_response_id": "resp_x"}, "previous_response_id", "Previous response with id"),
    ],
)
def test_what_is_refused(client, body, param, message):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, extra_body=body)
    assert caught.value.body["message"].startswith(message)
    assert caught.value.param == param


def test_failures(tmp_path):
    with running(services_in(tmp_path, engine=Breaker()), ROUTES, {"openai": render_error}) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        with pytest.raises(openai.BadRequestError, match="The prompt is too long"):
            ask(client, "refuse", stream=True)
        with pytest.raises(openai.InternalServerError, match="The engine died"):
            ask(client)
        last = list(ask(client, stream=True))[-1]
        assert (last.type, last.response.status) == ("response.failed", "failed")
        assert last.response.error.code == "server_error"
        assert last.response.error.message == "The engine died."
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(last.response.id)
