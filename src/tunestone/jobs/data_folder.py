"""The data folder: everything the server keeps, and one server at a time."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from sqlalchemy import delete, false, func, select

from tunestone.errors import RunError, StorageError
from tunestone.jobs.settings import ServerSettings
from tunestone.jobs.store import Store, sqlite_url
from tunestone.jobs.tables import Setting

_ADVISORY_LOCK = 0x74756E6573746F6E
"""`tuneston`, as PostgreSQL's number of the lock."""


def open_folder(path: Path) -> Path:
    """The folder, made if it is not there, as an absolute path. Raises StorageError."""
    folder = path.expanduser().resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        probe = folder / f".write-{os.getpid()}"  # asking for rights says nothing of a full disk
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise StorageError(
            f"The data folder {folder} cannot be written to: {error.strerror}.",
            remedy="Give another with --data.",
        ) from None
    return folder


def open_store(settings: ServerSettings, folder: Path) -> Store:
    """The database with its tables up to date. Raises ConfigError or WorldError."""
    store = Store(settings.database or sqlite_url(folder))
    store.migrate()
    with store.session() as session:  # that it can be read says nothing of writing
        session.execute(delete(Setting).where(false()))
    return store


@contextlib.contextmanager
def holding(folder: Path) -> Iterator[None]:
    """The folder for this process alone. Raises RunError when another server has it."""
    with _open_lock(folder / "server.lock") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise RunError(
                f"Another server (process {file.read().strip()}) uses the data folder {folder}.",
                remedy="End it first, or give another folder with --data.",
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


@contextlib.contextmanager
def holding_database(store: Store) -> Iterator[None]:
    """A PostgreSQL database for this process alone; SQLite's lies in the data folder, held already.

    Raises RunError when another server, perhaps on another machine, uses it.
    """
    if store.engine.dialect.name != "postgresql":
        yield
        return
    with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        lock = select(func.pg_try_advisory_lock(_ADVISORY_LOCK))
        if not connection.execute(lock).scalar_one():
            raise RunError(
                "Another server uses this database.",
                remedy="End it first, or give each server a database of its own.",
            )
        try:
            yield  # the lock ends with the connection too, however the process ends
        finally:
            connection.execute(select(func.pg_advisory_unlock(_ADVISORY_LOCK)))


def _open_lock(path: Path) -> IO[str]:
    try:
        return path.open("a+")
    except OSError as error:
        raise StorageError(
            f"{path} cannot be written to: {error.strerror}.",
            remedy="A server always has to run as the user who owns its data folder.",
        ) from None
