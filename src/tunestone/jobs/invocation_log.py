"""Model invocation logging: what models were asked and said, as Bedrock delivers it to S3.

Each call becomes one record (schema 1.0) in

    s3://<bucket>/<prefix>/AWSLogs/<account>/BedrockModelInvocationLogs/<region>/YYYY/MM/DD/HH/
        <time>_<id>.json.gz

one JSON object per line, and such records can be the training data of a later job. A record is
written to a spool in the data folder before its call is answered, so what was answered is never
lost; a thread packs and uploads a spool file when it is old or large enough. The file's place in S3
is decided when it is begun and stands in its first line: an upload that is repeated after a crash
writes the same object again.

Left out: CloudWatch (that part of the configuration is kept and echoed, and the log says that
nothing is delivered there), and objects of their own for bodies over 100 kB, which stay in the
record. Calls that were refused leave no record.
"""

import gzip
import json
import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from tunestone.errors import StorageError, TunestoneError
from tunestone.jobs.store import Store, new_id, now
from tunestone.jobs.tables import Setting

if TYPE_CHECKING:
    from tunestone.jobs.objects import Objects

_log = logging.getLogger(__name__)

SETTING = "invocation_logging"
"""Key in `settings` under which the control plane keeps the `loggingConfig`."""
UPLOAD_SECONDS = 30.0
"""A spool file older than this is uploaded."""
_FILE_BYTES = 8 * 2**20
"""A spool file larger than this is uploaded at once."""


@dataclass(frozen=True, slots=True)
class Invocation:
    """One call of a model that was answered."""

    operation: str
    """`Converse`, `ConverseStream`, `InvokeModel` or `InvokeModelWithResponseStream`."""
    model_id: str
    """As the client wrote it."""
    region: str
    request_id: str
    input: Any
    """The request's body."""
    output: Any
    """The answer's body; of a stream the one that would have come without streaming."""
    input_tokens: int
    output_tokens: int
    metadata: Mapping[str, str]
    """The request's `requestMetadata`."""
    caller: str
    """Name of the key that was used."""
    started: datetime


@dataclass(slots=True)
class _Spool:
    """A file that grows; `place` is what it is for."""

    place: tuple[str, ...]
    path: Path
    file: IO[bytes]
    begun: datetime


class InvocationLog:
    """Keeps records and delivers them. `record` is safe for several threads."""

    def __init__(self, *, store: Store, objects: "Objects", folder: Path, account: str) -> None:
        """`folder` is the server's data folder."""
        self._store = store
        self._objects = objects
        self._folder = folder / "invocation-log"
        self._account = account
        self._lock = threading.Lock()
        self._uploading = threading.Lock()
        self._told_of_cloudwatch = False
        self._spool: _Spool | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._deliver, name="invocation-log", daemon=True)

    def start(self) -> None:
        """Begin to deliver, with what an earlier server left."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._thread.start()

    def shutdown(self) -> None:
        """Deliver everything and end. What cannot be delivered now stays for the next start."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        self.flush()

    def record(self, invocation: Invocation) -> None:
        """Keep one call, if logging is configured. It is on its way to disk when this returns."""
        config = self._config()
        if config is None:
            return
        s3 = config["s3Config"]
        hour = f"{invocation.started:%Y/%m/%d/%H}"
        place = (s3["bucketName"], s3.get("keyPrefix", ""), invocation.region, hour)
        shown = config.get("textDataDeliveryEnabled", True)
        line = json.dumps(_to_record(invocation, account=self._account, shown=shown))
        with self._lock:
            spool = self._open(place)
            spool.file.write(line.encode() + b"\n")
            spool.file.flush()
            if spool.file.tell() > _FILE_BYTES:
                self._close()

    def flush(self) -> None:
        """Deliver everything that is kept; what fails is said in the log and kept."""
        with self._lock:
            self._close()
        with self._uploading:
            for path in sorted(self._folder.glob("*.jsonl")):
                try:
                    self._upload(path)
                except (TunestoneError, OSError) as error:
                    _log.warning("Invocation records in %s could not be delivered: %s", path, error)

    def _config(self) -> dict[str, Any] | None:
        with self._store.session() as session:
            setting = session.get(Setting, SETTING)
        config = setting.value if setting else {}
        if config.get("cloudWatchConfig") and not self._told_of_cloudwatch:
            self._told_of_cloudwatch = True
            _log.warning("Invocation records are delivered to S3 only, not to CloudWatch.")
        return config if config.get("s3Config") else None

    def _open(self, place: tuple[str, ...]) -> _Spool:
        """The file for records of that place; begins one, with its address as its first line."""
        if self._spool and self._spool.place == place:
            return self._spool
        self._close()
        begun = now()
        bucket, prefix, region, hour = place
        parts = [prefix.strip("/"), "AWSLogs", self._account, "BedrockModelInvocationLogs"]
        name = f"{begun:%Y%m%dT%H%M%S%f}Z_{new_id()}"
        key = "/".join(filter(None, [*parts, region, hour, f"{name}.json.gz"]))
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{name}.part"
        try:
            file = path.open("xb")
        except OSError as error:
            raise StorageError(f"{path}: {error.strerror}.") from error
        file.write(json.dumps({"url": f"s3://{bucket}/{key}"}).encode() + b"\n")
        self._spool = _Spool(place, path, file, begun)
        return self._spool

    def _close(self) -> None:
        """End the growing file: it may be uploaded now. Only with the lock held."""
        if self._spool:
            self._spool.file.close()
            self._spool.path.rename(self._spool.path.with_suffix(".jsonl"))
            self._spool = None

    def _deliver(self) -> None:
        for path in self._folder.glob("*.part"):  # of a server that was killed
            with self._lock:
                if self._spool is None or self._spool.path != path:
                    path.rename(path.with_suffix(".jsonl"))
        self.flush()
        while not self._ended.wait(UPLOAD_SECONDS):
            self.flush()

    def _upload(self, path: Path) -> None:
        lines = [line for line in path.read_bytes().split(b"\n") if _is_whole(line)]
        if len(lines) > 1:
            address, *whole = lines
            packed = path.with_suffix(".json.gz")
            packed.write_bytes(gzip.compress(b"\n".join(whole) + b"\n", mtime=0))
            self._objects.upload(packed, json.loads(address)["url"])
            packed.unlink()
        path.unlink()


def _to_record(invocation: Invocation, *, account: str, shown: bool) -> dict[str, Any]:
    """The record of schema 1.0; without the bodies where text is not to be delivered."""
    taken: dict[str, Any] = {"inputContentType": "application/json"}
    given: dict[str, Any] = {"outputContentType": "application/json"}
    if shown:
        taken["inputBodyJson"], given["outputBodyJson"] = invocation.input, invocation.output
    record: dict[str, Any] = {
        "schemaType": "ModelInvocationLog",
        "schemaVersion": "1.0",
        "timestamp": f"{invocation.started.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "accountId": account,
        "identity": {"arn": f"arn:aws:iam::{account}:user/{invocation.caller}"},
        "region": invocation.region,
        "requestId": invocation.request_id,
        "operation": invocation.operation,
        "modelId": invocation.model_id,
        "input": taken | {"inputTokenCount": invocation.input_tokens},
        "output": given | {"outputTokenCount": invocation.output_tokens},
    }
    if invocation.metadata:
        record["requestMetadata"] = dict(invocation.metadata)
    return record


def _is_whole(line: bytes) -> bool:
    """Whether a line was written to its end before the server was killed."""
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
