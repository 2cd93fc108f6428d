"""Receiving a multipart form whose one file goes to disk as it comes.

Starlette's form parser would put the file into the system's temporary folder, without a limit, to
be copied from there. This one writes it where it will stay, hashes it on the way, keeps at most one
chunk of it in memory and stops writing at the limit. The rest of a body that is too large is still
read and thrown away: a client that is sending does not look for an answer.
"""

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from tunestone.api.openai.errors import OpenAIError
from tunestone.runlog import storage_errors

_CHUNK_BYTES = 2**20
_FIELD_BYTES = 64 * 1024
_FORM_BYTES = 2**20
"""Room for everything in a body that is not the file."""
_HEADER_BYTES = 16 * 1024


@dataclass(slots=True)
class Upload:
    """What came in a form."""

    fields: dict[str, str] = field(default_factory=dict)
    """Name -> value of the fields that are no file."""
    filename: str | None = None
    """As the client calls it; None when there was no file."""
    bytes: int = 0
    sha256: str = ""


async def receive_form(request: Request, to: Path, *, most_bytes: int) -> Upload:
    """Read the form; its part `file` is written to `to` and flushed to disk.

    Raises OpenAIError: 400 for what is no such form, 413 for a file of more than `most_bytes`. The
    caller removes `to` when this raises.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data" or b"boundary" not in options:
        raise OpenAIError(
            400, "Files are uploaded as multipart/form-data with the fields 'purpose' and 'file'."
        )
    try:
        receiving = _Receiver(to, options[b"boundary"], most_bytes=most_bytes)
    except FormParserError as error:
        raise OpenAIError(400, f"The multipart form is malformed: {error}.") from None
    with receiving as receiver:
        pending = bytearray()
        async for chunk in request.stream():
            pending += chunk
            if len(pending) >= _CHUNK_BYTES:
                await run_in_threadpool(receiver.feed, bytes(pending))
                pending.clear()
        await run_in_threadpool(receiver.feed, bytes(pending))
        return await run_in_threadpool(receiver.finish)


class _Receiver:
    """Feeds a form to the parser and does what its callbacks say."""

    def __init__(self, to: Path, boundary: bytes, *, most_bytes: int) -> None:
        self._to = to
        self._most_bytes = most_bytes
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._header_name,
                "on_header_value": self._header_value,
                "on_header_end": self._header_end,
                "on_headers_finished": self._headers_finished,
                "on_part_data": self._data,
                "on_part_end": self._end,
                "on_end": self._form_end,
            },
        )
        self._upload = Upload()
        self._sha256 = hashlib.sha256()
        self._received = self._fields_bytes = 0
        self._complete = False
        self._too_large = False
        self._begin()

    def __enter__(self) -> Self:
        with storage_errors(self._to):
            self._file = self._to.open("xb")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with storage_errors(self._to):  # what is still in memory is written now
            self._file.close()

    def feed(self, chunk: bytes) -> None:
        """The next piece of the body."""
        self._received += len(chunk)
        self._too_large |= self._received > self._most_bytes + _FORM_BYTES
        if self._too_large or not chunk:
            return
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise OpenAIError(400, f"The multipart form is malformed: {error}.") from None

    def finish(self) -> Upload:
        """Everything was fed: the form, its file safe on disk."""
        if self._too_large:
            raise OpenAIError(
                413,
                f"The file is larger than the {self._most_bytes:,} bytes that are allowed here.",
                param="file",
                code="file_too_large",
            )
        if not self._complete:
            raise OpenAIError(400, "The multipart form ends in the middle.")
        if self._upload.filename is None:
            raise OpenAIError(400, "Missing required parameter: 'file'.", param="file")
        with storage_errors(self._to):
            self._file.flush()
            os.fsync(self._file.fileno())
        self._upload.sha256 = self._sha256.hexdigest()
        return self._upload

    def _begin(self) -> None:
        self._name, self._is_file = "", False
        self._value = bytearray()
        self._disposition = b""
        self._header, self._header_content = b"", b""

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]
        self._check(len(self._header), _HEADER_BYTES)

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_content += data[start:end]
        self._check(len(self._header_content), _HEADER_BYTES)

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._header_content
        self._header, self._header_content = b"", b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise OpenAIError(400, "A part of the multipart form has no name.")
        self._name = options[b"name"].decode("utf-8", "replace")
        self._is_file = self._name == "file"
        if self._is_file:
            if self._upload.filename is not None:
                raise OpenAIError(400, "Only one file can be uploaded at a time.", param="file")
            self._upload.filename = options.get(b"filename", b"").decode("utf-8", "replace")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if not self._is_file:
            self._value += data[start:end]
            self._check(len(self._value), _FIELD_BYTES)
            return
        self._upload.bytes += end - start
        if self._upload.bytes > self._most_bytes:
            self._too_large = True
            return
        with storage_errors(self._to):
            self._file.write(memoryview(data)[start:end])
        self._sha256.update(memoryview(data)[start:end])

    def _end(self) -> None:
        if not self._is_file:
            self._fields_bytes += len(self._name) + len(self._value)
            self._check(self._fields_bytes, _FORM_BYTES)
            self._upload.fields[self._name] = self._value.decode("utf-8", "replace")

    def _form_end(self) -> None:
        self._complete = True

    def _check(self, size: int, most: int) -> None:
        if size > most:
            message = f"The fields of the multipart form hold more than {most:,} bytes."
            raise OpenAIError(400, message)
