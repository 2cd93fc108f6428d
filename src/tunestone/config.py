"""One frozen config for a run. Every field has its meaning, unit, range, default and source.

Values come in layers, later ones winning: default, recipe, TOML file, the options of the command
line, `--set key=value`. `resolve` keeps the origin of each, and refuses unknown keys and impossible
combinations before anything runs.
"""

import difflib
import inspect
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tunestone.errors import ConfigError
from tunestone.health.rules import CODES
from tunestone.health.watch import Action

Reward = str | dict[str, Any]
SandboxChoice = Literal["auto", "bubblewrap", "landlock", "none"]
AlgorithmName = Literal["dapo", "grpo", "dr_grpo", "gspo", "cispo", "rloo"]


class TrainConfig(BaseModel):
    """Everything that decides what a run computes."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    # --- what is trained, on what, for what
    model: str = "smollm2-135m"
    """Base model: a Hugging Face id, a local folder, or `smollm2-135m`, the embedded one."""
    start_adapter: str = ""
    """A PEFT adapter of `model` (folder) that training goes on from, such as the result of an
    earlier run; `lora_rank` must be its rank. Empty: start from the model itself."""
    data: str = ""
    """Training prompts: a JSONL file in Bedrock's or OpenAI's shape. A recipe brings its own."""
    validation: str = ""
    """Held-out prompts (JSONL) that choose the best checkpoint. Empty: a tenth of `data`, at most
    64 rows, is split off."""
    validation_rows: int | None = Field(default=None, ge=1)
    """Validate on the first so many rows of `validation`, or split at most so many off `data`.
    Empty: on all of them (OpenAI's `eval_samples`)."""
    test: str = ""
    """Held-out prompts (JSONL) on which base and tuned model are compared at the end. Empty: the
    validation prompts, and the report says that they chose the checkpoint too."""
    reward: Reward = ""
    """The reward: `file.py:function`, a Lambda handler, an address, a grader's file, the name of a
    ready grader, or a table with `type` and its fields; see docs/rewards.md."""
    lenient_reward: Reward = ""
    """A second, more forgiving reward that is only reported, never trained on (same forms)."""
    sandbox: SandboxChoice = "auto"
    """What confines reward code and code that the model writes: `auto` takes the best there is and
    refuses to run when there is none; `none` trusts that code with all you may do yourself."""

    # --- how much
    epochs: int = Field(default=1, ge=1, le=50)
    """Passes over the training prompts. Range and first value as Bedrock's `epochCount`."""
    max_steps: int | None = Field(default=None, ge=1)
    """Steps (batches of prompts); overrides `epochs`. Empty: as many as the epochs need."""
    batch_size: int = Field(default=16, ge=1, le=512)
    """Prompts per step. AWS advises 128 on a GPU; 16 is the least Bedrock takes."""
    group_size: int = Field(default=8, ge=2, le=64)
    """Completions per prompt. Bedrock takes 2 to 16, by default 4; 8 is TRL's default."""
    updates_per_batch: int = Field(default=1, ge=1, le=16)
    """Optimizer steps on the same completions. Above 1 the clip bounds begin to matter."""

    # --- how completions are drawn
    max_prompt_tokens: int = Field(default=1024, ge=1)
    """Longer prompts are left out, counted and shown (Bedrock's `maxPromptLength`)."""
    max_completion_tokens: int = Field(default=256, ge=1)
    """A completion is cut off here (Bedrock's `inferenceMaxTokens`)."""
    temperature: float = Field(default=1.0, gt=0.0, le=2.0)
    """Sampling temperature in training. 1 draws from the policy itself (default of TRL, verl)."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """Nucleus sampling: probability mass to draw from. 1 is off, as on-policy learning needs."""
    top_k: int = Field(default=0, ge=0)
    """Draw from the k likeliest tokens only. 0 is off."""
    stop: tuple[str, ...] = ()
    """Strings that end a completion; they are not part of its text."""
    response_format: dict[str, Any] | None = None
    """OpenAI's `response_format`: {type = "json_schema", json_schema = {name, schema}} or {type =
    "json_object"}; also as JSON text, as TOML has no null. Completions are held to it token by
    token. Empty: any text."""
    reasoning_effort: Literal["default", "low", "medium", "high"] = "default"
    """Told to the model's chat template, which may make nothing of it. `default`: nothing told."""
    mask_truncated: bool = False
    """Leave completions that were cut off out of the loss (DAPO's overlong filtering)."""
    refill_limit: int = Field(default=0, ge=0, le=16)
    """Rounds of fresh prompts that may replace groups without signal in a step (DAPO's dynamic
    sampling). 0 is off."""

    # --- how the policy learns
    algorithm: AlgorithmName = "dapo"
    """Advantage, ratio and normaliser: dapo (token mean), grpo (row mean), dr_grpo (no deviation,
    constant normaliser), gspo (sequence ratio), cispo (capped weight), rloo (leave one out)."""
    learning_rate: float = Field(default=1e-4, gt=0.0, le=1e-2)
    """Peak learning rate. AWS: 1e-4 to 1e-3 for LoRA, about a tenth of it for full training."""
    warmup_steps: int = Field(default=2, ge=0)
    """Steps over which the learning rate rises linearly to its peak; it stays there. A run that is
    shorter never reaches the peak."""
    lora_rank: int = Field(default=32, ge=0, le=512)
    """Rank of the LoRA adapters on all linear layers (AWS: 32). 0 trains every weight."""
    clip_low: float = Field(default=0.2, gt=0.0, lt=1.0)
    """How far below 1 the probability ratio may count (PPO's epsilon)."""
    clip_high: float = Field(default=0.28, gt=0.0)
    """How far above 1 the ratio may count (DAPO's clip-higher)."""
    kl_coefficient: float = Field(default=0.0, ge=0.0, le=10.0)
    """Weight of the KL divergence from the base model in the loss. 0 is off (DAPO, TRL)."""

    # --- how the run watches itself
    eval_every: int | None = Field(default=None, ge=1, le=1000)
    """Steps between validations and checkpoints. Empty: min(10, rows / batch_size), AWS's rule."""
    patience: int = Field(default=5, ge=0)
    """Validations without improvement after which the run stops early. 0 is never."""
    shadow_reward: Reward = ""
    """A second reward that is never trained on (same forms): up to 64 completions of each step are
    graded by it too, and an alert is told when the reward rises and this one does not."""
    on_alert: dict[str, Action] = {}
    """What an alert of the health watch does, by its code, as in {entropy_collapse = "stop"}:
    `note` (all others do), `pause`, `stop`, or `rollback` to the checkpoint before, with half the
    learning rate. docs/health.md lists the codes."""
    test_samples: int = Field(default=4, ge=0, le=64)
    """Answers drawn at `temperature` to each of the first 64 prompts of the comparison at the end,
    by the base and by the result, for avg@k and pass@k. 0 is off."""

    # --- the machine
    sampler: Literal["shared", "vllm"] = "shared"
    """What draws completions in training: `shared`, our own with shared prefixes, anywhere; `vllm`,
    on a GPU after `pip install 'tunestone[gpu]'`. With vLLM a resumed run does not repeat its
    bits, and top_k, top_p and response_format cannot be set."""
    microbatch_tokens: int = Field(default=768, ge=64)
    """Tree nodes in one forward and backward, whole groups at least: bounds memory, does not change
    the result."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Decides data order, LoRA's start and every draw."""
    threads: int = Field(default=0, ge=0, le=1024)
    """CPU threads. 0 takes OMP_NUM_THREADS or all usable cores. A resumed run keeps its number."""

    @field_validator("stop", mode="before")
    @classmethod
    def _one_stop_string(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("response_format", mode="before")
    @classmethod
    def _response_format_as_text(cls, value: object) -> object:
        return json.loads(value) if isinstance(value, str) else value

    @field_validator("on_alert")
    @classmethod
    def _known_alerts(cls, value: dict[str, Action]) -> dict[str, Action]:
        for code in value:
            if code not in CODES:
                close = difflib.get_close_matches(code, CODES, n=1, cutoff=0.5)
                near = f"Did you mean '{close[0]}'?" if close else f"There are {', '.join(CODES)}."
                raise ValueError(f"there is no alert '{code}'. {near}")
        return value

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.refill_limit and self.kl_coefficient:
            raise ValueError(
                "refill_limit replaces groups without signal, but with kl_coefficient > 0 those "
                "groups do train. Set one of the two to 0."
            )
        if self.start_adapter and not self.lora_rank:
            raise ValueError(
                "start_adapter is an adapter, but with lora_rank = 0 every weight is trained. "
                "Merge it into the model first (`tunestone export --merged`), and name that model."
            )
        if self.sampler == "vllm" and (self.top_k or self.top_p < 1.0 or self.response_format):
            raise ValueError(
                'sampler = "vllm" draws from the whole distribution: top_k, top_p and '
                'response_format cannot be set with it. Set sampler = "shared" to have them.'
            )
        if self.shadow_reward and self.shadow_reward == self.reward:
            raise ValueError(
                "shadow_reward and reward are the same, so that they could never disagree. Name a "
                "stricter or an independent reward, or leave shadow_reward empty."
            )
        for name in ("validation", "test"):
            if getattr(self, name) and getattr(self, name) == self.data:
                raise ValueError(
                    f"{name} and data name the same file: the gain would be measured on what was "
                    f"trained. Leave {name} empty or name another file."
                )
        if any(not text for text in self.stop):
            raise ValueError(
                "stop holds an empty string, which would end every completion at once."
            )
        return self


Origins = dict[str, str]


def resolve(
    *,
    layers: Sequence[tuple[str, Mapping[str, Any]]] = (),
    assignments: Sequence[str] = (),
) -> tuple[TrainConfig, Origins]:
    """Merge named layers and `key=value` assignments into a config, with each value's origin.

    Raises ConfigError naming the key, its origin and, for an unknown one, the nearest known key.
    """
    values: dict[str, Any] = {}
    origins: Origins = dict.fromkeys(TrainConfig.model_fields, "default")
    assigned = [(f"--set {text}", dict([parse_assignment(text)])) for text in assignments]
    for origin, layer in [*layers, *assigned]:
        for key, value in layer.items():
            if key not in TrainConfig.model_fields:
                raise ConfigError(f"Unknown setting '{key}' ({origin}).", remedy=_nearest(key))
            values[key] = value
            origins[key] = origin
    try:
        return TrainConfig.model_validate(values), origins
    except ValidationError as error:
        raise ConfigError(_explain(error, origins)) from None


def read_toml(path: Path) -> dict[str, Any]:
    """Settings of a TOML file. Raises ConfigError with file and reason."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"There is no config file '{path}'.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: not a readable TOML file: {error}") from None


def parse_assignment(text: str) -> tuple[str, Any]:
    """`key=value` with a TOML value; a bare word counts as a string."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"'--set {text}' is not of the form key=value.")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()


def _nearest(key: str) -> str:
    close = difflib.get_close_matches(key, TrainConfig.model_fields, n=1, cutoff=0.5)
    near = f"Did you mean '{close[0]}'? " if close else ""
    return near + "`tunestone config` lists all settings."


def _explain(error: ValidationError, origins: Origins) -> str:
    reasons = []
    for problem in error.errors():
        if not problem["loc"]:
            reasons.append(problem["msg"].removeprefix("Value error, "))
            continue
        key = str(problem["loc"][0])
        reasons.append(f"{key} = {problem['input']!r} ({origins[key]}): {problem['msg']}.")
    return " ".join(reasons)


def setting_groups() -> Iterator[tuple[str, list[str]]]:
    """(heading, settings under it), from the `# --- heading` comments of TrainConfig."""
    for part in inspect.getsource(TrainConfig).split("# --- ")[1:]:
        heading, _, body = part.partition("\n")
        names = [name for name in TrainConfig.model_fields if f"\n    {name}: " in f"\n{body}"]
        yield heading[0].upper() + heading[1:], names
