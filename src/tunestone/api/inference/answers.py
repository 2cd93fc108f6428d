"""Reads what the engine says as answers: reasoning apart from text, tool calls apart from both.

`read` gives pieces while an answer is being written, for streams; `collect` puts them together.
Both doors use both, so a tool call or a thought is the same to Bedrock's clients and to OpenAI's.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, cast

from starlette.requests import Request

from tunestone import errors
from tunestone.api.inference.calls import CallGate
from tunestone.api.inference.reasoning import Kind, ReasoningSplitter
from tunestone.generation import (
    Delta,
    Ended,
    Engine,
    Failed,
    GenerationRequest,
    Started,
    TokenLogprob,
)
from tunestone.tool_calls import ToolCall

_T = TypeVar("_T")
FinishReason = Literal["stop", "stop_string", "length", "tool_calls"]


@dataclass(frozen=True, slots=True)
class Piece:
    """More of answer `index`."""

    index: int
    kind: Kind
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    """Of the tokens since the last piece, marks left out."""


@dataclass(frozen=True, slots=True)
class Called:
    """Answer `index` calls a tool. All calls of an answer come after its text."""

    index: int
    call: ToolCall


@dataclass(frozen=True, slots=True)
class Finished:
    """Answer `index` is complete."""

    index: int
    reason: FinishReason
    tokens: int
    """All that were drawn."""
    reasoning_tokens: int
    stop_string: str = ""


Part = Started | Piece | Called | Finished


@dataclass(slots=True)
class Answer:
    """A whole answer."""

    index: int
    text: str = ""
    reasoning: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    """Of the text's tokens."""
    reason: FinishReason = "stop"
    stop_string: str = ""
    tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(slots=True)
class Answers:
    """All answers to one request."""

    prompt_tokens: int = 0
    prompt_logprobs: tuple[TokenLogprob | None, ...] = ()
    answers: list[Answer] = field(default_factory=list)
    """In order of their index."""

    @property
    def tokens(self) -> int:
        """Drawn for all answers."""
        return sum(answer.tokens for answer in self.answers)

    @property
    def reasoning_tokens(self) -> int:
        """Drawn for reasoning, in all answers."""
        return sum(answer.reasoning_tokens for answer in self.answers)


class _Reader:
    """One answer on its way."""

    def __init__(self, request: GenerationRequest, index: int, *, thinking: bool) -> None:
        self._index = index
        # What a grammar or a raw prompt asked for is no reasoning, whatever it looks like.
        plain = request.grammar is not None or request.text is not None
        self._splitter = None if plain else ReasoningSplitter(thinking=thinking)
        self._gate = CallGate(request.tools) if request.tools else None
        self._kind: Kind = "reasoning" if thinking and not plain else "text"
        self._reasoning_tokens = 0
        self._logprobs: list[TokenLogprob] = []

    def add(self, delta: Delta) -> list[Piece]:
        """What can be shown of a delta."""
        self._logprobs += delta.logprobs
        split = self._splitter.feed(delta.text) if self._splitter else [("text", delta.text)]
        pieces = self._show(cast("list[tuple[Kind, str]]", split))
        if not pieces and self._splitter and not self._splitter.holds and not self._gate:
            self._logprobs.clear()  # they were those of a mark
        if self._kind == "reasoning":
            self._reasoning_tokens += delta.tokens
        return pieces

    def end(self, ended: Ended) -> list[Piece | Called | Finished]:
        """What was held back, the calls, and the end."""
        parts: list[Piece | Called | Finished] = []
        parts += self._show(self._splitter.finish() if self._splitter else [])
        rest, calls = self._gate.finish() if self._gate else ("", [])
        if rest:
            parts.append(self._piece("text", rest))
        parts += [Called(self._index, call) for call in calls]
        cut = ended.reason == "length"  # perhaps in the middle of one more call
        reason: FinishReason = "tool_calls" if calls and not cut else ended.reason
        thought = min(self._reasoning_tokens, ended.tokens)
        parts.append(Finished(self._index, reason, ended.tokens, thought, ended.stop_string))
        return parts

    def _show(self, split: list[tuple[Kind, str]]) -> list[Piece]:
        pieces = []
        for kind, text in split:
            self._kind = kind
            shown = self._gate.feed(text) if self._gate and kind == "text" else text
            if shown:
                pieces.append(self._piece(kind, shown))
        return pieces

    def _piece(self, kind: Kind, text: str) -> Piece:
        logprobs, self._logprobs = tuple(self._logprobs), []
        return Piece(self._index, kind, text, logprobs)


