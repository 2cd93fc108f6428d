"""The records that cross rooms, and the legend of axes.

Names of arrays and lists end in their axes:

    P  prompts of a step            G  completions of one prompt (its group)
    B  rows = P x G completions     T  tokens along one row
    N  nodes of the token tree      K  nodes the output head is applied to
    R  scored tokens of all rows, one row after the other (ragged B x T, flattened)
    V  vocabulary

`rewards_PG[p][g]` is the reward of completion g of prompt p; `logprobs_BT` may be ragged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One row of a dataset: what the model is asked, and what the reward may look at."""

    id: str
    messages: tuple[Mapping[str, Any], ...]
    """Chat turns in the OpenAI shape; the last one is not the assistant's."""
    row: Mapping[str, Any] = field(default_factory=dict)
    """Every other key of the data row, `reference_answer` among them, untouched."""
    tools: tuple[Mapping[str, Any], ...] = ()
    source: str = ""
    """Where it came from, as `file:line`."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled answer to a prompt."""

    tokens: tuple[int, ...]
    """As drawn, the end token included when one was drawn."""
    logprobs: tuple[float, ...]
    """Log-probability (nats) of each token under the policy at the temperature that drew it (at 1
    when greedy), over the whole vocabulary, top_k and top_p notwithstanding."""
    entropies: tuple[float, ...]
    """Entropy (nats) of that distribution at each token."""
    text: str
    """Decoded, without special tokens and without a matched stop string."""
    finish_reason: FinishReason
    """`stop`: an end token or stop string; `length`: cut off at `max_completion_tokens`."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What a grader gets to see: a prompt and one completion of it."""

    prompt: Prompt
    text: str
    truncated: bool = False
    """Whether the completion was cut off at its longest length."""


GradeFlag = Literal[
    "formula_parse_error",
    "invalid_variable_error",
    "model_grader_parse_error",
    "model_grader_refusal_error",
    "model_grader_server_error",
    "other_error",
    "python_grader_runtime_error",
    "python_grader_server_error",
    "sample_parse_error",
    "truncated_observation_error",
    "unresponsive_reward_error",
]
"""What kind of thing went wrong, in the words of OpenAI's grader runs."""


@dataclass(frozen=True, slots=True)
class Grade:
    """What a grader gave. `reward` is None exactly when `error` says why there is none."""

    reward: float | None
    error: str | None = None
    """Traceback or reason; the completion then takes no part in its group."""
    seconds: float = 0.0
    """Wall time this grade took, all attempts together."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Named sub-scores, logged but not trained on."""
    attempts: int = 1
    """How often the grader was asked; more than 1 when the wire or a worker failed in between, or a
    judge's answer could not be read and was asked for again."""
    flags: tuple[GradeFlag, ...] = ()
    """The kinds of failure behind `error`; a grade with a reward may carry a warning flag."""
    tokens: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Tokens a judge used: model name -> `prompt`, `completion`, `cached`."""
    parts: Mapping[str, "Grade"] = field(default_factory=dict)
    """What each grader gave, by name, where the reward is made of several."""


class Grader(Protocol):
    """The one-method seam between the loop and every kind of reward."""

    def grade(self, samples: Sequence[Sample]) -> list[Grade]:
        """One grade per sample, in order. Never raises for a bad completion."""
        ...
