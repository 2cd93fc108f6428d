"""Base models: the names of the server's table, and what really stands behind them."""

from tunestone.api.bedrock.arns import foundation_arn, resolve_base
from tunestone.api.bedrock.errors import ResourceNotFoundException, ValidationException
from tunestone.api.bedrock.operations import Reply
from tunestone.api.bedrock.shapes import Json
from tunestone.api.http import Call
from tunestone.jobs.names import arn_part

_CUSTOMIZATIONS = ["REINFORCEMENT_FINE_TUNING"]
_MODALITIES = ["TEXT"]
_INFERENCE = ["ON_DEMAND", "PROVISIONED"]
_NAME = 20
"""Characters of a name, as botocore's model has it."""


def list_models(call: Call, given: Json) -> Json:
    """ListFoundationModels."""
    summaries = [_details(name, call.caller.region) for name in call.services.names.listed()]
    return {"modelSummaries": [one for one in summaries if _fits(one, given)]}


def get_model(call: Call, given: Json) -> Reply:
    """GetFoundationModel, by id or ARN. A header says when another model answers to that name."""
    try:
        base = resolve_base(call.services, given["modelIdentifier"])
    except ValidationException as error:
        raise ResourceNotFoundException(error.message) from error
    details = _details(base.name, call.caller.region)
    return Reply({"modelDetails": details}, model_note=base.note)


def _details(name: str, region: str) -> Json:
    provider, _, model = arn_part(name).partition(".")
    return {
        "modelArn": foundation_arn(name, region),
        "modelId": arn_part(name),
        "modelName": model[:_NAME],
        "providerName": provider[:_NAME],
        "inputModalities": _MODALITIES,
        "outputModalities": _MODALITIES,
        "responseStreamingSupported": True,
        "customizationsSupported": _CUSTOMIZATIONS,
        "inferenceTypesSupported": _INFERENCE,
        "modelLifecycle": {"status": "ACTIVE"},
    }


def _fits(details: Json, given: Json) -> bool:
    provider: str = given.get("byProvider") or details["providerName"]
    wanted = (
        ("byCustomizationType", "customizationsSupported"),
        ("byOutputModality", "outputModalities"),
        ("byInferenceType", "inferenceTypesSupported"),
    )
    return provider.lower() == details["providerName"].lower() and all(
        given[asked] in details[offered] for asked, offered in wanted if asked in given
    )
