"""What changed S3 and IAM of the local AWS, on disk: a line per request, replayed after a restart.

moto keeps everything in memory. So each request that changed something is written down before it is
acknowledged, and sent to moto again when the server starts. Bodies over 64 kB lie in files of their
own beside it. `compaction.py` says which lines are no longer needed.

    DATA/local_aws/journal.jsonl
    DATA/local_aws/bodies/<name>

A line that was cut off by a crash was never acknowledged; it is dropped.
"""

import base64
import io
import json
import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tunestone.errors import StorageError
from tunestone.runlog import flush

SMALL_BYTES = 64 * 1024
"""A body up to this size stands in the journal itself."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One request that changed something."""

    method: str
    target: str
    """Raw path with query, path style (`/bucket/key`), without a signature."""
    headers: tuple[tuple[str, str], ...]
    time: float
    """When it came, in POSIX seconds: moto's clock while it is replayed."""
    seed: int
    """Of moto's random numbers for this request, so that ids are the same when it is replayed."""
    body: bytes = b""
    file: str = ""
    """Name of a file below `bodies`, instead of `body`."""
    upload_id: str = ""
    """What a CreateMultipartUpload gave: the one thing of moto's that no seed decides."""


class Journal:
    """The file. Not for several threads at once."""

    def __init__(self, folder: Path) -> None:
        """`folder` is made if it is missing; nobody else may read it, for it holds access keys."""
        self.bodies = folder / "bodies"
        self.bodies.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
        for leftover in self.bodies.glob("*.part"):  # of a server that was killed
            leftover.unlink()
        self._path = folder / "journal.jsonl"
        self._file: IO[bytes] | None = None

    def read(self) -> list[Entry]:
        """All entries, oldest first; the end of a line that was never finished is cut off."""
        if not self._path.exists():
            return []
        data = self._path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.truncate(self._path, whole)
        return [_decode(line) for line in data[:whole].splitlines()]

    def append(self, entry: Entry) -> None:
        """On disk when this returns. Raises StorageError, and then nothing of it is there."""
        try:
            if self._file is None:
                self._file = self._path.open("ab", buffering=0)
            end = self._file.seek(0, os.SEEK_END)
            try:
                rest = memoryview(_encode(entry))
                while rest:
                    rest = rest[self._file.write(rest) :]
                os.fsync(self._file.fileno())
            except OSError:
                self._file.truncate(end)  # else the next entry would stand behind half a line
                raise
        except OSError as error:
            raise _cannot_write(self._path, error) from error

    def rewrite(self, entries: Iterable[Entry]) -> None:
        """Keep only these, and only their bodies. Raises StorageError."""
        kept = list(entries)
        temporary = self._path.with_suffix(".new")
        try:
            with temporary.open("wb") as file:
                file.writelines(map(_encode, kept))
                file.flush()
                os.fsync(file.fileno())
            self.close()
            temporary.replace(self._path)
            flush(self._path.parent)
        except OSError as error:
            raise _cannot_write(self._path, error) from error
        wanted = {entry.file for entry in kept}
        for path in self.bodies.iterdir():
            if path.name not in wanted and path.suffix != ".part":  # those are still arriving
                path.unlink()

    def keep_body(self, path: Path) -> str:
        """Make an arrived file a body of the journal; its name. Raises StorageError."""
        name = secrets.token_hex(8)
        try:
            with path.open("rb") as file:
                os.fsync(file.fileno())
            os.link(path, self.bodies / name)
            flush(self.bodies)
        except OSError as error:
            raise _cannot_write(self.bodies / name, error) from error
        return name

    def open_body(self, entry: Entry) -> IO[bytes]:
        """The body to read. Raises StorageError when it is gone."""
        if not entry.file:
            return io.BytesIO(entry.body)
        try:
            return (self.bodies / entry.file).open("rb")
        except OSError as error:
            raise StorageError(
                f"{self.bodies / entry.file}: an uploaded body is missing: {error.strerror}.",
                remedy="Restore the data folder from a copy.",
            ) from error

    def close(self) -> None:
        """Give the file back; the next `append` opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _encode(entry: Entry) -> bytes:
    line = {
        "method": entry.method,
        "target": entry.target,
        "headers": entry.headers,
        "time": entry.time,
        "seed": entry.seed,
        "body": base64.b64encode(entry.body).decode(),
        "file": entry.file,
        "upload_id": entry.upload_id,
    }
    return json.dumps(line).encode() + b"\n"


def _decode(line: bytes) -> Entry:
    fields = json.loads(line)
    headers = tuple((name, value) for name, value in fields.pop("headers"))
    body = base64.b64decode(fields.pop("body"))
    return Entry(**fields, headers=headers, body=body)


def _cannot_write(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{path}: the change cannot be written: {error.strerror}.",
        remedy="Check that the data folder may be written to and has room.",
    )
