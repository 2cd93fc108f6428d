"""Chat completions through the real openai client: whole and streaming."""

import json
import threading
from collections.abc import AsyncIterator

import httpx2
import openai
import pytest
from pydantic import BaseModel

from live_server import running, services_in
from scripted_engine import ScriptedEngine
from tunestone.api.openai import ROUTES, render_error
from tunestone.errors import RequestError, WorldError
from tunestone.generation import (
    Delta,
    Ended,
    GenerationEvent,
    GenerationRequest,
    Started,
    TokenChance,
    TokenLogprob,
)

HELLO = [{"role": "user", "content": "hello"}]
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}},
            "required": ["a"],
            "additionalProperties": False,
        },
    },
}
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call>'
SAYS = {
    "hello": "Hello there, friend.",
    "think": "<think>\nTwo and two.\n</think>\n\nIt is 4.",
    "empty": "<think>\n\n</think>\n\nIt is 4.",
    "tags": "The tag <think> opens and </think> closes.",
    "gpt-oss": "<|channel|>analysis<|message|>Easy as pie.<|end|><|start|>assistant<|channel|>final"
    "<|message|>It is 4.<|return|>",
    "call": f"Let me add.\n{CALL}",
    "calls": f"{CALL}\n{CALL}",
    "json": '{"answer": 4}',
}


def script(request: GenerationRequest) -> str:
    return SAYS[request.messages[-1]["content"]]


