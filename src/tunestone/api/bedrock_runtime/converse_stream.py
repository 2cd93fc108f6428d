"""ConverseStream: the same dialogue, as events while the answer is being written.

    messageStart, then for each block contentBlockStart (tool calls only), contentBlockDelta ...,
    contentBlockStop, then messageStop and metadata

What refuses a request is an ordinary HTTP error; what goes wrong after the first event is an event.
A client that hangs up ends the answer.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

from starlette.background import BackgroundTask
from starlette.responses import Response, StreamingResponse

from tunestone.api.bedrock_runtime.asking import as_stream_error, find_model
from tunestone.api.bedrock_runtime.blocks import BlockWriter, Event
from tunestone.api.bedrock_runtime.converse import finish_converse
from tunestone.api.bedrock_runtime.dialogue import read_body, to_request
from tunestone.api.bedrock_runtime.event_stream import (
    CONTENT_TYPE,
    encode_event,
    encode_exception,
)
from tunestone.api.http import Call
from tunestone.api.inference.answers import (
    Answer,
    Answers,
    Part,
    add_part,
    opened,
    read,
)
from tunestone.generation import Started

Json = dict[str, Any]
_IN_STOP = ("stopReason", "additionalModelResponseFields")
_IN_METADATA = ("usage", "metrics", "performanceConfig", "serviceTier")


async def converse_stream(call: Call) -> Response:
    """The model's next message, event by event."""
    asked = read_body("ConverseStream", await call.request.body())
    asking = await find_model(call)
    request = to_request(asking, asked)
    parts = await opened(read(call.services.engine, request))

    async def finish(answers: Answers) -> Json:
        return await finish_converse(asking, asked, request, answers)

    events = converse_events(asking.request_id, parts, finish)
    return event_response(events, asking.headers)


def event_response(events: AsyncGenerator[Event, None], headers: Json) -> StreamingResponse:
    """Events as an answer. When the client hangs up they are closed, which ends the answer."""
    body = _encode(events)
    return StreamingResponse(
        body, media_type=CONTENT_TYPE, headers=headers, background=BackgroundTask(body.aclose)
    )


async def _encode(events: AsyncGenerator[Event, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(events):
        try:
            async for kind, content in events:
                yield encode_event(kind, content)
        except Exception as error:  # noqa: BLE001 - the head is sent: only an event can tell it
            name, known = as_stream_error(error)
            yield encode_exception(name, {"message": known.message})


async def converse_events(
    request_id: str,
    parts: AsyncGenerator[Part, None],
    finish: Callable[[Answers], Awaitable[Json]],
) -> AsyncGenerator[Event, None]:
    """The events of an answer.

    `finish` keeps the record of the whole answer, before its last events are sent, and gives the
    body that would have come without streaming.
    """
    answer, writer = Answer(0), BlockWriter(request_id)
    whole = Answers(answers=[answer])
    async with aclosing(parts):
        async for part in parts:
            if isinstance(part, Started):
                whole.prompt_tokens = part.prompt_tokens
                yield "messageStart", {"role": "assistant"}
                continue
            add_part(answer, part)
            for event in writer.events(part):
                yield event
    body = await finish(whole)
    yield "messageStop", {name: body[name] for name in _IN_STOP if name in body}
    yield "metadata", {name: body[name] for name in _IN_METADATA if name in body}
