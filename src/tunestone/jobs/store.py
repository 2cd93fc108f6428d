"""The database: SQLite in the data folder by default, PostgreSQL by URL.

Queries stand where they are needed, in SQLAlchemy's words; this module opens sessions and says what
must hold for all of them: SQLite in WAL mode with foreign keys on, one transaction per `session`.
"""

import secrets
import string
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.orm import Session, sessionmaker

from tunestone.jobs.tables import Base

_ALPHABET = string.ascii_lowercase + string.digits


class Store:
    """The server's memory."""

    def __init__(self, url: str) -> None:
        """`url` as SQLAlchemy takes it, such as `sqlite:////folder/tunestone.db`."""
        self.engine: Engine = create_engine(url, pool_pre_ping=True)
        if self.engine.dialect.name == "sqlite":
            event.listen(self.engine, "connect", _prepare_sqlite)
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)

    def migrate(self) -> None:
        """Bring the tables up to date."""
        Base.metadata.create_all(self.engine)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """One transaction: committed at the end, rolled back by an exception.

        Rows stay readable after it; they are then a picture of that moment.
        """
        with self._sessions() as session, session.begin():
            yield session

    def close(self) -> None:
        """Give the connections back."""
        self.engine.dispose()


def sqlite_url(folder: Path) -> str:
    """URL of the database in a data folder."""
    return f"sqlite:///{folder.resolve() / 'tunestone.db'}"


def new_id() -> str:
    """12 of [a-z0-9], as in the last part of Bedrock's ARNs."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(12))


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


def _prepare_sqlite(connection: Any, record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")  # what was acknowledged survives a power cut
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA busy_timeout=10000")
    cursor.close()
