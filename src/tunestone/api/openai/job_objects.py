"""What a client sees of a job: the FineTuningJob object, made of its row."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from tunestone.api.openai.bodies import unix
from tunestone.api.openai.errors import OpenAIError
from tunestone.api.openai.hyperparameters import effective
from tunestone.jobs.job import ENDED
from tunestone.jobs.tables import Job, Model

DIALECT = "openai"
JOB_PREFIX = "ftjob-"
"""What OpenAI's clients have before a job's id."""
_STATUS = {
    "validating": "validating_files",
    "queued": "queued",
    "running": "running",
    "paused": "paused",
    "succeeded": "succeeded",
    "failed": "failed",
    "stopped": "cancelled",
}
_LEGACY = ("n_epochs", "batch_size", "learning_rate_multiplier")


def find_job(session: Session, name: str) -> Job:
    """The job of an id `ftjob-...`. Raises OpenAIError when there is none at this door."""
    job = session.get(Job, name.removeprefix(JOB_PREFIX)) if name.startswith(JOB_PREFIX) else None
    if job is None or job.dialect != DIALECT:
        raise OpenAIError(
            404,
            f"Could not find fine tune: {name}",
            param="fine_tune_id",
            code="fine_tune_not_found",
        )
    return job


def render_jobs(session: Session, jobs: Sequence[Job]) -> dict[str, dict[str, Any]]:
    """Id -> FineTuningJob, of each of these jobs."""
    query = select(Model.job_id, Model.alias).where(
        Model.kind == "tuned", Model.job_id.in_([job.id for job in jobs])
    )
    aliases = {row.job_id: row.alias for row in session.execute(query)}
    return {job.id: _render(job, aliases.get(job.id)) for job in jobs}


def render_job(session: Session, job: Job) -> dict[str, Any]:
    """One FineTuningJob."""
    return render_jobs(session, [job])[job.id]


def _render(job: Job, tuned: str | None) -> dict[str, Any]:
    request, extra = job.request, job.plan["extra"]
    ended = job.state in ENDED
    hyperparameters = effective(job.plan["settings"], job.progress)
    shown = {
        "id": f"{JOB_PREFIX}{job.id}",
        "object": "fine_tuning.job",
        "created_at": unix(job.created_at),
        "error": job.error,
        "estimated_finish": unix(job.estimated_end) if job.state == "running" else None,
        "eval_id": f"eval_{job.id}",
        "fine_tuned_model": tuned if job.state == "succeeded" else None,
        "finished_at": unix(job.ended_at),
        "hyperparameters": {name: hyperparameters[name] for name in _LEGACY},
        "integrations": request.get("integrations") or [],
        "metadata": request.get("metadata"),
        "method": _render_method(request["method"], hyperparameters),
        "model": request["model"],
        "organization_id": f"org-{job.plan['organization']}",
        "result_files": job.result_files,
        "seed": job.plan["settings"]["seed"],
        "shared_with_openai": False,
        # To cancel is for good, so it is told at once; the trainer still ends its step.
        "status": "cancelled" if job.wish == "stop" else _STATUS[job.state],
        "trained_tokens": job.trained_tokens if ended else None,
        "training_file": request["training_file"],
        "user_provided_suffix": request.get("suffix"),
        "validation_file": request.get("validation_file"),
    }
    return {**shown, "notes": list(extra["notes"].values())} if extra.get("notes") else shown


def _render_method(given: Mapping[str, Any], hyperparameters: dict[str, Any]) -> dict[str, Any]:
    """As it came, with the hyperparameters that really hold."""
    reinforcement = {**given["reinforcement"], "hyperparameters": hyperparameters}
    return {"type": "reinforcement", "reinforcement": reinforcement}
