"""The section `plan`: the recommended settings, and what a training with them would take.

Time and memory are forecast by whoever holds the model and given here; tokens follow from the plan
and the lengths that base completions have now. They will change while the model learns, and early
stopping may end the run sooner. What judges cost needs a price table, which is the user's: prices
change, and a stale one would be worse than none.
"""

import json
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from tunestone.check.findings import Finding, Json, Section, Table, counted, percent
from tunestone.check.plan import Recommendation, Setup
from tunestone.errors import ConfigError

_LONG_SECONDS = 1_800.0
_FIRST_STEPS = 20


@dataclass(frozen=True, slots=True)
class Cost:
    """Time and peak memory of a whole training here, with an interval; of the GPU where one is."""

    seconds_low: float
    seconds: float
    seconds_high: float
    memory_mib_low: float
    memory_mib: float
    memory_mib_high: float


class Price(BaseModel):
    """Of one model, per million tokens, in whatever currency the table is written."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    input: float = Field(ge=0)
    output: float = Field(ge=0)
    cached: float | None = Field(default=None, ge=0)
    """Of input tokens that were cached; as `input` when not given."""


Prices = Mapping[str, Price]
JudgeTokens = Mapping[str, Mapping[str, float]]
"""Model -> `prompt`, `completion`, `cached` -> mean tokens of one grade."""


@dataclass(frozen=True, slots=True)
class Estimates:
    """What was measured of a training with the recommended settings."""

    cost: Cost | None = None
    memory_available_mib: float | None = None
    judge_tokens: JudgeTokens | None = None
    """Of one grade; see `reward_numbers.judge_tokens`."""
    prices: Prices | None = None
    validation_rows: int = 0


def read_prices(path: Path) -> dict[str, Price]:
    """A price table, TOML or JSON: model -> {input, output, cached}, per million tokens.

    Raises ConfigError naming file and entry.
    """
    try:
        text = path.read_text(encoding="utf-8")
        table = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        return TypeAdapter(dict[str, Price]).validate_python(table)
    except FileNotFoundError:
        raise ConfigError(f"There is no price table '{path}'.") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(
            f"{path}: {where}: {first['msg']}.",
            remedy='Write per model: ["model-name"] input = 0.15, output = 0.6 (per million).',
        ) from None
    except (ValueError, OSError) as error:
        raise ConfigError(f"{path}: not a readable price table: {error}") from None


def check_plan(setup: Setup, plan: Recommendation, estimates: Estimates) -> Section:
    """The plan, its forecast, and what speaks against it."""
    config = plan.config
    completions = plan.steps * config.batch_size * config.group_size
    facts: dict[str, Json] = {
        "steps": plan.steps,
        "completions": completions,
        **_token_facts(setup, plan, completions),
        **_cost_facts(estimates.cost),
        **_judge_facts(setup, plan, estimates),
        "settings": {setting.name: setting.value for setting in plan.settings},
    }
    return Section(
        "plan",
        tuple(_findings(setup, plan, estimates, facts)),
        facts=facts,
        tables=(
            Table(
                "Recommended settings",
                ("setting", "value", "reason", "source"),
                tuple((s.name, f"{s.value:g}", s.reason, s.source) for s in plan.settings),
            ),
        ),
    )


def _token_facts(setup: Setup, plan: Recommendation, completions: int) -> dict[str, Json]:
    """Prompt tokens once per group, which share them; completions as long as the base's now."""
    config = plan.config
    kept = [n for n in setup.lengths.prompts_P if n <= config.max_prompt_tokens]
    prompts = plan.steps * config.batch_size
    facts: dict[str, Json] = {
        "prompt_tokens": round(prompts * sum(kept) / len(kept)) if kept else 0,
        "completion_tokens_at_most": completions * config.max_completion_tokens,
    }
    if setup.signal is not None:
        facts["completion_tokens"] = round(completions * setup.signal.length_mean)
    return facts


def _cost_facts(cost: Cost | None) -> dict[str, Json]:
    if cost is None:
        return {}
    return {
        "seconds": round(cost.seconds),
        "seconds_interval": [round(cost.seconds_low), round(cost.seconds_high)],
        "memory_mib": round(cost.memory_mib),
        "memory_mib_interval": [round(cost.memory_mib_low), round(cost.memory_mib_high)],
    }


def _judge_facts(setup: Setup, plan: Recommendation, estimates: Estimates) -> dict[str, Json]:
    """Tokens of judges over a whole training, validations included, and their price."""
    if not estimates.judge_tokens:
        return {}
    completions = plan.steps * plan.config.batch_size * plan.config.group_size
    grades = completions + _validations(setup, plan) * estimates.validation_rows
    tokens = {
        model: {kind: round(mean * grades) for kind, mean in kinds.items()}
        for model, kinds in estimates.judge_tokens.items()
    }
    facts: dict[str, Json] = {
        "judge_grades": grades,
        "judge_tokens": {model: dict(kinds) for model, kinds in tokens.items()},
    }
    prices = estimates.prices or {}
    known = [_price(prices[model], kinds) for model, kinds in tokens.items() if model in prices]
    if known:
        facts["judge_cost"] = round(sum(known), 4)
    return facts


