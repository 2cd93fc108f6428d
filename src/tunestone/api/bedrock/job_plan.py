"""A customization job's request -> what the trainer is asked to do.

What AWS takes and we cannot do is refused here, with the reason, before anything is stored: other
kinds of customization, and settings that no run could hold.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from tunestone.api.bedrock.arns import custom_model_arn, resolve_base, split_arn
from tunestone.api.bedrock.errors import ResourceNotFoundException, ValidationException
from tunestone.api.bedrock.shapes import Json
from tunestone.api.services import Services
from tunestone.config import resolve
from tunestone.errors import RequestError
from tunestone.jobs.job import DataSource, Plan
from tunestone.jobs.tables import Model
from tunestone.rewards.grader import parse_spec

_SETTINGS = {
    "epochCount": "epochs",
    "batchSize": "batch_size",
    "learningRate": "learning_rate",
    "maxPromptLength": "max_prompt_tokens",
    "trainingSamplePerPrompt": "group_size",
    "inferenceMaxTokens": "max_completion_tokens",
    "evalInterval": "eval_every",
    "reasoningEffort": "reasoning_effort",
}
"""Bedrock's hyperparameter -> field of TrainConfig."""
_THEIRS = {ours: theirs for theirs, ours in _SETTINGS.items()}
_OURS = re.compile(rf"\b({'|'.join(_THEIRS)})\b")
_GROUP_SIZE = 4
"""Bedrock's `trainingSamplePerPrompt` when it is absent."""
_RFT = "REINFORCEMENT_FINE_TUNING"
_PLACE = "customizationConfig.rftConfig"


@dataclass(frozen=True, slots=True)
class Start:
    """The weights a job starts from."""

    model: str
    """The base as clients name it."""
    source: str
    """What is really trained."""
    settings: Mapping[str, Any]
    """What a run of that base needs."""
    note: str
    """That something else is trained than the name says."""
    tuned: str = ""
    """Id of the tuned model it goes on from."""


def find_start(services: Services, session: Session, identifier: str) -> Start:
    """What `baseModelIdentifier` names: a base model by id or ARN, or a tuned model by ARN.

    Raises ValidationException or ResourceNotFoundException.
    """
    kind, key = split_arn(identifier)
    if kind != "custom-model":
        base = resolve_base(services, identifier)
        return Start(base.name, base.source, base.settings, base.note)
    row = session.get(Model, key)
    if row is None or custom_model_arn(row, services.settings.account) != identifier:
        raise ResourceNotFoundException(f"There is no custom model {identifier}.")
    if row.status != "active":
        raise ValidationException(f"The custom model {identifier} is {row.status}, not Active.")
    base = resolve_base(services, row.model)
    return Start(row.model, row.base, base.settings, base.note, row.id)


def plan_job(services: Services, given: Json, start: Start) -> Plan:
    """The plan of a checked request. Raises ValidationException naming what is not possible."""
    rft = _read_rft(given)
    parameters = rft.get("hyperParameters", {})
    training = given["trainingDataConfig"]
    validators = given.get("validationDataConfig", {}).get("validators", [])
    return Plan(
        training=_read_training(training),
        reward=_read_reward(services, rft),
        settings=_read_settings(parameters, start),
        validation=tuple(DataSource("s3", one["s3Uri"]) for one in validators),
        output=given["outputDataConfig"]["s3Uri"],
        least_rows=services.settings.least_rows,
        organization=services.settings.organization,
        model_name=given["customModelName"],
        extra={"notes": [start.note] if start.note else []},
    )


def in_bedrocks_words(message: str) -> str:
    """A message about settings, with the names that Bedrock has for them."""
    return _OURS.sub(lambda found: _THEIRS[found[0]], message)


def _read_rft(given: Json) -> Json:
    """`rftConfig` of a request for reinforcement fine-tuning."""
    kind = given.get("customizationType", "FINE_TUNING")
    if kind != _RFT:
        absent = "" if "customizationType" in given else ", as it is when absent,"
        raise ValidationException(
            f"customizationType {kind}{absent} is not offered by Tunestone, which trains by "
            f"reinforcement only. Set customizationType to {_RFT}."
        )
    if given.get("hyperParameters"):
        raise ValidationException(
            f"hyperParameters is not used with {_RFT}. Set {_PLACE}.hyperParameters instead."
        )
    rft: Json | None = given.get("customizationConfig", {}).get("rftConfig")
    if rft is None:
        raise ValidationException(f"{_PLACE} is required when customizationType is {_RFT}.")
    return rft


def _read_training(training: Json) -> DataSource:
    sources = [name for name in ("s3Uri", "invocationLogsConfig") if name in training]
    if len(sources) != 1:
        raise ValidationException(
            "trainingDataConfig must have exactly one of s3Uri and invocationLogsConfig."
        )
    if "s3Uri" in training:
        return DataSource("s3", training["s3Uri"])
    logs = training["invocationLogsConfig"]
    return DataSource(
        "logs",
        logs["invocationLogSource"]["s3Uri"],
        filters=logs.get("requestMetadataFilters"),
        use_response=logs.get("usePromptResponse", False),
    )


def _read_reward(services: Services, rft: Json) -> Json:
    """With local AWS a function that is deployed here; else one on AWS."""
    if "graderConfig" not in rft:
        raise ValidationException(
            f"{_PLACE}.graderConfig is required: without a reward nothing can be learnt."
        )
    arn = rft["graderConfig"]["lambdaGrader"]["lambdaArn"]
    from tunestone.api.local_aws.rewards import reward_for_arn

    try:
        reward: Json = reward_for_arn(services, arn)
        parse_spec(reward)
    except RequestError as error:
        place = f"{_PLACE}.graderConfig.lambdaGrader.lambdaArn"
        raise ValidationException(f"{place}: {error}") from None
    return reward


def _read_settings(parameters: Json, start: Start) -> Json:
    asked = {_SETTINGS[name]: value for name, value in parameters.items()}
    layers = (
        ("Bedrock's default", {"group_size": _GROUP_SIZE}),
        ("this server's table of base models", start.settings),
        (f"{_PLACE}.hyperParameters", asked),
    )
    try:
        resolve(layers=layers)
    except RequestError as error:
        told = in_bedrocks_words(str(error))
        raise ValidationException(f"The settings of this job cannot be used. {told}") from None
    return {name: value for _, layer in layers for name, value in layer.items()}
