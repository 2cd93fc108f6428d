"""InvokeModel: the body is that of the model's family, and so is the answer's.

    amazon.nova...      {"system": [{"text"}], "messages": [{"role", "content": [{"text"}]}],
                        "inferenceConfig": {"maxTokens", "temperature", "topP", "topK",
                        "stopSequences"}, "toolConfig"}: nearly Converse
    any other           OpenAI's chat completions: Bedrock's own form for gpt-oss and Qwen

A tuned model has the family of its base. In a stream each event is a chunk of the family's own; the
last one tells what the call took, under `amazon-bedrock-invocationMetrics`.
"""

import base64
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from starlette.responses import Response

from tunestone.api.bedrock.errors import ResourceNotFoundException, ValidationException
from tunestone.api.bedrock_runtime.asking import Asking, find_model
from tunestone.api.bedrock_runtime.blocks import Event
from tunestone.api.bedrock_runtime.converse_stream import event_response
from tunestone.api.bedrock_runtime.dialogue import refuse_half_letters
from tunestone.api.bedrock_runtime.families import Question, read_chat, read_nova
from tunestone.api.bedrock_runtime.refused import NO_GUARDRAIL
from tunestone.api.http import Call
from tunestone.api.inference.answers import (
    Answer,
    Answers,
    Part,
    add_part,
    collect,
    opened,
    read,
    unless_gone,
)
from tunestone.generation import Started

Json = dict[str, Any]

_PREFIX = "x-amzn-bedrock-"
_ECHOED = ("performanceconfig-latency", "service-tier")
_MOST_METADATA = 16


async def invoke_model(call: Call) -> Response:
    """A whole answer in the family's shape."""
    asking, question = await _read(call)
    answers = await unless_gone(call.request, collect(read(call.services.engine, question.request)))
    if answers is None:  # the client hung up: nobody reads this
        return Response(status_code=499)
    body = question.render(answers)
    await _record(asking, question, answers, body)
    told = {
        "input-token-count": answers.prompt_tokens,
        "output-token-count": answers.tokens,
        "invocation-latency": asking.latency_ms,
    }
    headers = {f"{_PREFIX}{name}": str(value) for name, value in told.items()}
    content = json.dumps(body, ensure_ascii=False)
    headers |= {**_echoes(call), **asking.headers}
    return Response(content, media_type="application/json", headers=headers)


async def invoke_model_with_response_stream(call: Call) -> Response:
    """The family's chunks, each in an event of its own."""
    asking, question = await _read(call)
    parts = await opened(read(call.services.engine, question.request))
    headers = {f"{_PREFIX}content-type": "application/json", **_echoes(call), **asking.headers}
    return event_response(_payload_parts(asking, question, parts), headers)


def read_invocation(asking: Asking, body: bytes) -> Question:
    """The question in a body. Raises ValidationException when it is not the family's."""
    refuse_half_letters(body)
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValidationException(f"Malformed input request: {error}. Send JSON.") from None
    if not isinstance(given, dict):
        raise ValidationException("Malformed input request: send a JSON object.")
    if asking.target.base.startswith("amazon.nova"):
        return read_nova(asking, given)
    return read_chat(asking, given)


async def _read(call: Call) -> tuple[Asking, Question]:
    if call.request.headers.get(f"{_PREFIX}guardrailidentifier"):
        raise ResourceNotFoundException(f"{NO_GUARDRAIL} There are no guardrails here.")
    _metadata(call)
    asking = await find_model(call)
    return asking, read_invocation(asking, await call.request.body())


def _echoes(call: Call) -> dict[str, str]:
    """What is given back and changes nothing: all requests are served alike here."""
    names = [f"{_PREFIX}{name}" for name in _ECHOED]
    headers = call.request.headers
    return {name: headers[name] for name in names if name in headers}


def _metadata(call: Call) -> Mapping[str, str]:
    """`requestMetadata`, JSON in a header. Raises ValidationException."""
    text = call.request.headers.get(f"{_PREFIX}request-metadata", "{}")
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValidationException(f"requestMetadata is not valid JSON: {error}.") from None
    texts = isinstance(found, dict) and all(isinstance(value, str) for value in found.values())
    if not texts or len(found) > _MOST_METADATA:
        raise ValidationException(
            f"requestMetadata must be a JSON object of at most {_MOST_METADATA} texts."
        )
    return dict(found)


async def _record(asking: Asking, question: Question, answers: Answers, body: Json) -> None:
    tokens = (answers.prompt_tokens, answers.tokens)
    await asking.record(question.given, body, tokens, _metadata(asking.call))


async def _payload_parts(
    asking: Asking, question: Question, parts: AsyncGenerator[Part, None]
) -> AsyncGenerator[Event, None]:
    """The chunks; the call's record is kept before the last one, which says what it took."""
    whole = Answers(answers=[Answer(index) for index in range(question.request.n)])
    last: Json | None = None
    first_ms = 0
    async with aclosing(question.chunks(_keeping(parts, whole))) as chunks:
        async for chunk in chunks:
            if last is not None:
                yield _payload_part(last)
            last, first_ms = chunk, first_ms or asking.latency_ms
    await _record(asking, question, whole, question.render(whole))
    metrics = {
        "inputTokenCount": whole.prompt_tokens,
        "outputTokenCount": whole.tokens,
        "invocationLatency": asking.latency_ms,
        "firstByteLatency": first_ms,
    }
    yield _payload_part({**(last or {}), "amazon-bedrock-invocationMetrics": metrics})


async def _keeping(parts: AsyncGenerator[Part, None], whole: Answers) -> AsyncGenerator[Part, None]:
    """The same parts, put together on their way."""
    async with aclosing(parts):
        async for part in parts:
            if isinstance(part, Started):
                whole.prompt_tokens = part.prompt_tokens
            else:
                add_part(whole.answers[part.index], part)
            yield part


def _payload_part(chunk: Json) -> Event:
    content = json.dumps(chunk, ensure_ascii=False).encode()
    return "chunk", {"bytes": base64.b64encode(content).decode()}
