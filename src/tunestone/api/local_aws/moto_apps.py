"""S3, STS and IAM by moto's server, inside ours, with a memory that survives a restart.

Every request that changes something is done under one lock, with moto's random numbers seeded and
moto's clock known, and is written to the journal before it is acknowledged; on the first use after
a restart the journal is replayed with the same seeds and times, which gives the same ids, dates and
objects. Upload ids of S3 are the exception (moto draws them from the system): those of uploads that
were under way are translated.

One thing is made easier than it is on AWS: an upload into a bucket that does not exist makes the
bucket. AWS's notebooks expect one that was made by hand.
"""

import contextlib
import logging
import re
import secrets
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, quote, urlencode

from tunestone.api.local_aws.compaction import compact
from tunestone.api.local_aws.dispatch import MOTO_SERVICES, Signer
from tunestone.api.local_aws.journal import Entry, Journal
from tunestone.api.local_aws.wire import Body, WireAnswer, WireRequest, WsgiApp, call_wsgi
from tunestone.errors import ConfigError

_log = logging.getLogger(__name__)

_COMPACT_BYTES = 256 * 2**20
"""So much of large bodies is written before what is superseded among them is looked for."""
_DROPPED = re.compile(
    r"authorization|x-amz-security-token|host|user-agent|amz-sdk-.*|connection|expect|"
    r"accept-encoding|transfer-encoding|content-length"
)
_SIGNATURE = re.compile(
    r"X-Amz-(Algorithm|Credential|Date|Expires|SignedHeaders|Signature|Security-Token)|"
    r"AWSAccessKeyId|Signature|Expires"
)
_READING_ACTION = re.compile(r"Get|List|Simulate|Generate")
_UPLOAD_ID = re.compile(rb"<UploadId>([^<]+)</UploadId>")
_FAILED = (
    b"<Error><Code>InternalError</Code><Message>The local AWS failed; see the server's log."
    b"</Message></Error>"
)


class Moto:
    """moto's three services and their journal. Blocks; safe for several threads."""

    def __init__(self, folder: Path, *, account: str) -> None:
        """`folder` keeps the journal. Nothing is imported or read before the first use."""
        self.journal = Journal(folder)
        self._account = account
        self._changing = threading.Lock()
        self._app: WsgiApp | None = None
        self._uploads: dict[str, str] = {}  # ids from before a restart -> what they are now
        self._written = 0

    def answer(self, request: WireRequest, signer: Signer) -> WireAnswer:
        """Do one request. Never raises for what moto cannot do."""
        app = self.warm()
        prepared = _prepare(request, signer)
        if not _changes_something(prepared, signer):
            return self._ask(app, prepared)
        with self._changing:
            answer = self._change(app, prepared)
            if _misses_bucket(prepared, answer) and self._make_bucket(app, prepared, signer):
                answer = self._change(app, prepared)
            return answer

    def warm(self) -> WsgiApp:
        """Import moto and replay the journal, unless that was done; the application."""
        if self._app is None:
            with self._changing:
                return self._app or self._start()
        return self._app

    def _start(self) -> WsgiApp:
        app = _import_moto()
        begun = time.perf_counter()
        entries = compact(self.journal.read())
        for entry in entries:
            self._replay(app, entry)
        self.journal.rewrite(entries)
        if entries:
            seconds = time.perf_counter() - begun
            _log.info("Local AWS: %d changes replayed in %.1f s.", len(entries), seconds)
        self._app = app
        return app

    def _replay(self, app: WsgiApp, entry: Entry) -> None:
        with self.journal.open_body(entry) as file:
            body = Body(data=file.read())
        body.size = len(body.data)
        request = WireRequest(entry.method, entry.target, entry.headers, body)
        with _conditions(entry.seed, entry.time):
            answer = self._ask(app, request)
        if answer.status >= 300:
            _log.error("Local AWS: %s %s was not replayed.", entry.method, entry.target)
        elif entry.upload_id:
            self._uploads[entry.upload_id] = _upload_id(answer)

    def _change(self, app: WsgiApp, request: WireRequest) -> WireAnswer:
        """Do it and write it down, in this order: what fails is not written."""
        seed, moment = secrets.randbits(64), time.time()
        with _conditions(seed, moment):
            answer = self._ask(app, request)
        if answer.status < 300:
            entry = Entry(request.method, request.target, request.headers, moment, seed)
            if "uploads" in parse_qs(request.target.partition("?")[2], keep_blank_values=True):
                entry = replace(entry, upload_id=_upload_id(answer))
            self._write(entry, request.body)
        return answer

    def _write(self, entry: Entry, body: Body) -> None:
        if body.path:
            entry = replace(entry, file=self.journal.keep_body(body.path))
        else:
            entry = replace(entry, body=body.data)
        self.journal.append(entry)
        self._written += body.size if body.path else 0
        if self._written > _COMPACT_BYTES:
            self._written = 0
            self.journal.rewrite(compact(self.journal.read()))

    def _make_bucket(self, app: WsgiApp, request: WireRequest, signer: Signer) -> bool:
        bucket = request.target.partition("?")[0].split("/")[1]
        region = signer.region
        text = (
            f"<CreateBucketConfiguration><LocationConstraint>{region}</LocationConstraint>"
            "</CreateBucketConfiguration>"
        )
        data = b"" if region == "us-east-1" else text.encode()
        headers = (("authorization", signer.authorization),)
        creation = WireRequest("PUT", f"/{bucket}", headers, Body(data=data, size=len(data)))
        made = self._change(app, creation).status < 300
        if made:
            _log.info("Local AWS: the bucket %s was made by an upload into it.", bucket)
        return made

    def _ask(self, app: WsgiApp, request: WireRequest) -> WireAnswer:
        path, _, query = request.target.partition("?")
        if self._uploads and "uploadId=" in query:
            pairs = parse_qsl(query, keep_blank_values=True)
            translated = [
                (name, self._uploads.get(value, value) if name == "uploadId" else value)
                for name, value in pairs
            ]
            request = replace(request, target=f"{path}?{urlencode(translated)}")
        extra: dict[str, Any] = {"HTTP_HOST": "127.0.0.1"}  # so that S3 looks for buckets in paths
        extra |= {"HTTP_X_MOTO_ACCOUNT_ID": self._account} | _original_names(request)
        try:
            return call_wsgi(app, request, extra)
        except Exception:  # noqa: BLE001 - moto's fault; the server goes on
            _log.exception("Local AWS failed at %s %s", request.method, path)
            return WireAnswer(500, (("Content-Type", "application/xml"),), _FAILED)


