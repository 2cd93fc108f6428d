"""The pages as an ASGI application, which `tunestone view` serves and the server may mount.

Each page has a twin at the same path with `.json` behind it, which is the data it was drawn from.
"""

import importlib.util
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from tunestone.errors import TunestoneError, WorldError
from tunestone.pages import answers, live, rollouts, summary, views, votes
from tunestone.pages.guard import Headers, KnownHosts, is_from_here
from tunestone.pages.library import Library, ShownRun
from tunestone.pages.render import VIEW_LINKS, Links, render
from tunestone.pages.samples import SampleIndex

_FORM_BYTES = 4096
_A_DAY = "public, max-age=86400"

Data = dict[str, Any]
Form = dict[str, str]


@dataclass(slots=True)
class Pages:
    """The runs, and what each page shows of them."""

    library: Library
    is_closing: Callable[[], bool]
    """Whether the server is about to end, so that nobody should be kept waiting for news."""
    _indexes: dict[Path, SampleIndex] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, request: Request, *, begun: bool = True) -> ShownRun:
        """The run that the path names.

        Raises HTTPException 404 when there is none, or when it has to have `begun` and has not.
        """
        key = request.path_params["run"]
        shown = self.library.find(key)
        if shown is None:
            raise HTTPException(404, f"There is no run '{key}' here.")
        if begun and not shown.has_begun:
            raise HTTPException(404, f"'{shown.name}' has not begun to train.")
        return shown

    def index(self, shown: ShownRun) -> SampleIndex:
        """Its completions; kept, since reading a large log takes a while."""
        with self._lock:
            path = shown.folder.samples
            return self._indexes.setdefault(path, SampleIndex(path))

    def list(self, request: Request) -> Data:
        """All runs."""
        return views.list_runs(self.library, page=page_of(request))

    def compare(self, request: Request) -> Data:
        """Several runs' curves."""
        return views.compare_runs(self.library, request.query_params.getlist("run"))

    def overview(self, request: Request) -> Data:
        """One run."""
        shown = self.run(request, begun=False)
        return views.show_run(shown, self.index(shown))

    def rollouts(self, request: Request) -> Data:
        """Completions of a step."""
        shown = self.run(request)
        found = rollouts.rollouts(shown.folder, self.index(shown), request.query_params)
        return {**_of_run(shown, "Rollouts"), **found}

    def prompt(self, request: Request) -> Data:
        """One training prompt through all steps."""
        shown, query = self.run(request), request.query_params
        found = rollouts.follow_prompt(
            shown.folder,
            self.index(shown),
            query.get("id", ""),
            changes=query.get("colour") == "changes",
        )
        return {**_of_run(shown, "One prompt"), **found}

    def validation(self, request: Request) -> Data:
        """One validation prompt through all validations."""
        shown = self.run(request)
        found = rollouts.follow_validation(shown.folder, request.query_params.get("id", ""))
        return {**_of_run(shown, "One validation prompt"), **found}

    def answers(self, request: Request) -> Data:
        """Base against tuned."""
        shown, query = self.run(request), request.query_params
        kind = query.get("kind", "")
        found = answers.show_answers(
            shown.folder,
            kind=kind if kind in answers.KINDS else "",
            page=page_of(request),
        )
        return {**_of_run(shown, "Base and tuned"), **found}

    def vote(self, request: Request) -> Data:
        """Two answers to choose from."""
        shown = self.run(request)
        return {**_of_run(shown, "Blind vote"), **votes.show_vote(shown.folder)}


def build_pages(
    library: Library,
    *,
    own: Sequence[BaseRoute] = (),
    links: Links = VIEW_LINKS,
    is_closing: Callable[[], bool] = lambda: False,
) -> Starlette:
    """The application; whoever serves it decides who may ask.

    `own` are pages of whoever serves it, and come before those of the same path here; `links` is
    what every page leads to. `is_closing`: see `Pages`.
    """
    pages = Pages(library, is_closing)
    application = Starlette(
        routes=[*own, *_page_routes(pages), *_other_routes(pages)],
        middleware=[Middleware(Headers)],
        exception_handlers={HTTPException: refuse, TunestoneError: refuse},
    )
    application.state.links = links
    return application


def build_view(library: Library, hosts: Collection[str]) -> ASGIApp:
    """The application for a person's own machine, which answers to `hosts` only."""
    return KnownHosts(build_pages(library), {"localhost", "127.0.0.1", "::1", *hosts})


def _page_routes(pages: Pages) -> list[BaseRoute]:
    return [
        *page("/runs", "runs.html.j2", pages.list),
        *page("/compare", "compare.html.j2", pages.compare),
        *page("/runs/{run}/rollouts", "rollouts.html.j2", pages.rollouts),
        *page("/runs/{run}/prompt", "prompt.html.j2", pages.prompt),
        *page("/runs/{run}/validation", "validation.html.j2", pages.validation),
        *page("/runs/{run}/answers", "answers.html.j2", pages.answers),
        *page("/runs/{run}/vote", "vote.html.j2", pages.vote),
        *page("/runs/{run}", "run.html.j2", pages.overview),
    ]


