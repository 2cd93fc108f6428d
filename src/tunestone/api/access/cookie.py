"""The cookie of the pages: the bearer key that somebody pasted into the login page.

A browser sends a cookie along whoever made it ask. `SameSite=Strict` keeps this one from requests
of other sites, but other ports of this machine are the same site to a browser. So it counts only
where a page of ours asks, or where a person opens a page by its address.
"""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from tunestone.pages.guard import is_from_here

COOKIE = "tunestone_key"
MOUNT = "/ui"
"""Below it are the pages."""
_SAFE = frozenset({"GET", "HEAD"})


def is_page(request: Request) -> bool:
    """Whether a request is for something below MOUNT."""
    path = str(request.scope["path"])
    return path == MOUNT or path.startswith(f"{MOUNT}/")


def key_in_cookie(request: Request) -> str:
    """The bearer key; empty where there is none, or where it does not count."""
    return request.cookies.get(COOKIE, "") if _counts(request) else ""


def authorization_of(request: Request) -> str:
    """The header, or what a cookie stands for where there is no header."""
    given = request.headers.get("authorization")
    if given is None and (key := key_in_cookie(request)):
        return f"Bearer {key}"
    return given or ""


def set_cookie(request: Request, response: Response, key: str) -> None:
    """Keep the key until the browser is closed."""
    response.set_cookie(COOKIE, key, **_traits(request))


def drop_cookie(request: Request, response: Response) -> None:
    """Forget it."""
    response.delete_cookie(COOKIE, **_traits(request))


def _traits(request: Request) -> dict[str, Any]:
    is_secure = request.url.scheme == "https"
    return {"path": "/", "httponly": True, "samesite": "strict", "secure": is_secure}


def _counts(request: Request) -> bool:
    """Browsers tell where a request comes from over HTTPS and to this machine; elsewhere they tell
    at least whose page sends a change, and `SameSite` has to do for looking."""
    site = request.headers.get("sec-fetch-site")
    if request.method in _SAFE and (site is None or (site == "none" and is_page(request))):
        return True
    return is_from_here(request)
