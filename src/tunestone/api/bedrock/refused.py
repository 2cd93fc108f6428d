"""Operations of Bedrock's control plane that are not offered, each with its reason.

They have routes, so that a client reads why instead of `UnknownOperationException`.
"""

from collections.abc import Mapping

from tunestone.api.bedrock.shapes import load_service

_REASONS = {
    "AutomatedReasoningPolic": "automated reasoning policies are no part of fine-tuning.",
    "AdvancedPromptOptimization": "it trains weights, and optimizes no prompts.",
    "Guardrail": "there are no guardrails here; filter in front of the server.",
    "FoundationModelA": "base models need no agreement here; their licences are their makers'.",
    "UseCaseForModelAccess": "base models need no use case here.",
    "InferenceProfile": "one server answers for all regions; use the model's own id.",
    "PromptRouter": "requests go to the model they name.",
    "MarketplaceModelEndpoint": "there is no marketplace here.",
    "ModelCopyJob": "there is one region; copy the adapter from the job's output instead.",
    "ModelImportJob": "add a model to the server's table of base models instead.",
    "ImportedModel": "add a model to the server's table of base models instead.",
    "CreateCustomModel": "custom models come from model customization jobs here.",
    "ModelInvocationJob": "there is no batch inference; call the model for each record.",
    "ResourcePolic": "access is decided by keys and their scopes; see `tunestone keys`.",
    "AccountDataRetention": "records are kept where the invocation logging puts them.",
}
"""Part of an operation's name -> why it is not offered; the first that fits counts."""


def find_refused(offered: frozenset[str]) -> Mapping[str, str]:
    """Every operation of botocore's model that is not offered -> the reason."""
    names = load_service("bedrock").operation_names
    return {name: _reason(name) for name in names if name not in offered}


def _reason(name: str) -> str:
    return next(
        (reason for part, reason in _REASONS.items() if part in name),
        "it is new in Bedrock, or no part of fine-tuning and inference.",
    )
