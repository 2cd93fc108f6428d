"""Responses that were asked to be kept: a file each, for `previous_response_id` and for reading.

They lie in a folder per month, and the folders but of this and the last month are removed when a
new one begins: a response is kept for 30 to 61 days (OpenAI: 30).
"""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunestone.errors import StorageError
from tunestone.jobs.store import now

_ID = re.compile(r"resp_[0-9a-f]{32}")
_MONTHS = 2
_LONGEST_CHAIN = 1000


@dataclass(frozen=True, slots=True)
class Kept:
    """A response with what it answered."""

    response: dict[str, Any]
    input: list[dict[str, Any]]


class ResponseStore:
    """The folder `responses` of a data folder. Its methods block: call them in a thread."""

    def __init__(self, data: Path) -> None:
        self._folder = data / "responses"

    def write(self, response: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> None:
        """Keep a response; it is there whole or not at all. Raises StorageError."""
        folder = self._folder / now().strftime("%Y-%m")
        path = folder / f"{response['id']}.json"
        try:
            if not folder.is_dir():
                folder.mkdir(parents=True, exist_ok=True)
                self._forget_old()
            part = path.with_suffix(".part")
            part.write_text(json.dumps({"response": response, "input": items}), encoding="utf-8")
            part.replace(path)
        except OSError as error:
            raise StorageError(
                f"The response could not be kept: {error}.", remedy="Ask with store=false."
            ) from error

    def read(self, id: str) -> Kept | None:
        """A response, or None."""
        path = self._find(id)
        if path is None:
            return None
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:  # deleted a moment ago
            return None
        return Kept(record["response"], record["input"])

    def delete(self, id: str) -> bool:
        """Whether there was one."""
        path = self._find(id)
        if path is not None:
            path.unlink(missing_ok=True)
        return path is not None

    def history(self, id: str) -> list[dict[str, Any]] | None:
        """All items up to and with that response, the oldest first; None when a part is gone."""
        chain: list[list[dict[str, Any]]] = []
        before: str | None = id
        while before is not None and len(chain) < _LONGEST_CHAIN:
            kept = self.read(before)
            if kept is None:
                return None
            chain.append([*kept.input, *kept.response["output"]])
            before = kept.response["previous_response_id"]
        return [item for items in reversed(chain) for item in items]

    def _find(self, id: str) -> Path | None:
        if not _ID.fullmatch(id):
            return None
        return next(self._folder.glob(f"*/{id}.json"), None)

    def _forget_old(self) -> None:
        months = sorted(path for path in self._folder.iterdir() if path.is_dir())
        for month in months[:-_MONTHS]:
            shutil.rmtree(month)
