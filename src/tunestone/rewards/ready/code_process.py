"""A model's solution as the judge holds it: a confined process that runs once or answers calls.

The sandbox confines judge and solution together against the world; what is here stands between the
two. The solution is a fresh Python: nothing of the judge's memory, files or environment. It may
signal itself only, start no processes, and touch nobody's limits; it has less memory and time than
the judge, which therefore outlives whatever the solution does.
"""

import contextlib
import json
import math
import os
import resource
import select
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from tunestone.rewards.ready.code_solution import decode, encode
from tunestone.rewards.worker import confine

_SCRIPT = Path(__file__).with_name("code_solution.py")
_OUTPUT_BYTES = 4 << 20
_CHUNK = 1 << 16


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a solution may use."""

    test_seconds: float
    """Wall time of one test."""
    total_seconds: float
    """Wall time of all tests."""
    memory_mib: int
    """Address space."""
    is_confined: bool
    """Whether system calls are restricted; not where the sandbox is switched off."""


class LostError(BaseException):
    """The solution has ended, hangs, or talks nonsense. No test can catch it as an Exception."""


class ForeignError(Exception):
    """An exception of a class of the solution's own."""


class UnhandableError(BaseException):
    """A test hands the solution something that is no plain data: a fault of the test."""


def run_program(source: bytes, text: str, bounds: Bounds, deadline: float) -> str | None:
    """What the program prints when it reads this text, or None when it fails.

    It fails by a status other than 0, by printing more than 4 MiB, and by the deadline
    (of `time.monotonic`).
    """
    with _nameless_file() as stdin:
        stdin.write(b"%d\n" % len(source) + source + text.encode(errors="replace"))
        stdin.seek(0)
        child = _start(["run"], stdin, bounds)
        assert child.stdout is not None
        output = bytearray()
        try:
            while part := _read_part(child.stdout.fileno(), deadline):
                output += part
                if len(output) > _OUTPUT_BYTES:
                    return None
            status = child.wait(max(0.0, deadline - time.monotonic()))
        except (LostError, subprocess.TimeoutExpired):
            return None
        finally:
            _end(child)
    return output.decode(errors="replace") if status == 0 else None


