"""The run folder: written by the trainer, read by everyone.

    config.json       the effective settings, their origins, versions, hashes of the data files
    data/             the data, when a recipe made it
    events.jsonl      what happened, one line each, with UTC time
    metrics.jsonl     one line per step
    samples.jsonl     every completion with its reward, advantage and the reason it ended
    validation.jsonl  every answer to a validation prompt with its reward
    checkpoints/      see core/checkpoint.py
    adapter/          the result (a PEFT adapter, or the model when every weight was trained)
    base.json         what the base answered and earned on the held-out prompts
    tuned.json        and the result
    report.json       base against tuned; report.md and report.html say the same to people
    STOP              put this file there and the run ends cleanly after its step
    .lock             held by the process that trains

Everything but weights is text. A resumed run first cuts metrics, samples and validation back to the
lengths its checkpoint remembers, so each step appears once.
"""

import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from tunestone.errors import RunError, StorageError

_LOCK_TRIES = 50
"""Somebody who looks whether the run is trained holds its lock for a moment."""
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

CHECKPOINT_RESULT = "adapter"
"""Folder in a checkpoint: a PEFT adapter, or the whole model when every weight is trained."""


class RunFolder:
    """Paths and append-only logs of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics = path / "metrics.jsonl"
        self.samples = path / "samples.jsonl"
        self.validation = path / "validation.jsonl"
        self.events = path / "events.jsonl"
        self.checkpoints = path / "checkpoints"
        self.adapter = path / "adapter"

    @classmethod
    def create(cls, path: Path) -> "RunFolder":
        """Make the folder of a new run; it is one when `write_config` has been called too.

        Raises RunError when the place is taken.
        """
        if (path / "config.json").is_file():
            raise RunError(
                f"The run folder '{path}' exists already.",
                remedy="Continue it with --resume, or choose another with --out.",
            )
        if path.exists() and not (path.is_dir() and not any(path.iterdir())):
            raise RunError(
                f"'{path}' exists and is no run folder.", remedy="Choose another with --out."
            )
        run = cls(path)
        with storage_errors(path):
            run.checkpoints.mkdir(parents=True, exist_ok=True)
        return run

    def write_config(self, record: Mapping[str, Any]) -> None:
        """Write config.json."""
        write_json(self.path / "config.json", record)

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """An existing run folder. Raises RunError when it is none."""
        if not (path / "config.json").is_file():
            raise RunError(
                f"'{path}' is not a run folder: it has no config.json.",
                remedy="`tunestone runs` lists the runs there are.",
            )
        return cls(path)

    @classmethod
    def find(cls, path: Path) -> "RunFolder | None":
        """The run of a folder that may as well be a model's, which has a config.json too."""
        is_run = (path / "config.json").is_file() and (path / "checkpoints").is_dir()
        return cls(path) if is_run else None

    def config(self) -> dict[str, Any]:
        """What config.json holds."""
        return read_json(self.path / "config.json")

    def report(self) -> dict[str, Any] | None:
        """What report.json holds, None before there is one."""
        path = self.path / "report.json"
        return read_json(path) if path.is_file() else None

    def event(self, kind: str, message: str, **details: Any) -> None:
        """Append to events.jsonl."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        append_lines(self.events, [{"time": now, "kind": kind, "message": message, **details}])

    def stop_requested(self) -> bool:
        """Whether someone put a STOP file here."""
        return (self.path / "STOP").exists()

    @property
    def _step_logs(self) -> tuple[Path, ...]:
        return self.metrics, self.samples, self.validation

    def lengths(self) -> dict[str, int]:
        """Bytes of the step logs, for a checkpoint to remember."""
        return {p.name: p.stat().st_size if p.exists() else 0 for p in self._step_logs}

    def cut_back(self, lengths: Mapping[str, int]) -> None:
        """Shorten the step logs to what a checkpoint remembered."""
        for log in self._step_logs:
            if log.exists():
                os.truncate(log, min(log.stat().st_size, lengths.get(log.name, 0)))

    def drop_broken_lines(self) -> None:
        """Cut off last lines that a killed process left half-written."""
        for log in (*self._step_logs, self.events):
            if log.exists():
                whole, newline, _ = log.read_bytes().rpartition(b"\n")
                os.truncate(log, len(whole) + len(newline))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this process. Raises RunError when another one trains it."""
        with self._lock.open("w") as lock:
            if not _take(lock, fcntl.LOCK_EX, tries=_LOCK_TRIES):
                raise RunError(
                    f"Another process is training '{self.path}'.",
                    remedy=f"Wait for it, or end it with: touch {self.path / 'STOP'}",
                )
            yield

    def is_locked(self) -> bool:
        """Whether a process is training this run now. Those who only look share the lock."""
        if not self._lock.is_file():
            return False
        with self._lock.open("rb") as lock:
            return not _take(lock, fcntl.LOCK_SH, tries=1)

    @property
    def _lock(self) -> Path:
        return self.path / ".lock"


def _take(lock: IO[Any], kind: int, *, tries: int) -> bool:
    """Whether a file's lock could be had, tried every hundredth of a second."""
    for wait in (*[0.01] * (tries - 1), None):
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
            return True
        except OSError:
            if wait is not None:
                time.sleep(wait)
    return False


def checkpoint_steps(folder: Path) -> list[int]:
    """Steps of the finished checkpoints, ascending."""
    return sorted(int(path.name.removeprefix("step-")) for path in folder.glob("step-*"))


def checkpoint_path(folder: Path, step: int) -> Path:
    """Folder of checkpoint `step`."""
    return folder / f"step-{step:06d}"


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A folder to write into that takes the place of `folder` when all went well, on disk too."""
    unfinished = folder.with_name(f".writing-{folder.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    with storage_errors(folder):
        try:
            yield unfinished
            for path in (*unfinished.rglob("*"), unfinished):
                flush(path)  # the rename must not reach the disk before the bytes do
            shutil.rmtree(folder, ignore_errors=True)
            unfinished.rename(folder)
            flush(folder.parent)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn a write that fails into a StorageError that says which file and why."""
    try:
        yield
    except OSError as error:
        full = error.errno in _FULL
        reason = "the disk (or the quota) is full" if full else error.strerror or str(error)
        raise unwritten(path, reason) from error


def unwritten(path: Path, reason: str) -> StorageError:
    """The error for a file that could not be written."""
    return StorageError(
        f"Could not write '{path}': {reason}.",
        remedy="What was written before is intact. Make room or allow writing, then --resume.",
    )


def append_lines(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Append records to a JSONL file in one write. NaN is refused: it is not JSON."""
    text = "".join(
        json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n" for record in records
    )
    with storage_errors(path), path.open("a", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Records of a JSONL log; a last line that is still being written is left out."""
    if not path.exists():
        return []
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    return [json.loads(line) for line in whole.split(b"\n") if line]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file."""
    return dict(json.loads(path.read_text(encoding="utf-8")))


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Replace a JSON file atomically: readers see the old or the new one, whole."""
    text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with storage_errors(path):
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
