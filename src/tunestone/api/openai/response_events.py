"""Composes a response while it is written, and tells each step as an event.

    response.created, response.in_progress
      of each item:  output_item.added ... output_item.done
        reasoning      reasoning_part.added, reasoning_text.delta *, reasoning_text.done,
                       reasoning_part.done
        message        content_part.added, output_text.delta *, output_text.done, content_part.done
        function_call  function_call_arguments.delta, function_call_arguments.done
    response.completed, or response.incomplete when the answer was cut off

A request without `stream` runs the same and gives only the response, so both say the same.
"""

from collections.abc import AsyncIterator, Iterator
from typing import Any

from tunestone.api.inference.answers import Called, Finished, Part, Piece
from tunestone.api.inference.reasoning import Kind
from tunestone.api.openai.asking import new_name, render_logprobs, unix_now
from tunestone.generation import Started

Event = dict[str, Any]


class Composer:
    """One response on its way."""

    def __init__(self, response: dict[str, Any]) -> None:
        """`response` as it is at the start; it is written into."""
        self.response = response
        self._number = 0
        self._open: Kind | None = None
        self._text = ""
        self._logprobs: list[dict[str, Any]] = []
        self._prompt_tokens = 0

    async def compose(self, parts: AsyncIterator[Part]) -> AsyncIterator[Event]:
        """All events but the last: `end` tells that, once the response was kept."""
        async for part in parts:
            match part:
                case Started():
                    self._prompt_tokens = part.prompt_tokens
                    yield self._whole("created")
                    yield self._whole("in_progress")
                case Piece():
                    for event in self._write(part):
                        yield event
                case Called():
                    for event in (*self._close("completed"), *self._call(part)):
                        yield event
                case Finished():
                    for event in self._finish(part):
                        yield event

    def end(self) -> Event:
        """`response.completed` or `response.incomplete`."""
        return self._whole(self.response["status"])

    def fail(self, code: str, message: str) -> Event:
        """`response.failed`."""
        self.response["status"] = "failed"
        self.response["error"] = {"code": code, "message": message}
        return self._whole("failed")

    def _whole(self, step: str) -> Event:
        return self._event(step, response={**self.response, "output": [*self._items]})

    @property
    def _items(self) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self.response["output"]
        return items

    def _event(self, kind: str, **more: Any) -> Event:
        event = {"type": f"response.{kind}", "sequence_number": self._number, **more}
        self._number += 1
        return event

    def _here(self) -> dict[str, Any]:
        """Where a part of the open item stands."""
        place = len(self._items) - 1
        return {"item_id": self._items[-1]["id"], "output_index": place, "content_index": 0}

    def _write(self, piece: Piece) -> Iterator[Event]:
        if self._open != piece.kind:
            yield from self._close("completed")
            yield from self._begin(piece.kind)
        self._text += piece.text
        if piece.kind == "reasoning":
            yield self._event("reasoning_text.delta", **self._here(), delta=piece.text)
            return
        logprobs = render_logprobs(piece.logprobs)
        self._logprobs += logprobs
        yield self._event("output_text.delta", **self._here(), delta=piece.text, logprobs=logprobs)

    def _begin(self, kind: Kind) -> Iterator[Event]:
        self._open, self._text, self._logprobs = kind, "", []
        item: dict[str, Any] = {"id": new_name("rs_"), "type": "reasoning", "summary": []}
        if kind == "text":
            item = {"id": new_name("msg_"), "type": "message", "role": "assistant"}
        yield self._add({**item, "status": "in_progress", "content": []})
        step = "content_part.added" if kind == "text" else "reasoning_part.added"
        yield self._event(step, **self._here(), part=self._part())

    def _add(self, item: dict[str, Any]) -> Event:
        self._items.append(item)
        place = len(self._items) - 1
        return self._event("output_item.added", output_index=place, item=item)

    def _part(self) -> dict[str, Any]:
        if self._open == "reasoning":
            return {"type": "reasoning_text", "text": self._text}
        return {
            "type": "output_text",
            "text": self._text,
            "annotations": [],
            "logprobs": self._logprobs,
        }

    def _close(self, status: str) -> Iterator[Event]:
        if self._open is None:
            return
        here, part = self._here(), self._part()
        if self._open == "reasoning":
            yield self._event("reasoning_text.done", **here, text=self._text)
            yield self._event("reasoning_part.done", **here, part=part)
        else:
            yield self._event("output_text.done", **here, text=self._text, logprobs=self._logprobs)
            yield self._event("content_part.done", **here, part=part)
        self._open = None
        yield self._done({**self._items[-1], "status": status, "content": [part]})

    def _done(self, item: dict[str, Any]) -> Event:
        # A new object: events that told of it as it was are not changed by this.
        self._items[-1] = item
        return self._event("output_item.done", output_index=len(self._items) - 1, item=item)

    def _call(self, called: Called) -> Iterator[Event]:
        arguments = called.call.arguments_json
        item = {
            "id": new_name("fc_"),
            "type": "function_call",
            "status": "in_progress",
            "call_id": new_name("call_"),
            "name": called.call.name,
            "arguments": "",
        }
        yield self._add(item)
        here = {"item_id": item["id"], "output_index": len(self._items) - 1}
        yield self._event("function_call_arguments.delta", **here, delta=arguments)
        yield self._event(
            "function_call_arguments.done", **here, name=item["name"], arguments=arguments
        )
        yield self._done({**item, "status": "completed", "arguments": arguments})

    def _finish(self, finished: Finished) -> Iterator[Event]:
        status = "incomplete" if finished.reason == "length" else "completed"
        if not self._items:  # an answer is a message, though it be empty
            yield from self._begin("text")
        yield from self._close(status)
        self.response["status"] = status
        if status == "incomplete":
            self.response["incomplete_details"] = {"reason": "max_output_tokens"}
        else:
            self.response["completed_at"] = unix_now()
        self.response["usage"] = {
            "input_tokens": self._prompt_tokens,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": finished.tokens,
            "output_tokens_details": {"reasoning_tokens": finished.reasoning_tokens},
            "total_tokens": self._prompt_tokens + finished.tokens,
        }
