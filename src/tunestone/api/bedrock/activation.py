"""Makes deployments answer: asks the engine for one token of their model.

That loads the base and the adapter, so that the first real request need not wait, and shows that
they can be loaded at all. A world that fails (the engine is starting anew, or overloaded) is given
some time; a model that cannot be loaded fails its deployment with the reason.
"""

import logging

import anyio
from sqlalchemy import or_, select
from starlette.concurrency import run_in_threadpool

from tunestone.api.bedrock.creation import exclusively
from tunestone.api.inference.targets import resolve_target
from tunestone.api.services import Services
from tunestone.errors import RequestError, WorldError
from tunestone.generation import Failed, GenerationRequest, ModelRef
from tunestone.jobs.store import new_id, now
from tunestone.jobs.tables import Deployment

_ATTEMPTS = 8
_PAUSE_SECONDS = 0.5
"""After the first attempt; each pause is twice as long as the one before, about a minute in all."""
_log = logging.getLogger(__name__)


async def continue_all(services: Services) -> None:
    """Take up what was Creating or Updating when the server went down."""
    ids = await run_in_threadpool(_pending, services)
    async with anyio.create_task_group() as tasks:
        for key in ids:
            tasks.start_soon(activate, services, key)


async def activate(services: Services, deployment_id: str) -> None:
    """Load the model a deployment waits for, and note whether that worked. Never raises."""
    wanted = await run_in_threadpool(_wanted, services, deployment_id)
    if wanted is None:
        return
    try:
        failure = await _try(services, wanted)
    except Exception as error:  # noqa: BLE001 - else it would be Creating for ever
        _log.error("Deployment %s failed by our own fault.", deployment_id, exc_info=error)
        failure = "Encountered an internal error; the server's log says what went wrong."
    if failure:
        _log.warning("Deployment %s of %s failed: %s", deployment_id, wanted, failure)
    await run_in_threadpool(_settle, services, deployment_id, wanted, failure)


async def _try(services: Services, arn: str) -> str:
    """Why the model cannot answer; empty when it did."""
    pause = _PAUSE_SECONDS
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            target = await run_in_threadpool(resolve_target, services, arn)
            return await _ask(services, target.ref)
        except RequestError as error:
            return str(error)
        except WorldError as error:
            if attempt == _ATTEMPTS:
                return str(error)
            _log.info("%s cannot be loaded yet: %s", arn, error)
        await anyio.sleep(pause)
        pause *= 2
    return ""


async def _ask(services: Services, model: ModelRef) -> str:
    turns = ({"role": "user", "content": "Hello"},)
    request = GenerationRequest(new_id(), model, turns, max_tokens=1, temperature=0.0)
    async for event in services.engine.generate(request):
        if isinstance(event, Failed):
            return event.message
    return ""


def _pending(services: Services) -> list[str]:
    updating = Deployment.update["status"].as_string() == "Updating"
    query = select(Deployment.id).where(or_(Deployment.status == "Creating", updating))
    with services.store.session() as session:
        return list(session.scalars(query))


def _wanted(services: Services, key: str) -> str | None:
    """The ARN of the model that is to be loaded; None when there is nothing to do any more."""
    with services.store.session() as session:
        return _wanted_of(session.get(Deployment, key))


def _wanted_of(row: Deployment | None) -> str | None:
    if row is None:
        return None
    if row.status == "Creating":
        return row.model_arn
    if row.update and row.update["status"] == "Updating":
        return str(row.update["model_arn"])
    return None


def _settle(services: Services, key: str, wanted: str, failure: str) -> None:
    """Note the outcome, unless the deployment was deleted or pointed elsewhere meanwhile."""
    with exclusively(services.store) as session:
        row = session.get(Deployment, key)
        if row is None or _wanted_of(row) != wanted:
            return
        row.failure = failure[:2048]
        row.updated_at = now()
        if row.status == "Creating":
            row.status = "Failed" if failure else "Active"
        else:
            row.update = {
                "model_arn": wanted,
                "status": "UpdateFailed" if failure else "UpdateCompleted",
            }
            row.model_arn = row.model_arn if failure else wanted
