"""Several graders as one: OpenAI's `multi`, by a formula, and our `weighted`, by weights.

    {"type": "multi", "name": "both", "calculate_output": "0.7 * exact + 0.3 * close",
     "graders": {"exact": {"type": "string_check", ...},
                 "close": {"type": "text_similarity", ...}}}

Any kind of grader may stand in either, except these two themselves. Every reward is kept as a
sub-score under its grader's name, its own sub-scores as `name/sub-score`. Where one grader fails on
a sample, the whole grade is an error that names it: a sum with a hole in it is not a reward.

The graders are asked one after the other, each for the whole batch.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, Literal, Self, final

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from tunestone.errors import RewardError
from tunestone.rewards.formula import Formula, FormulaError, is_variable
from tunestone.rewards.spec import Context, Spec
from tunestone.types import Grade, GradeFlag, Grader, Sample

COMBINING = ("multi", "weighted")
"""The types that combine other graders and may not be combined themselves."""


def _parse_graders(graders: Any) -> Any:
    """Names -> specs, from what was written; a lone grader counts under its own name."""
    if isinstance(graders, Spec):
        graders = {graders.name: graders}
    if not isinstance(graders, Mapping):
        return graders  # pydantic says what it should have been
    if isinstance(graders.get("type"), str):
        graders = {graders.get("name", ""): graders}
    return {name: _parse_leaf(str(name), leaf) for name, leaf in graders.items()}


def _parse_leaf(name: str, leaf: Any) -> Any:
    kind = leaf.get("type") if isinstance(leaf, Mapping) else getattr(leaf, "type", None)
    if kind in COMBINING:
        raise RewardError(
            f"graders.{name}: a {kind} grader cannot stand inside another one.",
            remedy="Put its graders here directly and write one formula.",
        )
    if not is_variable(name):
        raise RewardError(
            f"graders: {name!r} cannot be the name of a grader in a formula.",
            remedy="Use letters, digits and underscores, and no digit at the start.",
        )
    if not isinstance(leaf, Mapping):
        return leaf
    # Imported here because the list of all specs, which that module holds, includes ours.
    from tunestone.rewards.grader import parse_spec

    try:
        return parse_spec(leaf)
    except RewardError as error:
        raise RewardError(f"graders.{name}: {error.message}", remedy=error.remedy) from error


Graders = Annotated[
    dict[str, SerializeAsAny[Spec]], BeforeValidator(_parse_graders), Field(min_length=1)
]


@final
class Multi(Spec):
    """The value of a formula over the rewards of several graders."""

    type: Literal["multi"] = "multi"
    graders: Graders
    """Name -> grader. A single grader in place of the map counts under its own `name`."""
    calculate_output: str
    """The formula; its variables are the names of the graders. See `formula.py`."""

    @model_validator(mode="after")
    def _check_formula(self) -> Self:
        Formula.parse(self.calculate_output, self.graders)
        return self

    def open(self, context: Context, stack: ExitStack) -> "CombinedGrader":
        """The grader, with all of its graders opened. Raises RewardError."""
        formula = Formula.parse(self.calculate_output, self.graders)
        return CombinedGrader(_open_all(self.graders, context, stack), formula.evaluate)

    @property
    def calls_models(self) -> bool:
        """Whether one of its graders does."""
        return any(grader.calls_models for grader in self.graders.values())

    def files(self, context: Context) -> list[Path]:
        """The files of all its graders."""
        return _all_files(self.graders, context)


@final
class Weighted(Spec):
    """The sum of weight x reward over several graders. The weights need not add up to 1."""

    type: Literal["weighted"] = "weighted"
    graders: Graders
    """Name -> grader."""
    weights: dict[str, float]
    """Name -> weight, for exactly these graders; a negative weight is a penalty."""

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        without, unknown = self.graders.keys() - self.weights, self.weights.keys() - self.graders
        if without or unknown:
            faults = [f"no weight for {', '.join(sorted(without))}"] if without else []
            faults += [f"no grader for {', '.join(sorted(unknown))}"] if unknown else []
            raise RewardError(
                f"weights: {' and '.join(faults)}.",
                remedy=f"Give one weight each to {', '.join(self.graders)}.",
            )
        return self

    def open(self, context: Context, stack: ExitStack) -> "CombinedGrader":
        """The grader, with all of its graders opened. Raises RewardError."""
        return CombinedGrader(_open_all(self.graders, context, stack), self._add)

    @property
    def calls_models(self) -> bool:
        """Whether one of its graders does."""
        return any(grader.calls_models for grader in self.graders.values())

    def files(self, context: Context) -> list[Path]:
        """The files of all its graders."""
        return _all_files(self.graders, context)

    def _add(self, rewards: Mapping[str, float]) -> float:
        total = sum(weight * rewards[name] for name, weight in self.weights.items())
        if not math.isfinite(total):
            raise FormulaError("weights: the weighted sum is too large for a float")
        return total


@final
class CombinedGrader:
    """Asks several graders and makes one reward of theirs."""

    def __init__(
        self, graders: Mapping[str, Grader], combine: Callable[[Mapping[str, float]], float]
    ) -> None:
        """`combine` takes the reward of every grader by name; it may raise FormulaError."""
        self._graders = graders
        self._combine = combine

    def grade(self, samples: Sequence[Sample]) -> list[Grade]:
        """One grade per sample; an error where a grader or the combination failed."""
        columns = [grader.grade(samples) for grader in self._graders.values()]
        return [
            self._combine_one(dict(zip(self._graders, row, strict=True)))
            for row in zip(*columns, strict=True)
        ]

    def _combine_one(self, parts: Mapping[str, Grade]) -> Grade:
        whole = _gather(parts)
        if whole.error is not None:
            return whole
        rewards = {name: part.reward for name, part in parts.items() if part.reward is not None}
        try:
            return dataclasses.replace(whole, reward=self._combine(rewards))
        except FormulaError as error:
            return dataclasses.replace(
                whole, error=str(error), flags=_union([whole.flags, ("other_error",)])
            )


def _gather(parts: Mapping[str, Grade]) -> Grade:
    """What the grades of one sample have in common, still without a reward.

    Sub-scores by name; the errors with their grader's name in front; flags, each once; tokens and
    seconds added up; the most attempts.
    """
    metrics: dict[str, float] = {}
    tokens: dict[str, Counter[str]] = {}
    for name, part in parts.items():
        metrics |= {} if part.reward is None else {name: part.reward}
        metrics |= {f"{name}/{metric}": score for metric, score in part.metrics.items()}
        for model, counts in part.tokens.items():
            tokens.setdefault(model, Counter()).update(counts)
    failures = {name: part.error for name, part in parts.items() if part.reward is None}
    return Grade(
        reward=None,
        error="\n".join(f"grader {name}: {error}" for name, error in failures.items()) or None,
        seconds=sum(part.seconds for part in parts.values()),
        metrics=metrics,
        attempts=max(part.attempts for part in parts.values()),
        flags=_union([part.flags for part in parts.values()]),
        tokens={model: dict(counts) for model, counts in tokens.items()},
        parts=parts,
    )


def _union(groups: Iterable[Iterable[GradeFlag]]) -> tuple[GradeFlag, ...]:
    return tuple(dict.fromkeys(flag for group in groups for flag in group))


def _open_all(graders: Mapping[str, Spec], context: Context, stack: ExitStack) -> dict[str, Grader]:
    return {name: grader.open(context, stack) for name, grader in graders.items()}


def _all_files(graders: Mapping[str, Spec], context: Context) -> list[Path]:
    return [file for grader in graders.values() for file in grader.files(context)]
