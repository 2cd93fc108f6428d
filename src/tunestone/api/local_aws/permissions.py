"""Who may invoke a function: statements that are kept and echoed, and refuse nobody here."""

import json
from typing import Any

from tunestone.api.bedrock.errors import ResourceNotFoundException
from tunestone.api.http import Call
from tunestone.api.local_aws.deployment import find_function, find_row
from tunestone.api.local_aws.errors import ResourceConflictException

Json = dict[str, Any]


def add_permission(call: Call, given: Json) -> Json:
    """AddPermission."""
    with call.services.store.session() as session:
        row = find_row(session, call, given)
        statement = _statement(row.name, given)
        kept = row.settings.get("Statements", [])
        if any(one["Sid"] == statement["Sid"] for one in kept):
            raise ResourceConflictException(
                f"The statement id ({statement['Sid']}) provided already exists. Please provide a "
                "new statement id, or remove the existing statement."
            )
        row.settings = {**row.settings, "Statements": [*kept, statement]}
    return {"Statement": json.dumps(statement)}


def get_policy(call: Call, given: Json) -> Json:
    """GetPolicy."""
    row = find_function(call, given)
    statements = row.settings.get("Statements", [])
    if not statements:
        raise ResourceNotFoundException("The resource you requested does not exist.")
    policy = {"Version": "2012-10-17", "Id": "default", "Statement": statements}
    return {"Policy": json.dumps(policy), "RevisionId": row.settings["RevisionId"]}


def remove_permission(call: Call, given: Json) -> Json:
    """RemovePermission."""
    with call.services.store.session() as session:
        row = find_row(session, call, given)
        kept = row.settings.get("Statements", [])
        left = [one for one in kept if one["Sid"] != given["StatementId"]]
        if len(left) == len(kept):
            raise ResourceNotFoundException(
                f"Statement {given['StatementId']} is not found in resource policy."
            )
        row.settings = {**row.settings, "Statements": left}
    return {}


def _statement(arn: str, given: Json) -> Json:
    principal = given["Principal"]
    kind = "Service" if principal.endswith(".amazonaws.com") else "AWS"
    statement: Json = {
        "Sid": given["StatementId"],
        "Effect": "Allow",
        "Principal": "*" if principal == "*" else {kind: principal},
        "Action": given["Action"],
        "Resource": arn,
    }
    conditions: Json = {}
    if "SourceArn" in given:
        conditions["ArnLike"] = {"AWS:SourceArn": given["SourceArn"]}
    if "SourceAccount" in given:
        conditions["StringEquals"] = {"AWS:SourceAccount": given["SourceAccount"]}
    return {**statement, "Condition": conditions} if conditions else statement
