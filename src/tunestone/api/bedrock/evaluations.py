"""Evaluation jobs: create, get, list, stop, delete. What runs them stands in `api/evaluations`."""

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from tunestone.api.bedrock.arns import evaluation_arn, split_arn
from tunestone.api.bedrock.creation import (
    drop_tags,
    exclusively,
    made_before,
    put_tags,
    remember,
)
from tunestone.api.bedrock.errors import BedrockError, ConflictException, ResourceNotFoundException
from tunestone.api.bedrock.operations import Reply
from tunestone.api.bedrock.paging import between, name_contains, read_page
from tunestone.api.bedrock.shapes import Json
from tunestone.api.evaluations.asked import read_request
from tunestone.api.http import Call
from tunestone.jobs.store import new_id, now
from tunestone.jobs.tables import Evaluation

_CREATE = "CreateEvaluationJob"
_ENDED = ("Completed", "Failed", "Stopped")


def create_evaluation(call: Call, given: Json) -> Json:
    """CreateEvaluationJob."""
    services = call.services
    with exclusively(services.store) as session:
        if arn := made_before(session, _CREATE, given):
            return {"jobArn": arn}
        read_request(given)
        if session.scalar(select(Evaluation.id).where(Evaluation.name == given["jobName"])):
            raise ConflictException(
                f"An evaluation job with the name {given['jobName']} already exists. Use another "
                "jobName."
            )
        row = _new_row(call, given)
        session.add(row)
        arn = evaluation_arn(row, services.settings.account)
        put_tags(session, arn, given.get("jobTags", []))
        remember(session, _CREATE, given, arn)
    _wake(call)
    return {"jobArn": arn}


def get_evaluation(call: Call, given: Json) -> Json:
    """GetEvaluationJob, by ARN."""
    account = call.services.settings.account
    with call.services.store.session() as session:
        row = _find(session, given["jobIdentifier"], account)
    echoed = (
        "jobDescription",
        "roleArn",
        "customerEncryptionKeyId",
        "evaluationConfig",
        "inferenceConfig",
        "outputDataConfig",
    )
    return {
        "jobName": row.name,
        "status": row.status,
        "jobArn": evaluation_arn(row, account),
        "jobType": "Automated",
        "applicationType": row.request.get("applicationType", "ModelEvaluation"),
        "creationTime": row.created_at,
        "lastModifiedTime": row.updated_at,
        "failureMessages": row.failures or None,
        **{name: row.request.get(name) for name in echoed},
    }


def list_evaluations(call: Call, given: Json) -> Json:
    """ListEvaluationJobs."""
    account = call.services.settings.account
    query = select(Evaluation).where(
        *between(Evaluation, given.get("creationTimeAfter"), given.get("creationTimeBefore")),
        *name_contains(Evaluation.name, given.get("nameContains")),
    )
    if "statusEquals" in given:
        query = query.where(Evaluation.status == given["statusEquals"])
    if given.get("applicationTypeEquals", "ModelEvaluation") != "ModelEvaluation":
        query = query.where(Evaluation.id.is_(None))  # there are none of RAG here
    with call.services.store.session() as session:
        page = read_page(session, Evaluation, query, given)
    summaries = [_summary(row, account) for row in page.rows]
    return {"jobSummaries": summaries, "nextToken": page.next_token}


def stop_evaluation(call: Call, given: Json) -> Json:
    """StopEvaluationJob. A job that has ended or is stopping is a conflict."""
    with exclusively(call.services.store) as session:
        row = _find(session, given["jobIdentifier"], call.services.settings.account)
        if row.status != "InProgress":
            raise ConflictException(
                f"The evaluation job {row.name} is {row.status} and cannot be stopped."
            )
        session.execute(
            update(Evaluation)
            .where(Evaluation.id == row.id, Evaluation.status == "InProgress")
            .values(status="Stopping", updated_at=now())
        )
    _wake(call)
    return {}


def delete_evaluations(call: Call, given: Json) -> Reply:
    """BatchDeleteEvaluationJob: of jobs that have ended; what cannot be deleted is listed."""
    errors, deleted = list[Json](), list[Json]()
    with exclusively(call.services.store) as session:
        for arn in dict.fromkeys(given["jobIdentifiers"]):
            try:
                _delete(session, arn, call.services.settings.account)
            except BedrockError as error:
                one = {"jobIdentifier": arn, "code": error.code, "message": error.message}
                errors.append(one)
            else:
                deleted.append({"jobIdentifier": arn, "jobStatus": "Deleting"})
    return Reply({"errors": errors, "evaluationJobs": deleted})


def _delete(session: Session, arn: str, account: str) -> None:
    row = _find(session, arn, account)
    if row.status not in _ENDED:
        raise ConflictException(f"The evaluation job is {row.status}; stop it first.")
    drop_tags(session, arn)
    session.delete(row)


def _find(session: Session, arn: str, account: str) -> Evaluation:
    row = session.get(Evaluation, split_arn(arn)[1])
    if row is None or evaluation_arn(row, account) != arn:
        raise ResourceNotFoundException(f"There is no evaluation job {arn}.")
    return row


def _new_row(call: Call, given: Json) -> Evaluation:
    moment = now()
    return Evaluation(
        id=new_id(),
        name=given["jobName"],
        status="InProgress",
        region=call.caller.region,
        request=given,
        failures=[],
        created_at=moment,
        updated_at=moment,
    )


def _wake(call: Call) -> None:
    if call.services.evaluations is not None:
        call.services.evaluations.wake()


def _summary(row: Evaluation, account: str) -> Json:
    automated = row.request["evaluationConfig"]["automated"]
    models = row.request["inferenceConfig"]["models"]
    asked = [one["bedrockModel"]["modelIdentifier"] for one in models if "bedrockModel" in one]
    sources = [
        one["precomputedInferenceSource"]["inferenceSourceIdentifier"]
        for one in models
        if "precomputedInferenceSource" in one
    ]
    judges = automated.get("evaluatorModelConfig", {}).get("bedrockEvaluatorModels", [])
    return {
        "jobArn": evaluation_arn(row, account),
        "jobName": row.name,
        "status": row.status,
        "creationTime": row.created_at,
        "jobType": "Automated",
        "evaluationTaskTypes": [one["taskType"] for one in automated["datasetMetricConfigs"]],
        "modelIdentifiers": asked,
        "evaluatorModelIdentifiers": [judge["modelIdentifier"] for judge in judges],
        "inferenceConfigSummary": {
            "modelConfigSummary": {
                "bedrockModelIdentifiers": asked,
                "precomputedInferenceSourceIdentifiers": sources,
            }
        },
        "applicationType": row.request.get("applicationType", "ModelEvaluation"),
    }
