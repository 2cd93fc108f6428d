"""Memory of the device that trains: what this process needed at its peak, and what it may have.

On a GPU the memory of the GPU counts, which is the scarcer one; else that of the process. What this
process holds on the GPU is given back when the check ends, so it counts as free; MemAvailable of
Linux leaves it out, which errs on the safe side.
"""

import resource
import sys
from pathlib import Path
from typing import Protocol

import torch

_MIB = 1 << 20
_MEMINFO = Path("/proc/meminfo")


class Gpu(Protocol):
    """What is asked of a GPU; the module `torch.cuda` for one."""

    def max_memory_allocated(self) -> int:
        """Bytes of tensors at the peak."""

    def memory_reserved(self) -> int:
        """Bytes that this process holds."""

    def mem_get_info(self) -> tuple[int, int]:
        """Bytes: free, in all."""


def find_gpu() -> Gpu | None:
    """The GPU that models are loaded on; None when there is none."""
    return torch.cuda if torch.cuda.is_available() else None


def peak_mib(gpu: Gpu | None) -> float:
    """The most this process ever used, in MiB."""
    if gpu is not None:
        return gpu.max_memory_allocated() / _MIB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (_MIB if sys.platform == "darwin" else 1 << 10)


def available_mib(gpu: Gpu | None) -> float | None:
    """MiB that a training may have; None where the system does not say."""
    if gpu is not None:
        free, _ = gpu.mem_get_info()
        return (free + gpu.memory_reserved()) / _MIB
    if not _MEMINFO.is_file():
        return None
    lines = dict(line.split(":", 1) for line in _MEMINFO.read_text(encoding="ascii").splitlines())
    return int(lines["MemAvailable"].split()[0]) / 1024
