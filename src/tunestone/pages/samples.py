"""The completions of a run: where each stands in samples.jsonl, and which are asked for.

The log may have a hundred megabytes, so it is read once and only its numbers are kept; texts are
fetched by their place in the file.
"""

import json
import math
import statistics
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunestone.errors import ConfigError
from tunestone.growing import GrowingLog, Line

ALL_STEPS = "all"
SORTS: Mapping[str, str] = {
    "group": "by group",
    "best": "best first",
    "worst": "worst first",
    "longest": "longest first",
    "surprising": "most surprising first",
    "changed": "most changed first",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One completion's numbers, and its place in the file."""

    offset: int
    size: int
    step: int
    prompt_id: str
    reward: float | None
    length: int
    """Tokens."""
    surprise: float
    """Mean of minus its tokens' log-probabilities, in nats."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for; None asks for nothing."""

    step: int | None = None
    """None: all steps."""
    sort: str = "group"
    least_reward: float | None = None
    most_reward: float | None = None
    least_tokens: int | None = None
    most_tokens: int | None = None
    outcome: str = ""
    """`failed` or `graded`; empty for both."""
    text: str = ""
    page: int = 1

    def takes(self, entry: Entry) -> bool:
        """Whether its numbers are within what is asked for."""
        failed = entry.reward is None
        return (
            self.step in (None, entry.step)
            and _within(entry.reward, self.least_reward, self.most_reward)
            and _within(entry.length, self.least_tokens, self.most_tokens)
            and self.outcome in ("", "failed" if failed else "graded")
        )


def _within(value: float | None, least: float | None, most: float | None) -> bool:
    if value is None:
        return least is None and most is None
    return (least is None or value >= least) and (most is None or value <= most)


def read_wanted(query: Mapping[str, str], steps: Sequence[int]) -> Wanted:
    """What an address asks for; by default the last step. Raises ConfigError for what is none."""
    last = str(steps[-1]) if steps else ALL_STEPS
    step = query.get("step", "").strip() or last
    sort = query.get("sort", "") or "group"
    if sort not in SORTS:
        raise ConfigError(f"There is no order '{sort}'.", remedy=f"Use one of {', '.join(SORTS)}.")
    if step == ALL_STEPS and sort in ("group", "changed"):
        sort = "best"  # neither means anything across all steps at once
    outcome = query.get("outcome", "")
    if outcome not in ("", "failed", "graded"):
        raise ConfigError(f"'outcome' is '{outcome}'.", remedy="Use failed, graded, or leave it.")
    return Wanted(
        step=None if step == ALL_STEPS else _whole({"step": step}, "step"),
        sort=sort,
        least_reward=_real(query, "least_reward"),
        most_reward=_real(query, "most_reward"),
        least_tokens=_whole(query, "least_tokens"),
        most_tokens=_whole(query, "most_tokens"),
        outcome=outcome,
        text=query.get("text", ""),
        page=max(1, _whole(query, "page") or 1),
    )


def _real(query: Mapping[str, str], name: str) -> float | None:
    text = query.get(name, "").strip()
    try:
        value = float(text) if text else None
    except ValueError:
        value = math.nan
    if value is not None and not math.isfinite(value):
        raise ConfigError(
            f"'{name}' is '{text[:40]}', which is no number.", remedy="Correct it, or leave it out."
        )
    return value


def _whole(query: Mapping[str, str], name: str) -> int | None:
    value = _real(query, name)
    return None if value is None else int(value)


class SampleIndex:
    """The completions of one run; threads may share it."""

    def __init__(self, path: Path) -> None:
        """`path`: samples.jsonl."""
        self._path = path
        self._log = GrowingLog(path)
        self._entries: list[Entry] = []
        self._lock = threading.Lock()

    def entries(self) -> list[Entry]:
        """All that are in the log now, in its order."""
        with self._lock:
            for cut, lines in self._log.pieces():
                if cut:
                    self._entries = []
                self._entries += map(_entry, lines)
            return list(self._entries)

    def records(self, entries: Sequence[Entry]) -> list[dict[str, Any]]:
        """Their whole lines, each with its `surprise`. What was cut meanwhile is left out."""
        return [record for _, record in self.pairs(entries)]

    def pairs(self, entries: Sequence[Entry]) -> list[tuple[Entry, dict[str, Any]]]:
        """(entry, its whole line), as `records` gives them."""
        found: list[tuple[Entry, dict[str, Any]]] = []
        if not entries:  # there may be no file yet
            return found
        with self._path.open("rb") as file:
            for entry in entries:
                file.seek(entry.offset)
                text = file.read(entry.size)
                if text.startswith(b"{") and text.endswith(b"}\n"):
                    found.append((entry, {**json.loads(text), "surprise": entry.surprise}))
        return found


def _entry(line: Line) -> Entry:
    record = line.record
    logprobs = record["logprobs"]
    return Entry(
        offset=line.offset,
        size=line.size,
        step=record["step"],
        prompt_id=record["prompt_id"],
        reward=record["reward"],
        length=len(record["tokens"]),
        surprise=-statistics.fmean(logprobs) if logprobs else 0.0,
    )


def order(entries: Sequence[Entry], sort: str) -> list[Entry]:
    """In the order that is asked for; completions without a reward stand last by reward."""
    failed = [entry for entry in entries if entry.reward is None]
    graded = [(entry.reward, entry) for entry in entries if entry.reward is not None]
    if sort == "best":
        return [e for _, e in sorted(graded, key=lambda pair: -pair[0])] + failed
    if sort == "worst":
        return [e for _, e in sorted(graded, key=lambda pair: pair[0])] + failed
    if sort == "longest":
        return sorted(entries, key=lambda entry: -entry.length)
    if sort == "surprising":
        return sorted(entries, key=lambda entry: -entry.surprise)
    return list(entries)
