"""What is drawn of a run, from the lines of its logs.

`points` gives what one step adds to each chart; a page that is live adds the same to what it has.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunestone.pages.samples import Entry

_Z95 = statistics.NormalDist().inv_cdf(0.975)

Point = list[float | None]
"""[step, value], or [step, value, lower, upper] with a 95 % interval."""
Points = dict[str, dict[str, Point]]
"""Chart -> series -> point."""
Interval = tuple[float, float, float]
"""Mean, lower and upper end."""


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart."""

    id: str
    title: str
    unit: str
    about: str
    """What it shows and how to read it, in a sentence."""
    fields: tuple[tuple[str, str], ...] = ()
    """(series, key of the metrics line), where it is as simple as that."""
    hide_zeros: bool = False
    """Not shown as long as all values are 0."""


CHARTS = (
    Chart(
        "reward",
        "Reward",
        "",
        "Mean reward of a step's completions and of the answers to the validation prompts. Bands: "
        "95 % intervals, over groups in training, over prompts in validation.",
        (("shadow", "shadow_reward_mean"),),
    ),
    Chart(
        "length",
        "Episode length",
        "tokens",
        "Tokens of a completion. A rise together with the reward may mean that length is paid for.",
        (("mean", "length_mean"), ("longest", "length_max")),
    ),
    Chart(
        "entropy",
        "Entropy",
        "nats",
        "How much the policy varies. Near 0 groups agree and nothing is learnt.",
        (("entropy", "entropy"),),
    ),
    Chart(
        "signal",
        "Groups with signal",
        "share",
        "Groups whose rewards differ; only they teach anything.",
        (("groups with signal", "signal_share"),),
    ),
    Chart(
        "gradient",
        "Gradient norm",
        "",
        "Before clipping. Spikes come before a collapse.",
        (("gradient norm", "gradient_norm"),),
    ),
    Chart(
        "kl",
        "KL to base",
        "nats",
        "How far the policy has moved from the base model, per token.",
        (("KL to base", "kl_base"),),
        hide_zeros=True,
    ),
    Chart(
        "clip",
        "Clipped",
        "share",
        "Tokens whose probability ratio ran into the clip bounds.",
        (("clipped", "clip_share"),),
        hide_zeros=True,
    ),
    Chart(
        "truncated",
        "Cut off",
        "share",
        "Completions that ran into max_completion_tokens.",
        (("cut off", "truncated_share"),),
        hide_zeros=True,
    ),
    Chart(
        "sameness",
        "Sameness",
        "share",
        "Completions that another one of their group equals, and repetition within completions.",
        (("identical in a group", "identical_share"), ("repetition", "repetition_share")),
        hide_zeros=True,
    ),
    Chart(
        "components",
        "Reward components",
        "",
        "Mean of each sub-score that the grader reports.",
    ),
    Chart(
        "latency",
        "Grader latency",
        "seconds",
        "Wall time of a grade; with several graders each one's mean.",
        (("mean", "grade_seconds_mean"), ("slowest", "grade_seconds_max")),
    ),
    Chart(
        "errors",
        "Grader errors",
        "completions",
        "Grades that failed, by kind, and calls that were made again.",
        (("failed", "grade_errors"), ("made again", "grade_retries")),
        hide_zeros=True,
    ),
    Chart(
        "speed",
        "Sampling speed",
        "tokens per second",
        "Completion tokens per second of sampling.",
        (("tokens per second", "tokens_per_second"),),
    ),
)


def points(
    record: Mapping[str, Any],
    training: Mapping[int, Interval],
    validation: Mapping[int, Interval],
) -> Points:
    """What a line of metrics.jsonl adds to the charts; intervals by step, as far as known."""
    step = record["step"]
    added: Points = {
        chart.id: {
            name: [step, record[key]] for name, key in chart.fields if record.get(key) is not None
        }
        for chart in CHARTS
    }
    rewards = {"training": _with_band(step, record["reward_mean"], training.get(step))}
    if "validation_reward" in record:
        value = record["validation_reward"]
        rewards["validation"] = _with_band(step, value, validation.get(step))
    added["reward"] = {**rewards, **added["reward"]}
    named = (
        ("components", record.get("scores", {})),
        ("latency", record.get("grader_seconds", {})),
        ("errors", record.get("error_kinds", {})),
    )
    for chart, values in named:
        added[chart] |= {name: [step, value] for name, value in values.items()}
    return {chart: series for chart, series in added.items() if series}


def _with_band(step: int, value: float, interval: Interval | None) -> Point:
    return [step, value, None, None] if interval is None else [step, value, *interval[1:]]


def collect(
    records: Iterable[Mapping[str, Any]],
    training: Mapping[int, Interval],
    validation: Mapping[int, Interval],
) -> dict[str, dict[str, list[Point]]]:
    """All points of a run: chart -> series -> points. The base's validation is step 0."""
    charts: dict[str, dict[str, list[Point]]] = {chart.id: {} for chart in CHARTS}
    charts["reward"]["training"] = []  # the first colour, whichever comes first
    if 0 in validation:
        base = validation[0]
        charts["reward"]["validation"] = [_with_band(0, base[0], base)]
    for record in records:
        for chart, series in points(record, training, validation).items():
            for name, point in series.items():
                charts[chart].setdefault(name, []).append(point)
    return charts


def training_intervals(entries: Sequence[Entry]) -> dict[int, Interval]:
    """Mean reward of each step, with the 95 % interval that follows from its groups' means.

    Completions of one prompt resemble each other, so a step has as many independent values as
    groups. Steps with fewer than two graded groups have no interval.
    """
    rewards: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for entry in entries:
        if entry.reward is not None:
            rewards[entry.step][entry.prompt_id].append(entry.reward)
    intervals = {}
    for step, groups in rewards.items():
        means = [statistics.fmean(group) for group in groups.values()]
        if len(means) > 1:
            intervals[step] = _normal(means)
    return intervals


def validation_intervals(lines: Iterable[Mapping[str, Any]]) -> dict[int, Interval]:
    """Mean reward of each validation with its 95 % interval: Wilson's where all are 0 or 1."""
    from tunestone import stats  # not earlier: numpy is behind it, which a server may never need

    rewards: dict[int, list[float]] = defaultdict(list)
    for line in lines:
        if line["reward"] is not None:
            rewards[line["step"]].append(line["reward"])
    intervals = {}
    for step, values in rewards.items():
        if set(values) <= {0.0, 1.0}:
            low, high = stats.wilson_interval(round(sum(values)), len(values))
            intervals[step] = (statistics.fmean(values), low, high)
        elif len(values) > 1:
            intervals[step] = _normal(values)
    return intervals


def _normal(values: Sequence[float]) -> Interval:
    """Mean and normal 95 % interval of independent values."""
    mean = statistics.fmean(values)
    half = _Z95 * statistics.stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half
