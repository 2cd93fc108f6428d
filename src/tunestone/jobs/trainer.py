"""The trainer of a job: a process of its own, which outlives the server.

The child runs `tunestone run-job FOLDER` (`cli/run_job.py`) in its own session. Three files in the
job's folder are all that the two have in common:

    .trainer.lock   held by the child from before it starts until it is gone, however it went
    trainer.json    the child's process id and start time, to signal it and nobody else
    outcome.json    how it ended, written last; with none it was killed

The lock is taken by the server and inherited by the child, so that there is no moment at which a
restarted server could take a trainer that is just starting for a dead one.
"""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunestone.errors import RunError
from tunestone.runlog import read_json, write_json

LOG = "trainer.log"
_POLL_SECONDS = 0.05
_LOCK, _MARK, _OUTCOME = ".trainer.lock", "trainer.json", "outcome.json"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a trainer ended."""

    ok: bool
    left: bool = False
    """Whether it left on request, with a checkpoint and no result."""
    paused: bool = False
    """Whether the request was an alert's, for a person to look at."""
    code: str = ""
    """Of the error; `internal_error` for what is our own fault."""
    message: str = ""
    remedy: str = ""
    path: str = ""
    """Data file at fault, with 1-based `line`."""
    line: int | None = None


def launch(
    folder: Path, *, threads: int, niceness: int, environment: Mapping[str, str]
) -> "subprocess.Popen[bytes]":
    """Start the trainer of the job in `folder`; `environment` is put over our own.

    Raises RunError when there is one already.
    """
    command = [sys.executable, "-m", "tunestone.cli", "run-job", str(folder)]
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if threads else ()
    with (folder / _LOCK).open("w") as lock, (folder / LOG).open("ab") as log:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"A trainer is at work in '{folder}'.") from None
        for name in (_OUTCOME, _MARK):
            (folder / name).unlink(missing_ok=True)
        return subprocess.Popen(
            [*command, "--niceness", str(niceness)],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                **environment,
                "PYTHONUNBUFFERED": "1",
                **dict.fromkeys(names, str(threads)),
            },
            start_new_session=True,
            pass_fds=(lock.fileno(),),
        )


def is_alive(folder: Path) -> bool:
    """Whether the job has a trainer now, be it of this server or of one that died."""
    lock = folder / _LOCK
    if not lock.exists():
        return False
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def write_mark(folder: Path) -> None:
    """Called by the trainer itself: where it can be reached."""
    write_json(folder / _MARK, {"pid": os.getpid(), "started": _start_time(os.getpid())})


def read_mark(folder: Path) -> dict[str, Any] | None:
    """Process id and start time; None while the trainer is only starting."""
    path = folder / _MARK
    return read_json(path) if path.is_file() else None


def send_signal(folder: Path, number: signal.Signals) -> None:
    """Signal the trainer and all that it started; nothing happens when it is gone."""
    mark = read_mark(folder)
    if mark is None or _start_time(mark["pid"]) != mark["started"]:
        return  # another process may have the number by now
    try:
        os.killpg(mark["pid"], number)
    except ProcessLookupError:
        return


def end_all(folders: Iterable[Path], *, seconds: float) -> None:
    """Ask trainers to end after their step, and kill those that take longer than `seconds`."""
    deadline = time.monotonic() + seconds
    alive = [folder for folder in folders if is_alive(folder)]
    while alive:
        late = time.monotonic() > deadline
        for folder in alive:  # again and again: one that only starts cannot be reached yet
            send_signal(folder, signal.SIGKILL if late else signal.SIGTERM)
        time.sleep(_POLL_SECONDS)
        alive = [folder for folder in alive if is_alive(folder)]


def write_outcome(folder: Path, **fields: Any) -> None:
    """Called by the trainer as its last act; `fields` are those of `Outcome`."""
    write_json(folder / _OUTCOME, fields)


def read_outcome(folder: Path) -> Outcome | None:
    """How the trainer ended; None when it could not say so."""
    path = folder / _OUTCOME
    return Outcome(**read_json(path)) if path.is_file() else None


def log_tail(folder: Path, *, lines: int = 8) -> str:
    """The last lines the trainer printed."""
    path = folder / LOG
    if not path.is_file():
        return ""
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def _start_time(pid: int) -> str:
    """When the process began, in the system's own words; empty when there is none."""
    stat = Path(f"/proc/{pid}/stat")
    if stat.parent.parent.joinpath("self").exists():
        try:
            return stat.read_text().rpartition(")")[2].split()[19]
        except OSError:
            return ""
    command = ["ps", "-o", "lstart=", "-p", str(pid)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
