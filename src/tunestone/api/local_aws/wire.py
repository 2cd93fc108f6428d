"""A request on its way from ASGI to a WSGI application, and its answer on the way back.

The body is read piece by piece: small ones into memory, large ones into a file, so that an upload
of hundreds of megabytes costs no memory here. Starlette's own bridge holds the body in memory.
"""

import io
import secrets
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote_to_bytes

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.types import Receive

WsgiApp = Callable[[dict[str, Any], Any], Iterable[bytes]]
Headers = tuple[tuple[str, str], ...]

_PIECE_BYTES = 2**20
_SMALL_BYTES = 64 * 1024


@dataclass(slots=True)
class Body:
    """What was sent: in memory, or in a file that `discard` removes."""

    data: bytes = b""
    path: Path | None = None
    size: int = 0

    def open(self) -> IO[bytes]:
        """From its beginning."""
        return self.path.open("rb") if self.path else io.BytesIO(self.data)

    def discard(self) -> None:
        """Remove its file."""
        if self.path:
            self.path.unlink(missing_ok=True)


async def receive_body(receive: Receive, *, folder: Path) -> Body:
    """Read it all; what is longer than 64 kB lies in a file in `folder`.

    Raises what `receive` does, and ClientDisconnect when the client gave up.
    """
    body, pending = Body(), bytearray()
    try:
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            pending += message.get("body", b"")
            body.size += len(message.get("body", b""))
            more = message.get("more_body", False)
            is_long = len(pending) >= _PIECE_BYTES or (not more and body.size > _SMALL_BYTES)
            if is_long:
                body.path = body.path or folder / f"{secrets.token_hex(8)}.part"
                await run_in_threadpool(_append, body.path, bytes(pending))
                pending.clear()
    except BaseException:
        body.discard()
        raise
    if body.path and pending:
        await run_in_threadpool(_append, body.path, bytes(pending))
    elif not body.path:
        body.data = bytes(pending)
    return body


def _append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


@dataclass(frozen=True, slots=True)
class WireRequest:
    """One request as it stands on the wire."""

    method: str
    target: str
    """Raw path with query."""
    headers: Headers
    body: Body = field(default_factory=Body)


@dataclass(frozen=True, slots=True)
class WireAnswer:
    """The answer to it."""

    status: int
    headers: Headers
    body: bytes


def call_wsgi(app: WsgiApp, request: WireRequest, extra: dict[str, Any]) -> WireAnswer:
    """Ask a WSGI application; `extra` is put into its environment. Blocks."""
    started: list[tuple[str, list[tuple[str, str]]]] = []

    def start(status: str, headers: list[tuple[str, str]], exc_info: object = None) -> Any:
        started.append((status, headers))

    with request.body.open() as stream:
        answer = app({**_environment(request, stream), **extra}, start)
        try:
            data = b"".join(answer)
        finally:
            if hasattr(answer, "close"):
                answer.close()
    status, headers = started[-1]
    return WireAnswer(int(status.partition(" ")[0]), tuple(headers), data)


def _environment(request: WireRequest, stream: IO[bytes]) -> dict[str, Any]:
    path, _, query = request.target.partition("?")
    found: dict[str, Any] = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "QUERY_STRING": query,
        "RAW_URI": request.target,
        "REQUEST_URI": request.target,
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": stream,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in request.headers:
        key = name.upper().replace("-", "_")
        if key not in ("TRANSFER_ENCODING", "CONTENT_LENGTH"):  # the body is whole by now
            found[key if key == "CONTENT_TYPE" else f"HTTP_{key}"] = value
    found["CONTENT_LENGTH"] = str(request.body.size)
    return found
