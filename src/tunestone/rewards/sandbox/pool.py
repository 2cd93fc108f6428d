"""Workers that load a program once and call it in fresh forks; one sandbox per program."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from tunestone.rewards.sandbox.mechanism import Mechanism

FailureKind = Literal["", "raised", "timeout", "memory", "killed", "output"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one call may use."""

    seconds: float = 60.0
    """Wall time, and CPU time, of one call."""
    memory_mib: int = 2048
    """Address space of one process, and resident memory of all processes of a call."""
    processes: int = 32
    """Processes and threads at once."""
    output_kib: int = 1024
    """Largest result, and largest text kept of what it prints."""
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
    `tunestone.rewards.code:load_program`. It takes `setup` and returns a function from one JSON
    payload to a JSON result. It must not import numpy or pydantic unless it needs them: a fork
    costs by the memory of its parent."""
    setup: Mapping[str, Any] = field(default_factory=dict)
    """JSON; made into arguments of the loader as one dict."""
    readable: tuple[Path, ...] = ()
    """Files and folders it may read besides the Python installation."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one call: a value, or an error of some kind."""

    value: Any = None
    error: str = ""
    """Traceback of the program, or what the sandbox did and which limit was hit."""
    kind: FailureKind = ""
    """`raised`: the program's own exception; the others: it was ended. Empty: it went well."""
    seconds: float = 0.0
    attempts: int = 1
    """More than 1 when a worker died of something else in between."""
    printed: str = ""
    """What it wrote to stdout and stderr, the last part of it."""


class Sandbox:
    """Runs a program's calls in confined workers. Use it as a context manager."""

    def __init__(
        self, program: Program, limits: Limits, mechanism: Mechanism, *, workers: int
    ) -> None: ...

    def __enter__(self) -> Self:
        """Starts one worker. Raises RewardError when the program cannot be loaded."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends all workers."""

    def call(self, payloads: Sequence[Any]) -> list[Outcome]:
        """One outcome per JSON payload, in order, whatever becomes of the others."""
        raise NotImplementedError
