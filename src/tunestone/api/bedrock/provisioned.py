"""Provisioned Throughput, as far as it makes sense here: one more name by which a model answers.

Nothing is reserved, since one machine serves everything; each answer says so in the header
`x-tunestone-note`. The ARN works as a model id.
"""

import logging

from sqlalchemy import ColumnElement, and_, not_, or_, select
from sqlalchemy.orm import Session

from tunestone.api.bedrock.arns import (
    custom_model_arn,
    deployment_arn,
    foundation_arn,
    resolve_base,
    split_arn,
)
from tunestone.api.bedrock.creation import exclusively, made_before, remember
from tunestone.api.bedrock.custom_models import find_model
from tunestone.api.bedrock.deployments import (
    add_deployment,
    begin_update,
    check_name,
    drop_deployment,
    find_deployment,
    is_updating,
    new_deployment,
)
from tunestone.api.bedrock.errors import ResourceNotFoundException
from tunestone.api.bedrock.operations import Reply
from tunestone.api.bedrock.paging import between, name_contains, read_page
from tunestone.api.bedrock.shapes import Json
from tunestone.api.http import Call
from tunestone.jobs.tables import Deployment, Job, Model

_CREATE = "CreateProvisionedModelThroughput"
_NOTE = (
    "Provisioned Throughput reserves nothing here: the model answers like any other, whatever "
    "modelUnits and commitmentDuration say."
)
_SHOWN = {"Creating": "Creating", "Active": "InService", "Failed": "Failed"}
_log = logging.getLogger(__name__)


def create_throughput(call: Call, given: Json) -> Reply:
    """CreateProvisionedModelThroughput."""
    services = call.services
    with exclusively(services.store) as session:
        if arn := made_before(session, _CREATE, given):
            return Reply({"provisionedModelArn": arn}, note=_NOTE)
        model_arn = _model_arn(call, session, given["modelId"])
        name = given["provisionedModelName"]
        row = new_deployment(call, given, name, model_arn, kind="provisioned")
        arn = add_deployment(session, row, given, services.settings.account)
        remember(session, _CREATE, given, arn)
    _log.warning("%s: %s", name, _NOTE)
    return Reply({"provisionedModelArn": arn}, note=_NOTE)


def get_throughput(call: Call, given: Json) -> Reply:
    """GetProvisionedModelThroughput, by name, ARN or id."""
    account = call.services.settings.account
    with call.services.store.session() as session:
        row = find_deployment(session, "provisioned", given["provisionedModelId"], account)
        members = _summary(session, row, account)
    return Reply({**members, "failureMessage": row.failure or None}, note=_NOTE)


def list_throughputs(call: Call, given: Json) -> Reply:
    """ListProvisionedModelThroughputs."""
    account = call.services.settings.account
    query = select(Deployment).where(
        Deployment.kind == "provisioned",
        *between(Deployment, given.get("creationTimeAfter"), given.get("creationTimeBefore")),
        *name_contains(Deployment.name, given.get("nameContains")),
    )
    if "modelArnEquals" in given:
        query = query.where(Deployment.model_arn == given["modelArnEquals"])
    if "statusEquals" in given:
        query = query.where(_with_status(given["statusEquals"]))
    with call.services.store.session() as session:
        page = read_page(session, Deployment, query, given)
        summaries = [_summary(session, row, account) for row in page.rows]
    members = {"provisionedModelSummaries": summaries, "nextToken": page.next_token}
    return Reply(members, note=_NOTE)


def update_throughput(call: Call, given: Json) -> Reply:
    """UpdateProvisionedModelThroughput: another name, another model, or both."""
    services = call.services
    account = services.settings.account
    with exclusively(services.store) as session:
        row = find_deployment(session, "provisioned", given["provisionedModelId"], account)
        name = given.get("desiredProvisionedModelName", row.name)
        if name != row.name:
            check_name(session, "provisioned", name)
            row.name = name
        if "desiredModelId" in given:
            begin_update(row, _model_arn(call, session, given["desiredModelId"]))
    return Reply(note=_NOTE)


def delete_throughput(call: Call, given: Json) -> Json:
    """DeleteProvisionedModelThroughput; the model stays."""
    account = call.services.settings.account
    with exclusively(call.services.store) as session:
        row = find_deployment(session, "provisioned", given["provisionedModelId"], account)
        drop_deployment(session, row, account)
    return {}


def _model_arn(call: Call, session: Session, identifier: str) -> str:
    """Of a custom model by ARN, name or id, else of a base model."""
    account = call.services.settings.account
    try:
        return custom_model_arn(find_model(session, identifier, account), account)
    except ResourceNotFoundException:
        if split_arn(identifier)[0]:
            raise
        base = resolve_base(call.services, identifier)
        return foundation_arn(base.name, call.caller.region)


def _with_status(shown: str) -> ColumnElement[bool]:
    updating: ColumnElement[bool] = Deployment.update["status"].as_string() == "Updating"
    if shown == "Updating":
        return updating
    status = next(status for status, name in _SHOWN.items() if name == shown)
    settled = or_(Deployment.update.is_(None), not_(updating))
    return and_(Deployment.status == status, settled)


def _summary(session: Session, row: Deployment, account: str) -> Json:
    """What Get and List have in common."""
    update = row.update or {}
    units = row.request["modelUnits"]
    return {
        "provisionedModelName": row.name,
        "provisionedModelArn": deployment_arn(row, account),
        "modelArn": row.model_arn,
        "desiredModelArn": update["model_arn"] if is_updating(row) else row.model_arn,
        "foundationModelArn": _foundation(session, row),
        "modelUnits": units,
        "desiredModelUnits": units,
        "status": "Updating" if is_updating(row) else _SHOWN[row.status],
        "commitmentDuration": row.request.get("commitmentDuration"),
        "creationTime": row.created_at,
        "lastModifiedTime": row.updated_at,
    }


def _foundation(session: Session, row: Deployment) -> str:
    kind, key = split_arn(row.model_arn)
    if kind != "custom-model":
        return row.model_arn
    model = session.get_one(Model, key)
    return foundation_arn(model.model, session.get_one(Job, model.job_id).region)
