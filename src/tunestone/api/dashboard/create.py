"""The form for a new job: what it offers, and what it asks before there is a job.

Everything that changes something the page sends to the API itself; see `pages/static/create.js`.

    GET   /jobs/new, /jobs/new.json        the form, and what it offers
    GET   /jobs/new/files/{file_id}.json   the first rows of an uploaded file, and what is wrong
    POST  /jobs/check                      findings about the rows, and recommended settings
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from tunestone.api.dashboard.fields import describe
from tunestone.api.dashboard.grader_templates import grader_templates
from tunestone.api.dashboard.rows import RowCheck, preview
from tunestone.api.inference.targets import resolve_target
from tunestone.api.openai.bodies import Body, parse, read_object
from tunestone.api.openai.errors import OpenAIError, render_error
from tunestone.api.openai.fine_tuning import find_files
from tunestone.api.openai.hyperparameters import NOT_OF_A_JOB, read_own
from tunestone.api.services import Services
from tunestone.config import TrainConfig, setting_groups
from tunestone.errors import TunestoneError
from tunestone.pages.app import Data, page
from tunestone.pages.guard import is_from_here

FIRST = (
    *("epochs", "batch_size", "group_size", "learning_rate"),
    *("max_prompt_tokens", "max_completion_tokens"),
)
"""Settings that are shown at once, those that the check recommends; the others are folded."""

Handler = Callable[[Request], Awaitable[Response]]
_FRESH = {"cache-control": "no-store"}


class CheckRows(Body):
    """`POST /jobs/check`; its members are those of a job."""

    model: str = Field(min_length=1, max_length=512)
    training_file: str
    validation_file: str | None = None
    grader: dict[str, Any] | None = None
    tunestone: dict[str, Any] = Field(default_factory=dict)


def create_routes(services: Services) -> list[BaseRoute]:
    """The routes of the form."""
    checks = RowCheck()

    def show(request: Request) -> Data:
        return form_data(services)

    async def show_rows(request: Request) -> Response:
        found = await run_in_threadpool(preview, services, request.path_params["file_id"])
        return JSONResponse(found, headers=_FRESH)

    async def check(request: Request) -> Response:
        if not is_from_here(request):
            raise OpenAIError(403, "Only a page of this server may ask for that.")
        body = parse(await read_object(request), CheckRows)
        settings, names = await run_in_threadpool(_settings_of, services, body)
        found = await checks.check(settings, body.grader, names)
        # What was given already is nothing to recommend.
        found["settings"] = [s for s in found["settings"] if s["source"] != "you"]
        return JSONResponse(found, headers=_FRESH)

    return [
        *page("/jobs/new", "create.html.j2", show),
        Route("/jobs/new/files/{file_id}.json", _told(show_rows)),
        Route("/jobs/check", _told(check), methods=["POST"]),
    ]


def form_data(services: Services) -> Data:
    """What the form offers: base models, graders, settings."""
    names = services.names.listed()
    more = [
        {"heading": heading, "settings": _settings([n for n in group if n not in FIRST])}
        for heading, group in setting_groups()
    ]
    return {
        "title": "New job",
        "models": [{"name": name, "note": services.names.resolve(name).note} for name in names],
        "takes_hub_ids": not services.settings.base_models,
        "graders": grader_templates(),
        "first_settings": _settings(FIRST),
        "more_settings": [group for group in more if group["settings"]],
    }


def _settings(names: Sequence[str]) -> list[Data]:
    """Those of these settings that a job may decide."""
    fields = TrainConfig.model_fields
    return [describe(name, fields[name]) for name in names if name not in NOT_OF_A_JOB]


def _settings_of(services: Services, body: CheckRows) -> tuple[Data, dict[str, str]]:
    """(settings of the run that the job would be, what the client calls its files)."""
    target = resolve_target(services, body.model)
    files = find_files(services, training=body.training_file, validation=body.validation_file)
    base = {} if target.model_id else services.names.resolve(target.base).settings
    parts = {"training_file": "data", "validation_file": "validation"}
    found = {parts[param]: file for param, file in files.items()}
    paths = {name: str(services.folder / file.path) for name, file in found.items()}
    settings = {**base, **read_own(body.tunestone), "model": target.ref.source, **paths}
    return settings, {name: file.filename for name, file in found.items()}


def _told(handler: Handler) -> Handler:
    """With errors in the words of the API, as the page knows them from there."""

    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except (OpenAIError, TunestoneError) as error:
            return render_error(error, request)

    return answer
