"""Memory that a training process keeps."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import os, pathlib, sys
import tunestone.core
assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == sys.argv[2]
from tunestone.core.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
import torch
def resident():
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmRSS"))
tensor = torch.ones(100 * 2**18)
before = resident()
del tensor
print(before - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="It is glibc that is told.")
@pytest.mark.parametrize(("mode", "given_back"), [("keep", range(50)), ("leave", range(50, 200))])
def test_what_is_freed_is_kept(mode: str, given_back: range) -> None:
    """A tensor of 100 MiB; without the call its memory goes back at once."""
    command = [sys.executable, "-c", PROGRAM, mode, "128"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(result.stdout) in given_back


def test_a_person_decides_how_many_shapes_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "9")
    subprocess.run([sys.executable, "-c", PROGRAM, "leave", "9"], capture_output=True, check=True)
