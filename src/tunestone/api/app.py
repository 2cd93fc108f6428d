"""The application: finds the route of a request, checks who asks, and turns errors into answers."""

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from tunestone.api.http import Call, Caller, DialectName, Route, Router
from tunestone.api.services import Services

ErrorRenderer = Callable[[Exception, Request], Response]


def build_app(
    services: Services,
    routes: Sequence[Route],
    render_error: Mapping[DialectName, ErrorRenderer],
    *,
    lifespan: Callable[[], contextlib.AbstractAsyncContextManager[None]] = contextlib.nullcontext,
) -> Starlette:
    """The server as an ASGI application."""
    router = Router(routes)

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        raw = scope.get("raw_path", scope["path"].encode()).decode("ascii", "replace")
        found = router.find(request.method, raw.partition("?")[0])
        if found is None:
            response: Response = JSONResponse({"message": f"There is no {raw}."}, status_code=404)
        else:
            route, path = found
            caller = Caller("anonymous", frozenset({"read", "write", "admin"}), "us-east-1")
            call = Call(services, request, route, path, caller)
            try:
                response = await route.handler(call)
            except Exception as error:  # noqa: BLE001 - the one boundary where errors are classified
                response = render_error[route.dialect](error, request)
        await response(scope, receive, send)

    @contextlib.asynccontextmanager
    async def life(app: Starlette) -> AsyncIterator[None]:
        async with lifespan():
            yield

    app = Starlette(lifespan=life)
    app.mount("/", answer)
    return app
