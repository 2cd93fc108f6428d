"""A real HTTP server on 127.0.0.1 that answers as a function says; no thread outlives it."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any


@dataclass(frozen=True)
class Request:
    """What came in."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Reply:
    """What goes out; see `_encode`."""

    body: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Served:
    """A running server and what it was asked so far."""

    url: str
    requests: list[Request]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up early is what some tests are about."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def _encode(body: Any) -> Iterable[bytes]:
    """A generator goes out part by part, bytes as they are, anything else as JSON."""
    if isinstance(body, Iterator):
        return body
    return [body if isinstance(body, bytes) else json.dumps(body).encode()]


def judge(request: Request) -> Reply:
    """Bedrock's Converse; the judge's score of a text is its length."""
    score = len(request.json()["messages"][0]["content"][0]["text"])
    message = {"role": "assistant", "content": [{"text": json.dumps({"score": score})}]}
    usage = {"inputTokens": 1, "outputTokens": 1, "totalTokens": 2}
    reply = {"output": {"message": message}, "stopReason": "end_turn", "usage": usage}
    return Reply({**reply, "metrics": {"latencyMs": 1}})


@contextmanager
def serve(answer: Callable[[Request], Reply | None], *, port: int = 0) -> Iterator[Served]:
    """Serve POST until the block ends. `answer` returning None hangs up without a word."""
    requests: list[Request] = []
    lock = Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            request = Request(self.path, self.headers, body)
            with lock:
                requests.append(request)
            reply = answer(request)
            if reply is None:
                self.close_connection = True
                return
            parts = _encode(reply.body)
            length = str(len(parts[0])) if isinstance(parts, list) else "unknown"
            self.send_response(reply.status)
            for name, value in {"Content-Length": length, **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            for part in parts:
                self.wfile.write(part)

        def log_message(self, *_):
            """Quiet."""

    server = _Server(("127.0.0.1", port), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield Served(f"http://127.0.0.1:{server.server_port}", requests)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
