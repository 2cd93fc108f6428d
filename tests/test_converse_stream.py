"""ConverseStream through boto3: the order of events, their framing, errors in the middle."""

import http.client
import threading
from urllib.parse import urlsplit

import anyio
import pytest
from botocore.eventstream import ChecksumMismatch, EventStreamBuffer
from botocore.exceptions import ClientError, EventStreamError

from live_server import running, services_in
from runtime_server import ADD, HELLO, Words, scripted_services, serving_runtime
from tunestone.api.bedrock.errors import render_error
from tunestone.api.bedrock_runtime import ROUTES
from tunestone.api.bedrock_runtime.event_stream import (
    encode_event,
    encode_exception,
    encode_message,
)
from tunestone.errors import RequestError, WorldError
from tunestone.generation import Delta, Failed, Started

MODEL = "smollm2-135m"


class BrokenEngine:
    """Begins an answer and fails."""

    def __init__(self, failure):
        self.failure = failure

    async def generate(self, request):
        yield Started(request.id, prompt_tokens=7)
        yield Delta(request.id, 0, "Half", tokens=1)
        if isinstance(self.failure, Exception):
            raise self.failure
        yield Failed(request.id, *self.failure)


class RefusingEngine:
    """Refuses before it begins."""

    async def generate(self, request):
        raise RequestError("The prompt has 9000 tokens.")
        yield


class EndlessEngine:
    """Answers until nobody wants more."""

    def __init__(self):
        self.began, self.closed = threading.Event(), threading.Event()

    async def generate(self, request):
        try:
            self.began.set()
            yield Started(request.id, prompt_tokens=7)
            while True:
                yield Delta(request.id, 0, "more ", tokens=1)
                await anyio.sleep(0.001)
        finally:
            self.closed.set()


@pytest.fixture(scope="module")
def words():
    return Words()


@pytest.fixture(scope="module")
def services(tmp_path_factory, words):
    return scripted_services(tmp_path_factory.mktemp("stream"), words)


@pytest.fixture(scope="module")
def client(services):
    with serving_runtime(services) as client:
        yield client


def events_of(client, **members):
    stream = client.converse_stream(**{"modelId": MODEL, "messages": HELLO, **members})["stream"]
    return [(kind, content) for event in stream for kind, content in event.items()]


def test_events_come_in_order(client, words):
    words.text = "Hello there you."
    events = events_of(client, performanceConfig={"latency": "standard"})
    assert events[:-1] == [
        ("messageStart", {"role": "assistant"}),
        ("contentBlockDelta", {"delta": {"text": "Hello"}, "contentBlockIndex": 0}),
        ("contentBlockDelta", {"delta": {"text": " there"}, "contentBlockIndex": 0}),
        ("contentBlockDelta", {"delta": {"text": " you."}, "contentBlockIndex": 0}),
        ("contentBlockStop", {"contentBlockIndex": 0}),
        ("messageStop", {"stopReason": "end_turn"}),
    ]
    kind, metadata = events[-1]
    assert kind == "metadata"
    assert metadata["usage"] == {"inputTokens": 7, "outputTokens": 3, "totalTokens": 10}
    assert metadata["metrics"]["latencyMs"] >= 0
    assert metadata["performanceConfig"] == {"latency": "standard"}


def test_reasoning_text_and_calls_are_blocks_one_after_the_other(client, words):
    words.text = (
        "<think>Add them.</think> I call.\n"
        '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
        '<tool_call>{"name": "add", "arguments": {"a": 2}}</tool_call>'
    )
    events = events_of(client, toolConfig={"tools": [ADD]})
    blocks = {}
    for kind, content in events:
        if kind.startswith("contentBlock"):
            blocks.setdefault(content["contentBlockIndex"], []).append((kind, content))
    reasoning, text, first, second = (blocks[i] for i in range(4))
    thought = [c["delta"]["reasoningContent"]["text"] for k, c in reasoning if "Delta" in k]
    assert "".join(thought) == "Add them."
    assert "".join(c["delta"]["text"] for k, c in text if "Delta" in k).strip() == "I call."
    for block, number in ((first, 1), (second, 2)):
        assert [kind for kind, _ in block] == [
            "contentBlockStart", "contentBlockDelta", "contentBlockStop",
        ]  # fmt: skip
        assert block[0][1]["start"]["toolUse"]["name"] == "add"
        assert block[1][1]["delta"]["toolUse"]["input"] == f'{{"a": {number}}}'
    names = {block[0][1]["start"]["toolUse"]["toolUseId"] for block in (first, second)}
    assert len(names) == 2
    assert ("messageStop", {"stopReason": "tool_use"}) in events


