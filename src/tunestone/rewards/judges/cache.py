"""What judges answered before, found again by content.

The key is a SHA-256 over everything the answer depends on (model, address, conversation, schema,
sampling parameters), so nothing ever has to be invalidated. Only answers that could be read as what
was asked for are kept: a failure is asked again. The price is that a judge with a temperature above
0 no longer changes its mind about the same text, which a training run rather likes.

One SQLite file (or the same thing in memory), safe for several threads and processes. It keeps the
rollback journal rather than the faster write-ahead log, which network folders do not support.
"""

import hashlib
import json
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import final

from tunestone.errors import StorageError
from tunestone.rewards.judges.chat_models import Endpoint, Message, SamplingParams, Schema

FILE_NAME = "judge_replies.sqlite3"
_WAIT_SECONDS = 60.0
"""Longest wait for another process that is writing."""


@final
class ReplyCache:
    """Text of good replies by key; in `folder`, or in memory when that is None."""

    def __init__(self, folder: Path | None) -> None:
        """Raises StorageError when the file cannot be opened."""
        self._where = ":memory:" if folder is None else str(folder / FILE_NAME)
        self._lock = threading.Lock()
        try:
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
            # One connection for all threads: the lock below takes turns.
            self._connection = sqlite3.connect(
                self._where, timeout=_WAIT_SECONDS, check_same_thread=False, isolation_level=None
            )
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, text TEXT NOT NULL)"
            )
        except (OSError, sqlite3.Error) as error:
            raise self._broken(error) from error

    def get(self, key: str) -> str | None:
        """The reply kept under a key. Raises StorageError."""
        try:
            with self._lock:
                row = self._connection.execute(
                    "SELECT text FROM replies WHERE key = ?", (key,)
                ).fetchone()
        except sqlite3.Error as error:
            raise self._broken(error) from error
        return None if row is None else str(row[0])

    def put(self, key: str, text: str) -> None:
        """Keeps a reply; the first one under a key stays. Raises StorageError."""
        try:
            with self._lock:
                self._connection.execute("INSERT OR IGNORE INTO replies VALUES (?, ?)", (key, text))
        except sqlite3.Error as error:
            raise self._broken(error) from error

    def close(self) -> None:
        """Closes the file; its replies stay."""
        with self._lock:
            self._connection.close()

    def _broken(self, error: Exception) -> StorageError:
        return StorageError(
            f"The judge's cache {self._where} cannot be used: {error}.",
            remedy="Free some space, or delete the file: its replies are then asked for again.",
        )


def cache_key(
    model: str,
    endpoint: Endpoint,
    *,
    messages: Sequence[Message],
    schema: Schema | None,
    params: SamplingParams,
) -> str:
    """SHA-256, in hex, over all that decides the reply; time limits and keys do not."""
    content = [
        "1",  # version of this list
        endpoint.api,
        endpoint.address,
        model,
        [dict(message) for message in messages],
        schema,
        params.model_dump(exclude_none=True),
    ]
    # Not sorted: a schema with its fields in another order is another question to the model.
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
