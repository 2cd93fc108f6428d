"""A Lambda's ARN -> the reward of a job: with local AWS a function deployed here, else on AWS."""

from typing import Any

from tunestone.api.local_aws.names import parse_name
from tunestone.api.services import Services
from tunestone.errors import RewardError
from tunestone.jobs.tables import Function

HANDED_ON = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
"""What a handler that asks a judge needs of the trainer's environment; the server puts it there."""


def reward_for_arn(
    services: Services, arn: str, *, wrap_reference_answer: bool = False
) -> dict[str, Any]:
    """The reward spec. A local function is named by its package as it is now: later deployments do
    not change a job that runs. `wrap_reference_answer` is for open-weight models; see the spec.

    Raises RewardError when a function is not there: with local AWS a trainer finds no other one.
    """
    wrap = {"wrap_reference_answer": True} if wrap_reference_answer else {}
    row = _find(services, arn)
    if row is None and services.settings.local_aws:
        raise RewardError(
            f"there is no Lambda function {arn} here.",
            remedy="Deploy it first. A server without --local-aws calls functions on AWS.",
        )
    if row is None:
        return {"type": "lambda", "function": arn, **wrap}
    settings = row.settings
    return {
        "type": "lambda",
        "path": str(services.folder / row.path),
        "handler": settings["Handler"],
        "timeout_seconds": settings["Timeout"],
        "memory_mib": settings["MemorySize"],
        "network": settings["network"],
        "environment": list(HANDED_ON) if settings["network"] else [],
        "variables": {"AWS_REGION": row.name.split(":")[3], **settings.get("Environment", {})},
        **wrap,
    }


def _find(services: Services, arn: str) -> Function | None:
    settings = services.settings
    name = parse_name(arn, region=settings.region, account=settings.account)
    if name is None or not settings.local_aws:
        return None
    with services.store.session() as session:
        return session.get(Function, name.arn)
