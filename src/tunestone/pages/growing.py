"""A log that someone else is still writing, read piece by piece."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Line:
    """One whole line and where it stands, in bytes."""

    offset: int
    size: int
    record: dict[str, Any]


class GrowingLog:
    """New lines of a JSONL log. A resumed run cuts its logs, which is noticed."""

    def __init__(self, path: Path, *, offset: int = 0) -> None:
        """`offset`: byte to begin at, the start of a line."""
        self._path = path
        self.offset = offset
        self._last = b"\n" if offset else b""

    def read(self) -> tuple[bool, list[Line]]:
        """(whether the log was cut, so that these are all the lines there are; the new lines)."""
        if not self._path.exists():
            cut, self.offset, self._last = self.offset > 0, 0, b""
            return cut, []
        with self._path.open("rb") as file:
            # The length alone does not tell: what was cut may have grown past it since.
            file.seek(self.offset - len(self._last))
            cut = file.read(len(self._last)) != self._last
            if cut:
                self.offset, self._last = 0, b""
                file.seek(0)
            whole, newline, _ = file.read().rpartition(b"\n")
        lines = []
        for text in (whole + newline).splitlines(keepends=True):
            lines.append(Line(self.offset, len(text), json.loads(text)))
            self.offset += len(text)
            self._last = text
        return cut, lines


def read_log(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The records that are there now, and the byte after the last of them."""
    log = GrowingLog(path)
    _, lines = log.read()
    return [line.record for line in lines], log.offset
