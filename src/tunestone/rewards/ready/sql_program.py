"""Run a model's query on a SQLite database and compare its rows; runs in a worker of the sandbox.

SQLite itself refuses everything but reading (its authorizer), may not load code, and has limits on
lengths and memory. It cannot be trusted to notice the time: a single `LIKE` may take hours. So the
query runs in a thread that is left behind at the deadline; the sandbox's fork ends with it.
"""

import bisect
import math
import re
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar
from urllib.parse import quote

from tunestone.rewards.ready.extraction import UnusableReferenceError
from tunestone.rewards.ready.fenced import find_last_block

Row = Sequence[Any]
Numbers = tuple[float, ...]
Result = TypeVar("Result")

_LANGUAGES = ("sql", "sqlite", "sqlite3")
_START = re.compile(r"\bselect\b|\bwith\s+(?:recursive\s+)?[\w\"]+\s*(?:\(|as\b)", re.IGNORECASE)
_PIECES = re.compile(
    r"""'[^']*+(?:'|\Z)|"[^"]*+(?:"|\Z)|`[^`]*+(?:`|\Z)|\[[^\]]*+(?:\]|\Z)"""
    r"""|--[^\n]*+|/\*(?s:.*?)(?:\*/|\Z)|[();]|\border\s++by\b""",
    re.IGNORECASE,
)
_READING = {
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_FUNCTION,
    sqlite3.SQLITE_RECURSIVE,
}
_LONGEST_VALUE = 1 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Terms:
    """How queries are graded: the fields of `Sql`."""

    reward: str
    ordered: bool | None
    strict: bool
    tolerance: float
    most_rows: int
    memory_mib: int
    seconds: float


def load_program(setup: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """The function from `{"text", "arguments"}` to `{"reward", "metrics"}`.

    `setup` holds the fields of `Terms`; the arguments are `reference` and `schema` or `database`.
    """
    return partial(_grade, Terms(**setup))


def _grade(terms: Terms, payload: Mapping[str, Any]) -> dict[str, Any]:
    arguments = payload["arguments"]
    connection, right = _prepare(arguments["reference"], arguments, terms)
    ordered = terms.ordered
    if ordered is None:
        ordered = isinstance(arguments["reference"], str) and has_order(arguments["reference"])
    _restrict(connection, terms)

    def answer() -> tuple[float, float] | None:
        rows = _run(connection, payload["text"], terms)
        if rows is None:
            return None
        if len(rows) > terms.most_rows:
            return 0.0, 0.0
        matched = count_matches(rows, right, tolerance=terms.tolerance, ordered=ordered)
        f1 = 2 * matched / (len(rows) + len(right)) if rows or right else 1.0
        return float(matched == len(rows) == len(right)), f1

    found = _within(terms.seconds, answer)
    connection.interrupt()
    is_same, f1 = found or (0.0, 0.0)
    return {
        "reward": f1 if terms.reward == "share" else is_same,
        "metrics": {"executed": float(found is not None), "rows_f1": f1},
    }


def find_query(text: str, *, strict: bool) -> str | None:
    """The query in a completion: its last fenced block, else from the first SELECT or WITH on."""
    block = find_last_block(text, _LANGUAGES)
    if block is not None or strict:
        return block
    start = _START.search(text)
    if start is None:
        return None
    query = text[start.start() :]
    ends = (piece.start() for piece in _PIECES.finditer(query) if piece[0] == ";")
    return query[: next(ends, None)]


def has_order(query: str) -> bool:
    """Whether the query itself, and not only one within it, ends in an ORDER BY."""
    depth = 0
    for piece in _PIECES.finditer(query):
        depth += (piece[0] == "(") - (piece[0] == ")")
        if depth == 0 and piece[0][:1] in "oO":
            return True
    return False


def count_matches(
    rows: Sequence[Row], right: Sequence[Row], *, tolerance: float, ordered: bool
) -> int:
    """How many rows are right: at their place, or each paired with an equal one anywhere."""
    if ordered:
        return sum(_is_same_row(a, b, tolerance) for a, b in zip(rows, right, strict=False))
    groups: dict[Row, list[Numbers]] = defaultdict(list)
    for row in rows:
        groups[_texts(row)].append(_numbers(row))
    for group in groups.values():
        group.sort()
    return sum(_take(groups.get(_texts(row), []), _numbers(row), tolerance) for row in right)


def _take(group: list[Numbers], numbers: Numbers, tolerance: float) -> bool:
    """Take the first row out of the sorted group whose numbers are the same; whether there was."""
    if not numbers:
        return bool(group) and group.pop() == ()
    margin = 2 * tolerance * max(1.0, abs(numbers[0]))
    index = bisect.bisect_left(group, (numbers[0] - margin,))
    while index < len(group) and group[index][0] <= numbers[0] + margin:
        if _is_same_row(group[index], numbers, tolerance):
            del group[index]
            return True
        index += 1
    return False


def _texts(row: Row) -> Row:
    """The row with a mark in the place of each number."""
    return tuple(Ellipsis if isinstance(cell, int | float) else cell for cell in row)


def _numbers(row: Row) -> Numbers:
    return tuple(cell for cell in row if isinstance(cell, int | float))


def _is_same_row(row: Row, right: Row, tolerance: float) -> bool:
    return len(row) == len(right) and all(
        math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance)
        if isinstance(a, int | float) and isinstance(b, int | float)
        else a == b
        for a, b in zip(row, right, strict=True)
    )


