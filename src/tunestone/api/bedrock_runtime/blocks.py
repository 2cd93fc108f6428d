"""Answers -> Converse's content blocks and stop reasons, whole and as the events of a stream."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from tunestone.api.inference.answers import Answer, Called, Finished, FinishReason, Piece
from tunestone.generation import GenerationRequest
from tunestone.tool_calls import ToolCall

Json = dict[str, Any]
Event = tuple[str, Json]
"""Kind and content, such as ("messageStop", {"stopReason": "end_turn"})."""

_STOP_REASONS: Mapping[FinishReason, str] = {
    "stop": "end_turn",
    "stop_string": "stop_sequence",
    "tool_calls": "tool_use",
    "length": "max_tokens",
}


def stop_reason(request: GenerationRequest, answer: Answer) -> str:
    """Why the answer ends, in Converse's words."""
    most = request.max_tokens
    if answer.reason == "length" and (most is None or answer.tokens < most):
        return "model_context_window_exceeded"
    return _STOP_REASONS[answer.reason]


def content_blocks(answer: Answer, request_id: str) -> list[Json]:
    """The blocks of a whole answer; an answer of nothing is one empty text."""
    blocks: list[Json] = []
    if answer.reasoning:
        blocks.append({"reasoningContent": {"reasoningText": {"text": answer.reasoning}}})
    if answer.text or not answer.calls:
        blocks.append({"text": answer.text})
    calls = enumerate(answer.calls)
    return blocks + [{"toolUse": _tool_use(call, request_id, i)} for i, call in calls]


def usage(prompt_tokens: int, tokens: int) -> Json:
    """Converse's `usage`."""
    total = prompt_tokens + tokens
    return {"inputTokens": prompt_tokens, "outputTokens": tokens, "totalTokens": total}


def further_fields(paths: list[str], answer: Answer) -> Json | None:
    """`additionalModelResponseFields`: what the request's JSON pointers find; None for nothing."""
    known: Json = {"stop_sequence": answer.stop_string or None}
    known["reasoning_tokens"] = answer.reasoning_tokens
    found = {name: value for name, value in known.items() if f"/{name}" in paths}
    return found or None


class BlockWriter:
    """Turns the parts of an answer into the events of its blocks, in order."""

    def __init__(self, request_id: str) -> None:
        self._request_id = request_id
        self._index = 0
        self._calls = 0
        self._open = ""

    def events(self, part: Piece | Called | Finished) -> Iterator[Event]:
        """What a part of the answer adds: a block ends when something of another kind comes."""
        match part:
            case Piece():
                if self._open != part.kind:
                    yield from self._end()
                self._open = part.kind
                text = {"text": part.text}
                yield self._delta(text if part.kind == "text" else {"reasoningContent": text})
            case Called():
                yield from self._end()
                yield from self._call(part.call)
            case Finished():
                yield from self._end()

    def _call(self, call: ToolCall) -> Iterator[Event]:
        use = _tool_use(call, self._request_id, self._calls)
        self._calls += 1
        start = {"toolUse": {"toolUseId": use["toolUseId"], "name": use["name"]}}
        yield "contentBlockStart", {"start": start, "contentBlockIndex": self._index}
        yield self._delta({"toolUse": {"input": call.arguments_json}})
        self._open = "toolUse"
        yield from self._end()

    def _end(self) -> Iterator[Event]:
        """The end of the block that is open, if one is."""
        if self._open:
            yield "contentBlockStop", {"contentBlockIndex": self._index}
            self._index += 1
            self._open = ""

    def _delta(self, delta: Json) -> Event:
        return "contentBlockDelta", {"delta": delta, "contentBlockIndex": self._index}


def _tool_use(call: ToolCall, request_id: str, position: int) -> Json:
    """Arguments that are no JSON stay text. The id is the same whenever it is asked for."""
    try:
        given = json.loads(call.arguments_json)
    except ValueError:
        given = call.arguments_json
    code = hashlib.sha256(f"{request_id}:{position}".encode()).hexdigest()[:22]
    return {"toolUseId": f"tooluse_{code}", "name": call.name, "input": given}
