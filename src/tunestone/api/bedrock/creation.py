"""What every creation has in common: one at a time, each token once, each name once, tags.

Creations change few rows and are rare, so they simply queue: the first statement of the transaction
takes a lock that all of them want (SQLite's write lock; a row's lock on PostgreSQL). What is read
after it still holds when the transaction ends, so that of two creations of one name one is refused.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sqlalchemy import delete, func, select, text
from sqlalchemy.orm import Session

from tunestone.api.bedrock.errors import (
    ConflictException,
    TooManyTagsException,
    ValidationException,
)
from tunestone.api.bedrock.shapes import Json
from tunestone.jobs.store import Store, now
from tunestone.jobs.tables import Once, Tag

MOST_TAGS = 50
"""On one thing, as in Bedrock; its message names the number too."""
_LOCK = text(
    "INSERT INTO settings (key, value) VALUES ('bedrock.lock', '{}') "
    "ON CONFLICT (key) DO UPDATE SET value = excluded.value"
)


@contextmanager
def exclusively(store: Store) -> Iterator[Session]:
    """A transaction beside which no other of its kind runs."""
    with store.session() as session:
        session.execute(_LOCK)
        yield session


def made_before(session: Session, operation: str, given: Json) -> str | None:
    """The ARN that the same request with the same token made. Raises ConflictException when the
    token came with another request."""
    token = given.get("clientRequestToken")
    once = session.get(Once, (operation, token)) if token else None
    if once is None:
        return None
    if once.fingerprint != _fingerprint(given):
        raise ConflictException(
            f"The clientRequestToken {token} was used with other parameters. Use a new token, or "
            "send the same request again."
        )
    return once.made


def remember(session: Session, operation: str, given: Json, arn: str) -> None:
    """Keep what a token made."""
    if token := given.get("clientRequestToken"):
        session.add(
            Once(
                operation=operation,
                token=token,
                fingerprint=_fingerprint(given),
                made=arn,
                created_at=now(),
            )
        )


def put_tags(session: Session, arn: str, tags: Sequence[Json], *, shown: str = "") -> None:
    """Add tags to a thing, or change them; `shown` is its ARN where it is kept under another name.

    Raises TooManyTagsException, or ValidationException for a key that comes twice or is AWS's own.
    """
    keys = [tag["key"] for tag in tags]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise ValidationException(f"Duplicate tag keys found: {', '.join(twice)}.")
    if reserved := [key for key in keys if key.lower().startswith("aws:")]:
        raise ValidationException(
            f"Tag keys that begin with aws: are reserved: {', '.join(reserved)}."
        )
    for tag in tags:
        session.merge(Tag(arn=arn, key=tag["key"], value=tag["value"]))
    session.flush()
    count = session.scalar(select(func.count()).select_from(Tag).where(Tag.arn == arn)) or 0
    if count > MOST_TAGS:
        raise TooManyTagsException(
            f"The resource would have {count} tags; at most {MOST_TAGS} are allowed.",
            resourceName=shown or arn,
        )


def drop_tags(session: Session, arn: str) -> None:
    """Forget all tags of a thing that is deleted."""
    session.execute(delete(Tag).where(Tag.arn == arn))


def _fingerprint(given: Json) -> str:
    rest = {name: value for name, value in given.items() if name != "clientRequestToken"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
