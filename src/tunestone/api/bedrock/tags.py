"""Tags on jobs, custom models, deployments, Provisioned Throughput and evaluation jobs."""

from collections.abc import Callable

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from tunestone.api.bedrock.arns import evaluation_arn, job_arn, split_arn
from tunestone.api.bedrock.creation import exclusively, put_tags
from tunestone.api.bedrock.custom_models import find_model
from tunestone.api.bedrock.deployments import find_deployment
from tunestone.api.bedrock.errors import ResourceNotFoundException
from tunestone.api.bedrock.job_views import find_job
from tunestone.api.bedrock.jobs import model_tags_key
from tunestone.api.bedrock.shapes import Json
from tunestone.api.http import Call
from tunestone.jobs.tables import Evaluation, Job, Tag


def tag_resource(call: Call, given: Json) -> Json:
    """TagResource: adds tags, or changes their values."""
    arn = given["resourceARN"]
    with exclusively(call.services.store) as session:
        key = _key_of(session, arn, call.services.settings.account)
        put_tags(session, key, given["tags"], shown=arn)
    return {}


def untag_resource(call: Call, given: Json) -> Json:
    """UntagResource; a key that is not there is no fault."""
    with exclusively(call.services.store) as session:
        key = _key_of(session, given["resourceARN"], call.services.settings.account)
        session.execute(delete(Tag).where(Tag.arn == key, Tag.key.in_(given["tagKeys"])))
    return {}


def list_tags(call: Call, given: Json) -> Json:
    """ListTagsForResource, by key."""
    with call.services.store.session() as session:
        key = _key_of(session, given["resourceARN"], call.services.settings.account)
        tags = session.scalars(select(Tag).where(Tag.arn == key).order_by(Tag.key)).all()
    return {"tags": [{"key": tag.key, "value": tag.value} for tag in tags]}


def _key_of(session: Session, arn: str, account: str) -> str:
    """Under which a thing's tags are kept. Raises ResourceNotFoundException."""
    finders: dict[str, Callable[[], str]] = {
        "model-customization-job": lambda: job_arn(find_job(session, arn, account), account),
        "custom-model": lambda: _model_key(session, arn, account),
        "custom-model-deployment": lambda: _deployment_key(session, "deployment", arn, account),
        "provisioned-model": lambda: _deployment_key(session, "provisioned", arn, account),
        "evaluation-job": lambda: _evaluation_key(session, arn, account),
    }
    kind, _ = split_arn(arn)
    if kind not in finders:
        raise ResourceNotFoundException(f"There is no resource {arn}.")
    return finders[kind]()


def _model_key(session: Session, arn: str, account: str) -> str:
    model = find_model(session, arn, account)
    return model_tags_key(job_arn(session.get_one(Job, model.job_id), account))


def _deployment_key(session: Session, kind: str, arn: str, account: str) -> str:
    find_deployment(session, kind, arn, account)
    return arn


def _evaluation_key(session: Session, arn: str, account: str) -> str:
    row = session.get(Evaluation, split_arn(arn)[1])
    if row is None or evaluation_arn(row, account) != arn:
        raise ResourceNotFoundException(f"There is no evaluation job {arn}.")
    return arn