def _validations(setup: Setup, plan: Recommendation) -> int:
    """One before the first step, then every `eval_every` steps; by itself as the trainer has it."""
    by_itself = max(1, min(10, setup.rows // plan.config.batch_size))
    return 1 + math.ceil(plan.steps / (plan.config.eval_every or by_itself))


def _price(price: Price, tokens: Mapping[str, int]) -> float:
    cached = tokens.get("cached", 0)
    fresh = tokens.get("prompt", 0) - cached
    reused = price.input if price.cached is None else price.cached
    parts = fresh * price.input + cached * reused + tokens.get("completion", 0) * price.output
    return parts / 1e6


def _findings(
    setup: Setup, plan: Recommendation, estimates: Estimates, facts: Mapping[str, Json]
) -> Iterator[Finding]:
    config = plan.config
    yield Finding(
        "ok",
        "plan",
        f"{counted(plan.steps, 'step')} of {counted(config.batch_size, 'prompt')} x "
        f"{counted(config.group_size, 'completion')}.",
    )
    yield from _check_time(plan, estimates.cost)
    yield from _check_room(setup, plan)
    yield from _check_memory(estimates)
    missing = [
        model for model in estimates.judge_tokens or () if model not in (estimates.prices or ())
    ]
    if "judge_cost" in facts:
        yield Finding(
            "ok",
            "judge_cost",
            f"Judges will cost about {facts['judge_cost']:g} for {facts['judge_grades']:,} grades, "
            "in the currency of the price table.",
        )
    if missing:
        yield Finding(
            "advice",
            "no_price",
            f"There is no price for the judge {_names(missing)}.",
            "Give a table with --prices to see what the judges of a training cost.",
        )


def _check_time(plan: Recommendation, cost: Cost | None) -> Iterator[Finding]:
    """A plan that takes long: what a first look at it would take."""
    if cost is None or cost.seconds < _LONG_SECONDS or plan.steps <= _FIRST_STEPS:
        return
    first = _FIRST_STEPS * cost.seconds / plan.steps
    yield Finding(
        "advice",
        "long_run",
        f"All {plan.steps} steps take about {cost.seconds / 3600:.1f} hours here "
        f"({cost.seconds_low / 3600:.1f} to {cost.seconds_high / 3600:.1f}).",
        f"Look at {_FIRST_STEPS} steps first: --set max_steps={_FIRST_STEPS}, about "
        f"{first / 60:.0f} minutes.",
    )


def _check_room(setup: Setup, plan: Recommendation) -> Iterator[Finding]:
    """Whether the longest text fits into the model, which training would refuse otherwise."""
    config, limit = plan.config, plan.config.max_prompt_tokens
    longest = max(setup.fitting(limit), default=0)
    parts = (("", setup.lengths.prompts_P), ("validation ", setup.heldout_P))
    unfit = [name for name, tokens_P in parts if tokens_P and min(tokens_P) > limit]
    if unfit:
        yield Finding(
            "fatal",
            "no_prompt_fits",
            f"Every {unfit[0]}prompt is longer than max_prompt_tokens = {limit}.",
            "Raise max_prompt_tokens.",
        )
    elif setup.context is not None and longest + config.max_completion_tokens > setup.context:
        yield Finding(
            "fatal",
            "context_too_short",
            f"A prompt of {longest} tokens with {config.max_completion_tokens} of completion "
            f"needs more than the model's {setup.context} positions.",
            "Lower max_prompt_tokens or max_completion_tokens.",
        )
    truncated = setup.signal.truncated_share if setup.signal else 0.0
    if truncated > 0.05:
        yield Finding(
            "warning",
            "completions_cut_off",
            f"{percent(truncated)} of the base model's completions were cut off at their longest.",
            "Raise max_completion_tokens, or ask for shorter answers: what is cut off cannot be "
            "right.",
        )


def _check_memory(estimates: Estimates) -> Iterator[Finding]:
    cost, available = estimates.cost, estimates.memory_available_mib
    if cost is None or available is None or cost.memory_mib_high <= available:
        return
    certain = cost.memory_mib_low > available
    yield Finding(
        "fatal" if certain else "warning",
        "memory",
        f"Training needs {cost.memory_mib:,.0f} MiB ({cost.memory_mib_low:,.0f} to "
        f"{cost.memory_mib_high:,.0f}); {available:,.0f} are free.",
        "Lower microbatch_tokens, max_completion_tokens or group_size, or take a smaller model.",
    )


def _names(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
