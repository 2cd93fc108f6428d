"""Names of things as Bedrock writes them.

    arn:aws:bedrock:us-east-1::foundation-model/amazon.nova-2-lite-v1:0:256k
    arn:aws:bedrock:us-east-1:123456789012:model-customization-job/<base>/<id>
    arn:aws:bedrock:us-east-1:123456789012:custom-model/<base>/<id>
    arn:aws:bedrock:us-east-1:123456789012:custom-model-deployment/<id>, and other kinds

`<base>` is the base model's name as `names.arn_part` writes it.
"""

import re

from tunestone.api.bedrock.errors import ValidationException
from tunestone.api.services import Services
from tunestone.errors import ModelError
from tunestone.jobs.names import BaseName, arn_part
from tunestone.jobs.tables import Deployment, Evaluation, Job, Model

_ARN = re.compile(
    r"arn:aws[a-z-]*:bedrock:[a-z0-9-]+:[0-9]{12}:(?P<kind>[a-z-]+)/(?:.+/)?(?P<id>[a-z0-9]{12})"
)


def foundation_arn(name: str, region: str) -> str:
    """Of a base model."""
    return f"arn:{_partition(region)}:bedrock:{region}::foundation-model/{arn_part(name)}"


def job_arn(job: Job, account: str) -> str:
    """Of a customization job."""
    return _arn(job.region, account, f"model-customization-job/{arn_part(job.model)}/{job.id}")


def custom_model_arn(model: Model, account: str) -> str:
    """Of a tuned model."""
    return _arn(model.region, account, f"custom-model/{arn_part(model.model)}/{model.id}")


def deployment_arn(row: Deployment, account: str) -> str:
    """Of a deployment, or of Provisioned Throughput."""
    kind = "provisioned-model" if row.kind == "provisioned" else "custom-model-deployment"
    return _arn(row.region, account, f"{kind}/{row.id}")


def evaluation_arn(row: Evaluation, account: str) -> str:
    """Of an evaluation job."""
    return _arn(row.region, account, f"evaluation-job/{row.id}")


def key_arn(key: str, region: str, account: str) -> str:
    """Of an encryption key, named by ARN, id or alias."""
    if key.startswith("arn:"):
        return key
    resource = key if key.startswith("alias/") else f"key/{key}"
    return f"arn:{_partition(region)}:kms:{region}:{account}:{resource}"


def split_arn(arn: str) -> tuple[str, str]:
    """(kind, id) of an ARN of ours; ("", "") for anything else. Whether it is there is not said."""
    found = _ARN.fullmatch(arn)
    return (found["kind"], found["id"]) if found else ("", "")


def resolve_base(services: Services, identifier: str) -> BaseName:
    """What a base model's id or ARN stands for. Raises ValidationException when there is none."""
    try:
        return services.names.resolve(identifier)
    except ModelError as error:
        raise ValidationException(f"The provided model identifier is invalid. {error}") from None


def _arn(region: str, account: str, resource: str) -> str:
    return f"arn:{_partition(region)}:bedrock:{region}:{account}:{resource}"


def _partition(region: str) -> str:
    for prefix, partition in (("us-gov-", "aws-us-gov"), ("cn-", "aws-cn")):
        if region.startswith(prefix):
            return partition
    return "aws"
