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

from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnection
from sqlalchemy.orm import Session, sessionmaker

from tunestone.errors import ConfigError, StorageError, WorldError

_ALPHABET = string.ascii_lowercase + string.digits


class Store:
    """The server's memory."""

    def __init__(self, url: str) -> None:
        """`url` as SQLAlchemy takes it, such as `sqlite:////folder/tunestone.db`.

        Raises ConfigError when it is none, or its driver is not installed.
        """
        parsed = _parse(url)
        self._shown_url = parsed.render_as_string(hide_password=True)
        try:
            self.engine: Engine = create_engine(
                parsed, pool_pre_ping=True, pool_size=10, max_overflow=40
            )
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"The database {self._shown_url} needs the package {error.name}.",
                remedy="Install it: pip install 'tunestone[postgres]'.",
            ) from None
        if self.engine.dialect.name == "sqlite":
            event.listen(self.engine, "connect", _prepare_sqlite)
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)

    def migrate(self) -> None:
        """Bring the tables up to date.

        Raises ConfigError when a newer version wrote them, WorldError when there is no database.
        """
        from tunestone.jobs.migrations import upgrade

        try:
            upgrade(self.engine)
        except DatabaseError as error:
            raise WorldError(
                f"The database {self._shown_url} cannot be used: {_reason(error)}",
                remedy="Check that it runs and that the URL, user and rights are right.",
            ) from error

    @contextmanager
    def session(self) -> Iterator[Session]:
        """One transaction: committed at the end, rolled back by an exception.

        Rows stay readable after it; they are then a picture of that moment. Raises StorageError
        when the database cannot be reached or written to; nothing of the transaction is kept then.
        """
        try:
            with self._sessions() as session, session.begin():
                yield session
        except (OperationalError, InterfaceError, NoConnection) as error:
            raise StorageError(
                f"The server's database cannot be used: {_reason(error)}.",
                remedy="Try again later; if it stays so, look at its disk, its rights and its log.",
            ) from error

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


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ConfigError(
            "The setting 'database' is no URL of a database.",
            remedy="Write it as postgresql+psycopg://user:password@host/name.",
        ) from None
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() not in ("postgresql", "sqlite"):
        raise ConfigError(
            f"There is no support for {parsed.get_backend_name()}.", remedy="Use PostgreSQL."
        )
    return parsed


def _reason(error: Exception) -> str:
    """The database's own words, without the statement and the address of SQLAlchemy's page."""
    told = str(getattr(error, "orig", None) or error)
    return told.strip().partition("\n")[0].rstrip(".")


def _prepare_sqlite(connection: Any, record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")  # what was acknowledged survives a power cut
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA busy_timeout=10000")
    cursor.close()
