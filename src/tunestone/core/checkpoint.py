"""Checkpoints that are whole or absent.

A checkpoint is a folder `step-000010` with `tensors.safetensors` (trainable weights and optimizer
moments), `state.json` (the loop's state and the SHA-256 of the tensors) and `adapter/`, the model
of that step as others load it. It is written under another name, flushed to disk, and renamed;
loading checks the hash and takes the newest good one.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tunestone.runlog import (
    CHECKPOINT_RESULT,
    checkpoint_path,
    checkpoint_steps,
    replacing,
    unwritten,
)

_TENSORS, _STATE = "tensors.safetensors", "state.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What was loaded."""

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]


def save_checkpoint(
    folder: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    *,
    save_result: Callable[[Path], None] | None = None,
) -> None:
    """Write checkpoint `step`. Raises StorageError, leaving earlier checkpoints as they were.

    `save_result` writes the model of that step into the folder it is given.
    """
    with writing_weights(checkpoint_path(folder, step)) as work:
        work.mkdir(parents=True)
        save_file({k: v.contiguous() for k, v in tensors.items()}, work / _TENSORS)
        if save_result is not None:
            save_result(work / CHECKPOINT_RESULT)
        record = {**state, "step": step, "tensors_sha256": _digest(work / _TENSORS)}
        (work / _STATE).write_text(json.dumps(record, indent=2), encoding="utf-8")


@contextmanager
def writing_weights(folder: Path) -> Iterator[Path]:
    """`replacing(folder)` for weights: safetensors has an error of its own for a failed write."""
    try:
        with replacing(folder) as unfinished:
            yield unfinished
    except SafetensorError as error:
        raise unwritten(folder, str(error)) from error


def load_checkpoint(folder: Path, step: int) -> Checkpoint | None:
    """Checkpoint `step`, None when it is absent or damaged."""
    path = checkpoint_path(folder, step)
    try:
        state = json.loads((path / _STATE).read_text(encoding="utf-8"))
        if _digest(path / _TENSORS) != state["tensors_sha256"]:
            return None
        return Checkpoint(step, load_file(path / _TENSORS), state)
    except (OSError, ValueError, KeyError, SafetensorError):
        return None


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole."""
    for step in reversed(checkpoint_steps(folder)):
        if found := load_checkpoint(folder, step):
            return found
    return None


def keep_only(folder: Path, steps: Iterable[int]) -> None:
    """Delete all checkpoints but these."""
    wanted = set(steps)
    for step in checkpoint_steps(folder):
        if step not in wanted:
            shutil.rmtree(checkpoint_path(folder, step))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
