"""Kill a small run again and again with SIGKILL, resume it each time, and say what came out.

A program of its own (see test_resume.py): it imports torch once and forks a child for every
session, so that a session costs milliseconds and not the import of torch. Prints one JSON line.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from tiny import write_tiny_model
from toy import run_to_end, toy_run
from tunestone.runlog import RunFolder


def main(folder: Path, kills: int, lora_rank: int, seed: int) -> None:
    """Run once undisturbed and once under `kills` kills, in two folders."""
    torch.set_num_threads(1)
    model = write_tiny_model(folder / "model")
    settings = {
        "lora_rank": lora_rank,
        "max_steps": 12,
        "eval_every": 1,
        "patience": 0,
        "refill_limit": 1,
    }
    undisturbed = toy_run(folder / "undisturbed", model, **settings)
    seconds = session(undisturbed, kill_after=None)
    killed = toy_run(folder / "killed", model, **settings)
    rng = random.Random(seed)
    # A kill every seventh of a run's time: each session gets a few steps further.
    delays = [rng.uniform(0.05, 2 / 7) * seconds for _ in range(kills)]
    done = sum(session(killed, kill_after=delay) is None for delay in delays)
    session(killed, kill_after=None)
    print(json.dumps({"kills": done, "seconds": seconds}))


def session(run: RunFolder, *, kill_after: float | None) -> float | None:
    """One process that works on the run; its wall seconds, or None when it was killed."""
    start = time.perf_counter()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            run_to_end(RunFolder.open(run.path))
            code = 0
        finally:
            os._exit(code)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return None
    if os.WEXITSTATUS(status):
        sys.exit(f"a session failed with status {os.WEXITSTATUS(status)}")
    return time.perf_counter() - start


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
