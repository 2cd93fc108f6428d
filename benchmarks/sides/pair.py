"""Both sides on one workload, a few steps each in turn: ours, TRL, ours, TRL ..."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from sides.protocol import Side
from sides.workloads import VALIDATION_ROWS, Workload, make_rows
from tunestone.data import write_rows

_Record = dict[str, Any]
Records = list[_Record]
_TURN = 3
"""Steps of one side before the other's turn. While it waits for minutes, its caches grow cold and
the kernel reclaims its memory, so a first step shows the wait: here that is one step in three."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What all measurements have in common."""

    model: str
    """Folder of a Hugging Face model with a chat template."""
    gsm8k: Path
    say: Callable[[str], None]


def run_pair(
    bench: Bench, workload: Workload, *, steps: int, seed: int = 0
) -> tuple[Records, Records]:
    """The steps of ours and of TRL's, from the very first on.

    Raises RuntimeError when the two did not do the same work.
    """
    records: tuple[Records, Records] = ([], [])
    with _sides(bench, workload, seed) as sides:
        for first in range(1, steps + 1, _TURN):
            turn = range(first, min(first + _TURN, steps + 1))
            for side, kept in zip(sides, records, strict=True):
                kept += [side.step() for _ in turn]
            for step in turn:
                ours, theirs = (kept[step - 1] for kept in records)
                _refuse_unequal_work(workload, ours, theirs)
                bench.say(
                    f"  step {step}: ours {ours['seconds']:.2f} s, TRL {theirs['seconds']:.2f} s, "
                    f"peaks {ours['peak_mib']:.0f} and {theirs['peak_mib']:.0f} MiB, "
                    f"rewards {ours['reward']:.3f} and {theirs['reward']:.3f}"
                )
    return records


@contextmanager
def _sides(bench: Bench, workload: Workload, seed: int) -> Iterator[tuple[Side, Side]]:
    """Ours and TRL's, loaded and waiting. TRL gets the prompts in the order that ours draws."""
    tokenizer = AutoTokenizer.from_pretrained(bench.model)
    rows = make_rows(workload, tokenizer, seed=seed, gsm8k=bench.gsm8k)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vs_trl_")))
        write_rows(folder / "train.jsonl", rows[VALIDATION_ROWS:])
        write_rows(folder / "validation.jsonl", rows[:VALIDATION_ROWS])
        job = {
            "workload": asdict(workload),
            "model": bench.model,
            "folder": str(folder),
            "seed": seed,
        }
        ours = stack.enter_context(
            Side("sides.ours", job, threads=workload.threads, log=folder / "ours.log")
        )
        by_id = {row["id"]: row for row in rows}
        write_rows(folder / "trl.jsonl", [by_id[id_] for id_ in ours.ready["order"]])
        theirs = stack.enter_context(
            Side("sides.trl_side", job, threads=workload.threads, log=folder / "trl.log")
        )
        _refuse_unequal(workload, ["trainable"], ours.ready, theirs.ready)
        yield ours, theirs


def _refuse_unequal_work(workload: Workload, ours: _Record, theirs: _Record) -> None:
    """Same prompts and as many completions; with fixed lengths as many tokens too."""
    exact = ["generated_tokens"] if workload.kind == "fixed" else []
    _refuse_unequal(workload, ["completions", "prompt_tokens", *exact], ours, theirs)


def _refuse_unequal(workload: Workload, keys: list[str], ours: _Record, theirs: _Record) -> None:
    for key in keys:
        if ours[key] != theirs[key]:
            raise RuntimeError(f"{workload.name}: {key} are {ours[key]} and {theirs[key]}.")
