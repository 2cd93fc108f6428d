"""The login page: a bearer key is pasted once, and a cookie carries it from then on."""

import re
from collections.abc import Mapping

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from tunestone.api.access.cookie import MOUNT, drop_cookie, key_in_cookie, set_cookie
from tunestone.api.access.gate import is_loopback
from tunestone.api.access.keys import KeyRing
from tunestone.api.services import Services
from tunestone.jobs.tables import Key
from tunestone.pages.app import Data, draw, page, read_form

_OUR_ADDRESS = re.compile(rf"{MOUNT}/[\w/.?=&%+:-]*")
_START = f"{MOUNT}/jobs"
_WRONG = "This is no key of this server, or it was revoked."
_GONE = "The key that this browser has is no longer in use."


def login_routes(services: Services) -> list[BaseRoute]:
    """`/login` and `/logout`. Both go without a key."""
    ring = KeyRing(services.store, services.folder)

    def show(request: Request) -> Data:
        wrong = _GONE if "gone" in request.query_params else ""
        return _login(request, services, ring, wrong, request.query_params)

    async def enter(request: Request) -> Response:
        form = await read_form(request)
        key = form.get("key", "").strip()
        if await run_in_threadpool(_find, ring, key) is None:
            data = await run_in_threadpool(_login, request, services, ring, _WRONG, form)
            return draw(request, "login.html.j2", data, status=401)
        response = RedirectResponse(_target(form), status_code=303)
        set_cookie(request, response, key)
        return response

    async def leave(request: Request) -> Response:
        await read_form(request)
        response = RedirectResponse(f"{MOUNT}/login", status_code=303)
        drop_cookie(request, response)
        return response

    return [
        Route("/login", enter, methods=["POST"]),
        Route("/logout", leave, methods=["POST"]),
        *page("/login", "login.html.j2", show),
    ]


def _login(
    request: Request, services: Services, ring: KeyRing, wrong: str, given: Mapping[str, str]
) -> Data:
    key = _find(ring, key_in_cookie(request))
    return {
        "title": "Key",
        "needed": _is_needed(services, ring),
        "key": {"name": key.name, "scope": key.scopes[-1]} if key else None,
        "wrong": wrong,
        "next": _target(given),
    }


def _find(ring: KeyRing, token: str) -> Key | None:
    ring.refresh()  # a key that was made or revoked a moment ago counts at once
    return ring.by_bearer(token) if token else None


def _is_needed(services: Services, ring: KeyRing) -> bool:
    settings = services.settings
    return settings.require_keys or not is_loopback(settings.host) or ring.any()


def _target(given: Mapping[str, str]) -> str:
    """Where to go on: a page of ours, and nowhere else."""
    wanted = given.get("next", "")
    return wanted if _OUR_ADDRESS.fullmatch(wanted) else _START
