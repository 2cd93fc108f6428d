"""Memory that a training process keeps, in pages of 2 MB where the system has them.

A step allocates and frees gigabytes. By default glibc gives large pieces back at once and PyTorch
asks for pages of 4 kB, so each step pays hundreds of thousands of page faults and misses in the
processor's table of pages: a forward and backward takes 13 % less without (docs/LOG.md). The peak
is the same; what a process has had, it keeps until it ends.
"""

import ctypes
import os
import platform

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_LARGE = 1 << 30


def prefer_large_pages() -> None:
    """Let PyTorch ask for large pages. It looks once, at its first tensor."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def keep_freed_memory() -> None:
    """Let glibc keep what is freed; elsewhere nothing."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
