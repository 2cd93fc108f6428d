"""Signs that a run goes wrong, read from the lines of its metrics.

Four rules, each with its window and threshold below; a sign is told once a run, as an event and a
line on the terminal. Whether to stop is the user's decision. Thresholds: rft_services.md 8.6 and
15.6 (AWS: rewards that stay below 0.15 and entropy near zero are concerns; Azure's: three times the
tokens, a gap of 0.10 between training and validation). Ours is what "near zero" means (healthy runs
of our recipes with short answers end at 0.04 nats), and that completions which run into their limit
have exploded too: the run in docs/rewards/reward-hacking.md that was paid for length did so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

WINDOW = 5
"""Steps over which a mean is taken, at the beginning and at the end."""
_COLLAPSED_ENTROPY = 0.02  # nats
_LONGER, _MOSTLY_CUT = 3.0, 0.5
_LOW_REWARD, _PLATEAU_STEPS, _PLATEAU_GAIN = 0.15, 20, 0.02
_DIVERGED_GAP, _DIVERGED_FALL = 0.10, 0.05
_SOLVED = 0.95

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Alert:
    """One sign, with the numbers behind it."""

    code: str
    message: str


def find_alerts(records: Sequence[Record]) -> list[Alert]:
    """The signs that the lines of metrics.jsonl show up to the last of them."""
    if len(records) < WINDOW:
        return []
    found = (_entropy(records), _length(records), _plateau(records), _divergence(records))
    return [alert for alert in found if alert is not None]


def judge_base(rewards: Sequence[float]) -> Alert | None:
    """A sign that the base's rewards on held-out prompts leave little to learn from, if any.

    AWS: a base that earns nothing, or more than 95 % of what there is, is no base to start from.
    """
    mean, most = fmean(rewards), max(rewards)
    if most <= 0:
        return Alert(
            "base_earns_nothing",
            f"The base model earns nothing on {len(rewards)} held-out prompts. A reward that is "
            "never earned cannot be learnt from: take easier prompts, or give partial credit.",
        )
    if min(rewards) >= 0 and most <= 1 and mean > _SOLVED:
        return Alert(
            "base_solves_it",
            f"The base model earns {mean:.3f} of at most 1 already; hardly anything is left to "
            "learn. Take harder prompts or a stricter reward.",
        )
    return None


class HealthWatch:
    """Tells each sign once."""

    def __init__(self, records: Sequence[Record] = ()) -> None:
        """`records`: what a resumed run has logged already; its signs were told then."""
        self._records = list(records)
        self._told = {alert.code for n in range(len(self._records)) for alert in self._at(n + 1)}

    def add(self, record: Record) -> list[Alert]:
        """The signs that are new with this step."""
        self._records.append(record)
        fresh = [a for a in self._at(len(self._records)) if a.code not in self._told]
        self._told |= {alert.code for alert in fresh}
        return fresh

    def _at(self, steps: int) -> list[Alert]:
        return find_alerts(self._records[:steps])


def _mean(records: Sequence[Record], name: str) -> float:
    return fmean(record[name] for record in records)


def _entropy(records: Sequence[Record]) -> Alert | None:
    entropy = _mean(records[-WINDOW:], "entropy")
    if entropy >= _COLLAPSED_ENTROPY:
        return None
    return Alert(
        "entropy_collapse",
        f"Entropy {entropy:.3f} nats over the last {WINDOW} steps: the policy hardly varies any "
        "more, so groups agree and nothing is learnt. Lower learning_rate, or stop here.",
    )


def _length(records: Sequence[Record]) -> Alert | None:
    first = _mean(records[:WINDOW], "length_mean")
    last = _mean(records[-WINDOW:], "length_mean")
    cut, cut_at_first = _mean(records[-WINDOW:], "truncated_share"), records[0]["truncated_share"]
    if cut > _MOSTLY_CUT and cut > _LONGER * cut_at_first:
        return Alert(
            "length_explosion",
            f"{100 * cut:.0f} % of the completions run into max_completion_tokens, "
            f"{100 * cut_at_first:.0f} % did in the first step. Read some: does the reward pay for "
            "length?",
        )
    if last <= _LONGER * first:
        return None
    return Alert(
        "length_explosion",
        f"Completions take {last:.0f} tokens, {last / first:.1f} times as many as at the start "
        f"({first:.0f}). Read some: does the reward pay for length?",
    )


def _plateau(records: Sequence[Record]) -> Alert | None:
    if len(records) < _PLATEAU_STEPS:
        return None
    last = _mean(records[-WINDOW:], "reward_mean")
    gain = last - _mean(records[-_PLATEAU_STEPS : -_PLATEAU_STEPS + WINDOW], "reward_mean")
    if last >= _LOW_REWARD or gain >= _PLATEAU_GAIN:
        return None
    return Alert(
        "low_reward_plateau",
        f"Reward {last:.3f}, below {_LOW_REWARD} and {gain:+.3f} within {_PLATEAU_STEPS} steps: "
        "too sparse to learn from. Take easier prompts, or give partial credit.",
    )


def _divergence(records: Sequence[Record]) -> Alert | None:
    validated = [r["validation_reward"] for r in records if "validation_reward" in r]
    if len(validated) < 2:
        return None
    training, last, best = _mean(records[-WINDOW:], "reward_mean"), validated[-1], max(validated)
    if training - last < _DIVERGED_GAP or best - last < _DIVERGED_FALL:
        return None
    return Alert(
        "train_validation_divergence",
        f"Training reward {training:.3f}, validation reward {last:.3f} and falling from "
        f"{best:.3f}: it learns the training prompts by heart. The best checkpoint is kept.",
    )
