"""Server-sent events, as OpenAI's streams are written."""

import contextlib
import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from starlette.background import BackgroundTask
from starlette.responses import Response, StreamingResponse

from tunestone.api.openai.errors import classify

DONE = b"data: [DONE]\n\n"
"""The end of chat's and completions' streams."""
GONE = Response(status_code=499)
"""For a client that hung up; nobody reads it."""


def encode(data: Mapping[str, Any], *, event: str = "") -> bytes:
    """One event; only Responses names its events."""
    head = f"event: {event}\n" if event else ""
    return f"{head}data: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


def stream(events: AsyncGenerator[bytes, None], headers: Mapping[str, str]) -> StreamingResponse:
    """The answer to a request with `stream`. When the client hangs up, `events` is closed."""
    return StreamingResponse(
        events,
        media_type="text/event-stream",
        headers={"cache-control": "no-cache", "x-accel-buffering": "no", **headers},
        background=BackgroundTask(events.aclose),
    )


async def ending_with_errors(events: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The same, but an error in the middle becomes the last event: the status is long sent."""
    async with contextlib.aclosing(events):
        try:
            async for event in events:
                yield event
        except Exception as error:  # noqa: BLE001 - the boundary where a stream's errors are told
            yield encode(classify(error).envelope)
