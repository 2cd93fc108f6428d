"""Jobs and tuned models as Bedrock shows them: views of rows, with nothing decided here."""

from datetime import datetime

from sqlalchemy import ColumnElement, and_, select
from sqlalchemy.orm import Session

from tunestone.api.bedrock.arns import (
    custom_model_arn,
    foundation_arn,
    job_arn,
    key_arn,
    split_arn,
)
from tunestone.api.bedrock.errors import ResourceNotFoundException
from tunestone.api.bedrock.job_plan import in_bedrocks_words
from tunestone.api.bedrock.shapes import Json
from tunestone.jobs.intake import MESSAGE_CHARACTERS
from tunestone.jobs.job import ENDED
from tunestone.jobs.tables import Job, Model

_ABOUT_SETTINGS = frozenset({"config_error", "data_error", "model_error"})
"""Codes of errors whose messages may name settings."""
_STATUS = {"succeeded": "Completed", "failed": "Failed", "stopped": "Stopped"}
_PHASES = {
    "validationDetails": "validation",
    "dataProcessingDetails": "data_processing",
    "trainingDetails": "training",
}


def job_status(job: Job) -> str:
    """One of Bedrock's five."""
    if job.state in _STATUS:
        return _STATUS[job.state]
    return "Stopping" if job.wish == "stop" else "InProgress"


def with_status(status: str) -> ColumnElement[bool]:
    """The condition that a job has one of Bedrock's five."""
    states = {shown: state for state, shown in _STATUS.items()}
    if status in states:
        return Job.state == states[status]
    wish = Job.wish == "stop" if status == "Stopping" else Job.wish != "stop"
    return and_(Job.state.notin_(ENDED), wish)


def find_job(session: Session, identifier: str, account: str) -> Job:
    """A job by its name, ARN or id. Raises ResourceNotFoundException."""
    jobs = select(Job).where(Job.dialect == "bedrock")
    kind, key = split_arn(identifier)
    if kind:
        job = session.scalar(jobs.where(Job.id == key))
        if job is not None and job_arn(job, account) == identifier:
            return job
    else:
        for column in (Job.name, Job.id):
            if job := session.scalar(jobs.where(column == identifier)):
                return job
    raise ResourceNotFoundException(f"There is no model customization job {identifier}.")


def tuned_model(session: Session, job_id: str) -> Model | None:
    """What a job made, if it is still there."""
    return session.scalar(select(Model).where(Model.job_id == job_id, Model.kind == "tuned"))


def job_members(job: Job, model: Model | None, account: str) -> Json:
    """All of a job, as GetModelCustomizationJob gives it."""
    request = job.request
    completed = job.state == "succeeded"
    kms = request.get("customModelKmsKeyId")
    return {
        "jobArn": job_arn(job, account),
        "jobName": job.name,
        "outputModelName": request["customModelName"],
        "outputModelArn": custom_model_arn(model, account) if model else None,
        "clientRequestToken": request.get("clientRequestToken"),
        "roleArn": request["roleArn"],
        "status": job_status(job),
        "statusDetails": _details(job),
        "failureMessage": failure_message(job),
        "creationTime": job.created_at,
        "lastModifiedTime": job.updated_at,
        "endTime": job.ended_at,
        "baseModelArn": foundation_arn(job.model, job.region),
        "hyperParameters": {},
        "trainingDataConfig": request["trainingDataConfig"],
        "validationDataConfig": request.get("validationDataConfig", {"validators": []}),
        "outputDataConfig": request["outputDataConfig"],
        "customizationType": request["customizationType"],
        "outputModelKmsKeyArn": key_arn(kms, job.region, account) if kms else None,
        "trainingMetrics": training_metrics(job) if completed else None,
        "validationMetrics": validation_metrics(job) if completed else None,
        "vpcConfig": request.get("vpcConfig"),
        "customizationConfig": request["customizationConfig"],
    }


def job_summary(job: Job, model: Model | None, account: str) -> Json:
    """A job in a list."""
    return {
        "jobArn": job_arn(job, account),
        "baseModelArn": start_arn(job),
        "jobName": job.name,
        "status": job_status(job),
        "statusDetails": _details(job),
        "lastModifiedTime": job.updated_at,
        "creationTime": job.created_at,
        "endTime": job.ended_at,
        "customModelArn": custom_model_arn(model, account) if model else None,
        "customModelName": job.request["customModelName"],
        "customizationType": job.request["customizationType"],
    }


def start_arn(job: Job) -> str:
    """Of the weights a job started from: a tuned model's, or the base model's."""
    if job.start_adapter:
        return str(job.request["baseModelIdentifier"])
    return foundation_arn(job.model, job.region)


def failure_message(job: Job) -> str | None:
    """Why a job failed; None of one that did not. A reward's own words are left as they are."""
    if job.state != "failed" or not job.error:
        return None
    message = str(job.error["message"])
    if job.error["code"] in _ABOUT_SETTINGS:
        message = in_bedrocks_words(message)
    return message[:MESSAGE_CHARACTERS]


def training_metrics(job: Job) -> Json:
    """The policy loss of the last step."""
    loss = job.progress.get("training_loss")
    return {} if loss is None else {"trainingLoss": float(loss)}


def validation_metrics(job: Job) -> list[Json]:
    """One entry per validator, in their order."""
    losses: list[float] = job.progress.get("validation_losses") or []
    return [{"validationLoss": float(loss)} for loss in losses]


def _details(job: Job) -> Json:
    return {member: _phase(job, name) for member, name in _PHASES.items()}


def _phase(job: Job, name: str) -> Json:
    phase: dict[str, str] = job.phases.get(name, {})
    status = phase.get("status", "NotStarted")
    if status == "InProgress" and job_status(job) == "Stopping":
        status = "Stopping"
    created, updated = phase.get("created_at"), phase.get("updated_at")
    return {
        "status": status,
        "creationTime": datetime.fromisoformat(created) if created else job.created_at,
        "lastModifiedTime": datetime.fromisoformat(updated) if updated else job.created_at,
    }
