"""What is tried on a reward: reference answers in every way, then the probes in the best of them.

Only the trying and its records; what follows from them is said in reward_section.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from tunestone.check.answers import WAYS, Way, is_empty
from tunestone.check.probes import POSITIONS, PROBES, Case, Probe, other_answers
from tunestone.check.trial import Graded, Trial
from tunestone.types import Prompt, Sample

_TOP = 0.9  # of the range: what counts as "the maximum" for rewards that also weigh other things


@dataclass(frozen=True, slots=True)
class Ways:
    """How the reference answers fared in every way they were written."""

    prompts: list[Prompt]
    rewards: dict[str, list[float | None]]
    """Way name -> reward per prompt."""
    low: float
    top: float

    def works(self, way: str) -> list[bool]:
        """Per prompt: whether it got (nearly) the highest reward of all."""
        least = self.low + _TOP * (self.top - self.low)
        varied = self.top > self.low
        return [varied and reward is not None and reward >= least for reward in self.rewards[way]]

    @property
    def best(self) -> Way:
        """The way that works for the most rows; then the best paid; then the plainest."""

        def merit(way: Way) -> tuple[int, float]:
            paid = [reward for reward in self.rewards[way.name] if reward is not None]
            return sum(self.works(way.name)), sum(paid)

        return max(WAYS, key=merit)

    def best_rewards(self) -> list[float | None]:
        """Per prompt, the most that any way got."""
        columns = zip(*self.rewards.values(), strict=True)
        return [max((r for r in column if r is not None), default=None) for column in columns]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one probe got, row by row."""

    probe: Probe
    samples: list[Sample]
    rewards: list[float]
    shares_P: list[float]
    """Of the best known reward of the row."""

    @property
    def mean_share(self) -> float:
        """Over the rows on which it was graded."""
        return sum(self.shares_P) / len(self.shares_P)

    @property
    def mean_reward(self) -> float:
        """Over the same rows."""
        return sum(self.rewards) / len(self.rewards)

    @property
    def high(self) -> list[int]:
        """Positions of rows on which it got too much."""
        return [i for i, share in enumerate(self.shares_P) if share > self.probe.threshold + 1e-9]

    @property
    def is_hole(self) -> bool:
        """Whether that happened on too many rows."""
        return bool(self.high) and len(self.high) >= self.probe.rows_share * len(self.shares_P)


def has_reference(prompt: Prompt) -> bool:
    """Whether the row has a reference answer that is not empty."""
    return not is_empty(prompt.row.get("reference_answer"))


def choose_rows(prompts: Sequence[Prompt], count: int) -> list[Prompt]:
    """Rows at equal distances, of those with a reference answer when there are any."""
    usable = [prompt for prompt in prompts if has_reference(prompt)] or list(prompts)
    count = min(count, len(usable))
    return [usable[i * len(usable) // count] for i in range(count)]


def try_ways(trial: Trial, prompts: list[Prompt]) -> Ways:
    """Grade the reference answers in all ways, and an empty answer to compare them with."""
    empty = [Sample(prompt, "") for prompt in prompts]
    written = {
        way.name: [
            Sample(prompt, way.write(prompt.row.get("reference_answer")) if known else "")
            for prompt, known in zip(prompts, map(has_reference, prompts), strict=True)
        ]
        for way in WAYS
    }
    trial.rewards([*empty, *chain.from_iterable(written.values())])  # in one go: graders batch
    rewards = {name: trial.rewards(samples) for name, samples in written.items()}
    seen = [grade.reward for grade in trial.grades.values() if grade.reward is not None]
    return Ways(prompts, rewards, min(seen, default=0.0), max(seen, default=0.0))


def try_probes(
    trial: Trial,
    prompts: Sequence[Prompt],
    ways: Ways,
    completions: Sequence[Graded],
    *,
    judges: bool,
) -> list[Outcome]:
    """Write and grade the probes on the rows of `ways`; those that could not be are left out."""
    references = [prompt.row.get("reference_answer") for prompt in prompts]
    cases = [
        Case(p, other_answers(references, p.row.get("reference_answer")), ways.best, number)
        for number, p in enumerate(ways.prompts)
    ]
    written: dict[Probe, list[tuple[int, Sample]]] = {}
    for probe in (*PROBES, *POSITIONS):
        if judges or not probe.judges_only:
            texts = [(case.number, probe.write(case)) for case in cases]
            written[probe] = [
                (i, Sample(ways.prompts[i], text, truncated=probe.code == "truncated_scores"))
                for i, text in texts
                if text is not None
            ]
    trial.rewards([sample for pairs in written.values() for _, sample in pairs])
    low = min(
        (
            g.reward
            for g in (*trial.grades.values(), *(g for _, g in completions))
            if g.reward is not None
        ),
        default=0.0,
    )
    best_P = _best_known(ways, completions)
    outcomes = [_outcome(trial, probe, pairs, best_P, low) for probe, pairs in written.items()]
    return [outcome for outcome in outcomes if outcome.shares_P]


def _best_known(ways: Ways, completions: Sequence[Graded]) -> list[float | None]:
    """Per row: the most that its reference answer or a completion of the model got."""
    best: dict[str, float] = {}
    for sample, grade in completions:
        if grade.reward is not None:
            best[sample.prompt.id] = max(best.get(sample.prompt.id, grade.reward), grade.reward)
    known = []
    for prompt, reward in zip(ways.prompts, ways.best_rewards(), strict=True):
        written = reward if has_reference(prompt) else None
        candidates = [r for r in (written, best.get(prompt.id)) if r is not None]
        known.append(max(candidates, default=None))
    return known


def _outcome(
    trial: Trial,
    probe: Probe,
    pairs: Sequence[tuple[int, Sample]],
    best_P: Sequence[float | None],
    low: float,
) -> Outcome:
    outcome = Outcome(probe, [], [], [])
    rewards = trial.rewards([sample for _, sample in pairs])
    for (i, sample), reward in zip(pairs, rewards, strict=True):
        best = best_P[i]
        if reward is None or best is None:
            continue
        # Where even the best known answer got the least of all, anything above it is too much.
        share = (reward - low) / (best - low) if best > low else 2.0 * (reward > best)
        outcome.samples.append(sample)
        outcome.rewards.append(reward)
        outcome.shares_P.append(share)
    return outcome
