"""The server's side of the engine: a child process that is started when first asked.

Many requests share its pipes; each has a queue of its own here. Closing a request's iterator, as
happens when a client hangs up, cancels it. When the child dies, what it was answering fails as
something that can be asked again, and the next request starts a new child.
"""

import asyncio
import contextlib
import dataclasses
import itertools
import json
import logging
import sys
from collections.abc import AsyncIterator, Mapping
from typing import Any

from tunestone import errors
from tunestone.errors import OverloadedError, TunestoneError, WorldError
from tunestone.generation import (
    Ended,
    Failed,
    GenerationEvent,
    GenerationRequest,
    from_json,
    to_json,
)
from tunestone.jobs.settings import ServerSettings

_log = logging.getLogger("tunestone.engine")
_LONGEST_LINE = 2**27  # a long prompt's log-probabilities come in one line
_PATIENCE_SECONDS = 5.0
_KINDS = {
    kind.code: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, TunestoneError)
}
_Queue = asyncio.Queue[GenerationEvent | WorldError]


class EngineClient:
    """Answers by `python -m tunestone.engine`; see `tunestone.generation.Engine`.

    To be used on one event loop. Beyond `most_waiting` requests at a time it is overloaded.
    """

    def __init__(self, settings: ServerSettings, *, most_waiting: int = 512) -> None:
        self._settings = settings
        self._most_waiting = most_waiting
        self._child: _Child | None = None
        self._starting = asyncio.Lock()
        self._names = itertools.count(1)
        self._closed = False

    async def warm(self) -> None:
        """Start the child now, so that the first request need not wait for its imports."""
        await self._running()

    async def generate(self, request: GenerationRequest) -> AsyncIterator[GenerationEvent]:
        """See `Engine.generate`."""
        child = await self._running()
        if len(child.queues) >= self._most_waiting:
            raise OverloadedError(
                f"{len(child.queues)} questions are being answered or wait already.",
                remedy="Ask again in a moment.",
            )
        name = str(next(self._names))  # ids of requests are the callers' and need not differ
        left = set(range(request.n))
        queue = child.ask(dataclasses.replace(request, id=name))
        try:
            while left:
                event = await queue.get()
                if isinstance(event, WorldError):
                    left = set()
                    raise event
                if isinstance(event, Failed):
                    left = set()
                    raise _as_error(event)
                if isinstance(event, Ended):
                    left.discard(event.index)
                yield dataclasses.replace(event, id=request.id)
        finally:
            child.forget(name, cancel=bool(left))

    def stats(self) -> dict[str, float]:
        """What the child said of itself last, as numbers; may be called from any thread."""
        child = self._child
        if child is None or child.is_dead:
            return {"alive": 0.0}
        return {"alive": 1.0, "asked": float(len(child.queues)), **child.stats}

    async def aclose(self) -> None:
        """End the child; what it was answering fails."""
        self._closed = True
        async with self._starting:
            if self._child is not None:
                await self._child.end()

    async def _running(self) -> "_Child":
        async with self._starting:
            if self._closed:
                raise WorldError("The server is shutting down.")
            if self._child is None or self._child.is_dead:
                self._child = await _Child.start(self._settings)
            return self._child


class _Child:
    """One life of the engine's process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.queues: dict[str, _Queue] = {}
        self.stats: dict[str, float] = {}
        self.is_dead = False
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._log_errors())]

    @staticmethod
    async def start(settings: ServerSettings) -> "_Child":
        """Start the process. Raises WorldError when that is impossible."""
        options = {
            "--threads": settings.engine_threads,
            "--models": settings.engine_models,
            "--adapters": settings.engine_adapters,
            "--rows": settings.engine_rows,
        }
        words = [str(word) for pair in options.items() for word in pair]
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tunestone.engine", *words),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                limit=_LONGEST_LINE,
                start_new_session=True,  # Ctrl-C is for the server, which ends us in its own time
            )
        except OSError as error:
            raise WorldError(f"The engine could not be started: {error}") from error
        _log.info("The engine was started as process %d", process.pid)
        return _Child(process)

    def ask(self, request: GenerationRequest) -> _Queue:
        """Send a request; its events will come into the queue."""
        queue = self.queues[request.id] = _Queue()
        self._send(to_json(request))
        return queue

    def forget(self, name: str, *, cancel: bool) -> None:
        """Nobody listens to this request any more."""
        del self.queues[name]
        if cancel and not self.is_dead:
            self._send({"kind": "Cancel", "id": name})

    async def end(self) -> None:
        """Close its input, by which it ends; kill it if it does not."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), _PATIENCE_SECONDS)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        await asyncio.gather(*self._tasks)

    def _send(self, record: Mapping[str, Any]) -> None:
        # Not drained: the child reads in a thread that does nothing else.
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(record, separators=(",", ":")).encode() + b"\n")

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        try:
            async for line in self._process.stdout:
                self._take(json.loads(line))
        finally:
            self.is_dead = True
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()  # if it is we who broke off
            for queue in self.queues.values():
                queue.put_nowait(
                    WorldError("The engine ended while it was answering.", remedy="Ask again.")
                )
            _log.info("The engine ended with status %s", await self._process.wait())

    def _take(self, record: Mapping[str, Any]) -> None:
        if record["kind"] == "Stats":
            self.stats = {name: _number(value) for name, value in record.items() if name != "kind"}
        elif (queue := self.queues.get(record["id"])) is not None:
            queue.put_nowait(from_json(record))

    async def _log_errors(self) -> None:
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            level, _, text = line.decode("utf-8", "replace").rstrip().partition(" ")
            known = getattr(logging, level, None)
            if isinstance(known, int):
                _log.log(known, "%s", text)
            else:
                _log.info("%s %s", level, text)


def _number(value: object) -> float:
    """Lists count by their length."""
    return float(len(value)) if isinstance(value, list) else float(str(value))


def _as_error(event: Failed) -> Exception:
    """The error that the engine met, as it would have been raised here."""
    kind = _KINDS.get(event.code)
    return RuntimeError(event.message) if kind is None else kind(event.message)
