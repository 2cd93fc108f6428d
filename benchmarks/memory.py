"""What a run keeps in memory: over its steps, and at its peak against `microbatch_tokens`.

Every figure comes from a fresh process, so nothing of an earlier one is counted. Linux only: the
numbers are VmRSS and VmHWM of /proc/self/status, in MiB.
"""

import statistics
import tempfile
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import workload
from measuring import NOT_MEASURED

from tunestone.config import TrainConfig
from tunestone.core.learner import Learner
from tunestone.core.model import Policy, load_base
from tunestone.core.run import Watch, create, execute
from tunestone.recipes import load_recipe

STEPS, LONG = 20, 400
TINY = workload.LlamaShape(64, 128, 2, 4, 2)  # for the long run
MICROBATCHES = (512, 1024, 2048, 4096)
GROUPS, GROUP, PROMPT, ANSWER = 8, 8, 256, 32  # 512 nodes a group, 4096 together
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_PEAK = "5"  # written there, it makes VmHWM begin anew


def measure(options: Namespace) -> dict[str, Any]:
    """Both measurements, each in processes of its own."""
    setting = workload.setting(options)
    if not _STATUS.is_file():
        return {"setting": setting, "steps": NOT_MEASURED, "microbatch_tokens": NOT_MEASURED}
    resident = _in_fresh_process(resident_by_step, options.model, options.threads, STEPS)
    long = _in_fresh_process(resident_of_tiny, options.model, options.threads)
    return {
        "setting": setting,
        "steps": {"resident_mib": resident, "growth_mib_per_step": _growth(resident[STEPS // 2 :])},
        "steps_of_tiny_model": {
            "resident_mib_every_20_steps": long[::20],
            "growth_mib_per_step_first_quarter": _growth(long[: LONG // 4]),
            "growth_mib_per_step_last_quarter": _growth(long[-LONG // 4 :]),
        },
        "microbatch_tokens": {
            str(limit): _in_fresh_process(peak_of_update, options.model, options.threads, limit)
            for limit in MICROBATCHES
        },
    }


def resident_of_tiny(model: str, threads: int) -> list[float]:
    """MiB after each step of a long run of a tiny random model with the tokenizer of `model`.

    New numbers of nodes fill caches for a while, oneDNN's of a thousand shapes among them; only a
    long run tells that from a leak.
    """
    tiny = workload.random_llama(load_base(model), TINY)
    tiny.network.generation_config.eos_token_id = sorted(tiny.end_tokens)
    with tempfile.TemporaryDirectory() as folder:
        tiny.network.save_pretrained(folder)
        tiny.tokenizer.save_pretrained(folder)
        return resident_by_step(folder, threads, LONG)


def resident_by_step(model: str, threads: int, steps: int) -> list[float]:
    """MiB after each step of a small run on word problems, logs and checkpoints included."""
    sizes = {"train": 2 * STEPS, "validation": 4, "test": 4}
    generated = load_recipe("word_problems").generate(0)
    splits = {name: generated[name][:count] for name, count in sizes.items()}
    config = TrainConfig(
        model=model,
        reward=load_recipe("word_problems").settings["reward"],
        max_steps=steps,
        batch_size=2,
        group_size=4,
        max_completion_tokens=16,
        lora_rank=workload.LORA_RANK,
        eval_every=steps,
        threads=threads,
    )
    resident: list[float] = []
    watch = Watch(
        say=lambda message: None,
        planned=lambda trainer, heldout, forecast: None,
        measured=lambda name, scores: None,
        step=lambda record: resident.append(_mib("VmRSS")),
        stop_requested=lambda: False,
    )
    with tempfile.TemporaryDirectory() as folder:
        execute(create(Path(folder) / "run", config, {}, task="memory", splits=splits), watch)
    return resident


def peak_of_update(model: str, threads: int, limit: int) -> Mapping[str, float]:
    """MiB before an update on groups of 512 nodes, and at its highest."""
    torch.set_num_threads(threads)
    base = load_base(model)
    config = TrainConfig(
        max_completion_tokens=ANSWER, lora_rank=workload.LORA_RANK, microbatch_tokens=limit
    )
    learner = Learner(Policy(base, lora_rank=workload.LORA_RANK), config)
    groups = workload.groups(base, count=GROUPS, size=GROUP, prompt=PROMPT, answer=ANSWER)
    _CLEAR.write_text(_PEAK)
    before = _mib("VmRSS")
    learner.update(groups, learning_rate=workload.LEARNING_RATE)
    return {"before_mib": before, "peak_mib": _mib("VmHWM")}


def _growth(resident: Sequence[float]) -> float:
    """MiB a step, by least squares."""
    slope, _ = statistics.linear_regression(range(len(resident)), resident)
    return round(slope, 3)


def _in_fresh_process(work: Callable[..., Any], *arguments: object) -> Any:
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def _mib(name: str) -> float:
    """A figure of this process's status, given there in KiB."""
    lines = _STATUS.read_text().splitlines()
    (figure,) = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return round(int(figure) / 1024, 1)
