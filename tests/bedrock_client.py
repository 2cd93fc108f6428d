"""What the tests of Bedrock's control plane share: a client, requests, a finished job."""

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

import tunestone.api.bedrock as bedrock
from live_server import running
from tunestone.api.services import Services
from tunestone.jobs.job import move
from tunestone.jobs.store import new_id, now
from tunestone.jobs.tables import Job, Model

REGION, ACCOUNT = "us-east-1", "123456789012"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/BedrockRole"
LAMBDA = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:reward"
NOVA = "amazon.nova-2-lite-v1:0:256k"
NOVA_ARN = f"arn:aws:bedrock:{REGION}::foundation-model/{NOVA}"


def serving_bedrock(services: Services):
    """The control plane alone, with what it does in the background."""

    @asynccontextmanager
    async def lifespan():
        task = asyncio.create_task(bedrock.continue_deployments(services))
        yield
        task.cancel()

    errors = {"bedrock": bedrock.render_error}
    return running(services, bedrock.ROUTES, errors, lifespan=lifespan)


def connect(url: str, *, validate: bool = True) -> Any:
    """A real boto3 client; without `validate` it sends what it would refuse itself."""
    config = Config(parameter_validation=validate, retries={"total_max_attempts": 1})
    return boto3.client(
        "bedrock",
        endpoint_url=url,
        region_name=REGION,
        aws_access_key_id="any",
        aws_secret_access_key="any",
        config=config,
    )


def job_request(name: str, **changes: Any) -> dict[str, Any]:
    """As the Nova notebooks ask for a job; of `changes` None leaves a member out."""
    request = {
        "jobName": name,
        "customModelName": f"{name}-model",
        "roleArn": ROLE,
        "baseModelIdentifier": NOVA_ARN,
        "customizationType": "REINFORCEMENT_FINE_TUNING",
        "trainingDataConfig": {"s3Uri": "s3://bucket/train.jsonl"},
        "outputDataConfig": {"s3Uri": "s3://bucket/output"},
        "customizationConfig": {"rftConfig": rft()},
    }
    request |= changes
    return {member: value for member, value in request.items() if value is not None}


def rft(**parameters: Any) -> dict[str, Any]:
    """`rftConfig` with these hyperparameters."""
    return {
        "graderConfig": {"lambdaGrader": {"lambdaArn": LAMBDA}},
        "hyperParameters": parameters,
    }


def with_parameters(name: str, **parameters: Any) -> dict[str, Any]:
    return job_request(name, customizationConfig={"rftConfig": rft(**parameters)})


def find_row(services: Services, name: str) -> Job:
    with services.store.session() as session:
        return session.query(Job).filter_by(name=name).one()


def run_job(services: Services, name: str, *, to: str = "running") -> Job:
    """Bring a job as far as the supervisor would, by the same moves."""
    job = find_row(services, name)
    path = {"queued": 1, "running": 2}
    with services.store.session() as session:
        for state in ("queued", "running")[: path.get(to, 2)]:
            move(session, job.id, state)
        if to not in path:
            move(session, job.id, to)
    return find_row(services, name)


def finish_job(services: Services, name: str) -> Model:
    """Succeed, and leave a tuned model with a (hollow) adapter."""
    job = run_job(services, name)
    folder = Path("jobs") / job.id / "run" / "adapter"
    (services.folder / folder).mkdir(parents=True)
    (services.folder / folder / "adapter_config.json").write_text("{}")
    model = Model(
        id=new_id(),
        alias=f"ft:{job.model}:tunestone::{job.id}",
        kind="tuned",
        name=job.plan["model_name"],
        job_id=job.id,
        dialect="bedrock",
        model=job.model,
        base=job.base,
        adapter=str(folder),
        status="active",
        region=job.region,
        step=3,
        metrics={},
        created_at=now(),
    )
    with services.store.session() as session:
        move(session, job.id, "succeeded")
        session.add(model)
    return model


def make_model(services: Services, client: Any, name: str) -> str:
    """A job run to its end; the ARN of its model."""
    client.create_model_customization_job(**job_request(name))
    finish_job(services, name)
    return client.get_model_customization_job(jobIdentifier=name)["outputModelArn"]


def refusal(call: Any, /, **members: Any) -> tuple[str, str]:
    """(code, message) of the error a call answers with."""
    try:
        call(**members)
    except ClientError as error:
        return error.response["Error"]["Code"], error.response["Error"]["Message"]
    raise AssertionError("it was not refused")
