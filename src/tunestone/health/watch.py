"""Signs that a run goes wrong, told after the step that shows them.

The rules are in rules.py, their thresholds in limits.py; docs/health.md says how
often they were right. A sign is told once a run, as an event and a line on the terminal, and kept
for the report. What then happens is the user's decision (`on_alert`); the loop carries it out.

A run that went back to a checkpoint has steps that led nowhere. They stay in its logs, but the
watch is given the others only: those that its weights come from.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

from tunestone.health.limits import LIMITS, Limit, limit
from tunestone.health.rules import RULES, Record

Action = Literal["note", "pause", "stop", "rollback"]
ACTIONS: tuple[Action, ...] = ("stop", "pause", "rollback", "note")
"""The gravest first: of several alerts at one step, it is what is done."""


@dataclass(frozen=True, slots=True)
class Alert:
    """One sign, with the numbers behind it."""

    code: str
    message: str
    metric: str
    value: float
    """As compared with the limit, in its unit."""
    limit: Limit
    first: int
    """First step of the window that shows it."""
    last: int

    def details(self) -> dict[str, Any]:
        """The evidence, as an event keeps it."""
        return {
            "code": self.code,
            "step": self.last,
            "metric": self.metric,
            "window": [self.first, self.last],
            "value": self.value,
            "threshold": self.limit.value,
            "unit": self.limit.unit,
            "rule": self.limit.rule,
            "source": self.limit.source,
        }


def find_alerts(records: Sequence[Record]) -> list[Alert]:
    """The signs that the lines of metrics.jsonl show up to the last of them."""
    alerts = []
    for rule in RULES:
        if len(records) < rule.fewest:
            continue
        if not all(name in record for name in rule.needs for record in (records[0], records[-1])):
            continue
        found = rule.find(records)
        if found is not None:
            alerts.append(
                Alert(
                    code=rule.code,
                    message=found.message,
                    metric=found.metric,
                    value=found.value,
                    limit=LIMITS[found.limit],
                    first=found.first,
                    last=records[-1]["step"],
                )
            )
    return alerts


def judge_base(rewards: Sequence[float]) -> Alert | None:
    """A sign that the base's rewards on held-out prompts leave little to learn from, if any.

    AWS: a base that earns nothing, or more than 95 % of what there is, is no base to start from.
    """
    mean, most = fmean(rewards), max(rewards)
    if most <= 0:
        return _of_base(
            "base_earns_nothing.reward",
            most,
            f"The base model earns nothing on {len(rewards)} held-out prompts. A reward that is "
            "never earned cannot be learnt from: take easier prompts, or give partial credit.",
        )
    if min(rewards) >= 0 and most <= 1 and mean > limit("base_solves_it.reward"):
        return _of_base(
            "base_solves_it.reward",
            mean,
            f"The base model earns {mean:.3f} of at most 1 already; hardly anything is left to "
            "learn. Take harder prompts or a stricter reward.",
        )
    return None


def _of_base(name: str, value: float, message: str) -> Alert:
    crossed = LIMITS[name]
    return Alert(crossed.code, message, "base_reward", value, crossed, first=0, last=0)


class HealthWatch:
    """Tells each sign once."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        """`records`: the steps that the weights come from so far; their signs were told then."""
        self._records: list[Record] = []
        self._told: set[str] = set()
        for record in records:
            self.add(record)

    def add(self, record: Record) -> list[Alert]:
        """The signs that are new with this step."""
        self._records.append(record)
        fresh = [alert for alert in find_alerts(self._records) if alert.code not in self._told]
        self._told |= {alert.code for alert in fresh}
        return fresh


def told_alerts(events: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The alerts among the lines of events.jsonl, each once: a step that was repeated after a
    crash tells its signs again."""
    alerts = [
        {k: v for k, v in event.items() if k != "kind"}
        for event in events
        if event["kind"] == "alert"
    ]
    return list({(alert["code"], alert["step"]): alert for alert in alerts}.values())
