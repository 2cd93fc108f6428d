"""The list of jobs, and what may be asked of one: the same for both doors."""

from collections.abc import Callable

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from tunestone.api.access.cookie import MOUNT
from tunestone.api.dashboard.library import JobLibrary
from tunestone.api.services import Services
from tunestone.pages.app import Data, Form, change, page, page_of
from tunestone.pages.views import list_runs


def job_routes(services: Services, library: JobLibrary) -> list[BaseRoute]:
    """`/jobs`, and `/runs/{run}/` with `pause`, `resume` or `stop` behind it."""

    def show(request: Request) -> Data:
        return {**list_runs(library, page=page_of(request)), "title": "Jobs"}

    def start(request: Request) -> Response:
        return RedirectResponse(f"{MOUNT}/jobs")

    jobs = services.jobs
    return [
        Route("/", start),
        Route("/runs", start),
        *page("/jobs", "jobs.html.j2", show),
        _action(library, "pause", jobs.pause),
        _action(library, "resume", jobs.resume),
        _action(library, "stop", jobs.stop),
    ]


def _action(library: JobLibrary, name: str, ask: Callable[[str], None]) -> BaseRoute:
    """A form's target. OpenAI's door has these too, but it knows its own jobs only."""

    def act(request: Request, form: Form) -> str:
        shown = library.find(request.path_params["run"])
        if shown is None:
            raise HTTPException(404, f"There is no job '{request.path_params['run']}' here.")
        ask(shown.key)
        return f"/runs/{shown.key}"

    return Route(f"/runs/{{run}}/{name}", change(act), methods=["POST"])
