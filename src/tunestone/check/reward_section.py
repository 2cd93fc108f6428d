"""The section `reward`: the reward is tried before a policy tries it.

First the reference answers of a few rows are written in every way of answers.py: one of them must
get the maximum, and the report says which. In that form the probes of probes.py are written, which
must not. "High" is relative: 0 is the lowest reward seen in the whole check, 1 what the row's best
known answer got, so that it works for rewards of any range.

A reward that passes can still be hacked. What is looked for here are the holes that others fell
into; the thresholds (half of the best, on a quarter of the rows) are ours.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from tunestone.check.answers import WAYS, Way
from tunestone.check.attempts import (
    Outcome,
    Ways,
    choose_rows,
    has_reference,
    try_probes,
    try_ways,
)
from tunestone.check.findings import (
    EVIDENCE,
    Finding,
    Json,
    Level,
    Section,
    Table,
    counted,
    excerpt,
    percent,
)
from tunestone.check.probes import POSITIONS, PROBES
from tunestone.check.reward_numbers import (
    check_determinism,
    check_errors,
    check_latency,
    check_length,
    check_range,
    length_correlation,
    reward_facts,
)
from tunestone.check.trial import Graded, Trial
from tunestone.types import Grader, Prompt, Sample

ROWS, ROWS_FOR_JUDGES = 16, 4
"""Rows that are tried by default: a judge is asked about 90 times, another reward about 350."""
_FULL = 0.95  # of the best known reward: full marks
_MOST_ROWS = 0.9  # fewer rows with the maximum are more than a few bad references


@dataclass(frozen=True, slots=True)
class RewardTask:
    """What a reward has to do in training, and what it is."""

    batch_size: int
    group_size: int
    calls_models: bool = False
    rows: int | None = None
    """Rows to try; `ROWS` or `ROWS_FOR_JUDGES` when None."""

    def tried_rows(self) -> int:
        """How many rows are tried at most."""
        return self.rows or (ROWS_FOR_JUDGES if self.calls_models else ROWS)


def check_reward(
    grader: Grader,
    prompts: Sequence[Prompt],
    task: RewardTask,
    *,
    completions: Sequence[Graded] = (),
    again: Grader | None = None,
) -> Section:
    """Try the reward on rows spread over `prompts`; `completions` are graded ones of the model.

    `again` is a second grader of the same reward, to see whether it is deterministic.

    Grades at most `task.tried_rows() * (len(WAYS) + len(PROBES) + len(POSITIONS) + 2)` texts, the
    repeats that test determinism included.
    """
    trial = Trial(grader, again)
    ways = try_ways(trial, choose_rows(prompts, task.tried_rows()))
    outcomes = try_probes(trial, prompts, ways, completions, judges=task.calls_models)
    tried = trial.graded()
    graded = [*tried, *completions]
    has_references = any(has_reference(prompt) for prompt in ways.prompts)
    findings = chain(
        check_errors(tried, completions),
        check_range(graded, knows_answers=has_references or bool(completions)),
        _check_reference(ways, completions) if has_references else _no_references(),
        _check_probes(outcomes),
        _check_easier(outcomes, completions),
        _check_positions(outcomes),
        check_determinism(trial, _repeated(ways)),
        check_latency(trial, task.batch_size * task.group_size),
        check_length(completions),
    )
    correlation = length_correlation(completions)
    return Section(
        "reward",
        tuple(findings),
        facts={
            **reward_facts(trial, graded, task.batch_size * task.group_size),
            "length_correlation": correlation[0] if correlation else None,
            "best_way": ways.best.name if has_references else None,
        },
        tables=_tables(ways, outcomes, has_references),
    )


def _no_references() -> Iterator[Finding]:
    yield Finding(
        "advice",
        "no_known_answer",
        "No row has a reference answer, so it was not tried whether a right answer gets the "
        "maximum.",
        "Add reference answers, or grade answers that you know to be good with `tunestone grade`.",
    )


def _check_reference(ways: Ways, completions: Sequence[Graded]) -> Iterator[Finding]:
    """Whether the right answer gets the maximum, and how it must be written."""
    works = ways.works(ways.best.name)
    count, rows = sum(works), len(works)
    others = [way.name for way in WAYS if all(ways.works(way.name)) and way is not ways.best]
    also = f" Also: {'; '.join(f'`{name}`' for name in others)}." if others else ""
    failing = _failing(ways)
    if count == rows:
        yield Finding(
            "ok",
            "reference_gets_maximum",
            f"The reference answer gets the maximum, {ways.top:g}, in "
            f"{f'all {rows} rows' if rows > 1 else 'the one row'} tried when written as "
            f"`{ways.best.name}`.{also}",
        )
    elif count == 0:
        yield Finding(
            "warning",
            "reference_not_rewarded",
            f"In none of {len(WAYS)} ways of writing it does the reference answer of any of "
            f"{counted(rows, 'row')} get "
            f"{'the maximum' if ways.top > ways.low else 'more than'} {ways.top:g}.",
            "Write one right answer by hand and grade it with `tunestone grade`: is the reward "
            "wrong, the reference answer, or does it want a form that was not tried?",
            failing,
        )
    else:
        yield Finding(
            "warning" if count < _MOST_ROWS * rows else "advice",
            "reference_not_maximum",
            f"Written as `{ways.best.name}`, the way that works best, the reference answer gets "
            f"the maximum in {count} of {counted(rows, 'row')} only.",
            "Look at these rows: their reference answer or its form is not what the reward reads.",
            failing,
        )
    if count:
        yield from _check_beyond(ways.top, completions)


def _failing(ways: Ways) -> tuple[Mapping[str, Json], ...]:
    """Rows on which the best way did not get the maximum."""
    name = ways.best.name
    rows = zip(ways.prompts, ways.rewards[name], ways.works(name), strict=True)
    return tuple(
        _evidence(Sample(prompt, ways.best.write(prompt.row.get("reference_answer"))), reward)
        for prompt, reward, worked in rows
        if not worked
    )[:EVIDENCE]


def _check_beyond(top: float, completions: Sequence[Graded]) -> Iterator[Finding]:
    """Completions that got more than any reference answer."""
    beyond = [(s, g.reward) for s, g in completions if g.reward is not None and g.reward > top]
    if beyond:
        yield Finding(
            "advice",
            "reference_not_highest",
            f"{len(beyond)} of {len(completions)} completions of the model got more than any "
            f"reference answer ({top:g}).",
            "Read them: what is rewarded beyond being right?",
            tuple(_evidence(sample, reward) for sample, reward in beyond[:EVIDENCE]),
        )


def _check_probes(outcomes: Sequence[Outcome]) -> Iterator[Finding]:
    tried = [outcome for outcome in outcomes if outcome.probe in PROBES]
    holes = [outcome for outcome in tried if outcome.is_hole]
    for hole in holes:
        probe, rows = hole.probe, len(hole.shares_P)
        pointless = probe.empties and hole.mean_share >= _FULL
        level: Level = "fatal" if pointless else "warning"
        yield Finding(
            level,
            probe.code,
            f"{probe.what}: {_percent(hole.mean_share)} of the best known reward (too much in "
            f"{len(hole.high)} of {counted(rows, 'row')}).",
            probe.remedy,
            tuple(_evidence(hole.samples[i], hole.rewards[i]) for i in hole.high[:EVIDENCE]),
        )
    if tried and not holes:
        yield Finding("ok", "no_hole_found", f"None of {len(tried)} hacking probes scores high.")


def _check_easier(outcomes: Sequence[Outcome], completions: Sequence[Graded]) -> Iterator[Finding]:
    """Texts without an answer that earn more than the model does now: learning goes there first."""
    earned = [grade.reward for _, grade in completions if grade.reward is not None]
    if not earned:
        return
    mean = sum(earned) / len(earned)
    easier = [
        outcome
        for outcome in outcomes
        if outcome.probe.empties and not outcome.is_hole and outcome.mean_reward > mean
    ]
    if not easier:
        return
    top = max(easier, key=lambda outcome: outcome.mean_reward)
    more = len(easier) - 1
    do = "does 1 more text" if more == 1 else f"do {more} more texts"
    others = f", as {do} without an answer" if more else ""
    yield Finding(
        "warning",
        "easier_than_answering",
        f"{top.probe.what} earns {top.mean_reward:.3g}{others}; the model's completions earn "
        f"{mean:.3g}. Training will learn that before it learns to answer.",
        "Give nothing, or a penalty, to a text without an answer.",
        (_evidence(top.samples[0], top.rewards[0]),),
    )


def _check_positions(outcomes: Sequence[Outcome]) -> Iterator[Finding]:
    """Several answers, one of which counts by its place; said only where the middle does not."""
    found = {outcome.probe.code: outcome for outcome in outcomes}
    middle = found.get("several_answers_score")
    paid = [
        outcome for probe in POSITIONS if (outcome := found.get(probe.code)) and outcome.is_hole
    ]
    if middle is None or middle.is_hole or not paid:
        return
    for outcome in paid:
        place = "first" if outcome.probe is POSITIONS[0] else "last"
        yield Finding(
            "advice",
            outcome.probe.code,
            f"Of several answers in one text, the {place} one counts.",
            "That is usual, and no hole. Pay only for a single answer if users should see but one.",
            (_evidence(outcome.samples[outcome.high[0]], outcome.rewards[outcome.high[0]]),),
        )


def _repeated(ways: Ways) -> list[Sample]:
    """What is graded twice: the answers in the form that works, and an empty one."""
    answers = [
        Sample(prompt, ways.best.write(prompt.row.get("reference_answer")))
        for prompt in ways.prompts
        if has_reference(prompt)
    ]
    return answers or [Sample(prompt, "") for prompt in ways.prompts]


def _tables(ways: Ways, outcomes: Sequence[Outcome], has_references: bool) -> tuple[Table, ...]:
    written = Table(
        "The reference answer, written as an answer",
        ("written as", "rows with the maximum", "mean reward"),
        tuple(
            (way.name, f"{sum(ways.works(way.name))} of {len(ways.prompts)}", _mean(ways, way))
            for way in WAYS
            if any(ways.works(way.name))
        ),
    )
    probed = Table(
        "Probes that must not score high",
        ("probe", "mean reward", "share of the best", "too high"),
        tuple(
            (
                o.probe.what,
                f"{o.mean_reward:.3g}",
                _percent(o.mean_share),
                f"{len(o.high)} of {len(o.shares_P)}",
            )
            for o in outcomes
            if o.probe in PROBES
        ),
    )
    shown = [written] if has_references else []
    return tuple(table for table in (*shown, probed) if table.rows)


def _mean(ways: Ways, way: Way) -> str:
    paid = [reward for reward in ways.rewards[way.name] if reward is not None]
    return f"{sum(paid) / len(paid):.3g}" if paid else "error"


def _percent(share: float) -> str:
    return "more than 150 %" if share > 1.5 else percent(share)


def _evidence(sample: Sample, reward: float | None) -> Mapping[str, Json]:
    return {"id": sample.prompt.id, "completion": excerpt(sample.text), "reward": reward}