def _prepare(
    reference: str | list[Row], arguments: Mapping[str, Any], terms: Terms
) -> tuple[sqlite3.Connection, list[Row]]:
    """The database and the right rows. What fails here is the row's fault."""
    try:
        if "database" in arguments:
            # Immutable: no lock or journal file is looked for in a folder that may only be read.
            path = f"file:{quote(arguments['database'])}?mode=ro&immutable=1"
            connection = sqlite3.connect(path, uri=True, check_same_thread=False)
        else:
            connection = sqlite3.connect(":memory:", check_same_thread=False)
            connection.executescript(arguments["schema"])
        connection.text_factory = lambda data: data.decode(errors="replace")
        if not isinstance(reference, str):
            return connection, reference
        rows: list[Row] = connection.execute(reference).fetchmany(terms.most_rows + 1)
    except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
        raise UnusableReferenceError(f"the row's own SQL fails: {error}") from None
    if len(rows) > terms.most_rows:
        raise UnusableReferenceError(f"the reference gives more than {terms.most_rows} rows")
    return connection, rows


def _restrict(connection: sqlite3.Connection, terms: Terms) -> None:
    """From now on it may only read, in bounded memory."""
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute(f"PRAGMA hard_heap_limit = {terms.memory_mib << 20}")
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_VALUE)
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    connection.set_authorizer(
        lambda action, *_: sqlite3.SQLITE_OK if action in _READING else sqlite3.SQLITE_DENY
    )


def _run(connection: sqlite3.Connection, text: str, terms: Terms) -> list[Row] | None:
    """The rows of the query in the completion, one too many at most, or None when it fails."""
    query = find_query(text, strict=terms.strict)
    if query is None:
        return None
    try:
        cursor = connection.execute(query)
        return cursor.fetchmany(terms.most_rows + 1) if cursor.description else None
    # Two statements are a Warning, zero bytes and lone surrogates ValueErrors.
    except (sqlite3.Error, sqlite3.Warning, ValueError, MemoryError):
        return None


def _within(seconds: float, work: Callable[[], Result]) -> Result | None:
    """What it returns, or None when it takes longer; then it is left behind."""
    future = ThreadPoolExecutor(1).submit(work)
    try:
        return future.result(seconds)
    except TimeoutError:
        return None
