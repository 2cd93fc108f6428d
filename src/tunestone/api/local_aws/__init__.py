"""The local AWS: S3, STS and IAM by moto's server, Lambda by our sandboxed handlers, on one port.

`local_aws_app` is asked before the server's own router; see `dispatch.py` for how a request says
what it is meant for. Lambda's operations are ordinary routes (`ROUTES`).
"""

import logging
import threading
from collections.abc import Callable

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from tunestone.api import refusals
from tunestone.api.local_aws.dispatch import MOTO_SERVICES, Signer, read_signer
from tunestone.api.local_aws.errors import render_error
from tunestone.api.local_aws.functions_api import ROUTES
from tunestone.api.local_aws.invoke_api import stop_functions
from tunestone.api.local_aws.moto_apps import Moto
from tunestone.api.local_aws.wire import WireRequest, receive_body
from tunestone.api.refusals import Refusal
from tunestone.api.services import Services
from tunestone.errors import RequestError, TunestoneError

__all__ = ["ROUTES", "local_aws_app", "render_error", "stop_functions"]

_log = logging.getLogger(__name__)


def local_aws_app(services: Services) -> Callable[[Scope], ASGIApp | None]:
    """What finds the application for a request, by its scope; None: the server's own routes.

    With `local_aws` off it finds none. moto is imported, and its memory read, in the background.
    """
    if not services.settings.local_aws:
        return lambda scope: None
    moto = Moto(services.folder / "local_aws", account=services.settings.account)
    threading.Thread(target=_warm, args=(moto,), name="local-aws", daemon=True).start()

    def find(scope: Scope) -> ASGIApp | None:
        signer = read_signer(scope)
        if signer is None or signer.service not in MOTO_SERVICES:
            return None
        return _MotoCall(moto, signer)

    return find


def _warm(moto: Moto) -> None:
    try:
        moto.warm()
    except TunestoneError as error:  # the first request will say so too
        _log.error("The local AWS cannot start: %s", error)


class _MotoCall:
    """One request to moto, as an ASGI application."""

    def __init__(self, moto: Moto, signer: Signer) -> None:
        self._moto, self._signer = moto, signer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the request, ask moto in a thread, and send what it says."""
        try:
            response = await self._answer(scope, receive)
        except ClientDisconnect:
            return
        except Refusal as refusal:
            response = self._refuse(refusal)
        except (TunestoneError, OSError) as error:
            _log.error("The local AWS: %s", error)
            ours = isinstance(error, RequestError)
            response = self._refuse(Refusal("fault" if ours else "world", str(error)))
        await response(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive) -> Response:
        body = await receive_body(receive, folder=self._moto.journal.bodies)
        try:
            request = WireRequest(scope["method"], _target(scope), _headers(scope), body)
            answer = await run_in_threadpool(self._moto.answer, request, self._signer)
        finally:
            body.discard()
        response = Response(answer.body, status_code=answer.status)
        response.raw_headers = [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in answer.headers
        ]
        return response

    def _refuse(self, refusal: Refusal) -> Response:
        return refusals.render(refusal, "s3" if self._signer.service == "s3" else "query")


def _target(scope: Scope) -> str:
    path = scope.get("raw_path", scope["path"].encode()).decode("latin-1").partition("?")[0]
    query = scope.get("query_string", b"").decode("latin-1")
    return f"{path}?{query}" if query else path


def _headers(scope: Scope) -> tuple[tuple[str, str], ...]:
    return tuple((k.decode("latin-1"), v.decode("latin-1")) for k, v in scope["headers"])
