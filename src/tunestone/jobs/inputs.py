"""Rows of a job, wherever they are -> one JSONL file: an upload, an object in S3, or logged calls.

Logs are the objects below an address in S3 as Bedrock's model invocation logging delivers them:
JSON lines, a JSON array or one record, plain or packed by gzip; large bodies lie in objects of
their own that a record points to. A log holds everything that was ever asked, so what cannot be
trained on is left out and counted; only when nothing is left is that an error.
"""

import gzip
import json
import shutil
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from tunestone.data import write_rows
from tunestone.errors import DataError
from tunestone.jobs.job import DataSource
from tunestone.jobs.log_rows import UnusableRecordError, to_row
from tunestone.jobs.store import Store
from tunestone.jobs.tables import File
from tunestone.rows import Place, parse_prompt

if TYPE_CHECKING:
    from tunestone.jobs.objects import Objects

Json = dict[str, Any]

_ENDINGS = (".json", ".jsonl", ".json.gz", ".jsonl.gz", ".gz")
_SCHEMA = "ModelInvocationLog"
_MOST_BYTES = 128 * 2**20
"""Of one object, unpacked: a few kilobytes of gzip may hold gigabytes. Bedrock's have a few MB."""
_PIECE_BYTES = 2**20
_REASONS = 5
"""How many reasons for leaving records out are told; those that hold for most."""


def fetch_rows(
    source: DataSource, to: Path, *, store: Store, objects: "Objects", data: Path
) -> list[str]:
    """Write the rows of `source` to `to`, whole or not at all; what should be said about them.

    `data` is the server's data folder. Raises DataError or WorldError naming the source.
    """
    if source.kind == "s3":
        objects.download(source.location, to)
        return []
    if source.kind == "logs":
        return _fetch_logs(source, to, objects)
    with store.session() as session:
        file = session.get(File, source.location)
    if file is None or not (data / file.path).is_file():
        raise DataError(f"There is no file '{source.location}'.", remedy="Upload it again.")
    temporary = to.with_name(f".{to.name}.part")
    shutil.copyfile(data / file.path, temporary)
    temporary.replace(to)
    return []


def matches(filters: Mapping[str, Any] | None, metadata: Mapping[str, Any]) -> bool:
    """Whether a record's request metadata passes Bedrock's requestMetadataFilters.

    `equals` and `notEquals` are maps of one key; `andAll` and `orAll` lists of these. A record
    without the key is not equal to anything.
    """
    if not filters:
        return True
    (kind, value), *_ = filters.items()
    if kind == "andAll":
        return all(matches(one, metadata) for one in value)
    if kind == "orAll":
        return any(matches(one, metadata) for one in value)
    equal = all(metadata.get(key) == wanted for key, wanted in value.items())
    return equal if kind == "equals" else not equal


def _fetch_logs(source: DataSource, to: Path, objects: "Objects") -> list[str]:
    left_out: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="tunestone-logs-") as folder:
        reader = _LogReader(source, objects, Path(folder), left_out)
        write_rows(to, reader.rows())
    if not reader.taken:
        to.unlink()
        seen = f"{reader.seen} records were found there"
        why = "".join(
            f"; {count} left out: {reason}" for reason, count in left_out.most_common(_REASONS)
        )
        raise DataError(
            f"No invocation log below this address can be trained on: {seen}{why}.",
            path=source.location,
            remedy="Check the address and the requestMetadataFilters.",
        )
    return [
        f"{count} of {reader.seen} logged calls were left out: {reason}."
        for reason, count in left_out.most_common(_REASONS)
    ]


