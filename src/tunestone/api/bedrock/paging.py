"""Lists: filters, order by time, and pages that stay right while things come and go.

A page goes on after the last row it showed (its time and id), not after a number of rows, so that
nothing is shown twice or left out. The token holds that row and a fingerprint of the filters.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, Select, and_, func, or_
from sqlalchemy.orm import InstrumentedAttribute, Session

from tunestone.api.bedrock.errors import ValidationException
from tunestone.api.bedrock.shapes import Json

Row = TypeVar("Row")
_PAGE = 100
"""Rows of a page when `maxResults` is absent."""
_PAGING = ("maxResults", "nextToken")


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """Some of the rows."""

    rows: Sequence[Row]
    next_token: str | None
    """None after the last row."""


def read_page(session: Session, table: type[Row], query: Select[Row], given: Json) -> Page[Row]:
    """A page of `query` over `table`, newest first unless asked otherwise.

    `table` has the columns `id` and `created_at`; `given` are a list operation's checked members.
    Raises ValidationException for a token that is none of this list.
    """
    time, key = _columns(table)
    rising = given.get("sortOrder") == "Ascending"
    size = given.get("maxResults", _PAGE)
    filters = _fingerprint(given)
    if "nextToken" in given:
        query = query.where(_after(time, key, *_read_token(given["nextToken"], filters), rising))
    order = (time.asc(), key.asc()) if rising else (time.desc(), key.desc())
    rows = session.scalars(query.order_by(*order).limit(size + 1)).all()
    if len(rows) <= size:
        return Page(rows, None)
    last: Any = rows[size - 1]
    token = json.dumps([last.created_at.isoformat(), last.id, filters]).encode()
    return Page(rows[:size], base64.urlsafe_b64encode(token).decode())


def between(table: type[Any], after: datetime | None, before: datetime | None) -> list[Any]:
    """Conditions on the time something was made, both ends excluded."""
    time, _ = _columns(table)
    conditions: list[ColumnElement[bool]] = []
    if after is not None:
        conditions.append(time > after)
    if before is not None:
        conditions.append(time < before)
    return conditions


def name_contains(column: Any, part: str | None) -> list[Any]:
    """Conditions on a name; capitals do not matter."""
    return [] if part is None else [func.lower(column).contains(part.lower(), autoescape=True)]


def _columns(table: Any) -> tuple[InstrumentedAttribute[datetime], InstrumentedAttribute[str]]:
    return table.created_at, table.id


def _after(
    time: InstrumentedAttribute[datetime],
    key: InstrumentedAttribute[str],
    last_time: datetime,
    last_id: str,
    rising: bool,
) -> ColumnElement[bool]:
    if rising:
        return or_(time > last_time, and_(time == last_time, key > last_id))
    return or_(time < last_time, and_(time == last_time, key < last_id))


def _fingerprint(given: Json) -> str:
    kept = {name: str(value) for name, value in given.items() if name not in _PAGING}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def _read_token(token: str, filters: str) -> tuple[datetime, str]:
    try:
        time, key, made_for = json.loads(base64.urlsafe_b64decode(token))
        moment = datetime.fromisoformat(time)
    except (ValueError, TypeError) as error:
        raise ValidationException("The provided nextToken is not valid.") from error
    if made_for != filters or moment.tzinfo is None or not isinstance(key, str):
        raise ValidationException(
            "The provided nextToken is not valid: it belongs to a list with other filters."
        )
    return moment, key
