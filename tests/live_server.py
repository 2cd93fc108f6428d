"""A live server for tests: the real app under the real uvicorn, on a free port of 127.0.0.1.

    from live_server import IdleJobs, running, services_in

    def test_x(tmp_path):
        services = services_in(tmp_path, engine=ScriptedEngine(lambda request: "4"))
        with running(services, ROUTES, {"bedrock": render_error}) as url:
            client = boto3.client("bedrock", endpoint_url=url, region_name="us-east-1",
                                  aws_access_key_id="any", aws_secret_access_key="any")

`services_in` opens a real `Store` in `tmp_path` and takes a stand-in for each part a test does not
run for real: `engine=` (`scripted_engine.ScriptedEngine`), `jobs=` (default `IdleJobs`: changes
rows as the supervisor would, starts nothing), `objects=` (default `FolderObjects`: s3://bucket/key
is the file tmp_path/s3/bucket/key). Settings are keywords: `services_in(tmp_path, least_rows=1)`.
`running` serves until the block ends; several may run at once, and the same folder may be served
again (a restart). Fixtures are better module-wide: one server, many tests.

For the whole program in a process of its own, `serving(folder, "--local-aws", ...)` runs
`tunestone serve` and yields its `Server` (`url`, `process`, `log()`).
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from scripted_engine import ScriptedEngine
from tunestone.api.app import ErrorRenderer, build_app
from tunestone.api.http import DialectName, Route
from tunestone.api.services import Services
from tunestone.errors import DataError
from tunestone.jobs.job import StateError, move
from tunestone.jobs.names import BaseNames
from tunestone.jobs.settings import ServerSettings
from tunestone.jobs.store import Store, sqlite_url
from tunestone.jobs.tables import Job


class IdleJobs:
    """The supervisor's face without its work: a job stays where the test puts it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.woken = 0

    def wake(self) -> None:
        self.woken += 1

    def stop(self, job_id: str) -> None:
        with self._store.session() as session:
            move(session, job_id, "stopped")

    def pause(self, job_id: str) -> None:
        with self._store.session() as session:
            move(session, job_id, "paused")

    def resume(self, job_id: str) -> None:
        with self._store.session() as session:
            state = session.get_one(Job, job_id).state
            if state != "paused":
                raise StateError(f"The job is {state}; only a paused job can be resumed.")
            move(session, job_id, "queued")


class FolderObjects:
    """`s3://bucket/key` as the file `folder/bucket/key`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, url: str) -> Path:
        return self.folder / url.removeprefix("s3://")

    def download(self, url: str, to: Path) -> None:
        self.check_readable(url)
        shutil.copyfile(self.path(url), to)

    def upload(self, path: Path, url: str) -> None:
        self.path(url).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, self.path(url))

    def list(self, url: str) -> "list[str]":
        bucket = self.folder / url.removeprefix("s3://").partition("/")[0]
        files = sorted(path for path in bucket.rglob("*") if path.is_file())
        urls = [f"s3://{path.relative_to(self.folder).as_posix()}" for path in files]
        return [found for found in urls if found.startswith(url)]

    def environment(self) -> dict[str, str]:
        return {}

    def check_readable(self, url: str) -> None:
        if not self.path(url).is_file():
            raise DataError("There is no such object.", path=url)

    def check_writable(self, url: str) -> None:
        if not url.startswith("s3://"):
            raise DataError("This is no s3:// address.", path=url)


def services_in(
    folder: Path, *, engine: Any = None, jobs: Any = None, objects: Any = None, **settings: Any
) -> Services:
    """A server's parts over `folder`, with stand-ins for those not given."""
    folder.mkdir(parents=True, exist_ok=True)
    chosen = ServerSettings(data=folder, **settings)
    store = Store(chosen.database or sqlite_url(folder))
    store.migrate()
    return Services(
        settings=chosen,
        folder=folder.resolve(),
        store=store,
        names=BaseNames(chosen.base_models),
        objects=objects or FolderObjects(folder / "s3"),
        jobs=jobs or IdleJobs(store),
        engine=engine or ScriptedEngine(lambda request: "Hello there."),
    )


@contextlib.contextmanager
def running(
    services: Services,
    routes: Sequence[Route] = (),
    render_error: Mapping[DialectName, ErrorRenderer] | None = None,
    certificate: Path | None = None,
    **options: Any,
) -> Iterator[str]:
    """Serve until the block ends; gives the base URL. `options` go to `build_app`."""
    app = build_app(services, routes, render_error or {}, **options)
    with serving_app(app, certificate=certificate) as url:
        yield url


@contextlib.contextmanager
def serving_app(app: Any, *, certificate: Path | None = None) -> Iterator[str]:
    """Any ASGI application under uvicorn in a thread; over HTTPS with a `certificate`."""
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=0,
        log_level="warning",
        lifespan="on",
        timeout_graceful_shutdown=5,
        ssl_certfile=certificate,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start; see the log above"
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"{'https' if certificate else 'http'}://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(timeout=20)
        assert not thread.is_alive(), "the server did not stop"


def write_certificate(folder: Path) -> Path:
    """A PEM file with a certificate for 127.0.0.1 and ::1 and its key, signed by itself."""
    path = folder / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1,IP:::1"),
            *("-keyout", str(folder / "key.pem"), "-out", str(path)),
        ],
        check=True,
        capture_output=True,
    )
    with path.open("a") as file:
        file.write((folder / "key.pem").read_text())
    return path


@dataclass
class Server:
    """`tunestone serve` in a process of its own."""

    url: str
    process: "subprocess.Popen[bytes]"
    log_path: Path

    def log(self) -> str:
        return self.log_path.read_text()


@contextlib.contextmanager
def serving(
    folder: Path, *options: str, environment: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Run `tunestone serve --data folder --port 0`; ready when the block begins, then ended."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    log_path = folder.parent / f"{folder.name}.log"
    command = [sys.executable, "-m", "tunestone.cli", "serve", "--data", str(folder), "--port", "0"]
    with log_path.open("ab") as log:
        start = log.tell()
        process = subprocess.Popen(
            [*command, *options], stdout=log, stderr=log, env={**os.environ, **(environment or {})}
        )
    try:
        yield Server(_address(process, log_path, start), process, log_path)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=30)
        process.kill()
        process.wait()


def _address(process: "subprocess.Popen[bytes]", log_path: Path, start: int) -> str:
    while True:
        text = log_path.read_bytes()[start:].decode()
        if found := re.search(r"http://[\w.\[\]:-]+:\d+", text):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{found[0]}/healthz"):
                return found[0]
        assert process.poll() is None, f"the server ended:\n{text}"
        time.sleep(0.02)
