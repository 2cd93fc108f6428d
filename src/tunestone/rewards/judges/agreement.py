"""Does a judge agree with people? To be asked before a judge's opinion becomes the training goal.

Rows that people have labelled are graded, and the grades held against the labels: accuracy, Cohen's
kappa (plain, and weighted by squared distance) with intervals, a confusion table, the mean
difference, and how often the judge orders two answers to one prompt as the people did. A judge
should agree with people at least as well as people agree with one another; label some rows twice to
learn what that is. What the judge could not grade is counted, and never guessed.

Labels within 0..1 are compared with rewards; labels on another scale, such as 1 to 5, with the
sub-score `score`, in which our judges report on their own scale. Judge values that are not all
whole numbers are first rounded to the nearest label (the lower of two), since a 0.73 never equals
a 0.75. Left out: more than two raters, and Krippendorff's alpha, which they would need.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from tunestone.data import load_samples
from tunestone.errors import DataError, RewardError
from tunestone.stats import KappaWeights, cohen_kappa, cohen_kappa_interval, wilson_interval
from tunestone.types import Grade, Grader, Prompt, Sample

Label = float | str
Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class AgreementReport:
    """How a judge and people agree. None: not defined for these rows (or for a relative judge)."""

    rows: int
    failed: int
    """Rows the judge could not grade; everything below is about the others."""
    failures: Mapping[str, int]
    """Kind of failure -> rows."""
    compared: str
    """What was held against the labels: `reward`, or the name of a sub-score."""
    accuracy: float | None = None
    """Share of rows with exactly the label people gave."""
    accuracy_interval: Interval | None = None
    kappa: float | None = None
    """Cohen's kappa: 1 perfect, 0 chance."""
    kappa_interval: Interval | None = None
    weighted_kappa: float | None = None
    """The same with squared distances: being off by one is less bad than being off by four."""
    weighted_kappa_interval: Interval | None = None
    bias: float | None = None
    """Mean of judge minus label, on the labels' scale; above 0 the judge is too kind."""
    levels: tuple[float, ...] = ()
    """The values in the table, ascending."""
    confusion: tuple[tuple[int, ...], ...] = ()
    """Rows of the table are people's labels, columns the judge's."""
    pairs: int = 0
    """Pairs of answers to one prompt that people labelled differently."""
    pair_agreement: float | None = None
    """Share of them that the judge orders alike; a tie of the judge counts one half."""

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON."""
        return asdict(self)


def read_labelled(path: Path) -> tuple[list[Sample], list[Label]]:
    """Samples and labels of a JSONL file with `messages`, `completion` and `label`.

    Any other keys are the grader's, as in a data file. Rows that differ only in `completion`,
    `label` and `id` are answers to one prompt and get one prompt id. Raises DataError naming the
    line.
    """
    samples, labels = list[Sample](), list[Label]()
    prompt_ids, lines = dict[str, str](), set[str]()
    for sample in load_samples(path):
        prompt = sample.prompt
        row = dict(prompt.row)
        label = row.pop("label", None)
        if not isinstance(label, str | int | float) or not _is_usable(label):
            raise _fault(prompt, path, "needs a `label`: a number, true, false or a name.")
        if prompt.source in lines:
            raise _fault(prompt, path, "has several completions, but one label.")
        lines.add(prompt.source)
        content = json.dumps([list(map(dict, prompt.messages)), row], sort_keys=True)
        prompt_id = prompt_ids.setdefault(content, prompt.id)
        samples.append(replace(sample, prompt=replace(prompt, id=prompt_id, row=row)))
        labels.append(label if isinstance(label, str) else float(label))
    return samples, labels


def measure_agreement(
    grader: Grader,
    samples: Sequence[Sample],
    labels: Sequence[Label],
    *,
    values: Mapping[str, float] | None = None,
    metric: str | None = None,
    relative: bool = False,
) -> AgreementReport:
    """Grade the samples and compare with the labels people gave them, one each.

    `values` gives the number of each label that is a name, such as {"good": 1, "bad": 0}. `metric`
    names the sub-score to compare with; without one the module's rule decides. `relative` is for
    judges whose rewards only compare answers (pairwise, ranking): then only pairs are looked at.
    Raises RewardError for a label without a value, and when no row could be graded.
    """
    if len(samples) != len(labels) or not samples:
        raise RewardError(
            f"One label per sample is needed, got {len(samples)} samples and {len(labels)} labels.",
            remedy="Give at least one labelled row.",
        )
    people_all = [_number(label, values or {}) for label in labels]
    on_reward_scale = all(0 <= label <= 1 for label in people_all)
    compared = metric or ("reward" if on_reward_scale or relative else "score")
    grades = grader.grade(samples)
    graded = [i for i, grade in enumerate(grades) if grade.reward is not None]
    if not graded:
        raise RewardError(
            f"The judge could not grade any of the {len(samples)} rows. "
            f"The first error: {grades[0].error}",
            remedy="`tunestone grade` shows the error of each row.",
        )
    judge = [_value(grades[i], compared) for i in graded]
    people = [people_all[i] for i in graded]
    report = AgreementReport(
        rows=len(samples),
        failed=len(samples) - len(graded),
        failures=_count_failures(grades),
        compared=compared,
        **_compare_pairs([samples[i].prompt.id for i in graded], judge, people=people),
    )
    return report if relative else replace(report, **_compare_levels(judge, people))


def render_agreement(report: AgreementReport) -> str:
    """The report as a few lines of text for a terminal."""
    lines = [
        f"{report.rows - report.failed} of {report.rows} rows graded, compared by {report.compared}"
    ]
    if report.failed:
        kinds = ", ".join(f"{kind} {count}" for kind, count in report.failures.items())
        lines.append(f"  not graded, and left out below: {kinds}")
    lines += [
        _line("accuracy", report.accuracy, report.accuracy_interval),
        _line("Cohen's kappa", report.kappa, report.kappa_interval),
        _line("  quadratic weights", report.weighted_kappa, report.weighted_kappa_interval),
        _line("judge minus people", report.bias, None),
        _line(f"pairs ordered alike ({report.pairs})", report.pair_agreement, None),
    ]
    if report.confusion:
        header = ["people \\ judge", *(f"{level:g}" for level in report.levels)]
        table = [
            [f"{level:g}", *map(str, counts)]
            for level, counts in zip(report.levels, report.confusion, strict=True)
        ]
        lines += ["", *("".join(f"{cell:>8}" for cell in row) for row in [header, *table])]
    return "\n".join(lines)


def _compare_levels(judge: Sequence[float], people: Sequence[float]) -> dict[str, Any]:
    bias = sum(j - p for j, p in zip(judge, people, strict=True)) / len(people)
    if not all(value.is_integer() for value in judge):
        known = sorted(set(people))
        judge = [min(known, key=lambda level: abs(level - value)) for value in judge]
    levels = tuple(sorted({*judge, *people}))
    cells = Counter(zip(people, judge, strict=True))
    hits = sum(cells[level, level] for level in levels)
    return {
        "accuracy": hits / len(people),
        "accuracy_interval": wilson_interval(hits, len(people)),
        **_kappa("kappa", judge, people=people, weights="none"),
        **_kappa("weighted_kappa", judge, people=people, weights="quadratic"),
        "bias": bias,
        "levels": levels,
        "confusion": tuple(tuple(cells[p, j] for j in levels) for p in levels),
    }


def _kappa(
    name: str, judge: Sequence[float], *, people: Sequence[float], weights: KappaWeights
) -> dict[str, Any]:
    kappa = cohen_kappa(judge, people, weights=weights)
    if math.isnan(kappa):
        return {}
    interval = cohen_kappa_interval(judge, people, weights=weights)
    return {name: kappa, f"{name}_interval": interval}


def _compare_pairs(
    prompts: Sequence[str], judge: Sequence[float], *, people: Sequence[float]
) -> dict[str, Any]:
    members: dict[str, list[int]] = {}
    for i, prompt in enumerate(prompts):
        members.setdefault(prompt, []).append(i)
    results = []
    for positions in members.values():
        for i, j in combinations(positions, 2):
            if people[i] != people[j]:
                better, worse = (i, j) if people[i] > people[j] else (j, i)
                results.append(
                    (judge[better] > judge[worse]) + 0.5 * (judge[better] == judge[worse])
                )
    agreement = sum(results) / len(results) if results else None
    return {"pairs": len(results), "pair_agreement": agreement}


def _count_failures(grades: Sequence[Grade]) -> dict[str, int]:
    flags = [grade.flags[0] if grade.flags else "other_error" for grade in grades if grade.error]
    return dict(Counter(flags).most_common())


def _value(grade: Grade, compared: str) -> float:
    value = grade.reward if compared == "reward" else grade.metrics.get(compared)
    if value is None:
        raise RewardError(
            f"The labels call for the sub-score {compared!r}, but this reward has "
            f"{sorted(grade.metrics) or 'no sub-scores'}.",
            remedy="Give the labels on the scale of the reward, 0 to 1, or name a sub-score.",
        )
    return float(value)


def _number(label: Label, values: Mapping[str, float]) -> float:
    if not isinstance(label, str):
        return float(label)
    if label not in values:
        raise RewardError(
            f"The label {label!r} has no value; there are values for {sorted(values) or 'none'}.",
            remedy="Say what each name is worth: --value NAME=NUMBER, once for each.",
        )
    return float(values[label])


def _is_usable(label: Label) -> bool:
    return bool(label.strip()) if isinstance(label, str) else math.isfinite(label)


def _line(name: str, value: float | None, interval: Interval | None) -> str:
    if value is None:
        return f"{name:<26} not defined for these rows"
    spread = f"  (95 %: {interval[0]:.2f} to {interval[1]:.2f})" if interval else ""
    return f"{name:<26} {value:.2f}{spread}"


def _fault(prompt: Prompt, path: Path, message: str) -> DataError:
    line = prompt.source.rpartition(":")[2]
    return DataError(
        f"The row {message}",
        path=str(path),
        line=int(line) if line.isdecimal() else None,
        remedy="Write one answer per row, with the label that people gave it.",
    )
