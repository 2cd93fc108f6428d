"""benchmarks/gpu.py on the CPU: the code that a machine with a GPU runs, with a tiny model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "gpu.py"


def test_the_smoke_run_measures_ours_and_says_what_is_missing(tmp_path: Path) -> None:
    output = tmp_path / "gpu.json"
    command = [sys.executable, SCRIPT, "--cpu-smoke", "--steps", "1", "--output", output]
    sides = ["--sides", "ours", "ours, vLLM"]
    done = subprocess.run([*command, *sides], capture_output=True, text=True, check=True)
    ours, with_vllm = json.loads(output.read_text())["measurements"]
    assert ours["completions_per_second"] > 0
    assert 0 < ours["share"]["sample"] < 1
    assert "problem" in with_vllm  # vLLM is not installed here, or there is no GPU
    assert f"| {with_vllm['problem']} |" in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_measures_nothing() -> None:
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "There is no CUDA device here: nothing was measured." in done.stderr
