"""Penalties for length and for repetition: 0 at best, meant as parts of a `weighted` reward.

Length is DAPO's soft overlong punishment (arXiv 2503.14476, section 3.4): nothing up to a soft
limit, then falling linearly to -1 at the hard one. It counts words or characters, since a grader
sees text; DAPO counts tokens.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Literal, Self, final

from pydantic import Field, model_validator

from tunestone.errors import RewardError
from tunestone.rewards.ready.extraction import Score
from tunestone.rewards.ready.scoring import PureGrader, no_arguments
from tunestone.rewards.spec import Context, Spec

Unit = Literal["words", "characters"]


@final
class Length(Spec):
    """0 up to `soft_limit`, -1 from `hard_limit` on, linear between; sub-score `length`."""

    type: Literal["length"] = "length"
    soft_limit: int = Field(ge=0)
    """Length, in `unit`, up to which nothing is lost."""
    hard_limit: int = Field(ge=1)
    """Length, in `unit`, from which the reward is -1."""
    unit: Unit = "words"
    """`words` (between white space) or `characters`."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.hard_limit <= self.soft_limit:
            raise RewardError(
                f"length: hard_limit {self.hard_limit} is not above soft_limit {self.soft_limit}.",
                remedy="The reward falls from 0 to -1 between them; leave it room.",
            )
        return self

    def open(self, context: Context, stack: ExitStack) -> PureGrader:
        """The grader; it holds nothing open."""
        score = partial(
            score_length, soft_limit=self.soft_limit, hard_limit=self.hard_limit, unit=self.unit
        )
        return PureGrader(score, no_arguments)


@final
class Repetition(Spec):
    """`-penalty` times the share of n-grams that repeat an earlier one; sub-score `repetition`."""

    type: Literal["repetition"] = "repetition"
    penalty: float = Field(default=1.0, gt=0)
    """Reward lost when everything is repetition."""
    ngram: int = Field(default=4, ge=1, le=32)
    """How many units in a row make an n-gram; a shorter text repeats nothing."""
    unit: Unit = "words"
    """`words`, or `characters` for languages written without spaces (take a longer `ngram`)."""

    def open(self, context: Context, stack: ExitStack) -> PureGrader:
        """The grader; it holds nothing open."""
        score = partial(score_repetition, penalty=self.penalty, ngram=self.ngram, unit=self.unit)
        return PureGrader(score, no_arguments)


def score_length(text: str, *, soft_limit: int, hard_limit: int, unit: Unit = "words") -> Score:
    """The reward, -1..0, and `length` in `unit`."""
    length = len(_units(text, unit))
    excess = (length - soft_limit) / (hard_limit - soft_limit)
    return min(0.0, max(-1.0, -excess)), {"length": float(length)}


def score_repetition(
    text: str, *, penalty: float = 1.0, ngram: int = 4, unit: Unit = "words"
) -> Score:
    """The reward, `-penalty`..0, and `repetition`, the share of n-grams seen before, 0..1."""
    units = _units(text, unit)
    count = len(units) - ngram + 1
    if count < 1:
        return 0.0, {"repetition": 0.0}
    different = {tuple(units[start : start + ngram]) for start in range(count)}
    share = 1 - len(different) / count
    return 0.0 - penalty * share, {"repetition": share}


def _units(text: str, unit: Unit) -> Sequence[str]:
    return text.split() if unit == "words" else text
