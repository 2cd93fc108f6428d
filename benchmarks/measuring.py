"""What the benchmarks share: threads, rounds in turn, medians, the setting, the file of results.

Only the standard library is imported here, so that the number of threads can be set before numpy
and torch are loaded and read it.
"""

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent
RESULTS = _HERE / "results" / "vs_trl.json"
_PACKAGES = ("tunestone", "trl", "torch", "transformers", "peft", "accelerate", "datasets", "numpy")
NOT_MEASURED = "not measured"

Way = Callable[[], Mapping[str, float]]
"""Does a piece of work once, and names what it took."""
Series = Mapping[str, Sequence[float]]
"""Name -> what each round gave, the first round left out."""


def set_threads(count: int) -> None:
    """Let every numerical library of this process, and of its children, use `count` threads."""
    if "torch" in sys.modules or "numpy" in sys.modules:
        raise RuntimeError("The threads must be set before torch and numpy are imported.")
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(count)


def timed(action: Callable[[], object]) -> float:
    """Wall seconds of one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def interleaved(ways: Sequence[Way], repeats: int) -> dict[str, list[float]]:
    """Run all ways in turn, `repeats` rounds after one that is thrown away."""
    series: dict[str, list[float]] = {}
    for round_ in range(repeats + 1):
        print(f"round {round_} of {repeats}", file=sys.stderr, flush=True)
        for way in ways:
            for name, value in way().items():
                series.setdefault(name, [])
                if round_:
                    series[name].append(value)
    return series


def summary(values: Iterable[float]) -> dict[str, float]:
    """Median and range, to four digits."""
    known = list(values)
    numbers = {"median": statistics.median(known), "low": min(known), "high": max(known)}
    return {name: float(f"{value:.4g}") for name, value in numbers.items()}


def rates(amount: float, seconds: Iterable[float]) -> dict[str, float]:
    """Summary of `amount` per second."""
    return summary(amount / value for value in seconds)


def ratios(above: Iterable[float], below: Iterable[float]) -> dict[str, float]:
    """Summary of the quotients, round by round."""
    return summary(a / b for a, b in zip(above, below, strict=True))


def store(part: str, value: Mapping[str, Any], options: Namespace) -> None:
    """Put the results of a part under its name and thread count; leave all else as it is."""
    stamped = {**value, "commit": commit()}
    others = read(RESULTS).get(part, {})
    write(RESULTS, **{part: {**others, f"threads_{options.threads}": stamped}})


def read(path: Path) -> dict[str, Any]:
    """What was measured before; parts that were not are empty."""
    empty: dict[str, Any] = {"workloads": [], "limits": {}, "gate": [], "learning": []}
    return {**empty, **(json.loads(path.read_text()) if path.is_file() else {})}


def write(path: Path, **parts: Any) -> None:
    """Replace parts of the file, and say on what they were measured; the other parts stay."""
    setting = {"machine": machine(), "versions": versions(), "commit": commit()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**read(path), **parts, **setting}, indent=2) + "\n")


def machine() -> dict[str, Any]:
    """What the figures depend on besides the code."""
    return {
        "processor": _first_line("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_mib": int((_first_line("/proc/meminfo", "MemTotal") or "0 kB").split()[0]) // 1024,
        "system": platform.platform(),
    }


def versions() -> dict[str, str]:
    """Versions of what ran on either side."""
    installed = {each.metadata["Name"]: each.version for each in importlib.metadata.distributions()}
    found = {name: installed[name] for name in _PACKAGES if name in installed}
    return {"python": platform.python_version(), **found}


def commit() -> str:
    """The commit that was measured."""
    return _git("rev-parse", "HEAD")


def is_dirty() -> bool:
    """Whether the code that is measured differs from the commit."""
    return bool(_git("status", "--porcelain", "--", "../src", ":(glob)**/*.py"))


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(command, cwd=_HERE, capture_output=True, text=True).stdout.strip()


def _first_line(path: str, key: str) -> str:
    file = Path(path)
    lines = file.read_text().splitlines() if file.is_file() else []
    found = [line.split(":", 1)[1].strip() for line in lines if line.startswith(key)]
    return found[0] if found else ""
