"""OpenAI's seven hyperparameters as settings of a run, and back.

    n_epochs                    epochs
    batch_size                  batch_size
    learning_rate_multiplier    learning_rate = 1e-4 x multiplier
    eval_interval               eval_every; auto is min(10, rows / batch_size)
    eval_samples                validation_rows; auto is all of them
    compute_multiplier          group_size = 8 x multiplier, rounded: completions per prompt
    reasoning_effort            reasoning_effort

Other settings go under `tunestone`, by their own names, and win. What neither the request nor the
server's table of base models says is the trainer's own default.
"""

from collections.abc import Mapping
from typing import Any

from tunestone.api.openai.errors import OpenAIError
from tunestone.api.openai.schemas import ReinforcementHyperparameters
from tunestone.config import TrainConfig, resolve
from tunestone.errors import ConfigError

_DEFAULTS = {name: field.default for name, field in TrainConfig.model_fields.items()}
BASE_LEARNING_RATE: float = _DEFAULTS["learning_rate"]
"""What a multiplier of 1 means."""
BASE_GROUP_SIZE: int = _DEFAULTS["group_size"]
"""Completions per prompt at a compute multiplier of 1."""
NOT_OF_A_JOB = {
    *("model", "start_adapter", "data", "validation", "test"),
    *("reward", "lenient_reward", "shadow_reward", "sandbox", "threads"),
}
"""Settings that follow from the rest of the request, or that are the server's to decide: among them
all that name a file."""


def to_settings(given: ReinforcementHyperparameters) -> dict[str, Any]:
    """Fields of TrainConfig that the request decides."""
    plain: dict[str, Any] = {
        "epochs": given.n_epochs,
        "batch_size": given.batch_size,
        "eval_every": given.eval_interval,
        "validation_rows": given.eval_samples,
    }
    settings = {name: value for name, value in plain.items() if value != "auto"}
    if given.learning_rate_multiplier != "auto":
        settings["learning_rate"] = BASE_LEARNING_RATE * given.learning_rate_multiplier
    if given.compute_multiplier != "auto":
        settings["group_size"] = round(BASE_GROUP_SIZE * given.compute_multiplier)
    if given.reasoning_effort != "default":
        settings["reasoning_effort"] = given.reasoning_effort
    return settings


def read_own(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Checked settings of `tunestone` in a request. Raises OpenAIError."""
    for name in sorted(NOT_OF_A_JOB & settings.keys()):
        raise OpenAIError(
            400,
            f"Invalid 'tunestone.{name}': a job does not set it.",
            param=f"tunestone.{name}",
        )
    try:
        config, _ = resolve(layers=[("request", settings)])
    except ConfigError as error:
        raise OpenAIError(400, f"Invalid 'tunestone': {error}", param="tunestone") from None
    return config.model_dump(mode="json", include=set(settings))


def effective(settings: Mapping[str, Any], progress: Mapping[str, Any]) -> dict[str, Any]:
    """What the job really trains with; `auto` for what its data will decide.

    `progress` is the job's; once the trainer has planned the run, that counts.
    """
    values = {**_DEFAULTS, **settings, **progress.get("settings", {})}
    eval_interval = progress.get("eval_every") or values["eval_every"]
    eval_samples = progress.get("validation_prompts") or values["validation_rows"]
    return {
        "n_epochs": values["epochs"],
        "batch_size": values["batch_size"],
        "learning_rate_multiplier": _tidy(values["learning_rate"] / BASE_LEARNING_RATE),
        "eval_interval": eval_interval or "auto",
        "eval_samples": eval_samples or "auto",
        "compute_multiplier": values["group_size"] / BASE_GROUP_SIZE,
        "reasoning_effort": values["reasoning_effort"],
    }


def _tidy(value: float) -> float:
    """Without the dust of a division: 0.5000000000000001 -> 0.5."""
    return float(f"{value:.12g}")
