"""Deployments: names under which tuned models answer. Provisioned Throughput shares their rows.

A deployment becomes Active when the engine has really answered with its model; see `activation.py`.
"""

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from tunestone.api.bedrock.arns import deployment_arn, split_arn
from tunestone.api.bedrock.creation import (
    drop_tags,
    exclusively,
    made_before,
    put_tags,
    remember,
)
from tunestone.api.bedrock.custom_models import find_model
from tunestone.api.bedrock.errors import (
    ConflictException,
    ResourceNotFoundException,
    ValidationException,
)
from tunestone.api.bedrock.paging import between, name_contains, read_page
from tunestone.api.bedrock.shapes import Json
from tunestone.api.http import Call
from tunestone.jobs.store import new_id, now
from tunestone.jobs.tables import Deployment

_CREATE = "CreateCustomModelDeployment"
_NOUN = {"deployment": "custom model deployment", "provisioned": "provisioned model"}


def create_deployment(call: Call, given: Json) -> Json:
    """CreateCustomModelDeployment."""
    services = call.services
    with exclusively(services.store) as session:
        if arn := made_before(session, _CREATE, given):
            return {"customModelDeploymentArn": arn}
        _check_model(session, given["modelArn"], services.settings.account)
        row = new_deployment(call, given, given["modelDeploymentName"], given["modelArn"])
        arn = add_deployment(session, row, given, services.settings.account)
        remember(session, _CREATE, given, arn)
    return {"customModelDeploymentArn": arn}


def get_deployment(call: Call, given: Json) -> Json:
    """GetCustomModelDeployment, by name, ARN or id."""
    account = call.services.settings.account
    with call.services.store.session() as session:
        row = find_deployment(
            session, "deployment", given["customModelDeploymentIdentifier"], account
        )
    return {
        "customModelDeploymentArn": deployment_arn(row, account),
        "modelDeploymentName": row.name,
        "modelArn": row.model_arn,
        "createdAt": row.created_at,
        "status": row.status,
        "description": row.description or None,
        "updateDetails": _update_details(row),
        "failureMessage": row.failure or None,
        "lastUpdatedAt": row.updated_at,
    }


def list_deployments(call: Call, given: Json) -> Json:
    """ListCustomModelDeployments."""
    account = call.services.settings.account
    query = select(Deployment).where(
        Deployment.kind == "deployment",
        *between(Deployment, given.get("createdAfter"), given.get("createdBefore")),
        *name_contains(Deployment.name, given.get("nameContains")),
    )
    if "statusEquals" in given:
        query = query.where(Deployment.status == given["statusEquals"])
    if "modelArnEquals" in given:
        query = query.where(Deployment.model_arn == given["modelArnEquals"])
    with call.services.store.session() as session:
        page = read_page(session, Deployment, query, given)
    return {
        "modelDeploymentSummaries": [
            {
                "customModelDeploymentArn": deployment_arn(row, account),
                "customModelDeploymentName": row.name,
                "modelArn": row.model_arn,
                "createdAt": row.created_at,
                "status": row.status,
                "lastUpdatedAt": row.updated_at,
                "failureMessage": row.failure or None,
            }
            for row in page.rows
        ],
        "nextToken": page.next_token,
    }


def update_deployment(call: Call, given: Json) -> Json:
    """UpdateCustomModelDeployment: the same ARN answers with another model once that is loaded."""
    services = call.services
    account = services.settings.account
    with exclusively(services.store) as session:
        row = find_deployment(
            session, "deployment", given["customModelDeploymentIdentifier"], account
        )
        _check_model(session, given["modelArn"], account)
        begin_update(row, given["modelArn"])
    return {"customModelDeploymentArn": deployment_arn(row, account)}


def delete_deployment(call: Call, given: Json) -> Json:
    """DeleteCustomModelDeployment; the model stays."""
    account = call.services.settings.account
    with exclusively(call.services.store) as session:
        row = find_deployment(
            session, "deployment", given["customModelDeploymentIdentifier"], account
        )
        drop_deployment(session, row, account)
    return {}


def find_deployment(session: Session, kind: str, identifier: str, account: str) -> Deployment:
    """A deployment (or Provisioned Throughput) by name, ARN or id. Raises
    ResourceNotFoundException."""
    rows = select(Deployment).where(Deployment.kind == kind)
    arn_kind, key = split_arn(identifier)
    if arn_kind:
        row = session.scalar(rows.where(Deployment.id == key))
        if row is not None and deployment_arn(row, account) == identifier:
            return row
    else:
        for column in (Deployment.name, Deployment.id):
            if row := session.scalar(rows.where(column == identifier)):
                return row
    raise ResourceNotFoundException(f"There is no {_NOUN[kind]} {identifier}.")


def new_deployment(
    call: Call, given: Json, name: str, model_arn: str, *, kind: str = "deployment"
) -> Deployment:
    """A row in Creating."""
    moment = now()
    return Deployment(
        id=new_id(),
        kind=kind,
        name=name,
        model_arn=model_arn,
        status="Creating",
        description=given.get("description", ""),
        region=call.caller.region,
        request=given,
        created_at=moment,
        updated_at=moment,
    )


def add_deployment(session: Session, row: Deployment, given: Json, account: str) -> str:
    """Store a new row and its tags; its ARN. Raises ConflictException for a name that is taken."""
    check_name(session, row.kind, row.name)
    session.add(row)
    arn = deployment_arn(row, account)
    put_tags(session, arn, given.get("tags", []))
    return arn


def check_name(session: Session, kind: str, name: str) -> None:
    """The name is free. Raises ConflictException."""
    taken = select(Deployment.id).where(Deployment.kind == kind, Deployment.name == name)
    if session.scalar(taken):
        raise ConflictException(f"A {_NOUN[kind]} with the name {name} already exists.")


def begin_update(row: Deployment, model_arn: str) -> None:
    """Point a row elsewhere, which holds once that model is loaded."""
    if row.status != "Active":
        raise ConflictException(f"The {_NOUN[row.kind]} {row.name} is {row.status}, not Active.")
    if is_updating(row):
        raise ConflictException(f"The {_NOUN[row.kind]} {row.name} is being updated already.")
    row.update = {"model_arn": model_arn, "status": "Updating"}
    row.failure = ""
    row.updated_at = now()


def is_updating(row: Deployment) -> bool:
    """Whether another model is being loaded."""
    return row.update is not None and row.update["status"] == "Updating"


def drop_deployment(session: Session, row: Deployment, account: str) -> None:
    """Delete a row and its tags."""
    drop_tags(session, deployment_arn(row, account))
    session.delete(row)


def _check_model(session: Session, arn: str, account: str) -> None:
    model = find_model(session, arn, account)
    if model.status != "active":
        raise ValidationException(f"The custom model {arn} is {model.status}, not Active.")


def _update_details(row: Deployment) -> dict[str, Any] | None:
    if row.update is None:
        return None
    return {"modelArn": row.update["model_arn"], "updateStatus": row.update["status"]}
