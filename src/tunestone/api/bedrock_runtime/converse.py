"""Converse: a whole answer at once."""

from typing import Any

from starlette.responses import JSONResponse, Response

from tunestone.api.bedrock_runtime.asking import Asking, find_model
from tunestone.api.bedrock_runtime.blocks import (
    content_blocks,
    further_fields,
    stop_reason,
    usage,
)
from tunestone.api.bedrock_runtime.dialogue import read_body, to_request
from tunestone.api.http import Call
from tunestone.api.inference.answers import Answers, collect, read, unless_gone
from tunestone.generation import GenerationRequest

Json = dict[str, Any]


async def converse(call: Call) -> Response:
    """The model's next message in a dialogue."""
    asked = read_body("Converse", await call.request.body())
    asking = await find_model(call)
    request = to_request(asking, asked)
    answers = await unless_gone(call.request, collect(read(call.services.engine, request)))
    if answers is None:  # the client hung up: nobody reads this
        return Response(status_code=499)
    body = await finish_converse(asking, asked, request, answers)
    return JSONResponse(body, headers=asking.headers)


async def finish_converse(
    asking: Asking, asked: Json, request: GenerationRequest, answers: Answers
) -> Json:
    """Converse's answer, once its record is kept."""
    body = _answer_body(asking, asked, request, answers)
    tokens = (answers.prompt_tokens, answers.tokens)
    await asking.record(asked, body, tokens, asked.get("requestMetadata", {}))
    return body


def _answer_body(asking: Asking, asked: Json, request: GenerationRequest, answers: Answers) -> Json:
    (answer,) = answers.answers
    message = {"role": "assistant", "content": content_blocks(answer, asking.request_id)}
    body: Json = {
        "output": {"message": message},
        "stopReason": stop_reason(request, answer),
        "usage": usage(answers.prompt_tokens, answers.tokens),
        "metrics": {"latencyMs": asking.latency_ms},
        **_echoes(asked),
    }
    further = further_fields(asked.get("additionalModelResponseFieldPaths", []), answer)
    return body if further is None else {**body, "additionalModelResponseFields": further}


def _echoes(asked: Json) -> Json:
    """What is stored and given back, and changes nothing: all requests are served alike here."""
    return {name: asked[name] for name in ("performanceConfig", "serviceTier") if name in asked}
