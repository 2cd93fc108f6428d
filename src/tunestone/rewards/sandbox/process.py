"""One worker process, seen from the trainer: start it, call it, end it."""

import contextlib
import os
import select
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from tunestone.errors import RewardError, SandboxError
from tunestone.rewards.sandbox.mechanism import Mechanism, python_folders, start_of
from tunestone.rewards.sandbox.usage import descendants, process_table
from tunestone.rewards.worker import channel, folders

if TYPE_CHECKING:
    from tunestone.rewards.sandbox.pool import Limits, Program

FailureKind = Literal["", "raised", "row", "timeout", "memory", "killed", "output"]
_LOAD_SECONDS = 120.0
_GRACE_SECONDS = 5.0
_FRAME_BYTES = 1 << 20  # of an answer, besides its value
_WINDOW_BYTES = 1 << 16
_ANSWER: dict[str, type] = {
    "value": object,
    "kind": str,
    "error": str,
    "seconds": float,
    "printed": str,
}
_NO_FAILURE = {"message": "", "remedy": ""}


@dataclass(frozen=True, slots=True)
class Lost:
    """Why a worker can answer no more."""

    reason: str
    kind: Literal["", "timeout", "memory", "killed"] = ""
    """Empty when the call it was at need not be to blame."""


class WorkerProcess:
    """A confined process that has loaded a program."""

    def __init__(self, program: "Program", limits: "Limits", mechanism: Mechanism) -> None:
        """Raises RewardError when the program cannot be loaded, SandboxError if nothing starts."""
        self._limits = limits
        self._scratch = Path(tempfile.mkdtemp(prefix="tunestone-scratch-"))
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed by _remove
        self._killed_for: Lost | None = None
        self._killed_at: int | None = None
        self._answered = 0
        try:
            start = start_of(
                mechanism,
                readable=program.readable,
                network=limits.network,
                environment=limits.environment,
                scratch=self._scratch,
                file_mib=limits.file_mib,
            )
            self._start(start.command, start.environment)
        except RewardError:
            self._remove()
            raise
        except OSError as error:
            self._remove()
            raise SandboxError(f"A worker could not be started: {error}.") from error
        message = {
            "loader": program.loader,
            "setup": dict(program.setup),
            "limits": asdict(limits),
            "scratch": start.scratch,
            "confine": start.confine,
            "sys_path": python_folders(),
        }
        self._load(message)

    @property
    def pid(self) -> int:
        """Its number, which is that of its process group too."""
        return self._process.pid

    def call(self, payloads: Sequence[Any]) -> tuple[list[dict[str, Any]], Lost | None]:
        """The answers to these calls; fewer when the worker was lost, and then why."""
        seconds = self._limits.seconds + _GRACE_SECONDS
        requests = [channel.encode(payload) for payload in payloads]
        answers: list[dict[str, Any]] = []
        sent = waiting = 0
        try:
            while len(answers) < len(requests):
                # Ahead of the answers, but never so far that both sides could block in writing.
                while sent < len(requests) and (
                    sent == len(answers) or waiting + len(requests[sent]) <= _WINDOW_BYTES
                ):
                    self._send(requests[sent], seconds)
                    waiting += len(requests[sent])
                    sent += 1
                answers.append(_checked_answer(self._read(seconds)))
                self._answered += 1
                waiting -= len(requests[len(answers) - 1])
        except TimeoutError:
            return answers, Lost(f"no answer within {seconds:g} s", "timeout")
        except (EOFError, OSError, ValueError):
            return answers, self._blame() or Lost("its worker process was lost on every attempt")
        return answers, None

    def end(self) -> None:
        """Kill it with all it has started."""
        self.kill()
        self._control.close()
        self._process.wait()
        self._remove()

    @property
    def answered(self) -> int:
        """How many calls it has answered."""
        return self._answered

    def kill(self, reason: Lost | None = None, *, call: int | None = None) -> None:
        """Kill its processes; the call it was at, if it is this one, then learns why it is gone."""
        self._killed_for = self._killed_for or reason
        self._killed_at = call
        table, pid = process_table(), self._process.pid
        groups = {usage.group for usage in descendants(table, pid)}
        groups |= {usage.group for usage in table if usage.session == pid}  # it may be gone
        for group in [self._process.pid, *groups]:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)

    def _blame(self) -> Lost | None:
        """Why it was killed, if that was seen of the call it was at and not of one before."""
        return self._killed_for if self._killed_at == self._answered else None

    def _start(self, command: list[str], environment: dict[str, str]) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno())],
                env=environment,
                cwd=self._scratch,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                start_new_session=True,  # a group to kill, and no Ctrl-C meant for the trainer
            )
        self._control = ours
        self._answers = channel.Reader(
            ours.fileno(), largest=(self._limits.output_kib << 10) + _FRAME_BYTES
        )

    def _load(self, message: dict[str, Any]) -> None:
        try:
            self._send(channel.encode(message), _LOAD_SECONDS)
            answer = _checked_greeting(self._read(_LOAD_SECONDS))
        except (EOFError, OSError, ValueError) as error:
            raise self._not_loaded(error) from error
        if "failed" in answer:
            self.end()
            failure = answer["failed"]
            raise RewardError(str(failure["message"]), remedy=str(failure["remedy"]))

    def _not_loaded(self, error: Exception) -> RewardError | SandboxError:
        """Why nothing came back: the mechanism failed and said so, or the program ended it."""
        self._errors.seek(0)
        said = self._errors.read(4_000).decode(errors="replace").strip()
        self.end()
        if said:
            return SandboxError(f"A worker could not be started: {said}")
        if isinstance(error, TimeoutError):
            return RewardError(f"the reward was not loaded within {_LOAD_SECONDS:g} s.")
        return RewardError(
            "the process ended while the reward was loaded.",
            remedy="A reward must not exit on import.",
        )

    def _send(self, data: bytes, seconds: float) -> None:
        self._control.settimeout(seconds)
        self._control.sendall(data)

    def _read(self, seconds: float) -> Any:
        """The next answer. Raises TimeoutError or EOFError."""
        deadline = time.monotonic() + seconds

        def wait() -> bool:
            left = deadline - time.monotonic()
            return left > 0 and bool(select.select([self._control], [], [], left)[0])

        return self._answers.read(wait)

    def _remove(self) -> None:
        self._errors.close()
        with contextlib.suppress(OSError):
            folders.empty(str(self._scratch))
            self._scratch.rmdir()


def _checked_answer(answer: Any) -> dict[str, Any]:
    """An answer with the fields of an Outcome. Raises ValueError for anything else: code that runs
    while the program is loaded can reach the worker's socket, and say what it likes."""
    if (
        not isinstance(answer, dict)
        or not answer.keys() <= _ANSWER.keys()
        or (not answer.keys() & {"value", "kind"})
    ):
        raise ValueError("no answer of a worker")
    if any(not isinstance(value, _ANSWER[key]) for key, value in answer.items()):
        raise ValueError("an answer with values of wrong types")
    if answer.get("kind", "raised") not in get_args(FailureKind)[1:]:  # the first is no failure
        raise ValueError("an answer of an unknown kind")
    return answer


def _checked_greeting(answer: Any) -> dict[str, Any]:
    """What a worker says when it has loaded. Raises ValueError for anything else."""
    failure = answer.get("failed", _NO_FAILURE) if isinstance(answer, dict) else None
    if not isinstance(failure, dict) or not failure.keys() >= _NO_FAILURE.keys():
        raise ValueError("no greeting of a worker")
    greeting: dict[str, Any] = answer
    return greeting
