"""The way to the pages: what the server's own gate has to know of them, and what it answers.

A page is asked for like everything else: read by those who may read, changed by those who may
write. Only the login page and what it is drawn with go without a key.
"""

from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from tunestone.api.access.cookie import MOUNT
from tunestone.api.http import Call, Route
from tunestone.api.refusals import Refusal, status_of
from tunestone.pages.guard import HEADERS
from tunestone.pages.render import Links, render

LINKS: Links = (
    ("/jobs", "Jobs"),
    ("/jobs/new", "New job"),
    ("/playground", "Playground"),
    ("/compare", "Compare"),
    ("/login", "Key"),
)
"""What every page of the server leads to."""
_OPEN = frozenset(f"{MOUNT}/{path}" for path in ("login", "login.json", "logout"))
_STATIC = f"{MOUNT}/static/"


def wants_start(request: Request) -> bool:
    """Whether a browser asks for the server itself, which has no page at its root."""
    is_root = request.scope["path"] == "/" and request.method == "GET"
    return is_root and _shows_pages(request)


def page_route(request: Request) -> Route:
    """What the gate holds a request for a page to."""
    path = str(request.scope["path"])
    return Route(
        "server",
        "page",
        request.method,
        path,
        _elsewhere,
        "read" if request.method in ("GET", "HEAD") else "write",
        needs_key=path not in _OPEN and not path.startswith(_STATIC),
    )


def refuse_page(refusal: Refusal, request: Request) -> Response:
    """Who has no key is led to the login page; everybody else is told what is wrong."""
    status, path = status_of(refusal), str(request.scope["path"])
    if path.endswith(".json") or not _shows_pages(request):
        told = {"error": {"status": status, "message": refusal.message, "remedy": ""}}
        return JSONResponse(told, status, refusal.headers)
    if refusal.kind in ("no_key", "unknown_key"):
        asked = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        known = {"next": asked} if request.method == "GET" else {}
        gone = {"gone": "1"} if refusal.kind == "unknown_key" else {}
        query = urlencode({**known, **gone})
        return RedirectResponse(f"{MOUNT}/login?{query}", status_code=303)
    data = {"title": str(status), "links": LINKS, "message": refusal.message, "remedy": ""}
    page = render("error.html.j2", MOUNT, data)
    return HTMLResponse(page, status, {**HEADERS, **refusal.headers})


def _shows_pages(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")


async def _elsewhere(call: Call) -> Response:
    raise NotImplementedError(f"{call.route.path} is answered by the pages' own application")
