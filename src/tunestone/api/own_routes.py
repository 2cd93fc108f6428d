"""Routes of the server itself: whether it is ready, its metrics, and the description of its API."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import text
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from tunestone.api.http import Call, Route
from tunestone.api.metrics import CONTENT_TYPE
from tunestone.api.openapi import describe
from tunestone.api.services import Services
from tunestone.errors import WorldError


@dataclass(slots=True)
class Readiness:
    """Whether requests should still be sent here."""

    stopping: bool = False


def own_routes(
    services: Services, readiness: Readiness, metrics: Callable[[], bytes], routes: Sequence[Route]
) -> tuple[Route, ...]:
    """`/healthz`, `/metrics` and `/openapi.json`, the last one describing `routes`."""
    described: list[bytes] = []

    async def healthz(call: Call) -> Response:
        if readiness.stopping:
            return JSONResponse({"status": "stopping"}, status_code=503)
        try:
            await run_in_threadpool(_ask, services)
        except WorldError as error:
            return JSONResponse({"status": "no database", "reason": str(error)}, status_code=503)
        return JSONResponse({"status": "ok"})

    async def show_metrics(call: Call) -> Response:
        return Response(await run_in_threadpool(metrics), headers={"content-type": CONTENT_TYPE})

    async def openapi(call: Call) -> Response:
        if not described:  # made when first asked: it reads botocore's models
            document = await run_in_threadpool(describe, routes)
            described.append(json.dumps(document).encode())
        return Response(described[0], media_type="application/json")

    return (
        Route("server", "healthz", "GET", "/healthz", healthz, needs_key=False),
        Route("server", "metrics", "GET", "/metrics", show_metrics),
        Route("server", "openapi", "GET", "/openapi.json", openapi),
    )


def _ask(services: Services) -> None:
    with services.store.session() as session:
        session.execute(text("SELECT 1"))
