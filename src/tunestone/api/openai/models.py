"""Models: the bases that jobs may start from, and what came of jobs.

A base is listed under the names clients use; `note` says where it stands for something else here. A
tuned model is deleted with its weights, unless a deployment or a job that is not over needs it.
"""

import logging
import shutil
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from tunestone.api.http import Call, Route
from tunestone.api.inference.targets import resolve_target
from tunestone.api.openai.bodies import unix
from tunestone.api.openai.errors import OpenAIError
from tunestone.api.openai.job_objects import DIALECT, JOB_PREFIX
from tunestone.api.services import Services
from tunestone.errors import UnknownModelError
from tunestone.jobs.job import ENDED
from tunestone.jobs.names import BaseName
from tunestone.jobs.tables import Deployment, Job, Model, Permission

_log = logging.getLogger(__name__)


async def list_models(call: Call) -> Response:
    """`GET /models`: all of them on one page, as at OpenAI."""

    def find() -> list[dict[str, Any]]:
        services = call.services
        with services.store.session() as session:
            query = select(Model).where(Model.dialect == DIALECT, Model.status == "active")
            tuned = list(session.scalars(query.order_by(Model.created_at.desc(), Model.id.desc())))
        bases = [services.names.resolve(name) for name in services.names.listed()]
        return [*map(_render_base, bases), *(_render(services, model) for model in tuned)]

    return JSONResponse({"object": "list", "data": await run_in_threadpool(find)})


async def retrieve(call: Call) -> Response:
    """`GET /models/{model}`: a base, a tuned model, or anything else that answers."""
    services, name = call.services, call.path["model"]

    def find() -> dict[str, Any]:
        target = resolve_target(services, name)
        if not target.model_id:
            return _render_base(services.names.resolve(target.base))
        with services.store.session() as session:
            model = session.get_one(Model, target.model_id)
        return {**_render(services, model), "id": name}

    return JSONResponse(await run_in_threadpool(find))


async def delete(call: Call) -> Response:
    """`DELETE /models/{model}`: a tuned model or a checkpoint, with its weights."""
    services, name = call.services, call.path["model"]

    def forget() -> None:
        with services.store.session() as session:
            model = session.scalar(select(Model).where(Model.alias == name))
            if model is None:
                raise _not_deletable(services, name)
            _refuse_needed(session, model)
            for permission in session.scalars(
                select(Permission).where(Permission.checkpoint == name)
            ):
                session.delete(permission)
            session.delete(model)
            weights = model.adapter or model.base
            shared = session.scalar(
                select(Model.id).where(
                    Model.id != model.id,
                    (Model.adapter == weights) | (Model.base == weights),
                )
            )
        if shared is None:
            _remove(services, weights)

    await run_in_threadpool(forget)
    return JSONResponse({"id": name, "object": "model", "deleted": True})


def _refuse_needed(session: Session, model: Model) -> None:
    for deployment in session.scalars(select(Deployment)):
        pointed = [deployment.model_arn, (deployment.update or {}).get("model_arn", "")]
        if any(arn == model.alias or arn.endswith(f"/{model.id}") for arn in pointed):
            raise OpenAIError(
                409,
                f"The model '{model.alias}' is in use by the deployment '{deployment.name}'. "
                "Delete that first.",
                param="model",
                code="model_in_use",
            )
    waiting = select(Job).where(Job.start_adapter == model.id, Job.state.not_in(ENDED))
    if job := session.scalar(waiting):
        raise OpenAIError(
            409,
            f"The model '{model.alias}' is what the job {JOB_PREFIX}{job.id} starts from. Wait for "
            "its end, or cancel it.",
            param="model",
            code="model_in_use",
        )


def _not_deletable(services: Services, name: str) -> Exception:
    """Why nothing of this name can be deleted."""
    try:
        target = resolve_target(services, name)
    except UnknownModelError as error:
        return error
    what = "belongs to Bedrock's API" if target.model_id else "is a base model"
    return OpenAIError(
        403,
        f"The model '{name}' {what} and cannot be deleted here.",
        param="model",
        code="model_not_deletable",
    )


def _remove(services: Services, weights: str) -> None:
    """Delete a folder of weights, if it lies in the data folder."""
    place = (services.folder / weights).resolve()
    if place == services.folder or not place.is_relative_to(services.folder):
        return  # a hub id or a folder of the server's own table
    try:
        shutil.rmtree(place)
    except FileNotFoundError:
        _log.warning("The weights of a deleted model were gone already: %s", place)


def _render_base(base: BaseName) -> dict[str, Any]:
    """A base; when it was made is not known here."""
    shown = {"id": base.name, "object": "model", "created": 0, "owned_by": "system"}
    return {**shown, "note": base.note} if base.note else shown


def _render(services: Services, model: Model) -> dict[str, Any]:
    return {
        "id": model.alias,
        "object": "model",
        "created": unix(model.created_at),
        "owned_by": services.settings.organization,
        "parent": model.model,
    }


ROUTES = (
    Route("openai", "models.list", "GET", "/models", list_models),
    Route("openai", "models.retrieve", "GET", "/models/{model}", retrieve),
    Route("openai", "models.delete", "DELETE", "/models/{model}", delete, "write"),
)
