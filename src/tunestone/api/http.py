"""Routes, and what a handler gets and gives: shared by all dialects.

A path is matched segment by segment *before* it is decoded, because clients put whole ARNs with
encoded slashes into one segment.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import Response

if TYPE_CHECKING:
    from tunestone.api.services import Services

Scope = Literal["read", "write", "admin"]
DialectName = Literal["bedrock", "openai", "lambda", "server"]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks."""

    name: str
    """Of the key, or `anonymous` where none is needed."""
    scopes: frozenset[Scope]
    """`admin` contains `write`, which contains `read`."""
    region: str
    """From the signature, else the server's."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request on its way to its handler."""

    services: "Services"
    request: Request
    route: "Route"
    path: Mapping[str, str]
    """Decoded values of the path's `{names}`."""
    caller: Caller
    request_id: str = ""
    """Also in the answer's headers and in the log."""


Handler = Callable[[Call], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Route:
    """One operation of one dialect."""

    dialect: DialectName
    operation: str
    """Its name in the dialect: botocore's operation, or `resource.method` of the openai client."""
    method: str
    path: str
    """Segments, some of which are `{names}`."""
    handler: Handler
    scope: Scope = "read"
    body: Any = None
    """Pydantic model of the JSON body, for the OpenAPI description; None for Bedrock's own."""
    streams_upload: bool = False
    """Whether the body may be as large as an upload, and is read piece by piece."""
    needs_key: bool = True
    """Whether access is checked; only `/healthz` goes without."""


@dataclass(slots=True)
class Router:
    """Finds the route of a raw path."""

    routes: Iterable[Route]
    _by_shape: dict[tuple[str, int], list[tuple[list[str], Route]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for route in self.routes:
            segments = route.path.strip("/").split("/")
            self._by_shape.setdefault((route.method, len(segments)), []).append((segments, route))
        for candidates in self._by_shape.values():  # fixed segments win over names
            candidates.sort(key=lambda candidate: [part[:1] == "{" for part in candidate[0]])

    def find(self, method: str, raw_path: str) -> tuple[Route, dict[str, str]] | None:
        """The route and its decoded path values, or None."""
        given = raw_path.strip("/").split("/")
        for segments, route in self._by_shape.get((method, len(given)), ()):
            pairs = list(zip(segments, given, strict=True))
            if all(part[:1] == "{" or part == unquote(value) for part, value in pairs):
                return route, {
                    part[1:-1]: unquote(value) for part, value in pairs if part[:1] == "{"
                }
        return None

    def methods(self, raw_path: str) -> list[str]:
        """Methods this path has, for a 405."""
        known = sorted({method for method, _ in self._by_shape})
        return [method for method in known if self.find(method, raw_path)]
