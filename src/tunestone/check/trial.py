"""A reward being tried: every text graded once, and all that was seen on the way.

The same text for the same row is graded once however many probes write it, since judges cost.
Whether a reward is deterministic is asked on purpose, with `repeat`.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from tunestone.types import Grade, Grader, Sample

Graded = tuple[Sample, Grade]
"""A sample and what it got."""


@dataclass(slots=True)
class Trial:
    """Grades by sample, in the order they were asked for."""

    grader: Grader
    again: Grader | None = None
    """A second one of the same reward, which has cached nothing; asked when a text is repeated."""
    grades: dict[tuple[str, str, bool], Grade] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    """Element i was graded as the i-th of `grades`."""
    asked: int = 0
    """Samples the grader was given, repeats too."""
    wall_seconds: float = 0.0
    """Time spent waiting for it."""

    def rewards(self, samples: Sequence[Sample]) -> list[float | None]:
        """The reward of each sample; None where grading failed."""
        fresh = {_key(sample): sample for sample in samples if _key(sample) not in self.grades}
        self.samples += fresh.values()
        self.grades |= dict(zip(fresh, self._ask(list(fresh.values())), strict=True))
        return [self.grades[_key(sample)].reward for sample in samples]

    def repeat(self, samples: Sequence[Sample]) -> list[float | None]:
        """Like `rewards`, but asked again, of a grader that has not seen them."""
        return [grade.reward for grade in self._ask(list(samples), self.again)]

    def graded(self) -> list[Graded]:
        """All samples so far with their grades, failed ones too."""
        return list(zip(self.samples, self.grades.values(), strict=True))

    def _ask(self, samples: list[Sample], grader: Grader | None = None) -> list[Grade]:
        if not samples:
            return []
        start = time.perf_counter()
        grades = (grader or self.grader).grade(samples)
        self.wall_seconds += time.perf_counter() - start
        self.asked += len(samples)
        return grades


def _key(sample: Sample) -> tuple[str, str, bool]:
    return sample.prompt.id, sample.text, sample.truncated
