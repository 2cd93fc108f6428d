"""Workers that load a program once and call it in fresh forks; one sandbox per program."""

import os
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tunestone.errors import RewardError, SandboxError
from tunestone.rewards.sandbox.mechanism import Mechanism
from tunestone.rewards.sandbox.process import FailureKind, Lost, WorkerProcess
from tunestone.rewards.sandbox.usage import find_greed, process_table

_WATCH_SECONDS = 0.05
_ATTEMPTS = 2
_MOST_AT_ONCE = 16
_MOST_WORKERS = 8


@dataclass(frozen=True, slots=True)
class Limits:
    """What one call may use."""

    seconds: float = 60.0
    """Wall time, and CPU time, of one call."""
    memory_mib: int = 2048
    """Address space of one process, and memory of all processes of a call, on top of what the
    loaded program takes."""
    processes: int = 32
    """Processes at once."""
    output_kib: int = 1024
    """Largest result, and most text it may print."""
    file_mib: int = 64
    """Largest file it may write into its scratch folder."""
    network: bool = False
    """Whether it may open sockets: only for rewards that ask a judge."""
    environment: tuple[str, ...] = ()
    """Names of environment variables handed on; nothing else of the environment is."""


@dataclass(frozen=True, slots=True)
class Program:
    """What a worker loads once: `loader(setup)` gives the function that is called."""

    loader: str
    """`package.module:function`, importable in the worker, such as
    `tunestone.rewards.function:load_program`. It takes `setup` and returns a function from one
    JSON payload to a JSON result. It should not import numpy or pydantic unless it needs them: a
    fork costs by the memory of its parent."""
    setup: Mapping[str, Any] = field(default_factory=dict)
    """JSON; the loader gets it as one dict."""
    readable: tuple[Path, ...] = ()
    """Files and folders it may read besides the Python installation; see `mechanism.expose`."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one call: a value, or an error of some kind."""

    value: Any = None
    error: str = ""
    """Traceback of the program, or what the sandbox did and which limit was hit."""
    kind: FailureKind = ""
    """`raised`: the program's own exception; `row`: one with a true `is_row_fault`, which says that
    the data is to blame; the others: it was ended. Empty: it went well."""
    seconds: float = 0.0
    attempts: int = 1
    """More than 1 when a worker died of something else in between."""
    printed: str = ""
    """What a failed call wrote to stdout and stderr, the last part of it."""


class Sandbox:
    """Runs a program's calls in confined workers. Use it as a context manager.

    Workers are started when there is work for them and kept until the end.
    """

    def __init__(
        self,
        program: Program,
        limits: Limits,
        mechanism: Mechanism,
        *,
        workers: int | None = None,
    ) -> None:
        """`workers`: how many at most; None for one per core, up to 8."""
        self._program, self._limits, self._mechanism = program, limits, mechanism
        self._most = workers or min(os.cpu_count() or 1, _MOST_WORKERS)
        self._idle: list[WorkerProcess] = []
        self._busy: list[WorkerProcess] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        """Starts one worker. Raises RewardError when the program cannot be loaded."""
        self._idle.append(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        """Ends all workers."""
        for worker in [*self._idle, *self._busy]:
            worker.end()

    def call(self, payloads: Sequence[Any]) -> list[Outcome]:
        """One outcome per JSON payload, in order, whatever becomes of the others.

        Raises RewardError or SandboxError only when a lost worker cannot be started again.
        """
        work = _Work(payloads)
        threads = [
            threading.Thread(target=self._serve, args=(work,), daemon=True)
            for _ in range(min(self._most, len(payloads)))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(_WATCH_SECONDS)
            while thread.is_alive():
                self._end_greedy_calls()
                thread.join(_WATCH_SECONDS)
        if work.fault is not None:
            raise work.fault
        return [work.outcomes[index] for index in range(len(payloads))]

    def _serve(self, work: "_Work") -> None:
        """Take calls as long as there are any; runs in a thread per worker."""
        try:
            while work.fault is None and (left := work.take(self._most)):
                attempt = 1
                while left:
                    worker = self._take()
                    answers, lost = worker.call([work.payloads[index] for index in left])
                    for index, answer in zip(left, answers, strict=False):
                        work.outcomes[index] = Outcome(**answer, attempts=attempt)
                        attempt = 1
                    left = left[len(answers) :]
                    if lost is None:
                        self._give_back(worker)
                        continue
                    self._retire(worker)
                    if lost.kind or attempt == _ATTEMPTS:
                        work.outcomes[left.pop(0)] = _lost_outcome(lost, attempt)
                        attempt = 1
                    else:
                        attempt += 1
        # Whatever it is, it is the batch's that waits for this thread.
        except BaseException as error:  # noqa: BLE001
            work.fault = error

    def _start(self) -> WorkerProcess:
        return WorkerProcess(self._program, self._limits, self._mechanism)

    def _take(self) -> WorkerProcess:
        with self._lock:
            worker = self._idle.pop() if self._idle else None
        worker = worker or self._start()
        with self._lock:
            self._busy.append(worker)
        return worker

    def _give_back(self, worker: WorkerProcess) -> None:
        with self._lock:
            self._busy.remove(worker)
            self._idle.append(worker)

    def _retire(self, worker: WorkerProcess) -> None:
        with self._lock:
            self._busy.remove(worker)
        worker.end()

    def _end_greedy_calls(self) -> None:
        with self._lock:
            busy = [(worker, worker.answered) for worker in self._busy]  # before we look
        table = process_table()
        for worker, answered in busy:
            greed = find_greed(
                table,
                worker.pid,
                has_namespace=self._mechanism.namespaces,
                memory=self._limits.memory_mib << 20,
                processes=self._limits.processes,
            )
            if greed is not None:
                worker.kill(Lost(greed.reason, greed.kind), call=answered)


class _Work:
    """The calls of one batch, what came of them, and the fault that stops them all."""

    def __init__(self, payloads: Sequence[Any]) -> None:
        self.payloads = payloads
        self.outcomes: dict[int, Outcome] = {}
        self.fault: BaseException | None = None
        self._next = 0
        self._lock = threading.Lock()

    def take(self, workers: int) -> list[int]:
        """Indices of the next calls for one worker: several while there are many left."""
        with self._lock:
            left = len(self.payloads) - self._next
            count = max(1, min(_MOST_AT_ONCE, left // (4 * workers))) if left else 0
            self._next += count
            return list(range(self._next - count, self._next))


def _lost_outcome(lost: Lost, attempts: int) -> Outcome:
    return Outcome(error=lost.reason, kind=lost.kind or "killed", attempts=attempts)


def find_fault(mechanism: Mechanism) -> str:
    """Why a mechanism cannot be used here; empty when it was seen to hold."""
    with tempfile.NamedTemporaryFile("w", encoding="utf-8") as file:
        program = Program("tunestone.rewards.worker.probe:load_program", {"file": file.name})
        try:
            with Sandbox(program, Limits(seconds=10), mechanism, workers=1) as sandbox:
                nothing, read, connect = sandbox.call(["nothing", "read", "socket"])
        except (RewardError, SandboxError) as error:
            return str(error)
    if nothing.error:
        return nothing.error
    if mechanism.name != "none" and not (read.error and connect.error):
        return "it did not keep a worker from files and network"
    return ""
