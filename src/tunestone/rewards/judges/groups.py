"""Judging the answers to one prompt against one another: pairwise, and by ranking.

Equal answers are never compared: they tie. All requests of a `grade` call are sent together,
whatever prompt they belong to, and each is counted as the cost of one sample, so that the tokens
of all grades add up to what was used.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import final

from tunestone.rewards.judges.asking import Answer, Asker, answer_grade, total_cost
from tunestone.rewards.judges.prompts import Exhibit, Material, compare_question, rank_question
from tunestone.rewards.judges.templates import JudgeTemplate
from tunestone.rewards.spec import failed
from tunestone.types import Grade, Sample

Materials = Sequence[Material | Grade]


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two answers to compare; `right` is None for the reference answer."""

    left: int
    right: int | None
    material: Material
    left_text: str
    right_text: str


@dataclass(slots=True)
class _Tally:
    """What became of one sample's comparisons."""

    results: list[float] = field(default_factory=list)
    conflicts: int = 0
    failures: list[Answer[float]] = field(default_factory=list)
    paid: list[Answer[float]] = field(default_factory=list)
    """The requests counted as this sample's cost."""

    def add(self, share: float, *, conflict: bool) -> None:
        """One comparison: the share of it that was won."""
        self.results.append(share)
        self.conflicts += conflict


@final
class PairwiseJudge:
    """The share of comparisons an answer wins; each pair is asked in both orders.

    A result is the mean over the two orders of 1, 0.5 or 0, so a judge who contradicts itself
    gives 0.5. The sub-score `position_conflict` is the share of such comparisons. When only some
    comparisons fail, the others decide, and the grade carries the flags of the failed ones.
    """

    def __init__(
        self, asker: Asker, rubric: JudgeTemplate, exhibit: Exhibit, *, by_reference: bool
    ) -> None:
        self.asker = asker
        """Counts what came from the cache."""
        self._rubric = rubric
        self._exhibit = exhibit
        self._by_reference = by_reference

    def grade(self, samples: Sequence[Sample]) -> list[Grade]:
        """One grade per sample, in order."""
        materials = self._exhibit.materials(samples)
        if self._by_reference:
            materials = [_with_reference(material) for material in materials]
        pairs = list(self._pairs(samples, materials))
        answers = iter(self._ask(pairs))
        tallies = [_Tally() for _ in samples]
        for pair in pairs:
            left = tallies[pair.left]
            # What the reference answer wins or loses is nobody's reward; its requests are paid.
            right = tallies[pair.right] if pair.right is not None else _Tally(paid=left.paid)
            if pair.left_text == pair.right_text:
                left.add(0.5, conflict=False)
                right.add(0.5, conflict=False)
            else:
                _record(next(answers), next(answers), left=left, right=right)
        return [
            material if isinstance(material, Grade) else self._settle(tally)
            for material, tally in zip(materials, tallies, strict=True)
        ]

    def _pairs(self, samples: Sequence[Sample], materials: Materials) -> Iterator[_Pair]:
        if self._by_reference:
            for i, (sample, material) in enumerate(zip(samples, materials, strict=True)):
                if isinstance(material, Material):
                    yield _Pair(i, None, material, sample.text, material.reference)
            return
        for material, members in _groups(samples, materials):
            for n, i in enumerate(members):
                for j in members[n + 1 :]:
                    yield _Pair(i, j, material, samples[i].text, samples[j].text)

    def _ask(self, pairs: Sequence[_Pair]) -> list[Answer[float]]:
        questions = []
        for pair in pairs:
            if pair.left_text != pair.right_text:
                # Compared with the reference answer, it must not be shown a third time.
                shown = (
                    replace(pair.material, reference="") if pair.right is None else pair.material
                )
                orders = [(pair.left_text, pair.right_text), (pair.right_text, pair.left_text)]
                questions += [
                    compare_question(self._rubric, shown, first=first, second=second)
                    for first, second in orders
                ]
        return self.asker.ask_all(questions)

    def _settle(self, tally: _Tally) -> Grade:
        def grade(results: list[float]) -> Grade:
            return Grade(
                sum(results) / len(results),
                metrics={"position_conflict": tally.conflicts / len(results)},
                flags=tuple(dict.fromkeys(failure.flag for failure in tally.failures)),
            )

        if not tally.results and not tally.failures:
            return _alone()
        outcome: Answer[list[float]] = (
            Answer(tally.results)
            if tally.results
            else Answer(error=tally.failures[0].error, flag=tally.failures[0].flag)
        )
        return answer_grade(total_cost(outcome, tally.paid), model=self.asker.name, grade=grade)


