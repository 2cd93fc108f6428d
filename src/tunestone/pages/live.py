"""What is new in a run, as server-sent events.

The page has read the logs up to some byte of each and says so in the address; the id of each event
says how far it has been told, which is what a browser sends back when it reconnects.

    step    {points, latest, state}   a line of metrics.jsonl, as it is drawn
    note    {time, kind, message ...} a line of events.jsonl
    again   {}                        the logs were cut: read the page's data anew
    over    {state}                   nobody trains the run any more; do not reconnect
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tunestone.growing import GrowingLog
from tunestone.pages import series, summary
from tunestone.pages.library import ShownRun
from tunestone.pages.samples import SampleIndex
from tunestone.runlog import read_lines

_POLL_SECONDS = 1.0
_STILL_THERE_SECONDS = 15.0
"""A comment is sent at least this often, so that a connection that broke is noticed."""

Messages = list[tuple[str, dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Place:
    """Bytes of the logs that have been told."""

    metrics: int = 0
    events: int = 0

    @classmethod
    def parse(cls, text: str) -> "Place":
        """From an event's id; the beginning when it is none."""
        found = re.fullmatch(r"(\d{1,15})-(\d{1,15})", text)
        return cls(int(found[1]), int(found[2])) if found else cls()

    def __str__(self) -> str:
        return f"{self.metrics}-{self.events}"


async def tell(
    shown: ShownRun, index: SampleIndex, place: Place, is_closing: Callable[[], bool]
) -> AsyncIterator[str]:
    """Events until the run has ended, or the server is about to: a browser then asks again."""
    run, teller = shown.folder, _Teller(shown, index, place)
    yield "retry: 2000\n\n"
    quiet = 0.0
    while not is_closing():
        # Asked before the logs are read: what was written before the end is told before it.
        training = await asyncio.to_thread(run.is_locked)
        for name, data in await asyncio.to_thread(teller.news):
            quiet = 0.0
            yield f"id: {teller.place}\nevent: {name}\ndata: {json.dumps(data)}\n\n"
        if not training:
            state = summary.state_of(shown, run.report())
            yield f"id: {teller.place}\nevent: over\ndata: {json.dumps({'state': state})}\n\n"
            return
        await asyncio.sleep(_POLL_SECONDS)
        quiet += _POLL_SECONDS
        if quiet >= _STILL_THERE_SECONDS:
            quiet = 0.0
            yield ": still there\n\n"


class _Teller:
    """Reads what is new."""

    def __init__(self, shown: ShownRun, index: SampleIndex, place: Place) -> None:
        self._shown = shown
        self._run = run = shown.folder
        self._index = index
        self._metrics = GrowingLog(run.metrics, offset=place.metrics)
        self._events = GrowingLog(run.events, offset=place.events)

    @property
    def place(self) -> Place:
        return Place(self._metrics.offset, self._events.offset)

    def news(self) -> Messages:
        cut, lines = self._metrics.read()
        events_cut, events = self._events.read()
        if cut or events_cut:
            return [("again", {})]
        told: Messages = [("note", line.record) for line in events]
        if lines:
            told += self._steps([line.record for line in lines])
        return told

    def _steps(self, records: list[dict[str, Any]]) -> Messages:
        training = series.training_intervals(self._index.entries())
        validated = any("validation_reward" in record for record in records)
        validation: Mapping[int, series.Interval] = (
            series.validation_intervals(read_lines(self._run.validation)) if validated else {}
        )
        latest = summary.latest(read_lines(self._run.metrics), training=True)
        state = summary.state_of(self._shown, None)
        return [
            (
                "step",
                {
                    "step": record["step"],
                    "points": series.points(record, training, validation),
                    "latest": latest,
                    "state": state,
                },
            )
            for record in records
        ]