def test_what_refuses_a_request_is_no_stream(client):
    with pytest.raises(client.exceptions.ValidationException, match="must start with a user"):
        client.converse_stream(modelId=MODEL, messages=[])


def test_what_the_engine_refuses_at_once_is_no_stream(tmp_path):
    services = services_in(tmp_path, engine=RefusingEngine())
    with serving_runtime(services) as client, pytest.raises(ClientError) as caught:
        client.converse_stream(modelId=MODEL, messages=HELLO)
    assert caught.value.response["Error"]["Code"] == "ValidationException"
    assert caught.value.response["Error"]["Message"] == "The prompt has 9000 tokens."
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400


@pytest.mark.parametrize(
    ("failure", "code", "message"),
    [
        (WorldError("The engine died."), "serviceUnavailableException", "The engine died."),
        (("world_error", "It is gone."), "serviceUnavailableException", "It is gone."),
        (RequestError("A token too many."), "modelStreamErrorException", "A token too many."),
        (ZeroDivisionError(), "internalServerException", "an internal error"),
    ],
)
def test_an_error_in_the_middle_is_an_event(tmp_path, failure, code, message):
    services = services_in(tmp_path, engine=BrokenEngine(failure))
    seen = []
    with serving_runtime(services) as client:
        stream = client.converse_stream(modelId=MODEL, messages=HELLO)["stream"]
        with pytest.raises(EventStreamError) as caught:
            seen += stream
    assert [next(iter(event)) for event in seen] == ["messageStart", "contentBlockDelta"]
    assert caught.value.response["Error"]["Code"] == code
    assert message in caught.value.response["Error"]["Message"]


@pytest.mark.parametrize("operation", ["converse-stream", "converse"])
def test_a_client_that_hangs_up_ends_the_answer(tmp_path, operation):
    engine = EndlessEngine()
    services = services_in(tmp_path, engine=engine)
    body = b'{"messages": [{"role": "user", "content": [{"text": "Hello"}]}]}'
    with running(services, ROUTES, {"bedrock": render_error}) as url:
        address = urlsplit(url)
        wire = http.client.HTTPConnection(address.hostname, address.port)
        wire.request("POST", f"/model/{MODEL}/{operation}", body)
        assert engine.began.wait(10)
        wire.close()
        assert engine.closed.wait(10)


def decode(data):
    buffer = EventStreamBuffer()
    buffer.add_data(data)
    return [(message.headers, message.payload) for message in buffer]


def test_messages_are_what_botocore_decodes():
    headers = {":event-type": "chunk", "größe": "x" * 300}
    two = encode_message(headers, b"\x00\xff") + encode_message({}, b"")
    assert decode(two) == [(headers, b"\x00\xff"), ({}, b"")]
    ((seen, payload),) = decode(encode_event("messageStop", {"stopReason": "ü"}))
    assert seen == {
        ":event-type": "messageStop",
        ":content-type": "application/json",
        ":message-type": "event",
    }
    assert payload == '{"stopReason":"ü"}'.encode()
    ((seen, _),) = decode(encode_exception("throttlingException", {"message": "wait"}))
    assert seen[":message-type"] == "exception"
    assert seen[":exception-type"] == "throttlingException"


@pytest.mark.parametrize("place", [2, 9, 20, -1])
def test_a_flipped_bit_is_noticed(place):
    data = bytearray(encode_event("messageStop", {"stopReason": "end_turn"}))
    data[place] ^= 1
    with pytest.raises(ChecksumMismatch):
        decode(bytes(data))


def test_a_header_too_long_is_refused():
    with pytest.raises(ValueError, match="too long for an event stream"):
        encode_message({"x": "y" * 40_000}, b"")
