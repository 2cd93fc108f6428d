"""Customization jobs: create, get, list, stop."""

import logging

from sqlalchemy import select
from sqlalchemy.orm import Session

from tunestone.api.bedrock.arns import job_arn, split_arn
from tunestone.api.bedrock.creation import exclusively, made_before, put_tags, remember
from tunestone.api.bedrock.errors import ConflictException
from tunestone.api.bedrock.job_plan import Start, find_start, plan_job
from tunestone.api.bedrock.job_views import (
    find_job,
    job_members,
    job_status,
    job_summary,
    tuned_model,
    with_status,
)
from tunestone.api.bedrock.operations import Reply
from tunestone.api.bedrock.paging import between, name_contains, read_page
from tunestone.api.bedrock.shapes import Json
from tunestone.api.http import Call
from tunestone.api.services import Services
from tunestone.jobs.job import ENDED, Plan, new_job
from tunestone.jobs.journal import tell
from tunestone.jobs.tables import Job, Model

_CREATE = "CreateModelCustomizationJob"
_log = logging.getLogger(__name__)


def create_job(call: Call, given: Json) -> Reply:
    """CreateModelCustomizationJob: a new job in `validating`, or the one this token made."""
    services = call.services
    with services.store.session() as session:
        if made := _made_before(session, given):
            return _created(made, services)
        start = find_start(services, session, given["baseModelIdentifier"])
    plan = plan_job(services, given, start)
    with exclusively(services.store) as session:
        if made := _made_before(session, given):
            return _created(made, services)
        find_start(services, session, given["baseModelIdentifier"])  # may be deleted by now
        _check_names(session, given["jobName"], given["customModelName"])
        job = _new_job(call, given, start, plan)
        arn = job_arn(job, services.settings.account)
        session.add(job)
        session.flush()
        if start.note:
            tell(session, job.id, "note:model", start.note, level="warn", at=job.created_at)
        put_tags(session, arn, given.get("jobTags", []))
        put_tags(session, model_tags_key(arn), given.get("customModelTags", []), shown=arn)
        remember(session, _CREATE, given, arn)
    if start.note:
        _log.warning("Job %s: %s", job.name, start.note)
    services.jobs.wake()
    return _created(job, services)


def get_job(call: Call, given: Json) -> Reply:
    """GetModelCustomizationJob, by name, ARN or id."""
    account = call.services.settings.account
    with call.services.store.session() as session:
        job = find_job(session, given["jobIdentifier"], account)
        model = tuned_model(session, job.id)
    return Reply(job_members(job, model, account), model_note=_note_of(job))


def list_jobs(call: Call, given: Json) -> Json:
    """ListModelCustomizationJobs."""
    account = call.services.settings.account
    query = select(Job).where(
        Job.dialect == "bedrock",
        *between(Job, given.get("creationTimeAfter"), given.get("creationTimeBefore")),
        *name_contains(Job.name, given.get("nameContains")),
    )
    if "statusEquals" in given:
        query = query.where(with_status(given["statusEquals"]))
    with call.services.store.session() as session:
        page = read_page(session, Job, query, given)
        ids = [job.id for job in page.rows]
        tuned = select(Model).where(Model.job_id.in_(ids), Model.kind == "tuned")
        models = {model.job_id: model for model in session.scalars(tuned)}
    return {
        "modelCustomizationJobSummaries": [
            job_summary(job, models.get(job.id), account) for job in page.rows
        ],
        "nextToken": page.next_token,
    }


def stop_job(call: Call, given: Json) -> Json:
    """StopModelCustomizationJob. A job that has ended or is stopping is a conflict."""
    with call.services.store.session() as session:
        job = find_job(session, given["jobIdentifier"], call.services.settings.account)
    status = job_status(job)
    if status != "InProgress":
        raise ConflictException(
            f"The model customization job {job.name} is {status} and cannot be stopped."
        )
    call.services.jobs.stop(job.id)
    return {}


def model_tags_key(arn: str) -> str:
    """Under which tags of a job's model are kept; so they can be there before the model is."""
    return f"{arn}#model"


def _made_before(session: Session, given: Json) -> Job | None:
    arn = made_before(session, _CREATE, given)
    return session.get_one(Job, split_arn(arn)[1]) if arn else None


def _created(job: Job, services: Services) -> Reply:
    return Reply({"jobArn": job_arn(job, services.settings.account)}, model_note=_note_of(job))


def _check_names(session: Session, name: str, model_name: str) -> None:
    """Both names are free. Of jobs that made no model, the model's name is free again."""
    if session.scalar(select(Job.id).where(Job.dialect == "bedrock", Job.name == name)):
        raise ConflictException(
            f"A model customization job with the name {name} already exists. Use another jobName."
        )
    tuned = select(Model.id).where(
        Model.dialect == "bedrock", Model.kind == "tuned", Model.name == model_name
    )
    wanted = select(Job.id).where(
        Job.dialect == "bedrock",
        Job.state.notin_(ENDED),
        Job.plan["model_name"].as_string() == model_name,
    )
    if session.scalar(tuned) or session.scalar(wanted):
        raise ConflictException(
            f"A custom model with the name {model_name} already exists or is being made. Use "
            "another customModelName."
        )


def _new_job(call: Call, given: Json, start: Start, plan: Plan) -> Job:
    return new_job(
        plan,
        dialect="bedrock",
        name=given["jobName"],
        model=start.model,
        base=start.source,
        start_adapter=start.tuned,
        region=call.caller.region,
        request=given,
    )


def _note_of(job: Job) -> str:
    return " ".join(job.plan["extra"].get("notes", ()))