class _LogReader:
    """Walks the objects below an address once."""

    def __init__(
        self, source: DataSource, objects: "Objects", folder: Path, left_out: Counter[str]
    ) -> None:
        self.seen = self.taken = 0
        self._source, self._objects, self._folder = source, objects, folder
        self._left_out = left_out
        self._ids: set[str] = set()

    def rows(self) -> Iterator[Json]:
        """A row per record that can be one, in the order of the objects' names."""
        for url in self._objects.list(self._source.location):
            if not url.endswith(_ENDINGS):
                continue
            path = self._folder / "object"
            self._objects.download(url, path)
            for record in _read_records(path, url):
                yield from self._row(record)

    def _row(self, record: Json) -> Iterator[Json]:
        self.seen += 1
        if not matches(self._source.filters, record.get("requestMetadata") or {}):
            self._left_out["by the filters"] += 1
            return
        try:
            request = self._body(record, "input")
            answer = self._body(record, "output") if self._source.use_response else None
            row = _checked_row(record, request, answer, use_response=self._source.use_response)
        except UnusableRecordError as error:
            self._left_out[str(error)] += 1
            return
        key = row.get("id")
        if key is not None and key in self._ids:
            self._left_out["logged twice"] += 1
            return
        self._ids.add(str(key))
        self.taken += 1
        yield row

    def _body(self, record: Json, side: str) -> Any:
        """The body of the request or of the answer, also where it lies in an object of its own."""
        part = record.get(side)
        if not isinstance(part, dict):
            return None
        address = part.get(f"{side}BodyS3Path")
        if not isinstance(address, str):
            return part.get(f"{side}BodyJson")
        path = self._folder / "body"
        self._objects.download(address, path)
        try:
            with _open(path) as file:
                return json.load(file)
        except (ValueError, RecursionError, EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise UnusableRecordError("a body that is no JSON, or too large") from error


def _checked_row(record: Json, request: Any, answer: Any, *, use_response: bool) -> Json:
    """A row that can be trained on. Raises UnusableRecordError."""
    place = Place("log", 1)
    try:
        row = to_row(record, request, answer, use_response=use_response)
        parse_prompt(dict(row), place)
    except DataError as error:
        reason = error.message.removeprefix(f"{place.path}:{place.line}: ").rstrip(".")
        raise UnusableRecordError(reason) from error
    except (AttributeError, TypeError, KeyError) as error:  # it is whatever a client once sent
        raise UnusableRecordError("a body of an unknown form") from error
    return row


def _read_records(path: Path, url: str) -> Iterator[Json]:
    """The records of one object; what is JSON but no record is passed over."""
    try:
        with _open(path) as file:
            first = file.readline()
            if first.lstrip()[:1] == b"[" or not _is_json(first):
                values = json.loads(first + file.read() or b"[]")
                yield from filter(_is_record, values if isinstance(values, list) else [values])
                return
            for number, line in enumerate(_lines(first, file), start=1):
                if line.strip():
                    value = _load(line, url, number)
                    if _is_record(value):
                        yield value
    except (ValueError, RecursionError, EOFError, OSError, zlib.error) as error:
        raise DataError(f"This is no log of invocations: {error}.", path=url) from error


def _lines(first: bytes, file: IO[bytes]) -> Iterator[bytes]:
    yield first
    yield from file


def _load(line: bytes, url: str, number: int) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise DataError(
            f"invalid JSON in an invocation log: {error}.", path=url, line=number
        ) from error


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line or b"null")
    except ValueError:
        return False
    return True


def _is_record(value: Any) -> bool:
    return isinstance(value, dict) and value.get("schemaType") == _SCHEMA


def _open(path: Path) -> IO[bytes]:
    """The object, unpacked. Raises ValueError when it is larger than should be read at once."""
    with path.open("rb") as file:
        is_packed = file.read(2) == b"\x1f\x8b"
    if is_packed:
        plain = path.with_name(f"{path.name}-plain")
        with gzip.open(path, "rb") as packed, plain.open("wb") as file:
            while file.tell() <= _MOST_BYTES and (piece := packed.read(_PIECE_BYTES)):
                file.write(piece)
        path = plain
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(f"it has more than {_MOST_BYTES:,} bytes")
    return path.open("rb")