def _of_run(shown: ShownRun, title: str) -> Data:
    return {
        "title": f"{title} · {shown.name}",
        "heading": title,
        "run": {"key": shown.key, "name": shown.name},
    }


def page(path: str, template: str, data: Callable[[Request], Data]) -> list[BaseRoute]:
    """A page and its twin. Both read files, so they run in threads."""

    def as_json(request: Request) -> Response:
        return JSONResponse(data(request), headers={"cache-control": "no-store"})

    def as_html(request: Request) -> Response:
        twin = f"{request.url.path}.json" + (f"?{request.url.query}" if request.url.query else "")
        return draw(request, template, {**data(request), "twin": twin})

    return [Route(f"{path}.json", as_json), Route(path, as_html)]


def draw(
    request: Request, template: str, data: Mapping[str, Any], *, status: int = 200
) -> Response:
    """A page of the application that got the request."""
    given = {"links": request.app.state.links, **data}
    return HTMLResponse(
        render(template, root_of(request), given), status, {"cache-control": "no-store"}
    )


def page_of(request: Request) -> int:
    """Which page of a list an address asks for, from 1."""
    given = request.query_params.get("page", "")
    return max(1, int(given)) if given.isdecimal() else 1


def _other_routes(pages: Pages) -> list[BaseRoute]:
    def start(request: Request) -> Response:
        return RedirectResponse(f"{root_of(request)}/runs")

    def follow(request: Request) -> Response:
        shown = pages.run(request)
        seen = request.headers.get("last-event-id") or request.query_params.get("from", "")
        events: AsyncIterator[str] = live.tell(
            shown, pages.index(shown), live.Place.parse(seen), pages.is_closing
        )
        return StreamingResponse(
            events, media_type="text/event-stream", headers={"cache-control": "no-store"}
        )

    def stop(request: Request, form: Form) -> str:
        shown = pages.run(request)
        if not shown.folder.is_locked():
            raise HTTPException(409, f"Nobody is training '{shown.name}' now.")
        summary.ask_to_stop(shown.folder)
        return f"/runs/{shown.key}"

    def vote(request: Request, form: Form) -> str:
        shown = pages.run(request)
        given = {name: form.get(name, "") for name in ("pair", "showing", "choice")}
        votes.vote(shown.folder, **given)
        return f"/runs/{shown.key}/vote"

    return [
        Route("/", start),
        Route("/runs/{run}/live", follow),
        Route("/runs/{run}/stop", change(stop), methods=["POST"]),
        Route("/runs/{run}/vote", change(vote), methods=["POST"]),
        Route("/static/plotly.js", _plotly),
        Mount("/static", StaticFiles(directory=Path(__file__).parent / "static")),
    ]


def change(act: Callable[[Request, Form], str]) -> Callable[[Request], Awaitable[Response]]:
    """A handler that changes something, only for pages of ours, and leads to the page `act` names.

    `act` runs in a thread.
    """

    async def handler(request: Request) -> Response:
        form = await read_form(request)
        target = await run_in_threadpool(act, request, form)
        return RedirectResponse(root_of(request) + target, status_code=303)

    return handler


async def read_form(request: Request) -> Form:
    """What a form of ours sends. Raises HTTPException when it is none of ours, or too large."""
    if not is_from_here(request):
        raise HTTPException(403, "Only a page of this server may ask for that.")
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > _FORM_BYTES:
            raise HTTPException(413, "That is more than a form of these pages sends.")
    return {name: values[0] for name, values in parse_qs(body.decode("latin-1")).items()}


def _plotly(request: Request) -> Response:
    """Plotly's script out of the installed package: charts need no network."""
    found = importlib.util.find_spec("plotly")
    assert found is not None and found.submodule_search_locations, "a dependency of ours"
    path = Path(found.submodule_search_locations[0]) / "package_data" / "plotly.min.js"
    return FileResponse(path, media_type="text/javascript", headers={"cache-control": _A_DAY})


def refuse(request: Request, error: Exception) -> Response:
    """What is wrong, as a page or as JSON."""
    remedy = ""
    if isinstance(error, HTTPException):
        status, message = error.status_code, error.detail
    elif isinstance(error, TunestoneError):
        status = 503 if isinstance(error, WorldError) else 400
        message, remedy = error.message, error.remedy
    else:
        raise error
    if request.url.path.endswith(".json"):
        told = {"error": {"status": status, "message": message, "remedy": remedy}}
        return JSONResponse(told, status_code=status)
    data = {"title": str(status), "message": message, "remedy": remedy}
    return draw(request, "error.html.j2", data, status=status)


def root_of(request: Request) -> str:
    """What stands before our paths in addresses."""
    return str(request.scope.get("root_path", ""))
