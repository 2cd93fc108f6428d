"""Makes deployments answer: asks the engine for one token of their model.

That loads the base and the adapter, so that the first real request need not wait, and shows that
they can be loaded at all. A world that fails (the engine is starting anew, or overloaded) is given
some time; a model that cannot be loaded fails its deployment with the reason. What is to be done
follows from the rows alone, so a restart of the server loses nothing.
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
from tunestone.jobs.intake import MESSAGE_CHARACTERS
from tunestone.jobs.store import new_id, now
from tunestone.jobs.tables import Deployment

_ATTEMPTS = 8
_PAUSE_SECONDS = 0.5
"""After the first attempt; each pause is twice as long as the one before, about a minute in all."""
_ROUND_SECONDS = 0.5
"""Between two looks at the table."""
_log = logging.getLogger(__name__)


async def continue_deployments(services: Services) -> None:
    """Bring on what is Creating or Updating, new or left by an earlier server; until cancelled."""
    busy: set[str] = set()

    async def bring_on(key: str) -> None:
        try:
            await _activate(services, key)
        except Exception:  # noqa: BLE001 - the row is as it was: the next round tries again
            _log.exception("Deployment %s waits.", key)
        busy.discard(key)

    async with anyio.create_task_group() as tasks:
        while True:
            for key in await run_in_threadpool(_pending, services):
                if key not in busy:
                    busy.add(key)
                    tasks.start_soon(bring_on, key)
            await anyio.sleep(_ROUND_SECONDS)


async def _activate(services: Services, deployment_id: str) -> None:
    """Load the model a deployment waits for, and note whether that worked."""
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
    try:
        with services.store.session() as session:
            return list(session.scalars(query))
    except WorldError:
        _log.exception("The database does not answer; deployments go on when it does.")
        return []


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
        row.failure = failure[:MESSAGE_CHARACTERS]
        row.updated_at = now()
        if row.status == "Creating":
            row.status = "Failed" if failure else "Active"
        else:
            row.update = {
                "model_arn": wanted,
                "status": "UpdateFailed" if failure else "UpdateCompleted",
            }
            row.model_arn = row.model_arn if failure else wanted
