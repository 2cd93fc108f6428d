"""The application: finds the route of a request, checks who asks, and turns errors into answers.

Every request passes here in the same order: route, gate (access and limits), handler; whatever is
raised becomes an answer in the dialect's words, and one line of the log says how it went.
"""

import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import structlog
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tunestone.api import logs, refusals
from tunestone.api.access.cookie import MOUNT, is_page
from tunestone.api.access.gate import Gate, signing_service
from tunestone.api.access.keys import KeyRing
from tunestone.api.access.limits import swallow
from tunestone.api.dashboard.door import page_route, refuse_page, wants_start
from tunestone.api.http import Call, Caller, DialectName, Route, Router
from tunestone.api.metrics import Metrics
from tunestone.api.own_routes import Readiness, own_routes
from tunestone.api.refusals import Refusal, Surface
from tunestone.api.services import Services
from tunestone.errors import WorldError

ErrorRenderer = Callable[[Exception, Request], Response]
Elsewhere = Callable[[Scope], ASGIApp | None]
_CLIENT_LEFT = 499
"""Status in the log of a request whose client did not wait, as nginx writes it."""


def build_app(
    services: Services,
    routes: Sequence[Route],
    render_error: Mapping[DialectName, ErrorRenderer],
    *,
    lifespan: Callable[[], contextlib.AbstractAsyncContextManager[None]] = contextlib.nullcontext,
    elsewhere: Elsewhere | None = None,
    dashboard: ASGIApp | None = None,
    readiness: Readiness | None = None,
) -> Starlette:
    """The server as an ASGI application.

    `elsewhere` is asked before the routes, by a request's scope, for an application that answers in
    their place (S3, STS and IAM of local AWS). It passes the same gate: GET and HEAD of S3 need the
    scope read, all else write, for IAM changes things by GET as well. `dashboard` answers what is
    asked below MOUNT, past the same gate too.
    """
    application = _Application(
        services, routes, render_error, elsewhere, dashboard, readiness or Readiness()
    )

    @contextlib.asynccontextmanager
    async def life(app: Starlette) -> AsyncIterator[None]:
        async with lifespan():
            yield

    return Starlette(routes=[Mount("", app=application)], lifespan=life)


@dataclass(slots=True)
class _Exchange:
    """One request and what became of it."""

    request: Request
    id: uuid.UUID
    raw_path: str
    started: float
    route: Route | None = None
    caller: str = ""
    status: int = 0


