"""A job's checkpoints: those that are kept, newest first, each a model that answers."""

from typing import Any

from sqlalchemy import select
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from tunestone.api.http import Call, Route
from tunestone.api.openai.bodies import unix
from tunestone.api.openai.errors import OpenAIError
from tunestone.api.openai.job_objects import JOB_PREFIX, find_job
from tunestone.api.openai.paging import page, read_limit
from tunestone.jobs.tables import Model

_PREFIX = "ftckpt_"


async def list_checkpoints(call: Call) -> Response:
    """`GET /fine_tuning/jobs/{job_id}/checkpoints`."""
    limit = read_limit(call.request, default=10, most=1_000)
    after = call.request.query_params.get("after")

    def find() -> list[Model]:
        with call.services.store.session() as session:
            job = find_job(session, call.path["job_id"])
            query = select(Model).where(Model.job_id == job.id, Model.kind == "checkpoint")
            if after is not None:
                last = session.scalar(query.where(Model.id == after.removeprefix(_PREFIX)))
                if last is None:
                    raise OpenAIError(
                        404, f"Could not find checkpoint: {after}", param="after", code="not_found"
                    )
                query = query.where(Model.step < last.step)
            return list(session.scalars(query.order_by(Model.step.desc()).limit(limit + 1)))

    return JSONResponse(page(await run_in_threadpool(find), limit, _render))


def _render(model: Model) -> dict[str, Any]:
    return {
        "id": f"{_PREFIX}{model.id}",
        "object": "fine_tuning.job.checkpoint",
        "created_at": unix(model.created_at),
        "fine_tuned_model_checkpoint": model.alias,
        "fine_tuning_job_id": f"{JOB_PREFIX}{model.job_id}",
        "step_number": model.step,
        "metrics": {"step": model.step, **model.metrics},
    }


ROUTES = (
    Route(
        "openai",
        "fine_tuning.jobs.checkpoints.list",
        "GET",
        "/fine_tuning/jobs/{job_id}/checkpoints",
        list_checkpoints,
    ),
)
