"""The records of a check: findings, sections with their facts, and the report.

A finding carries a code that never changes, so that a script may look for it; the words around it
may. What a section measured is kept as flat facts, and as tables and bars when one number is not
enough. Everything here is JSON when written, NaN and infinity excepted, which nobody may put in.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"
Level = Literal["fatal", "warning", "advice", "ok"]
LEVELS: tuple[Level, ...] = ("fatal", "warning", "advice", "ok")
"""From worst to best. fatal: training cannot work. warning: it will probably go wrong. advice: it
could be better. ok: looked at and found good."""

EVIDENCE = 3
"""Most pieces of evidence that one finding shows."""
EXCERPT = 300
"""Longest text (characters) in a piece of evidence."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at, and what came of it."""

    level: Level
    code: str
    """Stable name in snake_case, at most once in a section."""
    message: str
    """What and where, with numbers."""
    remedy: str = ""
    """What to do about it; empty for what is ok."""
    evidence: tuple[Mapping[str, Json], ...] = ()
    """A few of the rows, ids or texts behind it."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells, ready to be shown."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    """As many cells in each as there are columns."""


@dataclass(frozen=True, slots=True)
class Bars:
    """A histogram: one bar per label, in order."""

    title: str
    labels: tuple[str, ...]
    """Short ones: the page has room for 18 characters."""
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """What one part of the check found: `data`, `reward`, `signal` or `plan`."""

    name: str
    findings: tuple[Finding, ...]
    facts: Mapping[str, Json] = field(default_factory=dict)
    """Measured numbers by a stable name; units are in the name, or in the docs of the section."""
    tables: tuple[Table, ...] = ()
    bars: tuple[Bars, ...] = ()

    @property
    def is_fatal(self) -> bool:
        """Whether this part alone rules training out."""
        return any(finding.level == "fatal" for finding in self.findings)

    def by_level(self) -> list[Finding]:
        """The findings, the worst first, otherwise in the order they were made."""
        return sorted(self.findings, key=lambda finding: LEVELS.index(finding.level))


@dataclass(frozen=True, slots=True)
class CheckReport:
    """The whole check, and what was checked."""

    subject: Mapping[str, Json]
    """What was checked: data, reward, model, what confines the reward (absent where nothing can and
    it needs nothing), version, time in UTC, seconds it took."""
    sections: tuple[Section, ...]

    @property
    def findings(self) -> Iterator[Finding]:
        """All findings, section by section."""
        return (finding for section in self.sections for finding in section.findings)

    @property
    def is_fatal(self) -> bool:
        """Whether training would be a waste of time; the command then exits with 1."""
        return any(section.is_fatal for section in self.sections)

    def count(self, level: Level) -> int:
        """How many findings are of this level."""
        return sum(finding.level == level for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """The content of check.json."""
        return {
            "fatal": self.is_fatal,
            "counts": {level: self.count(level) for level in LEVELS},
            "subject": dict(self.subject),
            "sections": [_plain(asdict(section)) for section in self.sections],
        }


def excerpt(text: str) -> str:
    """The text, its middle left out when it is longer than `EXCERPT`."""
    if len(text) <= EXCERPT:
        return text
    half = EXCERPT // 2
    return f"{text[:half]} [... {len(text) - 2 * half} characters ...] {text[-half:]}"


def counted(count: int, noun: str) -> str:
    """`1 row`, `1,200 rows`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def percent(share: float) -> str:
    """`42 %` for 0.42."""
    return f"{100 * share:.0f} %"


def _plain(value: Any) -> Any:
    """Tuples as lists, so that what is written equals what is read back."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
