"""Bodies of the fine-tuning requests, member for member as the openai client sends them.

What the client's types lack but the services' guides have is here too, as `response_format`.
Numbers are checked against what our trainer takes; see `hyperparameters.py` for what they become.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StrictFloat, StrictInt, model_validator

from tunestone.api.openai.bodies import Body

Auto = Literal["auto"]


def _check_metadata(metadata: dict[str, str]) -> dict[str, str]:
    if len(metadata) > 16:
        raise ValueError(f"there are {len(metadata)} pairs, at most 16 are allowed")
    for key, value in metadata.items():
        if not 1 <= len(key) <= 64:
            raise ValueError(f"the key {key!r} must have 1 to 64 characters")
        if len(value) > 512:
            raise ValueError(f"the value of {key!r} has {len(value)} characters, at most 512")
    return metadata


Metadata = Annotated[dict[str, str], AfterValidator(_check_metadata)]


class ReinforcementHyperparameters(Body):
    """`auto` is the trainer's own default; the job object shows what it came to."""

    n_epochs: Auto | Annotated[StrictInt, Field(ge=1, le=50)] = "auto"
    """Passes over the training rows."""
    batch_size: Auto | Annotated[StrictInt, Field(ge=1, le=512)] = "auto"
    """Prompts per step."""
    learning_rate_multiplier: (
        Auto | Annotated[StrictInt | StrictFloat, Field(gt=0, le=100, allow_inf_nan=False)]
    ) = "auto"
    """Times 1e-4 is the learning rate."""
    eval_interval: Auto | Annotated[StrictInt, Field(ge=1, le=1000)] = "auto"
    """Steps between validations."""
    eval_samples: Auto | Annotated[StrictInt, Field(ge=1, le=100_000)] = "auto"
    """Validation rows that are answered at each validation."""
    compute_multiplier: (
        Auto | Annotated[StrictInt | StrictFloat, Field(ge=0.25, le=8, allow_inf_nan=False)]
    ) = "auto"
    """Times 8 are the completions per prompt."""
    reasoning_effort: Literal["default", "low", "medium", "high"] = "default"
    """Told to the model's chat template."""


class Reinforcement(Body):
    """`method.reinforcement`."""

    grader: dict[str, Any]
    """See `graders.py`."""
    hyperparameters: ReinforcementHyperparameters | None = None
    response_format: dict[str, Any] | None = None
    """`{"type": "json_schema", "json_schema": {"name", "schema", "strict"}}`: answers are held to
    it while training."""


class Method(Body):
    """`method`. Only `reinforcement` is trained here."""

    type: Literal["reinforcement", "supervised", "dpo"]
    reinforcement: Reinforcement | None = None
    supervised: dict[str, Any] | None = None
    dpo: dict[str, Any] | None = None


class Wandb(Body):
    """Where OpenAI would send metrics."""

    project: str = Field(min_length=1)
    entity: str | None = None
    name: str | None = None
    tags: list[str] | None = None


class Integration(Body):
    """One of `integrations`."""

    type: Literal["wandb"]
    wandb: Wandb


class LegacyHyperparameters(Body):
    """Top-level `hyperparameters`, which `method` has replaced."""

    n_epochs: Any = None
    batch_size: Any = None
    learning_rate_multiplier: Any = None


class CreateJob(Body):
    """`POST /fine_tuning/jobs`."""

    model: str = Field(min_length=1, max_length=512)
    """A base model's name, or a tuned model or checkpoint to train on."""
    training_file: str
    """Id of a file with the purpose `fine-tune`."""
    method: Method | None = None
    validation_file: str | None = None
    """Id of such a file; it chooses the best checkpoint."""
    suffix: str | None = Field(default=None, min_length=1, max_length=64)
    """Part of the tuned model's name."""
    seed: StrictInt | None = Field(default=None, ge=0, lt=2**31)
    """Decides data order and every draw; a random one is taken and shown when there is none."""
    metadata: Metadata | None = None
    integrations: list[Integration] | None = Field(default=None, max_length=5)
    hyperparameters: LegacyHyperparameters | None = None
    """Read where `method.reinforcement.hyperparameters` says nothing."""
    tunestone: dict[str, Any] = Field(default_factory=dict)
    """Ours alone: further settings of the run by their own names; see docs/config.md."""


class ValidateGrader(Body):
    """`POST /fine_tuning/alpha/graders/validate`."""

    grader: dict[str, Any]


class RunGrader(Body):
    """`POST /fine_tuning/alpha/graders/run`."""

    grader: dict[str, Any]
    model_sample: str
    """The answer to grade: `sample.output_text`, and `sample.output_json` when it is JSON."""
    item: dict[str, Any] = Field(default_factory=dict)
    """The data row."""
    reference_answer: Any = None
    """An older place of `item.reference_answer`."""

    @model_validator(mode="before")
    @classmethod
    def _row_is_object(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("item", {}) is None:
            return {key: value for key, value in data.items() if key != "item"}
        return data


class CreatePermissions(Body):
    """`POST /fine_tuning/checkpoints/{model}/permissions`."""

    project_ids: list[Annotated[str, Field(min_length=1, max_length=256)]] = Field(
        min_length=1, max_length=100
    )
