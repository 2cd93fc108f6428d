"""The engine's process: JSON lines in, JSON lines out, and the scheduler between them.

A thread reads requests and puts them into one inbox, where the ends of loads arrive too; all else
happens in the main thread, so nothing is shared. A line in is a GenerationRequest or `Cancel` with
an id; a line out is an event, or `Stats`, once a second while they change. When its standard input
ends, the server is gone, and so is this process: at once, even in the middle of a forward.
"""

import json
import logging
import os
import threading
import time
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, BinaryIO

import torch
from pydantic import ValidationError

from tunestone.engine.scheduler import Scheduler
from tunestone.engine.shelf import Shelf
from tunestone.generation import Failed, GenerationEvent, GenerationRequest, from_json, to_json

_log = logging.getLogger("tunestone.engine")
_STATS_SECONDS = 1.0
_CACHE_SHARE = 0.3  # of the memory that is free at the start; the rest is for weights and trainings


def serve(
    source: BinaryIO, sink: BinaryIO, *, models: int, adapters: int, rows: int, cache_bytes: int = 0
) -> None:
    """Answer until `source` ends. `cache_bytes` 0 takes a share of the memory that is free."""
    inbox: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
    shelf = Shelf(models=models, adapters=adapters, on_arrival=lambda: inbox.put({"kind": "Wake"}))
    scheduler = Scheduler(
        shelf,
        rows=rows,
        cache_bytes=cache_bytes or _free_bytes(),
        wake=lambda: inbox.put({"kind": "Wake"}),
    )
    threading.Thread(target=_read_lines, args=(source, inbox), daemon=True).start()
    loop = _Loop(scheduler, inbox, sink)
    while loop.turn():
        ...


class _Loop:
    """The main thread's work."""

    def __init__(
        self, scheduler: Scheduler, inbox: SimpleQueue[dict[str, Any] | None], sink: BinaryIO
    ) -> None:
        self._scheduler = scheduler
        self._inbox = inbox
        self._sink = sink
        self._stats: dict[str, object] = {}
        self._stats_at = 0.0

    def turn(self) -> bool:
        """Take in all that has arrived, then one step. False when it is time to go."""
        for message in self._arrived():
            if message is None:
                return False
            self._take(message)
        self._send([to_json(event) for event in self._scheduler.step()])
        self._tell_stats()
        return True

    def _arrived(self) -> list[dict[str, Any] | None]:
        """Messages; waits for one when there is nothing else to do."""
        messages = []
        try:
            if not self._scheduler.has_work:
                messages.append(self._inbox.get(timeout=_STATS_SECONDS))
            while True:
                messages.append(self._inbox.get_nowait())
        except Empty:
            return messages

    def _take(self, message: dict[str, Any]) -> None:
        kind, name = message.get("kind"), str(message.get("id", ""))
        if kind == "Cancel":
            self._scheduler.cancel(name)
        elif kind == GenerationRequest.__name__:
            events: list[GenerationEvent]
            try:
                events = self._scheduler.submit(from_json(message))
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(map(str, first["loc"]))
                events = [Failed(name, "request_error", f"{where}: {first['msg']}.")]
            self._send([to_json(event) for event in events])

    def _tell_stats(self) -> None:
        if time.monotonic() - self._stats_at < _STATS_SECONDS:
            return
        stats = self._scheduler.stats()
        if stats != self._stats:
            self._send([{"kind": "Stats", **stats}])
        self._stats, self._stats_at = stats, time.monotonic()

    def _send(self, records: list[dict[str, Any]]) -> None:
        if records:
            lines = [json.dumps(record, separators=(",", ":")) + "\n" for record in records]
            self._sink.write("".join(lines).encode())
            self._sink.flush()


def _read_lines(source: BinaryIO, inbox: SimpleQueue[dict[str, Any] | None]) -> None:
    for line in source:
        inbox.put(json.loads(line))
    os._exit(0)


def _free_bytes() -> int:
    """Memory for keys and values."""
    if torch.cuda.is_available():
        return int(_CACHE_SHARE * torch.cuda.mem_get_info()[0])
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.exists() and limit.read_text().strip().isdecimal():
        free = min(free, int(limit.read_text()))
    return int(_CACHE_SHARE * free)
