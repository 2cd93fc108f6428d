"""The Responses API: create (whole or streaming), read, list the input of, and delete."""

import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from tunestone.api.http import Call, Route
from tunestone.api.inference.answers import Part, opened, read, unless_gone
from tunestone.api.openai.asking import headers_of, new_name, read_question, unix_now
from tunestone.api.openai.errors import OpenAIError, classify
from tunestone.api.openai.paging import page, read_choice, read_limit
from tunestone.api.openai.response_body import (
    FlatTool,
    ResponseBody,
    check_response,
    response_request,
)
from tunestone.api.openai.response_events import Composer
from tunestone.api.openai.response_items import Item, item_turns, read_items
from tunestone.api.openai.response_store import Kept, ResponseStore
from tunestone.api.openai.sse import GONE, encode, stream
from tunestone.api.openai.wording import invalid, parse_question


async def create_response(call: Call) -> Response:
    """`POST /v1/responses`."""
    body, target = await read_question(call, ResponseBody, unknown="parameter")
    check_response(body)
    tools = [
        parse_question(tool, FlatTool, unknown="parameter", within=("tools", i))
        for i, tool in enumerate(body.tools or [])
    ]
    items = read_items(body.input)
    turns = item_turns([*await _history(call, body), *items], body.instructions)
    response = _beginning(body, tools)
    request = response_request(body, tools, turns, target, response["id"])
    composer = Composer(response)
    parts = read(call.services.engine, request)
    if body.stream:
        events = _write(call, composer, await opened(parts), items)
        return stream(events, headers_of(target))
    whole = await unless_gone(call.request, _compose(call, composer, parts, items))
    return GONE if whole is None else JSONResponse(whole, headers=headers_of(target))


async def _history(call: Call, body: ResponseBody) -> list[Item]:
    if body.previous_response_id is None:
        return []
    store = ResponseStore(call.services.folder)
    items = await run_in_threadpool(store.history, body.previous_response_id)
    if items is None:
        raise invalid(
            f"Previous response with id '{body.previous_response_id}' not found.",
            "previous_response_id",
            "previous_response_not_found",
        )
    return items


def _beginning(body: ResponseBody, tools: Sequence[FlatTool]) -> dict[str, Any]:
    """The response before anything was said."""
    form = body.text.format if body.text else None
    text: dict[str, Any] = {"format": {"type": "text"}}
    if form:
        text["format"] = form.model_dump(by_alias=True, exclude_none=True)
    if body.text and body.text.verbosity:
        text["verbosity"] = body.text.verbosity
    reasoning = body.reasoning
    return {
        "id": new_name("resp_"),
        "object": "response",
        "created_at": unix_now(),
        "status": "in_progress",
        "background": False,
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": body.max_tool_calls,
        "metadata": body.metadata or {},
        "model": body.model,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "reasoning": {
            "effort": reasoning.effort if reasoning else None,
            "summary": reasoning.summary if reasoning else None,
        },
        "safety_identifier": body.safety_identifier,
        "service_tier": "default",
        "store": body.store is not False,
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "text": text,
        "tool_choice": "auto" if body.tool_choice is None else body.tool_choice,
        "tools": [tool.model_dump() for tool in tools],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "truncation": "disabled",
        "usage": None,
        "user": body.user,
    }


async def _compose(
    call: Call, composer: Composer, parts: AsyncGenerator[Part, None], items: list[Item]
) -> dict[str, Any]:
    async with contextlib.aclosing(parts):
        async for _ in composer.compose(parts):
            pass
    await _keep(call, composer, items)
    return composer.response


async def _write(
    call: Call, composer: Composer, parts: AsyncGenerator[Part, None], items: list[Item]
) -> AsyncGenerator[bytes, None]:
    async with contextlib.aclosing(parts):
        try:
            async for event in composer.compose(parts):
                yield encode(event, event=event["type"])
            await _keep(call, composer, items)
            last = composer.end()
        except Exception as error:  # noqa: BLE001 - the boundary where a stream's errors are told
            last = composer.fail("server_error", classify(error).message)
        yield encode(last, event=last["type"])


async def _keep(call: Call, composer: Composer, items: list[Item]) -> None:
    if composer.response["store"]:
        store = ResponseStore(call.services.folder)
        await run_in_threadpool(store.write, composer.response, items)


async def retrieve_response(call: Call) -> Response:
    """`GET /v1/responses/{response_id}`."""
    if call.request.query_params.get("stream") == "true":
        raise invalid("Only a background response can be streamed again.", "stream", None)
    return JSONResponse((await _find(call)).response)


async def list_input_items(call: Call) -> Response:
    """`GET /v1/responses/{response_id}/input_items`."""
    limit = read_limit(call.request, default=20, most=100)
    order = read_choice(call.request, "order", ["desc", "asc"])
    after = call.request.query_params.get("after")
    items = (await _find(call)).input
    shown = items if order == "asc" else items[::-1]
    if after is not None:
        places = [i for i, item in enumerate(shown) if item["id"] == after]
        if not places:
            raise invalid(f"Item with id '{after}' not found.", "after", None)
        shown = shown[places[0] + 1 :]
    return JSONResponse(page(shown[: limit + 1], limit, lambda item: item))


async def delete_response(call: Call) -> Response:
    """`DELETE /v1/responses/{response_id}`."""
    name = call.path["response_id"]
    store = ResponseStore(call.services.folder)
    if not await run_in_threadpool(store.delete, name):
        raise _not_found(name)
    return JSONResponse({"id": name, "object": "response", "deleted": True})


async def _find(call: Call) -> Kept:
    name = call.path["response_id"]
    kept = await run_in_threadpool(ResponseStore(call.services.folder).read, name)
    if kept is None:
        raise _not_found(name)
    return kept


def _not_found(name: str) -> OpenAIError:
    return OpenAIError(404, f"Response with id '{name}' not found.")


ROUTES = (
    Route(
        dialect="openai",
        operation="responses.create",
        method="POST",
        path="/responses",
        handler=create_response,
        body=ResponseBody,
    ),
    Route(
        dialect="openai",
        operation="responses.retrieve",
        method="GET",
        path="/responses/{response_id}",
        handler=retrieve_response,
    ),
    Route(
        dialect="openai",
        operation="responses.delete",
        method="DELETE",
        path="/responses/{response_id}",
        handler=delete_response,
        scope="write",
    ),
    Route(
        dialect="openai",
        operation="responses.input_items.list",
        method="GET",
        path="/responses/{response_id}/input_items",
        handler=list_input_items,
    ),
)