class Talker:
    """Says letter by letter, fails or never ends, as the last turn asks."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()

    async def generate(self, request: GenerationRequest) -> AsyncIterator[GenerationEvent]:
        import asyncio

        how = request.messages[-1]["content"]
        if how == "too long":
            raise RequestError("The prompt has 9 tokens, but the model reads 8.")
        if how == "overloaded":
            raise WorldError("Too many wait.")
        yield Started(request.id, prompt_tokens=3, thinking=how == "goes on thinking")
        text = {"goes on thinking": "Hm.</think>Yes."}.get(how, SAYS["think"])
        try:
            for letter in text:
                if how == "breaks" and letter == ".":
                    raise WorldError("The engine died.")
                chance = TokenChance(letter, -0.5, tuple(letter.encode()))
                other = TokenChance("é", -1.5, tuple("é".encode()))
                yield Delta(request.id, 0, letter, 1, (TokenLogprob(chance, (chance, other)),))
            if how == "endless":
                await asyncio.Event().wait()
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled.set()
            raise
        yield Ended(request.id, 0, "stop_string", len(text), ".")


@pytest.fixture(scope="module")
def engine():
    return ScriptedEngine(script)


@pytest.fixture(scope="module")
def client(engine, tmp_path_factory):
    services = services_in(tmp_path_factory.mktemp("data"), engine=engine)
    with running(services, ROUTES, {"openai": render_error}) as url:
        yield openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


@pytest.fixture
def talking(tmp_path):
    talker = Talker()
    services = services_in(tmp_path, engine=talker)
    with running(services, ROUTES, {"openai": render_error}) as url:
        yield openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0), talker


def ask(client, text="hello", **more):
    messages = [{"role": "user", "content": text}]
    return client.chat.completions.create(**{"model": "smollm2-135m", "messages": messages, **more})


def together(chunks):
    """Text, reasoning, calls and finish reason of a stream with one answer."""
    text, thought, calls, reasons = "", "", {}, []
    for chunk in chunks:
        for choice in chunk.choices:
            text += choice.delta.content or ""
            thought += getattr(choice.delta, "reasoning_content", None) or ""
            for call in choice.delta.tool_calls or []:
                one = calls.setdefault(call.index, {"id": call.id, "name": "", "arguments": ""})
                one["name"] += call.function.name or ""
                one["arguments"] += call.function.arguments or ""
            if choice.finish_reason:
                reasons.append(choice.finish_reason)
    return text, thought, list(calls.values()), reasons


def test_a_whole_answer(client):
    answer = ask(client, max_tokens=2)
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    assert answer.model == "smollm2-135m"
    assert answer.system_fingerprint == "fp_smollm2-135m"
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content) == ("assistant", "Hello there,")
    assert choice.finish_reason == "length"
    assert choice.message.tool_calls is None
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (7, 2, 9)


def test_everything_asked_reaches_the_engine(client, engine):
    ask(
        client,
        max_completion_tokens=5,
        temperature=0,
        top_p=0.5,
        n=2,
        stop=["x", "y"],
        seed=-3,
        logprobs=True,
        top_logprobs=4,
        frequency_penalty=1,
        presence_penalty=-1,
        logit_bias={"17": 5},
        reasoning_effort="low",
        user="someone",
        metadata={"a": "b"},
        store=False,
        service_tier="auto",
    )
    asked = engine.asked[-1]
    assert asked.model.source == "smollm2-135m"
    assert (asked.max_tokens, asked.temperature, asked.top_p, asked.n) == (5, 0, 0.5, 2)
    assert (asked.stop, asked.seed, asked.logprobs) == (("x", "y"), -3, 4)
    assert (asked.frequency_penalty, asked.presence_penalty) == (1, -1)
    assert asked.logit_bias == {"17": 5}
    assert asked.template == {"reasoning_effort": "low", "enable_thinking": True}
    assert asked.grammar is None


def test_a_stream_begins_with_the_role_and_ends_with_reason_and_usage(client):
    chunks = list(ask(client, stream=True, n=2, stream_options={"include_usage": True}))
    assert [chunk.choices[0].delta.role for chunk in chunks[:2]] == ["assistant", "assistant"]
    texts = {0: "", 1: ""}
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == {0: SAYS["hello"], 1: SAYS["hello"]}
    assert [c.choices[0].finish_reason for c in chunks if c.choices].count("stop") == 2
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert all(chunk.object == "chat.completion.chunk" for chunk in chunks)
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices == []
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (7, 6)


def test_the_end_of_a_stream_as_bytes(client):
    body = {"model": "smollm2-135m", "messages": HELLO, "stream": True}
    answer = httpx2.post(f"{client.base_url}chat/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    *events, last, nothing = answer.text.split("\n\n")
    assert (last, nothing) == ("data: [DONE]", "")
    first = json.loads(events[0].removeprefix("data: "))
    assert "usage" not in first
    assert first["choices"][0]["finish_reason"] is None


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("text", "thought", "said"),
    [
        ("think", "Two and two.", "It is 4."),
        ("empty", "", "It is 4."),
        ("gpt-oss", "Easy as pie.", "It is 4."),
        ("tags", "", SAYS["tags"]),
    ],
)
def test_reasoning_stands_apart(client, stream, text, thought, said):
    answer = ask(client, text, stream=stream)
    if stream:
        assert together(answer)[:2] == (said, thought)
        return
    message = answer.choices[0].message
    assert message.content == said
    assert getattr(message, "reasoning_content", "") == thought
    details = answer.usage.completion_tokens_details
    assert (details.reasoning_tokens > 0) == bool(thought)


def test_reasoning_that_the_template_began(talking):
    client, _ = talking
    assert together(ask(client, "goes on thinking", stream=True))[:2] == ("Yes.", "Hm.")


@pytest.mark.parametrize("stream", [False, True])
def test_tool_calls(client, engine, stream):
    answer = ask(client, "call", tools=[ADD], stream=stream)
    assert engine.asked[-1].tools == (ADD,)
    assert engine.asked[-1].grammar is None
    if stream:
        text, _, calls, reasons = together(answer)
        assert text.rstrip() == "Let me add."
        assert reasons == ["tool_calls"]
        assert [(call["name"], json.loads(call["arguments"])) for call in calls] == [
            ("add", {"a": 2})
        ]
        assert calls[0]["id"].startswith("call_")
        return
    (choice,) = answer.choices
    assert (choice.message.content, choice.finish_reason) == ("Let me add.", "tool_calls")
    (call,) = choice.message.tool_calls
    assert (call.type, call.function.name) == ("function", "add")
    assert json.loads(call.function.arguments) == {"a": 2}


def test_several_calls_have_their_own_index_and_id(client):
    _, _, calls, _ = together(ask(client, "calls", tools=[ADD], stream=True))
    assert [call["name"] for call in calls] == ["add", "add"]
    assert calls[0]["id"] != calls[1]["id"]


def test_a_tool_choice_is_enforced(client, engine):
    other = {"type": "function", "function": {"name": "other"}}
    ask(client, "calls", tools=[ADD, other], tool_choice="required")
    required = engine.asked[-1].grammar
    assert required["type"] == "lark"
    assert "add" in required["lark"]
    assert "other" in required["lark"]
    assert engine.asked[-1].template == {"enable_thinking": False}
    named = {"type": "function", "function": {"name": "other"}}
    ask(client, "call", tools=[ADD, other], tool_choice=named)
    assert '\\"add' not in engine.asked[-1].grammar["lark"]
    ask(client, "call", tools=[ADD], tool_choice="none")
    assert (engine.asked[-1].tools, engine.asked[-1].grammar) == ((), None)


def test_the_round_trip_of_a_tool(client, engine):
    first = ask(client, "call", tools=[ADD]).choices[0].message
    messages = [
        {"role": "developer", "content": "Be brief."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "2 + "}, {"type": "text", "text": "2"}],
        },
        first.model_dump(),
        {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "4"},
        {"role": "user", "content": "hello"},
    ]
    ask(client, messages=messages, tools=[ADD])
    system, user, called, result, _ = engine.asked[-1].messages
    assert system == {"role": "system", "content": "Be brief."}
    assert user["content"] == "2 + 2"
    assert called["tool_calls"][0]["function"]["name"] == "add"
    assert (result["role"], result["tool_call_id"]) == ("tool", called["tool_calls"][0]["id"])


class Sum(BaseModel):
    answer: int


def test_the_client_s_parse_and_stream_helpers(client, engine):
    asked = {"model": "smollm2-135m", "messages": [{"role": "user", "content": "json"}]}
    parsed = client.chat.completions.parse(**asked, response_format=Sum)
    assert parsed.choices[0].message.parsed == Sum(answer=4)
    assert engine.asked[-1].grammar["type"] == "json_schema"
    assert engine.asked[-1].grammar["schema"]["required"] == ["answer"]
    with client.chat.completions.stream(**asked, response_format=Sum) as stream:
        kinds = {event.type for event in stream}
        assert stream.get_final_completion().choices[0].message.parsed == Sum(answer=4)
    assert {"content.delta", "content.done", "chunk"} <= kinds


def test_the_forms_of_an_answer(client, engine):
    ask(client, "json", response_format={"type": "json_object"})
    assert engine.asked[-1].grammar == {"type": "json_schema", "schema": {"type": "object"}}
    ask(client, "json", response_format={"type": "text"})
    assert engine.asked[-1].grammar is None
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array"}}}
    ask(client, "json", response_format=form, tools=[ADD])
    assert 'answer: %json {"type": "array"}' in engine.asked[-1].grammar["lark"]


def test_logprobs_are_those_of_the_content(talking):
    client, _ = talking
    answer = ask(client, "think", logprobs=True, top_logprobs=2)
    content = answer.choices[0].logprobs.content
    assert "".join(token.token for token in content).strip() == "It is 4."
    last = content[-1]
    assert (last.token, last.logprob, last.bytes) == (".", -0.5, [46])
    assert [(top.token, top.bytes) for top in last.top_logprobs] == [(".", [46]), ("é", [195, 169])]
    assert answer.choices[0].finish_reason == "stop"
    chunks = [c for c in ask(client, "think", logprobs=True, stream=True) if c.choices[0].logprobs]
    streamed = [t.token for c in chunks for t in c.choices[0].logprobs.content]
    assert streamed == [token.token for token in content]


def test_an_alias_is_called_one(client):
    raw = client.chat.completions.with_raw_response.create(
        model="openai.gpt-oss-20b", messages=HELLO
    )
    assert (
        "openai.gpt-oss-20b stands for the embedded model" in raw.headers["x-tunestone-model-note"]
    )
    answer = raw.parse()
    assert answer.model == "openai.gpt-oss-20b"
    assert answer.system_fingerprint == "fp_smollm2-135m"
    plain = client.chat.completions.with_raw_response.create(model="smollm2-135m", messages=HELLO)
    assert "x-tunestone-model-note" not in plain.headers


IMAGE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]
TOOL_TURN = [{"role": "tool", "tool_call_id": "c", "content": "4"}]


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        (
            {"temperature": 2.5},
            "temperature",
            "Invalid 'temperature': decimal above maximum value. "
            "Expected a value <= 2, but got 2.5 instead.",
        ),
        (
            {"n": 0},
            "n",
            "Invalid 'n': integer below minimum value. Expected a value >= 1, but got 0 instead.",
        ),
        (
            {"top_p": "x"},
            "top_p",
            "Invalid type for 'top_p': expected a decimal, but got a string instead.",
        ),
        (
            {"stop": ["a"] * 5},
            "stop",
            "Invalid 'stop': array too long. Expected an array with "
            "maximum length 4, but got an array with length 5 instead.",
        ),
        (
            {"messages": []},
            "messages",
            "Invalid 'messages': empty array. Expected an array with "
            "minimum length 1, but got an empty array instead.",
        ),
        (
            {"messages": [{"role": "robot", "content": ""}]},
            "messages[0].role",
            "Invalid value: "
            "'robot'. Supported values are: 'developer', 'system', 'user', 'assistant', and "
            "'tool'.",
        ),
        (
            {"messages": IMAGE},
            "messages[0].content[0].type",
            "Invalid content type. image_url is "
            "only supported by certain models; here all read text.",
        ),
        (
            {"messages": TOOL_TURN},
            "messages[0].role",
            "Invalid parameter: messages with role 'tool'"
            " must be a response to a preceeding message with 'tool_calls'.",
        ),
        ({"foo": 1}, None, "Unrecognized request argument supplied: foo"),
        (
            {"audio": {"voice": "x"}},
            "audio",
            "Unsupported parameter: 'audio' is not supported by this server. It answers in text.",
        ),
        (
            {"store": True},
            "store",
            "Unsupported parameter: 'store' is not supported by this "
            "server. It keeps no chat completions; Responses are kept.",
        ),
        (
            {"top_logprobs": 2},
            "top_logprobs",
            "The 'top_logprobs' parameter is only allowed when 'logprobs' is enabled.",
        ),
        (
            {"tool_choice": "auto"},
            "tool_choice",
            "The 'tool_choice' parameter is only allowed when 'tools' are specified.",
        ),
        (
            {"tools": [ADD], "tool_choice": {"type": "function", "function": {"name": "x"}}},
            "tool_choice",
            "Tool choice 'x' not found in 'tools' parameter.",
        ),
        (
            {"tools": [ADD], "tool_choice": "any"},
            "tool_choice",
            "Invalid value: 'any'. Supported values are: 'none', 'auto', and 'required'.",
        ),
        (
            {"response_format": {"type": "json_schema"}},
            "response_format.json_schema",
            "Missing required parameter: 'response_format.json_schema'.",
        ),
        (
            {"logit_bias": {"a": 1}},
            "logit_bias",
            "Invalid key in 'logit_bias': a. It must be a token id.",
        ),
        (
            {"reasoning_effort": "huge"},
            "reasoning_effort",
            "Invalid value: 'huge'. Supported values"
            " are: 'none', 'minimal', 'low', 'medium', 'high', 'xhigh', and 'max'.",
        ),
    ],
)
def test_what_is_refused(client, body, param, message):
    asked = {"model": "smollm2-135m", "messages": HELLO, **body}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model=asked.pop("model"), messages=asked.pop("messages"), extra_body=asked
        )
    assert caught.value.body["message"] == message
    assert (caught.value.param, caught.value.type) == (param, "invalid_request_error")


def test_half_a_letter_is_refused(client):
    body = b'{"model": "smollm2-135m", "messages": [{"role": "user", "content": "\\ud83d"}]}'
    answer = httpx2.post(f"{client.base_url}chat/completions", content=body)
    assert answer.status_code == 400
    assert "half of a surrogate pair" in answer.json()["error"]["message"]


@pytest.mark.parametrize("name", ["ft:smollm2-135m:org::nothing", "no/such/model", "arn:aws:x"])
def test_an_unknown_model(client, name):
    with pytest.raises(openai.NotFoundError) as caught:
        ask(client, model=name)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert f"There is no model '{name}'." in caught.value.message


@pytest.mark.parametrize("stream", [False, True])
def test_what_the_engine_refuses_has_a_status(talking, stream):
    client, _ = talking
    with pytest.raises(openai.BadRequestError, match="has 9 tokens, but the model reads 8"):
        ask(client, "too long", stream=stream)
    with pytest.raises(openai.InternalServerError, match="Too many wait") as caught:
        ask(client, "overloaded", stream=stream)
    assert caught.value.status_code == 503


def test_an_error_in_the_middle_of_a_stream_is_an_event(talking):
    client, _ = talking
    stream = ask(client, "breaks", stream=True)
    with pytest.raises(openai.APIError, match="The engine died") as caught:
        list(stream)
    assert caught.value.code == "world_error"


def test_who_hangs_up_ends_the_generation(talking):
    client, talker = talking
    stream = ask(client, "endless", stream=True)
    next(iter(stream))
    stream.close()
    assert talker.cancelled.wait(10)


def test_who_hangs_up_before_a_whole_answer_ends_it_too(talking):
    client, talker = talking
    with pytest.raises(openai.APITimeoutError):
        ask(client.with_options(timeout=0.5), "endless")
    assert talker.cancelled.wait(10)
