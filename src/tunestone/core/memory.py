"""Memory that a training process keeps, and memory that it does not need.

A step allocates and frees gigabytes. By default glibc gives large pieces back at once, and each
step pays hundreds of thousands of page faults; told to keep them, a process has what it has had at
its highest until it ends. oneDNN keeps the code it made for the last thousand shapes; numbers of
nodes seldom repeat, so a hundred serve as well and a run's memory stays where it is.
"""

import ctypes
import os
import platform

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_LARGE = 1 << 30
_SHAPES = "128"


def bound_caches() -> None:
    """Let oneDNN remember fewer shapes. It looks once, at its first product."""
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", _SHAPES)


def keep_freed_memory() -> None:
    """Let glibc keep what is freed; elsewhere nothing."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
