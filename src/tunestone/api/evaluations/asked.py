"""What an evaluation job asks for, read out of CreateEvaluationJob's request.

`read_request` refuses what is not offered here; the control plane calls it before it stores a job,
so that nobody waits for a job that cannot run. Not offered: people as judges, RAG sources, AWS's
built-in datasets (they have to be at S3), custom metrics, and the metrics of toxicity and
robustness, which need models and perturbations that we do not have.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunestone.errors import RequestError

Json = Mapping[str, Any]

ACCURACY = "Builtin.Accuracy"
JUDGED = (
    "Builtin.Correctness",
    "Builtin.Completeness",
    "Builtin.Faithfulness",
    "Builtin.Helpfulness",
    "Builtin.Coherence",
    "Builtin.Relevance",
    "Builtin.FollowingInstructions",
    "Builtin.ProfessionalStyleAndTone",
    "Builtin.Harmfulness",
    "Builtin.Stereotyping",
    "Builtin.Refusal",
)
"""Metrics that an evaluator model gives."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How answers are drawn. Greedy unless the job says otherwise."""

    max_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0


@dataclass(frozen=True, slots=True)
class AskedModel:
    """One of the models to compare."""

    identifier: str
    sampling: Sampling
    precomputed: bool = False
    """Whether its answers stand in the dataset already (`modelResponses`)."""


@dataclass(frozen=True, slots=True)
class AskedDataset:
    """A dataset and what to measure on it."""

    name: str
    task: str
    url: str
    metrics: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """The whole job."""

    name: str
    models: tuple[AskedModel, ...]
    datasets: tuple[AskedDataset, ...]
    evaluator: str
    """Name of the model that judges; empty for none."""
    output: str
    """`s3://` address below which results are written."""


def read_request(request: Json) -> Asked:
    """The job of a request that fits botocore's model.

    Raises RequestError for what is not offered.
    """
    automated = request["evaluationConfig"].get("automated")
    if automated is None:
        raise RequestError(
            "evaluationConfig.human is not offered here: there are no work teams.",
            remedy="Use evaluationConfig.automated.",
        )
    if "customMetricConfig" in automated:
        raise RequestError(
            "evaluationConfig.automated.customMetricConfig is not offered here.",
            remedy=f"Use the metrics {ACCURACY}, {', '.join(JUDGED)}.",
        )
    models = request["inferenceConfig"].get("models")
    if models is None:
        raise RequestError(
            "inferenceConfig.ragConfigs is not offered here.", remedy="Use inferenceConfig.models."
        )
    evaluators = automated.get("evaluatorModelConfig", {}).get("bedrockEvaluatorModels") or [{}]
    evaluator = evaluators[0].get("modelIdentifier", "")
    configs = automated["datasetMetricConfigs"]
    return Asked(
        request["jobName"],
        tuple(_read_model(model, f"inferenceConfig.models.{i}") for i, model in enumerate(models)),
        tuple(_read_dataset(config, i, evaluator) for i, config in enumerate(configs)),
        evaluator,
        request["outputDataConfig"]["s3Uri"].rstrip("/"),
    )


def _read_model(model: Json, place: str) -> AskedModel:
    if "precomputedInferenceSource" in model:
        identifier = model["precomputedInferenceSource"]["inferenceSourceIdentifier"]
        return AskedModel(identifier, Sampling(), precomputed=True)
    bedrock = model["bedrockModel"]
    text = bedrock.get("inferenceParams")
    sampling = _read_sampling(text, f"{place}.bedrockModel.inferenceParams") if text else Sampling()
    return AskedModel(bedrock["modelIdentifier"], sampling)


def _read_sampling(text: str, place: str) -> Sampling:
    """From `{"inferenceConfig": {"maxTokens": ..., ...}}`, or the inner object alone."""
    remedy = 'Write {"inferenceConfig": {"maxTokens": 512, "temperature": 0, "topP": 1}}.'
    try:
        params = json.loads(text)
    except ValueError as error:
        raise RequestError(f"{place} is not JSON: {error}.", remedy=remedy) from None
    config = params.get("inferenceConfig", params) if isinstance(params, dict) else None
    if not isinstance(config, dict):
        raise RequestError(f"{place} is not an object.", remedy=remedy)
    for name, value in config.items():
        if name not in ("maxTokens", "temperature", "topP"):
            raise RequestError(f"{place}: '{name}' is not known here.", remedy=remedy)
        kinds = (int,) if name == "maxTokens" else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not value >= 0:
            raise RequestError(f"{place}: '{name}' cannot be {value!r}.", remedy=remedy)
    default = Sampling()
    return Sampling(
        max(1, config.get("maxTokens", default.max_tokens)),
        min(2.0, config.get("temperature", default.temperature)),
        min(1.0, config.get("topP", default.top_p)),
    )


def _read_dataset(config: Json, index: int, evaluator: str) -> AskedDataset:
    place = f"evaluationConfig.automated.datasetMetricConfigs.{index}"
    location = config["dataset"].get("datasetLocation")
    if location is None:
        raise RequestError(
            f"{place}.dataset names AWS's own dataset {config['dataset']['name']}, which is not "
            "offered here.",
            remedy="Put a dataset of yours at S3 and name it in datasetLocation.s3Uri.",
        )
    for metric in config["metricNames"]:
        if metric != ACCURACY and metric not in JUDGED:
            raise RequestError(
                f"{place}.metricNames: {metric} is not offered here.",
                remedy=f"There are {ACCURACY}, {', '.join(JUDGED)}.",
            )
        if metric in JUDGED and not evaluator:
            raise RequestError(
                f"{place}.metricNames: {metric} is given by a model.",
                remedy="Name one in evaluatorModelConfig.bedrockEvaluatorModels.",
            )
    return AskedDataset(
        config["dataset"]["name"],
        config["taskType"],
        location["s3Uri"],
        tuple(dict.fromkeys(config["metricNames"])),
    )