class Solution:
    """A solution that answers calls. Use it as a context manager; raises LostError throughout."""

    def __init__(self, source: bytes, bounds: Bounds, deadline: float) -> None:
        """Start it and wait until its module has been executed. Raises what that raised."""
        self.is_lost = False
        self.deadline = deadline
        self._buffer = bytearray()
        self._answers, theirs = os.pipe()
        arguments = ["serve", str(theirs)]
        self._child = _start(arguments, subprocess.PIPE, bounds, answers=theirs)
        os.close(theirs)
        assert self._child.stdin is not None
        self._requests = self._child.stdin.fileno()
        os.set_blocking(self._requests, False)
        try:
            self._exchange(b"%d\n" % len(source) + source)
        except BaseException:
            self.end()
            raise

    def ask(self, action: str, *args: Any, **kwargs: Any) -> Any:
        """Let the solution do one thing; its value, or the exception it raised, by its class name.

        Actions are those of `code_solution.py`.
        """
        request = {
            "do": action,
            "args": [encode(value, _name) for value in args],
            "kwargs": {name: encode(value, _name) for name, value in kwargs.items()},
        }
        return self._exchange(json.dumps(request).encode() + b"\n")

    def end(self) -> None:
        """End its process."""
        _end(self._child)
        os.close(self._answers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def _exchange(self, data: bytes) -> Any:
        try:
            if self.is_lost:
                raise LostError
            _write(self._requests, data, self.deadline)
            return self._understand(self._read_line())
        except LostError:
            self.is_lost = True
            raise

    def _read_line(self) -> bytes:
        while (end := self._buffer.find(b"\n")) < 0:
            part = _read_part(self._answers, self.deadline)
            if not part or len(self._buffer) > _OUTPUT_BYTES:
                raise LostError
            self._buffer += part
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    def _understand(self, line: bytes) -> Any:
        try:
            answer = json.loads(line)
            if "raised" not in answer:
                return decode(answer["value"], lambda number: Remote(self, int(number)))
            error = _exception(answer["raised"], str(answer["message"]))
        # It may write anything; what the judge cannot read is no answer.
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as fault:
            raise LostError from fault
        except (RecursionError, MemoryError) as fault:
            raise LostError from fault
        raise error


class Remote:
    """An object that stays with the solution: it can be called and looked into, no more.

    It equals nothing but itself, has no truth and no order, so that a test can only be passed by
    plain data.
    """

    __slots__ = ("_number", "_solution")

    def __init__(self, solution: Solution, number: int) -> None:
        self._solution, self._number = solution, number

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._solution.ask("call", self, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._solution.ask("attribute", self, name)

    def __iter__(self) -> Any:
        return iter(self._solution.ask("entries", self))

    def __len__(self) -> int:
        return int(self._solution.ask("length", self))

    def __getitem__(self, key: Any) -> Any:
        return self._solution.ask("entry", self, key)

    def __str__(self) -> str:
        return str(self._solution.ask("text", self))

    def __bool__(self) -> bool:
        raise TypeError("an object of the solution's own is neither true nor false")


def _name(value: Any) -> dict[str, int]:
    """The number a test's argument has in the solution."""
    if not isinstance(value, Remote):
        raise UnhandableError(f"a test hands the solution a value of type {type(value).__name__}")
    return {"ref": value._number}


_EXPECTED: dict[str, type[Exception]] = {
    kind.__name__: kind
    for kind in (
        *(ArithmeticError, AssertionError, AttributeError, EOFError, FileNotFoundError),
        *(IndexError, KeyError, LookupError, NameError, NotImplementedError),
        *(OSError, OverflowError, RecursionError, RuntimeError, TypeError, ValueError),
        ZeroDivisionError,
    )
}
"""What a test may wait for. Not among them is StopIteration, which would end a `map` of calls
early and with it what the test looks at, nor ImportError, which is the test's own."""


def _exception(names: list[str], message: str) -> BaseException:
    """The nearest of Python's own exceptions; LostError for those that end programs."""
    for name in names:
        if name in _EXPECTED:
            return _EXPECTED[name](message)
    return ForeignError(message) if "Exception" in names else LostError(message)


def _start(
    arguments: list[str], stdin: int | IO[bytes], bounds: Bounds, *, answers: int | None = None
) -> subprocess.Popen[bytes]:
    """The process; what it prints can be read, unless it has a pipe for its answers."""
    environment = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    # A file takes what nobody reads, up to the sandbox's limit on files: under Landlock /dev/null
    # can be read only.
    with _nameless_file() as sink:
        # All of its environment is ours, so -I would only take the hash seed away: a solution that
        # prints a set is to print the same one in every run.
        return subprocess.Popen(
            [sys.executable, "-s", "-P", "-B", str(_SCRIPT), *arguments],
            stdin=stdin,
            stdout=subprocess.PIPE if answers is None else sink,
            stderr=sink,
            env=environment,
            pass_fds=() if answers is None else (answers,),
            preexec_fn=lambda: _confine(bounds),
        )


def _nameless_file() -> IO[bytes]:
    """In memory where there is such a thing: the solution may have filled the scratch folder."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("solution"), "w+b")
    return tempfile.TemporaryFile()


_VARIABLES = (
    *("PATH", "LANG", "HOME", "TMPDIR", "PYTHONHASHSEED"),
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"),
)


def _confine(bounds: Bounds) -> None:
    """In the new process, before it becomes the solution."""
    seconds = math.ceil(bounds.total_seconds) + 1
    for kind, value in (
        (resource.RLIMIT_AS, bounds.memory_mib << 20),
        (resource.RLIMIT_CPU, seconds),
    ):
        _, most = resource.getrlimit(kind)
        value = value if most == resource.RLIM_INFINITY else min(value, most)
        resource.setrlimit(kind, (value, value))
    if bounds.is_confined:
        confine.restrict_signals()
        confine.forbid_processes()


def _end(child: subprocess.Popen[bytes]) -> None:
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
    # Before Linux 6.12 the judge itself may not signal it: then it ends by its limit of CPU time,
    # or with the call.
    with contextlib.suppress(PermissionError):
        child.kill()
        child.wait()


def _write(descriptor: int, data: bytes, deadline: float) -> None:
    view = memoryview(data)
    while view:
        _, ready, _ = select.select([], [descriptor], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise LostError
        try:
            view = view[os.write(descriptor, view) :]
        except OSError as error:
            raise LostError from error


def _read_part(descriptor: int, deadline: float) -> bytes:
    """What has come, nothing at its end. Raises LostError at the deadline."""
    ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
    if not ready:
        raise LostError
    return os.read(descriptor, _CHUNK)