@final
class RankingJudge:
    """All answers to a prompt ranked in one request: the best gets 1, the worst 0, evenly spaced.

    Equal answers share a rank; when all are equal, each gets 0.5 and nothing is asked.
    """

    def __init__(self, asker: Asker, rubric: JudgeTemplate, exhibit: Exhibit, *, seed: int) -> None:
        self.asker = asker
        """Counts what came from the cache."""
        self._rubric = rubric
        self._exhibit = exhibit
        self._seed = seed

    def grade(self, samples: Sequence[Sample]) -> list[Grade]:
        """One grade per sample, in order."""
        materials = self._exhibit.materials(samples)
        grades = [m if isinstance(m, Grade) else _alone() for m in materials]
        groups = []
        for material, members in _groups(samples, materials):
            texts = self._shuffled([samples[i].text for i in members])
            if len(texts) > 1:
                groups.append((members, texts, rank_question(self._rubric, material, texts)))
            elif len(members) > 1:
                for i in members:
                    grades[i] = Grade(0.5)
        answers = self.asker.ask_all([question for _, _, question in groups])
        for (members, texts, _), answer in zip(groups, answers, strict=True):
            for i in members:
                grades[i] = self._place(answer, texts.index(samples[i].text))
                answer = replace(answer, tokens={}, seconds=0.0)  # the first one paid
        return grades

    def _shuffled(self, texts: Sequence[str]) -> list[str]:
        """The distinct texts in an order that only they and the seed decide."""
        distinct = sorted(set(texts))
        random.Random(repr((self._seed, distinct))).shuffle(distinct)
        return distinct

    def _place(self, answer: Answer[tuple[int, ...]], position: int) -> Grade:
        def grade(ranking: tuple[int, ...]) -> Grade:
            return Grade(1 - ranking.index(position) / (len(ranking) - 1))

        return answer_grade(answer, model=self.asker.name, grade=grade)


def _groups(
    samples: Sequence[Sample], materials: Materials
) -> Iterator[tuple[Material, list[int]]]:
    """The samples of each prompt that can be judged, by position, with what they are judged by."""
    members: dict[str, list[int]] = {}
    shown: dict[str, Material] = {}
    for i, (sample, material) in enumerate(zip(samples, materials, strict=True)):
        if isinstance(material, Material):
            members.setdefault(sample.prompt.id, []).append(i)
            shown.setdefault(sample.prompt.id, material)
    return ((shown[prompt], positions) for prompt, positions in members.items())


def _record(
    forward: Answer[float], backward: Answer[float], *, left: _Tally, right: _Tally
) -> None:
    """Enter one comparison: `forward` showed the left answer first, `backward` the right one."""
    left.paid.append(forward)
    right.paid.append(backward)
    if forward.value is None or backward.value is None:
        failures = [answer for answer in (forward, backward) if answer.value is None]
        left.failures += failures
        right.failures += failures
        return
    left_wins = (forward.value, 1 - backward.value)
    share = sum(left_wins) / 2
    conflict = abs(left_wins[0] - left_wins[1]) == 1
    left.add(share, conflict=conflict)
    right.add(1 - share, conflict=conflict)


def _with_reference(material: Material | Grade) -> Material | Grade:
    if isinstance(material, Grade) or material.reference:
        return material
    return failed(
        "there is no reference answer to compare with: the row has no reference_answer, and the "
        "judge no template `reference` that finds one",
        "invalid_variable_error",
    )


def _alone() -> Grade:
    return failed(
        "there is only one answer to this prompt, so nothing to compare it with; use "
        "mode = 'score', or compare with the reference answer",
        "other_error",
    )
