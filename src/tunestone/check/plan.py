"""From what was measured to settings, each with its reason and source.

The order of trust: what this data and this model show, then AWS's advice (batch 128 on a GPU, LoRA
at 1e-4, 6 to 12 epochs for small data and 3 to 6 for larger, completions of 1,024 tokens), then
what is ours and says so. Only settings that follow from something are named; all others keep
their defaults. Nothing is optimised: a first run that works is what is wanted.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import tomli_w

from tunestone.check.findings import counted, percent
from tunestone.check.lengths import Lengths, quantile
from tunestone.config import TrainConfig, resolve

AWS = "AWS, Best practices for RFT on Bedrock (2026)"
_NOTEBOOKS = "AWS's RFT notebooks"
_OURS = "Tunestone"
_DEFAULT = "Tunestone's default"
_SMALL_ROWS, _LARGE_ROWS = 1_000, 5_000
_LEAST_SIGNAL = 0.5
_GROUP_SIZES = (4, 8, 16)
_COMMENT_WIDTH = 96


@dataclass(frozen=True, slots=True)
class SignalFacts:
    """What the completions of the base model showed."""

    prompts: int
    prompts_graded: int
    """Those with a completion whose grading did not fail; all shares of prompts are of these."""
    completions: int
    """Of each prompt."""
    pass_rate: float
    pass_rate_low: float
    pass_rate_high: float
    """95 % interval of the pass rate."""
    mixed_share: float
    """Share of prompts whose completions did not all get the same."""
    signal_share: Mapping[int, float]
    """Group size (4, 8, 16) -> predicted share of groups with signal; empty when none is graded."""
    length_mean: float
    """Tokens of a completion."""
    length_p99: int
    truncated_share: float
    """Share of the completions that were cut off."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What is fixed before anything is recommended."""

    rows: int
    """Training prompts, those for validation taken off."""
    lengths: Lengths
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the user, `model`, `data` and `reward` among them; they are kept as they are."""
    signal: SignalFacts | None = None
    has_gpu: bool = False
    context: int | None = None
    """Positions of the model; None when unknown."""
    heldout_P: tuple[int, ...] = ()
    """Tokens of the prompts of a validation file, which must fit like those that are trained on."""

    def fitting(self, limit: int) -> list[int]:
        """Tokens of the prompts, held-out ones too, that are not longer than this."""
        return [n for n in (*self.lengths.prompts_P, *self.heldout_P) if n <= limit]


@dataclass(frozen=True, slots=True)
class Setting:
    """One recommended value."""

    name: str
    value: Any
    reason: str
    source: str


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The recommended settings, and the config they make."""

    settings: tuple[Setting, ...]
    config: TrainConfig
    steps: int

    def value(self, name: str) -> Any:
        """A setting of the config."""
        return getattr(self.config, name)


def recommend(setup: Setup) -> Recommendation:
    """Settings for a first run. Raises ConfigError when the user's own settings are impossible."""
    given = setup.settings
    batch = _batch_size(setup)
    group = _group_size(setup.signal)
    completion = _completion_tokens(setup)
    advised = [
        batch,
        group,
        _learning_rate(int(given.get("lora_rank", TrainConfig().lora_rank))),
        _epochs(setup.rows),
        Setting(
            "max_prompt_tokens",
            setup.lengths.max_prompt_tokens,
            f"2 x P99 of the prompts ({quantile(setup.lengths.prompts_P, 0.99)} tokens).",
            _NOTEBOOKS,
        ),
        completion,
        *_refill(setup.signal, int(given.get("group_size", group.value)), given),
    ]
    settings = [
        Setting(advice.name, given[advice.name], "As you set it.", "you")
        if advice.name in given
        else advice
        for advice in advised
    ]
    values = {**given, **{setting.name: setting.value for setting in settings}}
    config, _ = resolve(layers=[("tunestone check", values)])
    steps = config.max_steps or math.ceil(config.epochs * setup.rows / config.batch_size)
    return Recommendation(tuple(settings), config, steps)


def config_toml(recommendation: Recommendation, *, given: Mapping[str, Any], title: str) -> str:
    """A config file: the user's settings, then the recommended ones below their reasons."""
    named = {setting.name for setting in recommendation.settings}
    kept = {key: value for key, value in given.items() if key not in named and value is not None}
    blocks = [_comment(f"{title} Begin with: tunestone train --config config.toml")]
    if kept:
        blocks.append(tomli_w.dumps({key: _plain(value) for key, value in kept.items()}).strip())
    for setting in recommendation.settings:
        reason = _comment(f"{setting.reason} [{setting.source}]")
        blocks.append(f"{reason}\n{tomli_w.dumps({setting.name: setting.value}).strip()}")
    return "\n\n".join(blocks) + "\n"


