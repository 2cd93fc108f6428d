"""Two processes that train in turn: the parent says `step`, the child runs one and answers.

The child that is not asked blocks in a read, so only one computes at a time. Answers are one line
of JSON; a child's first answer, before any step, says that it is ready and what it has chosen.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

BENCHMARKS = Path(__file__).resolve().parents[1]
_LOG_END = 3000  # characters of a dead child's log that are shown


class Turns:
    """The child's end of the pipe."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # what libraries print must not mix with answers

    def wait(self) -> None:
        """Block until a step is wanted; leave the process when none is wanted any more."""
        if sys.stdin.readline() != "step\n":
            raise SystemExit(0)

    def answer(self, **record: Any) -> None:
        """Tell the parent."""
        print(json.dumps(record), file=self._answers, flush=True)


class Side:
    """The parent's end: a child process that runs `python -m MODULE JOB`."""

    def __init__(self, module: str, job: Mapping[str, Any], *, threads: int, log: Path) -> None:
        self._log = log
        with log.open("w") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, json.dumps(job)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                cwd=BENCHMARKS,
                env={**os.environ, **_environment(threads)},
            )
        self.ready = self._read()
        """What the child said when it was ready."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.stdin:
            self._process.stdin.close()  # the child reads the end of its orders and leaves
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def step(self) -> dict[str, Any]:
        """Have exactly one training step run."""
        assert self._process.stdin
        self._process.stdin.write("step\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            end = self._log.read_text()[-_LOG_END:]
            raise RuntimeError(f"A side ended before its time. The end of its log:\n{end}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def peak_mib() -> float:
    """Highest resident memory of this process since it began, from VmHWM."""
    lines = Path("/proc/self/status").read_text().splitlines()
    kib = next(line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(kib) / 1024


def _environment(threads: int) -> dict[str, str]:
    return {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
