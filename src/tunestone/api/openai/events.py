"""A job's events: those it is born with, and the list of all, newest first."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from tunestone.api.http import Call, Route
from tunestone.api.openai.bodies import unix
from tunestone.api.openai.errors import OpenAIError
from tunestone.api.openai.job_objects import JOB_PREFIX, find_job
from tunestone.api.openai.paging import page, read_limit
from tunestone.jobs.journal import tell
from tunestone.jobs.tables import Event, Job


def tell_start(session: Session, job: Job) -> None:
    """What is said at once: that there is a job, what it reads, and what is not as it seems."""
    tell(session, job.id, "created", f"Created fine-tuning job: {JOB_PREFIX}{job.id}")
    for kind in ("training", "validation"):
        if file := job.request.get(f"{kind}_file"):
            tell(session, job.id, f"validating:{kind}", f"Validating {kind} file: {file}")
    for key, note in job.plan["extra"]["notes"].items():
        tell(session, job.id, f"note:{key}", note, level="warn")


async def list_events(call: Call) -> Response:
    """`GET /fine_tuning/jobs/{job_id}/events`."""
    limit = read_limit(call.request, default=20, most=1_000)
    after = call.request.query_params.get("after")

    def find() -> list[Event]:
        with call.services.store.session() as session:
            job = find_job(session, call.path["job_id"])
            query = select(Event).where(Event.job_id == job.id)
            if after is not None:
                last = session.scalar(query.where(Event.id == after))
                if last is None:
                    raise OpenAIError(
                        404, f"Could not find event: {after}", param="after", code="not_found"
                    )
                query = query.where(Event.sequence < last.sequence)
            ordered = query.order_by(Event.sequence.desc())
            return list(session.scalars(ordered.limit(limit + 1)))

    return JSONResponse(page(await run_in_threadpool(find), limit, _render))


def _render(event: Event) -> dict[str, Any]:
    return {
        "id": event.id,
        "object": "fine_tuning.job.event",
        "created_at": unix(event.created_at),
        "level": event.level,
        "message": event.message,
        "type": event.type,
        "data": event.data or {},
    }


ROUTES = (
    Route(
        "openai",
        "fine_tuning.jobs.list_events",
        "GET",
        "/fine_tuning/jobs/{job_id}/events",
        list_events,
    ),
)
