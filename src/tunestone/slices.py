"""Parts of a data set by what its rows say of themselves: level, topic, label.

A key is a path into the row's own fields, `metadata.level` for one within another; its values are
texts, numbers, or yes and no. A mean over all prompts hides where a model gained and where it lost.
"""

import difflib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tunestone.errors import DataError

FEWEST_VALUES, MOST_VALUES = 2, 20
"""How many values a key has that is chosen by itself."""
FEWEST_ROWS = 5
"""Rows that each of its values has at least."""
LONGEST_VALUE = 80
"""Characters of a value, of a key that is chosen by itself."""
MOST_VALUES_NAMED = 100
"""Values of a key that was asked for."""
ABSENT = "(none)"
"""Stands for the value of a row without the key."""

Scalar = str | int | float | bool


def fields_of(row: Mapping[str, Any]) -> dict[str, str]:
    """Path -> value as text, of every field that is a text, a number, or yes and no."""
    return dict(_walk(row, ""))


def _walk(row: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from _walk(value, f"{prefix}{name}.")
        elif isinstance(value, bool):
            yield f"{prefix}{name}", "yes" if value else "no"
        elif isinstance(value, Scalar):
            yield f"{prefix}{name}", str(value)


def choose_keys(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys worth a table: few short values, each with several rows; in the order of the fields.

    Of keys that part the rows in the same way the first is taken.
    """
    fields = [fields_of(row) for row in rows]
    partitions: dict[tuple[int, ...], str] = {}
    for key in dict.fromkeys(key for known in fields for key in known):
        values = [known.get(key, ABSENT) for known in fields]
        counts = Counter(values)
        few = FEWEST_VALUES <= len(counts) <= MOST_VALUES and min(counts.values()) >= FEWEST_ROWS
        if few and max(map(len, counts)) <= LONGEST_VALUE:
            order = list(counts)  # in the order of their first rows
            partitions.setdefault(tuple(order.index(value) for value in values), key)
    return list(partitions.values())


def split_by(rows: Sequence[Mapping[str, Any]], key: str) -> dict[str, list[int]]:
    """Value -> positions of its rows; numbers ascending, other values in alphabetical order."""
    positions: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        positions.setdefault(fields_of(row).get(key, ABSENT), []).append(i)
    return dict(sorted(positions.items(), key=lambda item: _order(item[0])))


def _order(value: str) -> tuple[bool, float, str]:
    try:
        return False, float(value), value
    except ValueError:
        return True, 0.0, value


def refuse_unknown_keys(rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> None:
    """Raise DataError for a key that no row has, or that has too many values for a table."""
    known = sorted({key for row in rows for key in fields_of(row)})
    for key in keys:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            listed = f"The rows have: {', '.join(known)}." if known else "The rows have no fields."
            raise DataError(
                f"No held-out row has a field '{key}' to slice by.",
                remedy=f"Did you mean '{close[0]}'?" if close else listed,
            )
        count = len(split_by(rows, key))
        if count > MOST_VALUES_NAMED:
            raise DataError(
                f"The field '{key}' has {count} different values in the held-out rows; a table "
                f"of slices takes {MOST_VALUES_NAMED} at most.",
                remedy="Slice by a field with fewer values.",
            )
