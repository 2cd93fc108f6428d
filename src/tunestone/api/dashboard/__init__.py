"""The pages of `tunestone serve`, below `/ui`: those of run folders, and what only a server has.

Every page is drawn by the room `pages` (`page`, `draw` and `change` in `pages/app.py`). Whatever a
page's script changes, it changes through the server's API.
"""

from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from tunestone.api.access.cookie import MOUNT
from tunestone.api.dashboard.create import create_routes
from tunestone.api.dashboard.door import LINKS
from tunestone.api.dashboard.jobs import job_routes
from tunestone.api.dashboard.library import JobLibrary
from tunestone.api.dashboard.login import login_routes
from tunestone.api.dashboard.playground import playground_routes
from tunestone.api.services import Services
from tunestone.pages.app import build_pages


def build_dashboard(
    services: Services, *, is_closing: Callable[[], bool] = lambda: False
) -> ASGIApp:
    """The application, for requests whose path begins with MOUNT and that the gate let in.

    `is_closing`: whether the server is about to end, so that pages are not kept waiting for news.
    """
    library = JobLibrary(services)
    own = (
        *job_routes(services, library),
        *create_routes(services),
        *playground_routes(services),
        *login_routes(services),
    )
    pages = build_pages(library, own=own, links=LINKS, is_closing=is_closing)

    async def dashboard(scope: Scope, receive: Receive, send: Send) -> None:
        await pages({**scope, "root_path": MOUNT}, receive, send)

    return dashboard