@final
class _Application:
    def __init__(
        self,
        services: Services,
        routes: Sequence[Route],
        render_error: Mapping[DialectName, ErrorRenderer],
        elsewhere: Elsewhere | None,
        dashboard: ASGIApp | None,
        readiness: Readiness,
    ) -> None:
        self._services = services
        self._render_error = render_error
        self._metrics = Metrics(services)
        own = own_routes(services, readiness, self._metrics.render, routes)
        self._router = Router([*routes, *own])
        self._elsewhere = elsewhere
        self._dashboard = dashboard
        keys = KeyRing(services.store, services.folder)
        self._gate = Gate(services.settings, keys, self._metrics.received)
        self._log = logs.logger()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        raw = scope.get("raw_path") or scope["path"].encode()
        raw_path = raw.decode("ascii", "replace").partition("?")[0]
        request = Request(scope, receive)
        exchange = _Exchange(request, uuid.uuid4(), raw_path, time.perf_counter())

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                message["headers"] = _dressed(message.get("headers", []), exchange.id)
            await send(message)

        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=str(exchange.id))
        with self._metrics.in_flight.track_inprogress():
            try:
                await self._send(exchange, scope, receive, sending)
            except (ClientDisconnect, OSError):
                exchange.status = _CLIENT_LEFT
            except Exception:
                self._log.exception("answer_cut", operation=_operation(exchange))
                raise
            finally:
                self._note(exchange)

    async def _send(
        self, exchange: _Exchange, scope: Scope, receive: Receive, sending: Send
    ) -> None:
        answer, rest = await self._answer(exchange)
        try:
            await answer(scope, rest, sending)
        except Refusal as refusal:  # an application of its own reads its body only now
            if exchange.status:
                raise
            await self._refuse(exchange, refusal)(scope, receive, sending)

    async def _answer(self, exchange: _Exchange) -> tuple[ASGIApp, Receive]:
        """What answers, and what is left for it to receive."""
        receive = exchange.request.receive
        try:
            if self._elsewhere and (app := self._elsewhere(exchange.request.scope)):
                return app, await self._admit_to(exchange, _local_aws_route(exchange))
            if self._dashboard and is_page(exchange.request):
                route = page_route(exchange.request)
                return self._dashboard, await self._admit_to(exchange, route)
            if self._dashboard and wants_start(exchange.request):
                return RedirectResponse(f"{MOUNT}/", status_code=303), receive
            exchange.route, path = self._find(exchange)
            caller, request = await self._admit(exchange, exchange.route)
            call = Call(self._services, request, exchange.route, path, caller, str(exchange.id))
            return await exchange.route.handler(call), receive
        except Refusal as refusal:
            if refusal.kind == "too_large" and "expect" not in exchange.request.headers:
                await swallow(receive)
            return self._refuse(exchange, refusal), receive
        except ClientDisconnect:
            raise
        except Exception as error:  # noqa: BLE001 - the one boundary where errors are classified
            return self._render(exchange, error), receive

    async def _admit_to(self, exchange: _Exchange, route: Route) -> Receive:
        """Let a request in to an application of its own; what that is to receive."""
        exchange.route = route
        _, request = await self._admit(exchange, route)
        if not hasattr(request, "_body"):
            return request.receive
        body = await request.body()  # the gate has read it for the signature

        async def again() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        return again

    async def _admit(self, exchange: _Exchange, route: Route) -> tuple[Caller, Request]:
        if not route.needs_key:
            if exchange.request.method == "POST":  # a key that is pasted may be a guess
                self._gate.count_unnamed(exchange.request)
            return _NOBODY, exchange.request
        caller, request = await self._gate.admit(exchange.request, route)
        exchange.caller = caller.name
        return caller, request

    def _find(self, exchange: _Exchange) -> tuple[Route, Mapping[str, str]]:
        method, path = exchange.request.method, exchange.raw_path
        found = self._router.find(method, path)
        if found is not None:
            return found
        is_openai = _is_openai(path)
        allowed = ", ".join(self._router.methods(path))
        if allowed:
            hint = f"Not allowed to {method} on {path}. It takes {allowed}."
            raise Refusal("no_method", hint, headers={"Allow": allowed})
        if is_openai:
            raise Refusal("no_route", f"Invalid URL ({method} {path})")
        raise Refusal("no_route", f"There is no operation {method} {path} here.")

    def _refuse(self, exchange: _Exchange, refusal: Refusal) -> Response:
        if exchange.route is not None and exchange.route.operation == "page":
            return refuse_page(refusal, exchange.request)
        return refusals.render(refusal, self._surface(exchange))

    def _surface(self, exchange: _Exchange) -> Surface:
        route = exchange.route
        if route is not None and route.dialect in ("openai", "bedrock", "lambda"):
            return "openai" if route.dialect == "openai" else "aws"
        if _is_openai(exchange.raw_path):
            return "openai"
        service = signing_service(exchange.request)
        return "s3" if service == "s3" else "query" if service in ("sts", "iam") else "aws"

    def _render(self, exchange: _Exchange, error: Exception) -> Response:
        renderer = self._render_error.get(exchange.route.dialect) if exchange.route else None
        if renderer is None and isinstance(error, WorldError):
            response = refusals.render(Refusal("world", str(error)), self._surface(exchange))
        elif renderer is None:
            self._log.error("own_fault", exc_info=error)
            response = refusals.render(Refusal("fault", _FAULT), self._surface(exchange))
        else:
            response = renderer(error, exchange.request)
        if response.status_code >= 500:
            self._log.error("request_failed", operation=_operation(exchange), reason=repr(error))
        return response

    def _note(self, exchange: _Exchange) -> None:
        request, route = exchange.request, exchange.route
        seconds = time.perf_counter() - exchange.started
        operation = _operation(exchange)
        dialect = route.dialect if route else ""
        self._metrics.answered(dialect, operation, _method(request), exchange.status, seconds)
        if operation in _QUIET and exchange.status == 200:
            return
        self._log.info(
            "request",
            method=request.method,
            path=exchange.raw_path[:512],
            operation=operation,
            status=exchange.status,
            seconds=round(seconds, 4),
            caller=exchange.caller,
            address=request.client.host if request.client else "",
        )


_NOBODY = Caller("anonymous", frozenset(), "")
_QUIET = frozenset({"healthz", "metrics", "page"})
"""Asked every few seconds by machines and open pages: not worth a line each."""
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_FAULT = "The server failed to answer this request. Its log says why, under the request's id."


def _operation(exchange: _Exchange) -> str:
    return exchange.route.operation if exchange.route else ""


def _method(request: Request) -> str:
    """For a label, of which there may not be many."""
    return request.method if request.method in _METHODS else "other"


def _local_aws_route(exchange: _Exchange) -> Route:
    method = exchange.request.method
    is_s3 = signing_service(exchange.request) == "s3"
    return Route(
        "server",
        "local_aws",
        method,
        exchange.raw_path,
        _never,
        "read" if is_s3 and method in ("GET", "HEAD") else "write",
        streams_upload=is_s3,
    )


async def _never(call: Call) -> Response:
    raise NotImplementedError(f"{call.route.operation} is answered by an application of its own")


def _is_openai(path: str) -> bool:
    return f"{path}/".startswith(("/v1/", "/openai/v1/"))


def _dressed(
    headers: Iterable[tuple[bytes, bytes]], request_id: uuid.UUID
) -> list[tuple[bytes, bytes]]:
    """With what every answer carries, where the handler did not say it itself."""
    given = list(headers)
    names = {name.lower() for name, _ in given}
    said = {
        b"x-request-id": f"req_{request_id.hex}".encode(),
        b"x-amzn-requestid": str(request_id).encode(),
        b"x-content-type-options": b"nosniff",
        b"cache-control": b"no-store",
    }
    return given + [(name, value) for name, value in said.items() if name not in names]
