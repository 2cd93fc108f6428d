"""CountTokens: reads the prompt of a request, and stops there."""

from contextlib import aclosing
from dataclasses import replace

from starlette.responses import JSONResponse, Response

from tunestone.api.bedrock_runtime.asking import find_model
from tunestone.api.bedrock_runtime.dialogue import read_body, to_request
from tunestone.api.bedrock_runtime.invoke import read_invocation
from tunestone.api.http import Call
from tunestone.api.inference.answers import read
from tunestone.generation import Started


async def count_tokens(call: Call) -> Response:
    """How many tokens the prompt of a request has."""
    asked = read_body("CountTokens", await call.request.body())
    asking = await find_model(call)
    if "converse" in asked["input"]:
        request = to_request(asking, asked["input"]["converse"])
    else:
        request = read_invocation(asking, asked["input"]["invokeModel"]["body"]).request
    shortest = replace(request, max_tokens=1)
    async with aclosing(read(call.services.engine, shortest)) as parts:
        async for part in parts:
            if isinstance(part, Started):
                return JSONResponse({"inputTokens": part.prompt_tokens}, headers=asking.headers)
    raise RuntimeError("the engine ended without having read the prompt")