def _comment(text: str) -> str:
    """A comment of as many lines as needed; a line break in the text must not end it."""
    lines = textwrap.wrap(" ".join(text.split()), _COMMENT_WIDTH, break_on_hyphens=False)
    return "\n".join(f"# {line}" for line in lines)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _batch_size(setup: Setup) -> Setting:
    advised, where, source = (
        (128, "on a GPU", AWS) if setup.has_gpu else (16, "without a GPU", _DEFAULT)
    )
    fits = max(1, setup.rows // 8)
    if fits < advised:
        reason = f"An eighth of {counted(setup.rows, 'row')}, so that an epoch has 8 steps or so."
        return Setting("batch_size", fits, reason, _OURS)
    reason = f"{advised} prompts a step {where}; more if the reward stays flat or jumps."
    return Setting("batch_size", advised, reason, source)


def _group_size(signal: SignalFacts | None) -> Setting:
    if signal is None or not signal.prompts_graded:
        missing = "sampled" if signal is None else "graded"
        return Setting("group_size", 8, f"No completions were {missing}.", "TRL's default")
    shares = signal.signal_share
    sizes = [size for size in _GROUP_SIZES if size in shares]
    enough = [size for size in sizes if shares[size] >= _LEAST_SIGNAL]
    size = enough[0] if enough else max(sizes)
    seen = ", ".join(f"{percent(shares[size])} at {size}" for size in sizes)
    rule = "the smallest with half of them" if enough else "the largest: none reaches half"
    reason = f"Predicted share of groups with signal: {seen}; {rule}."
    return Setting("group_size", size, reason, _OURS)


def _learning_rate(lora_rank: int) -> Setting:
    if lora_rank:
        return Setting("learning_rate", 1e-4, "For LoRA, consistently strong.", AWS)
    return Setting("learning_rate", 1e-5, "For all weights, a tenth of what LoRA takes.", AWS)


def _epochs(rows: int) -> Setting:
    if rows <= _SMALL_ROWS:
        few = f"{counted(rows, 'row')} {'is' if rows == 1 else 'are'} few"
        return Setting("epochs", 6, f"{few}: 6 to 12, stopped early.", AWS)
    if rows <= _LARGE_ROWS:
        return Setting("epochs", 3, f"For {rows:,} rows: 3 to 6, stopped early.", AWS)
    reason = f"{rows:,} rows: begin with 1, which is many steps already."
    return Setting("epochs", 1, reason, _NOTEBOOKS)


def _completion_tokens(setup: Setup) -> Setting:
    name = "max_completion_tokens"
    by_answers = setup.lengths.max_completion_tokens
    if by_answers is not None:
        p99 = quantile(setup.lengths.answers_P, 0.99)
        reason = f"3 x P99 of the reference answers ({p99} tokens)."
        return _bounded(setup, Setting(name, by_answers, reason, _NOTEBOOKS))
    if setup.signal is not None and setup.signal.truncated_share <= 0.01:
        longest = max(32, 2 * setup.signal.length_p99)
        reason = (
            f"2 x P99 of what the base model writes ({setup.signal.length_p99} tokens); the "
            "reference answers are too bare to tell."
        )
        return _bounded(setup, Setting(name, longest, reason, _OURS))
    if setup.has_gpu:
        reason = "1,024 do for tasks without long reasoning; above 4,096 for code."
        return _bounded(setup, Setting(name, 1_024, reason, AWS))
    default = TrainConfig().max_completion_tokens
    reason = "Neither reference answers nor completions tell; raise it if many are cut off."
    return _bounded(setup, Setting(name, default, reason, _DEFAULT))


def _bounded(setup: Setup, setting: Setting) -> Setting:
    """What the model's positions leave beside the longest prompt that is kept."""
    limit = int(setup.settings.get("max_prompt_tokens", setup.lengths.max_prompt_tokens))
    longest = max(setup.fitting(limit), default=0)
    if setup.context is None or longest + setting.value <= setup.context:
        return setting
    room = max(1, setup.context - longest)
    reason = (
        f"What the model's {setup.context} positions leave beside the longest prompt "
        f"({longest} tokens); wanted were {setting.value}."
    )
    return Setting(setting.name, room, reason, _OURS)


def _refill(
    signal: SignalFacts | None, group_size: int, given: Mapping[str, Any]
) -> Sequence[Setting]:
    """DAPO's dynamic sampling, where few groups will carry signal; it excludes a KL term."""
    share = signal.signal_share.get(group_size) if signal else None
    if share is None or share >= 0.3 or given.get("kl_coefficient"):
        return []
    reason = (
        f"Only {percent(share)} of the groups will carry signal; up to two rounds of fresh prompts "
        "replace the others."
    )
    return [Setting("refill_limit", 2, reason, "DAPO's dynamic sampling")]