async def read(engine: Engine, request: GenerationRequest) -> AsyncGenerator[Part, None]:
    """What the engine says to `request`, piece by piece. Closing it cancels the request.

    Raises what `Engine.generate` raises, also in the middle.
    """
    readers: dict[int, _Reader] = {}
    events = cast("AsyncGenerator[Any, None]", engine.generate(request))
    async with contextlib.aclosing(events):
        async for event in events:
            match event:
                case Started():
                    readers = {
                        index: _Reader(request, index, thinking=event.thinking)
                        for index in range(request.n)
                    }
                    yield event
                case Delta():
                    for piece in readers[event.index].add(event):
                        yield piece
                case Ended():
                    for part in readers[event.index].end(event):
                        yield part
                case Failed():
                    raise _failure(event)


async def collect(parts: AsyncIterator[Part]) -> Answers:
    """Whole answers out of what `read` gives."""
    whole = Answers()
    found: dict[int, Answer] = {}
    async for part in parts:
        if isinstance(part, Started):
            whole.prompt_tokens, whole.prompt_logprobs = part.prompt_tokens, part.prompt_logprobs
            continue
        add_part(found.setdefault(part.index, Answer(part.index)), part)
    whole.answers = [found[index] for index in sorted(found)]
    return whole


def add_part(answer: Answer, part: Piece | Called | Finished) -> None:
    """Write a part into the answer it belongs to."""
    match part:
        case Piece(kind="reasoning"):
            answer.reasoning += part.text
        case Piece():
            answer.text += part.text
            answer.logprobs += part.logprobs
        case Called():
            answer.text = answer.text.rstrip()
            answer.calls.append(part.call)
        case Finished():
            answer.reason, answer.stop_string = part.reason, part.stop_string
            answer.tokens, answer.reasoning_tokens = part.tokens, part.reasoning_tokens


async def opened(parts: AsyncGenerator[_T, None]) -> AsyncGenerator[_T, None]:
    """The same, once the first part is there: what refuses a request raises here, before a
    stream's head is sent."""
    first = await anext(parts)

    async def all_parts() -> AsyncGenerator[_T, None]:
        async with contextlib.aclosing(parts):
            yield first
            async for part in parts:
                yield part

    return all_parts()


async def merged(
    sources: Sequence[AsyncGenerator[_T, None]],
) -> AsyncGenerator[tuple[int, _T], None]:
    """Parts of several answers as they come, each with the number of its source.

    The first error ends all of them.
    """
    queue: asyncio.Queue[tuple[int, _T] | Exception | None] = asyncio.Queue(maxsize=1)

    async def pump(number: int, source: AsyncGenerator[_T, None]) -> None:
        async with contextlib.aclosing(source):
            try:
                async for part in source:
                    await queue.put((number, part))
            except Exception as error:  # noqa: BLE001 - it is raised where the parts are read
                await queue.put(error)
        await queue.put(None)

    tasks = [asyncio.ensure_future(pump(i, source)) for i, source in enumerate(sources)]
    try:
        running = len(tasks)
        while running:
            got = await queue.get()
            if isinstance(got, Exception):
                raise got
            if got is None:
                running -= 1
            else:
                yield got
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def unless_gone(request: Request, work: Coroutine[Any, Any, _T]) -> _T | None:
    """The result of `work`, or None when the client hung up before: then `work` is cancelled.

    The request's body must have been read.
    """
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_hung_up(request))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()
        watcher.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        await asyncio.sleep(0)


def _failure(event: Failed) -> Exception:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    for kind in kinds:
        if issubclass(kind, errors.TunestoneError) and kind.code == event.code:
            return kind(event.message)
    return RuntimeError(f"The engine failed: {event.message}")