def _import_moto() -> WsgiApp:
    try:
        from moto.backends import get_backend
        from moto.core.config import default_user_config
        from moto.moto_server.werkzeug_app import create_backend_app
    except ImportError as error:
        raise ConfigError(
            f"The local AWS needs moto ({error}).", remedy="pip install 'tunestone[aws]'"
        ) from error
    for name in MOTO_SERVICES:  # they are the process's own: nothing of an earlier server
        get_backend(name).reset()
    default_user_config["iam"] = {"load_aws_managed_policies": True}
    # Not moto's own dispatcher: whoever signs for S3 would reach `/moto-api`, which shows, records
    # and resets everything.
    apps: dict[str, WsgiApp] = {name: create_backend_app(name) for name in MOTO_SERVICES}

    def dispatch(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        service = environ["HTTP_AUTHORIZATION"].split("/")[3]  # as `Signer` wrote it
        return apps[service](environ, start)

    return dispatch


@contextlib.contextmanager
def _conditions(seed: int, moment: float) -> Iterator[None]:
    """moto's random numbers from this seed on, and its clock standing at this moment."""
    from moto.moto_api._internal import mock_random

    mock_random.seed(seed)
    stopped = datetime.fromtimestamp(moment, UTC).replace(tzinfo=None)
    modules: list[Any] = [import_module(f"moto.{name}.models") for name in ("iam", "s3")]
    clocks = [(models, models.utcnow) for models in modules]
    try:
        for models, _ in clocks:
            models.utcnow = lambda: stopped
        yield
    finally:
        for models, clock in clocks:
            models.utcnow = clock


def _prepare(request: WireRequest, signer: Signer) -> WireRequest:
    """Without what only its way here needed, and with the service named in a header."""
    path, _, query = request.target.partition("?")
    pairs = parse_qsl(query, keep_blank_values=True)
    if any(_SIGNATURE.fullmatch(name) for name, _ in pairs):
        query = urlencode([pair for pair in pairs if not _SIGNATURE.fullmatch(pair[0])])
    host = dict(request.headers).get("host", "").partition(":")[0]
    if signer.service == "s3" and host.endswith(".localhost"):
        path = f"/{quote(host.removesuffix('.localhost'))}{path}"
    headers = [pair for pair in request.headers if not _DROPPED.fullmatch(pair[0].lower())]
    headers.append(("authorization", signer.authorization))
    target = f"{path}?{query}" if query else path
    return WireRequest(request.method, target, tuple(headers), request.body)


def _changes_something(request: WireRequest, signer: Signer) -> bool:
    if signer.service == "s3":
        query = parse_qs(request.target.partition("?")[2], keep_blank_values=True)
        return request.method in ("PUT", "POST", "DELETE") and "select" not in query
    if signer.service != "iam":
        return False
    action = parse_qs(request.body.data.decode("latin-1")).get("Action", [""])[0]
    return _READING_ACTION.match(action) is None


def _misses_bucket(request: WireRequest, answer: WireAnswer) -> bool:
    path, _, query = request.target.partition("?")
    is_object = len(path.split("/")) > 2 and path.split("/")[2] != ""
    names = parse_qs(query, keep_blank_values=True).keys() - {"x-id"}
    begins = (request.method, set(names)) in [("PUT", set()), ("POST", {"uploads"})]
    return answer.status == 404 and is_object and begins and b"NoSuchBucket" in answer.body


def _upload_id(answer: WireAnswer) -> str:
    found = _UPLOAD_ID.search(answer.body)
    return found[1].decode() if found else ""


def _original_names(request: WireRequest) -> dict[str, Any]:
    """How moto is told of `_` in metadata keys, which WSGI does not tell from `-`."""
    from moto.core.request import (
        PRESERVED_HEADER_NAMES_ENVIRON_KEY,
        environ_key_for_header,
        should_preserve_original_header_name,
    )

    names = [name for name, _ in request.headers if should_preserve_original_header_name(name)]
    if not names:
        return {}
    return {PRESERVED_HEADER_NAMES_ENVIRON_KEY: {environ_key_for_header(n): n for n in names}}
