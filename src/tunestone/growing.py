"""A log that someone else is still writing, read piece by piece."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PIECE_BYTES = 2**18
"""Of a log at a time: neither memory nor a transaction should grow with what has piled up."""


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
        """(whether the log was cut, so that reading began anew; some of the new whole lines).

        The oldest come first; there are none when there are no more.
        """
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
            text = file.read(_PIECE_BYTES)
            if b"\n" not in text:  # a line longer than a piece
                text += file.readline()
        whole, newline, _ = text.rpartition(b"\n")
        lines = []
        for line in (whole + newline).splitlines(keepends=True):
            lines.append(Line(self.offset, len(line), json.loads(line)))
            self.offset += len(line)
            self._last = line
        return cut, lines

    def pieces(self) -> Iterator[tuple[bool, list[Line]]]:
        """What `read` gives, until there are no more new lines."""
        while True:
            cut, lines = self.read()
            if cut or lines:
                yield cut, lines
            if not lines:
                return


def read_log(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The records that are there now, and the byte after the last of them."""
    log = GrowingLog(path)
    records = [line.record for _, lines in log.pieces() for line in lines]
    return records, log.offset
