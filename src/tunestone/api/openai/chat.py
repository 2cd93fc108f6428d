"""Chat completions."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.responses import JSONResponse, Response

from tunestone.api.http import Call, Route
from tunestone.api.inference.answers import (
    Answer,
    Answers,
    Called,
    Finished,
    Part,
    Piece,
    collect,
    opened,
    read,
    unless_gone,
)
from tunestone.api.inference.targets import Target
from tunestone.api.openai.asking import (
    fingerprint,
    headers_of,
    new_name,
    read_question,
    render_logprobs,
    unix_now,
)
from tunestone.api.openai.chat_body import ChatBody, chat_request
from tunestone.api.openai.sse import DONE, GONE, encode, ending_with_errors, stream
from tunestone.generation import Started, TokenLogprob
from tunestone.tool_calls import ToolCall


async def create_chat_completion(call: Call) -> Response:
    """`POST /v1/chat/completions`."""
    body, target = await read_question(call, ChatBody, unknown="argument")
    name = new_name("chatcmpl-")
    request = chat_request(body, target, name)
    parts = read(call.services.engine, request)
    head = chat_head(body, target, name)
    if body.stream:
        chunks = ChatChunks(body, {**head, "object": "chat.completion.chunk"})
        events = ending_with_errors(chunks.write(await opened(parts)))
        return stream(events, headers_of(target))
    answers = await unless_gone(call.request, collect(parts))
    if answers is None:
        return GONE
    return JSONResponse(render_chat(body, head, answers), headers=headers_of(target))


def render_chat(body: ChatBody, head: dict[str, Any], answers: Answers) -> dict[str, Any]:
    """A whole chat completion. Bedrock's InvokeModel answers in this shape too."""
    choices = [_render_choice(body, answer) for answer in answers.answers]
    usage = render_usage(answers)
    return {**head, "object": "chat.completion", "choices": choices, "usage": usage}


def chat_head(body: ChatBody, target: Target, name: str) -> dict[str, Any]:
    """What a completion and each chunk of a stream begin with."""
    return {
        "id": name,
        "created": unix_now(),
        "model": body.model,
        "system_fingerprint": fingerprint(target),
        "service_tier": "default",
    }


def _render_choice(body: ChatBody, answer: Answer) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": answer.text if answer.text or not answer.calls else None,
        "refusal": None,
        "annotations": [],
    }
    if answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    if answer.calls:
        message["tool_calls"] = [_render_call(wanted) for wanted in answer.calls]
    return {
        "index": answer.index,
        "message": message,
        "logprobs": _logprobs(answer.logprobs) if body.logprobs else None,
        "finish_reason": finish_reason(answer.reason),
    }


def finish_reason(reason: str) -> str:
    """`stop`, `length` or `tool_calls`: which stop it was is not told apart."""
    return "stop" if reason == "stop_string" else reason


def _render_call(wanted: ToolCall) -> dict[str, Any]:
    return {
        "id": new_name("call_"),
        "type": "function",
        "function": {"name": wanted.name, "arguments": wanted.arguments_json},
    }


def _logprobs(logprobs: "list[TokenLogprob] | tuple[TokenLogprob, ...]") -> dict[str, Any]:
    return {"content": render_logprobs(logprobs), "refusal": None}


def render_usage(answers: Answers) -> dict[str, Any]:
    """Tokens read and drawn, for chat and legacy completions."""
    return {
        "prompt_tokens": answers.prompt_tokens,
        "completion_tokens": answers.tokens,
        "total_tokens": answers.prompt_tokens + answers.tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": answers.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


class ChatChunks:
    """Writes a stream: first the role, then what is said or called, then why it ended."""

    def __init__(self, body: ChatBody, head: dict[str, Any]) -> None:
        self._body = body
        self._head = head
        options = body.stream_options
        self._tells_usage = bool(options and options.include_usage)
        self._whole = Answers()
        self._calls: dict[int, int] = {}

    async def write(self, parts: AsyncGenerator[Part, None]) -> AsyncGenerator[bytes, None]:
        """Server-sent events, `[DONE]` at the end."""
        async with aclosing(self.chunks(parts)) as chunks:
            async for chunk in chunks:
                yield encode(chunk)
        yield DONE

    async def chunks(
        self, parts: AsyncGenerator[Part, None]
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The chunks as plain data. Bedrock's InvokeModel streams them too."""
        async for part in parts:
            match part:
                case Started():
                    self._whole.prompt_tokens = part.prompt_tokens
                    for index in range(self._body.n or 1):
                        role = {"role": "assistant", "content": "", "refusal": None}
                        yield self._chunk(index, role)
                case Piece():
                    key = "content" if part.kind == "text" else "reasoning_content"
                    shown = part.logprobs if part.kind == "text" else ()
                    yield self._chunk(part.index, {key: part.text}, logprobs=shown)
                case Called():
                    for delta in self._call_deltas(part):
                        yield self._chunk(part.index, {"tool_calls": [delta]})
                case Finished():
                    self._whole.answers.append(
                        Answer(
                            part.index, tokens=part.tokens, reasoning_tokens=part.reasoning_tokens
                        )
                    )
                    yield self._chunk(part.index, {}, reason=finish_reason(part.reason))
        if self._tells_usage:
            yield {**self._head, "choices": [], "usage": render_usage(self._whole)}

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        *,
        reason: str | None = None,
        logprobs: tuple[TokenLogprob, ...] = (),
    ) -> dict[str, Any]:
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": _logprobs(logprobs) if self._body.logprobs and logprobs else None,
            "finish_reason": reason,
        }
        usage = {"usage": None} if self._tells_usage else {}
        return {**self._head, "choices": [choice], **usage}

    def _call_deltas(self, part: Called) -> list[dict[str, Any]]:
        """Name first, arguments after it: that is how clients put calls together."""
        place = self._calls.get(part.index, 0)
        self._calls[part.index] = place + 1
        whole = _render_call(part.call)
        arguments = whole["function"]["arguments"]
        opening = {**whole["function"], "arguments": ""}
        return [
            {"index": place, **whole, "function": opening},
            {"index": place, "function": {"arguments": arguments}},
        ]


ROUTES = (
    Route(
        dialect="openai",
        operation="chat.completions.create",
        method="POST",
        path="/chat/completions",
        handler=create_chat_completion,
        body=ChatBody,
    ),
)
