"""A real PostgreSQL for tests: a cluster of Debian's binaries in a temporary folder.

`postgres_url` is a fixture (`from postgres import postgres_cluster, postgres_url`): the URL of an
empty database of its own for each test. It is skipped only where there are no binaries.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

_NUMBERS = count()


def find_binaries() -> Path | None:
    """The newest installed version's."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


@pytest.fixture(scope="session")
def postgres_cluster() -> Iterator[Path]:
    """Folder of the socket of a running server, whose owner is `tunestone`."""
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
    folder = Path(tempfile.mkdtemp(prefix="tunestone-pg-"))
    if os.getuid() == 0:  # PostgreSQL refuses to run as root
        shutil.chown(folder, user)
    data = folder / "data"
    common = {"user": user, "cwd": folder} if os.getuid() == 0 else {"cwd": folder}
    subprocess.run(
        [binaries / "initdb", "-D", data, "-U", "tunestone", "-A", "trust", "-E", "UTF8", "-N"],
        check=True, capture_output=True, **common,
    )  # fmt: skip
    settings = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={folder}"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [binaries / "postgres", "-D", data, *settings, "-c", "fsync=off"],
            stdout=log, stderr=log, **common,
        )  # fmt: skip
    try:
        while not (folder / ".s.PGSQL.5432").exists() or not _answers(binaries, folder):
            assert server.poll() is None, (folder / "log").read_text()
            time.sleep(0.02)
        yield folder
    finally:
        server.send_signal(signal.SIGINT)  # does not wait for connections that are open
        server.wait()
        shutil.rmtree(folder)


@pytest.fixture
def postgres_url(postgres_cluster: Path) -> str:
    """An empty database."""
    import psycopg

    name = f"test_{next(_NUMBERS)}"
    with psycopg.connect(_dsn(postgres_cluster), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"postgresql+psycopg://tunestone@/{name}?host={postgres_cluster}"


def _dsn(folder: Path) -> str:
    return f"host={folder} user=tunestone dbname=postgres"


def _answers(binaries: Path, folder: Path) -> bool:
    asking = [binaries / "pg_isready", "-q", "-h", folder]
    return subprocess.run(asking, check=False).returncode == 0
