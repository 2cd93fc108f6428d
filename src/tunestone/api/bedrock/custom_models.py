"""Custom models: get, list, delete. They are made by jobs alone."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import ColumnElement, Select, and_, delete, or_, select
from sqlalchemy.orm import Session

from tunestone.api.bedrock.arns import (
    custom_model_arn,
    foundation_arn,
    job_arn,
    key_arn,
    split_arn,
)
from tunestone.api.bedrock.creation import drop_tags, exclusively
from tunestone.api.bedrock.errors import ConflictException, ResourceNotFoundException
from tunestone.api.bedrock.job_views import start_arn, training_metrics, validation_metrics
from tunestone.api.bedrock.jobs import model_tags_key
from tunestone.api.bedrock.paging import between, name_contains, read_page
from tunestone.api.bedrock.shapes import Json
from tunestone.api.http import Call
from tunestone.api.services import Services
from tunestone.jobs.job import ENDED
from tunestone.jobs.names import arn_part
from tunestone.jobs.tables import Deployment, Job, Model

_STATUS = {"active": "Active", "creating": "Creating", "failed": "Failed"}


def get_model(call: Call, given: Json) -> Json:
    """GetCustomModel, by name, ARN or id."""
    account = call.services.settings.account
    with call.services.store.session() as session:
        model = find_model(session, given["modelIdentifier"], account)
        job = session.get_one(Job, model.job_id)
    request, kms = job.request, job.request.get("customModelKmsKeyId")
    return {
        "modelArn": custom_model_arn(model, account),
        "modelName": model.name,
        "jobName": job.name,
        "jobArn": job_arn(job, account),
        "baseModelArn": start_arn(job),
        "customizationType": request["customizationType"],
        "modelKmsKeyArn": key_arn(kms, job.region, account) if kms else None,
        "hyperParameters": {},
        "trainingDataConfig": request["trainingDataConfig"],
        "validationDataConfig": request.get("validationDataConfig", {"validators": []}),
        "outputDataConfig": request["outputDataConfig"],
        "trainingMetrics": training_metrics(job),
        "validationMetrics": validation_metrics(job),
        "creationTime": model.created_at,
        "customizationConfig": request["customizationConfig"],
        "modelStatus": _STATUS[model.status],
    }


def list_models(call: Call, given: Json) -> Json:
    """ListCustomModels. All models here are the account's own."""
    account = call.services.settings.account
    with call.services.store.session() as session:
        query = _select_models(session, given)
        page = read_page(session, Model, query, given)
        ids = [model.job_id for model in page.rows]
        jobs = {job.id: job for job in session.scalars(select(Job).where(Job.id.in_(ids)))}
    return {
        "modelSummaries": [
            {
                "modelArn": custom_model_arn(model, account),
                "modelName": model.name,
                "creationTime": model.created_at,
                "baseModelArn": start_arn(jobs[model.job_id]),
                "baseModelName": arn_part(model.model).partition(":")[0],
                "customizationType": jobs[model.job_id].request["customizationType"],
                "ownerAccountId": account,
                "modelStatus": _STATUS[model.status],
            }
            for model in page.rows
        ],
        "nextToken": page.next_token,
    }


def delete_model(call: Call, given: Json) -> Json:
    """DeleteCustomModel: the model, its checkpoints and their files. Of one in use a conflict."""
    services = call.services
    account = services.settings.account
    with exclusively(services.store) as session:
        model = find_model(session, given["modelIdentifier"], account)
        arn = custom_model_arn(model, account)
        if user := _user(session, model, arn):
            raise ConflictException(f"The custom model {model.name} is in use by {user}.")
        weights = session.scalars(select(Model).where(Model.job_id == model.job_id)).all()
        session.execute(delete(Model).where(Model.job_id == model.job_id))
        drop_tags(session, model_tags_key(job_arn(session.get_one(Job, model.job_id), account)))
        folders = _unused_folders(services, session, weights)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    return {}


def find_model(session: Session, identifier: str, account: str) -> Model:
    """A tuned model by its name, ARN or id. Raises ResourceNotFoundException."""
    models = select(Model).where(Model.dialect == "bedrock", Model.kind == "tuned")
    kind, key = split_arn(identifier)
    if kind:
        model = session.scalar(models.where(Model.id == key))
        if model is not None and custom_model_arn(model, account) == identifier:
            return model
    else:
        for column in (Model.name, Model.id):
            if model := session.scalar(models.where(column == identifier)):
                return model
    raise ResourceNotFoundException(f"There is no custom model {identifier}.")


def _select_models(session: Session, given: Json) -> Select[Model]:
    query = (
        select(Model)
        .join(Job, Job.id == Model.job_id)
        .where(
            Model.dialect == "bedrock",
            Model.kind == "tuned",
            *between(Model, given.get("creationTimeAfter"), given.get("creationTimeBefore")),
            *name_contains(Model.name, given.get("nameContains")),
        )
    )
    if "modelStatus" in given:
        statuses = {shown: status for status, shown in _STATUS.items()}
        query = query.where(Model.status == statuses[given["modelStatus"]])
    if not given.get("isOwned", True):
        query = query.where(Model.id.is_(None))
    if arn := given.get("foundationModelArnEquals"):
        query = query.where(_founded_on(session, arn))
    if arn := given.get("baseModelArnEquals"):
        kind, key = split_arn(arn)
        if kind == "custom-model":
            query = query.where(Job.start_adapter == key)
        else:
            query = query.where(Job.start_adapter == "", _founded_on(session, arn))
    return query


def _founded_on(session: Session, arn: str) -> ColumnElement[bool]:
    """The condition that a model's base has this ARN."""
    bases = session.execute(select(Model.model, Model.region).distinct()).all()
    fitting = [base for base in bases if foundation_arn(*base) == arn]
    return or_(Model.id.is_(None), *(and_(Model.model == m, Model.region == r) for m, r in fitting))


def _user(session: Session, model: Model, arn: str) -> str:
    """What still needs the model, or nothing."""
    pending = Deployment.update["model_arn"].as_string() == arn
    deployed = select(Deployment).where(or_(Deployment.model_arn == arn, pending))
    if deployment := session.scalar(deployed):
        return f"the deployment {deployment.name}"
    going_on = select(Job).where(Job.start_adapter == model.id, Job.state.notin_(ENDED))
    if job := session.scalar(going_on):
        return f"the model customization job {job.name}, which starts from it"
    return ""


def _unused_folders(services: Services, session: Session, weights: Sequence[Model]) -> list[Path]:
    """Folders of deleted weights that no other row names."""
    folders = []
    for one in weights:
        named = one.adapter or one.base
        others = select(Model.id).where(or_(Model.adapter == named, Model.base == named))
        based = select(Job.id).where(Job.base == named, Job.state.notin_(ENDED))
        folder = (services.folder / named).resolve()
        ours = folder.is_relative_to(services.folder / "jobs")
        if ours and not session.scalar(others) and not session.scalar(based):
            folders.append(folder)
    return folders
