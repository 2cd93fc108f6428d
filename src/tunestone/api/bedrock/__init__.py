"""Bedrock's control plane, as boto3 speaks it (surface A): jobs, models, deployments, evaluations.

`ROUTES` answer every operation of botocore's `bedrock` model: those in `_OFFERED` for real, the
others (`REFUSED`) by saying why not. `continue_deployments` is a task that runs with the server.
"""

from collections.abc import Mapping

from tunestone.api.bedrock import (
    custom_models,
    deployments,
    evaluations,
    foundation_models,
    jobs,
    logging_config,
    provisioned,
    tags,
)
from tunestone.api.bedrock.activation import continue_deployments
from tunestone.api.bedrock.errors import render_error
from tunestone.api.bedrock.operations import Operation, refusal, route
from tunestone.api.bedrock.refused import find_refused
from tunestone.api.http import Route

__all__ = ["REFUSED", "ROUTES", "continue_deployments", "render_error"]

_OFFERED: Mapping[str, Operation] = {
    "CreateModelCustomizationJob": jobs.create_job,
    "GetModelCustomizationJob": jobs.get_job,
    "ListModelCustomizationJobs": jobs.list_jobs,
    "StopModelCustomizationJob": jobs.stop_job,
    "GetCustomModel": custom_models.get_model,
    "ListCustomModels": custom_models.list_models,
    "DeleteCustomModel": custom_models.delete_model,
    "CreateCustomModelDeployment": deployments.create_deployment,
    "GetCustomModelDeployment": deployments.get_deployment,
    "ListCustomModelDeployments": deployments.list_deployments,
    "UpdateCustomModelDeployment": deployments.update_deployment,
    "DeleteCustomModelDeployment": deployments.delete_deployment,
    "CreateProvisionedModelThroughput": provisioned.create_throughput,
    "GetProvisionedModelThroughput": provisioned.get_throughput,
    "ListProvisionedModelThroughputs": provisioned.list_throughputs,
    "UpdateProvisionedModelThroughput": provisioned.update_throughput,
    "DeleteProvisionedModelThroughput": provisioned.delete_throughput,
    "CreateEvaluationJob": evaluations.create_evaluation,
    "GetEvaluationJob": evaluations.get_evaluation,
    "ListEvaluationJobs": evaluations.list_evaluations,
    "StopEvaluationJob": evaluations.stop_evaluation,
    "BatchDeleteEvaluationJob": evaluations.delete_evaluations,
    "TagResource": tags.tag_resource,
    "UntagResource": tags.untag_resource,
    "ListTagsForResource": tags.list_tags,
    "PutModelInvocationLoggingConfiguration": logging_config.put_logging,
    "GetModelInvocationLoggingConfiguration": logging_config.get_logging,
    "DeleteModelInvocationLoggingConfiguration": logging_config.delete_logging,
    "ListFoundationModels": foundation_models.list_models,
    "GetFoundationModel": foundation_models.get_model,
}
_ADMIN = {"PutModelInvocationLoggingConfiguration", "DeleteModelInvocationLoggingConfiguration"}
"""They decide where everybody's questions and answers go."""

REFUSED: Mapping[str, str] = find_refused(frozenset(_OFFERED))
"""Operation -> why it is not offered."""

ROUTES: tuple[Route, ...] = (
    *(
        route(name, operate, "admin" if name in _ADMIN else None)
        for name, operate in _OFFERED.items()
    ),
    *(refusal(name, reason) for name, reason in REFUSED.items()),
)
