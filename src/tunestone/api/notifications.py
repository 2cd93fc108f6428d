"""What is told of a job's new state, in the words of its door.

A receiver of kind `webhook` is told of OpenAI's jobs, one of kind `eventbridge` of Bedrock's.
"""

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.orm import Session

from tunestone.api.bedrock.job_views import job_members, tuned_model
from tunestone.api.openai.job_objects import JOB_PREFIX
from tunestone.jobs.notify import Describe, Json, Kind, Notice
from tunestone.jobs.settings import ServerSettings
from tunestone.jobs.store import new_id
from tunestone.jobs.tables import Change, Job

_OPENAI = {"succeeded": "succeeded", "failed": "failed", "stopped": "cancelled"}
_BEDROCK = {
    "queued": "InProgress",
    "running": "InProgress",
    "stopping": "Stopping",
    "succeeded": "Completed",
    "failed": "Failed",
    "stopped": "Stopped",
}


def describers(settings: ServerSettings) -> Mapping[Kind, Describe]:
    """How each kind of receiver is told."""

    def of_bedrock(session: Session, job: Job, change: Change) -> Notice | None:
        status = _BEDROCK.get(change.state)
        if job.dialect != "bedrock" or status is None:
            return None
        members = job_members(job, tuned_model(session, job.id), settings.account)
        return Notice(status, _state_change(members, status, change, job.region, settings.account))

    return {"webhook": _of_openai, "eventbridge": of_bedrock}


def _of_openai(session: Session, job: Job, change: Change) -> Notice | None:
    status = _OPENAI.get(change.state)
    if job.dialect != "openai" or status is None:
        return None
    payload = {
        "id": f"evt_{new_id()}{new_id()}",
        "object": "event",
        "created_at": int(change.created_at.timestamp()),
        "type": f"fine_tuning.job.{status}",
        "data": {"id": f"{JOB_PREFIX}{job.id}"},
    }
    return Notice(status, payload)


def _state_change(members: Json, status: str, change: Change, region: str, account: str) -> Json:
    """EventBridge's envelope around what the job was when its status became `status`."""
    detail = {
        "version": "0.0",
        "jobName": members["jobName"],
        "jobArn": members["jobArn"],
        "outputModelName": members["outputModelName"],
        "outputModelArn": members["outputModelArn"],
        "roleArn": members["roleArn"],
        "jobStatus": status,
        "failureMessage": members["failureMessage"] if status == "Failed" else None,
        "creationTime": _time(members["creationTime"]),
        "lastModifiedTime": _time(change.created_at),
        "endTime": _time(members["endTime"]) if status in _ENDED else None,
        "baseModelArn": members["baseModelArn"],
        "hyperParameters": _hyper_parameters(members),
        "trainingDataConfig": _uri(members["trainingDataConfig"]),
        "validationDataConfig": _uri(members["validationDataConfig"]),
        "outputDataConfig": _uri(members["outputDataConfig"]),
    }
    return {
        "version": "0",
        "id": str(uuid.uuid4()),
        "detail-type": "Model Customization Job State Change",
        "source": "aws.bedrock",
        "account": account,
        "time": _time(change.created_at),
        "region": region,
        "resources": [members["jobArn"]],
        "detail": {name: value for name, value in detail.items() if value is not None},
    }


_ENDED = frozenset({"Completed", "Failed", "Stopped"})


def _hyper_parameters(members: Json) -> dict[str, str]:
    """A map of strings, whichever way the request gave them."""
    config = members["customizationConfig"].get("rftConfig", {})
    given = {**members["hyperParameters"], **config.get("hyperParameters", {})}
    return {name: str(value) for name, value in given.items()}


def _uri(config: Json) -> Json:
    """Flat, unlike the API: the address alone, of several validators the first."""
    for place in (config, *config.get("validators", ())):
        if "s3Uri" in place:
            return {"s3Uri": place["s3Uri"]}
    return {}


def _time(moment: datetime | Any) -> str | None:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}" if moment else None
