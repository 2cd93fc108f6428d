"""The prompts behind the ids in the logs, from the data files that the run names."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from tunestone.data import load_prompts
from tunestone.errors import DataError
from tunestone.runlog import RunFolder
from tunestone.types import Prompt


def training_prompts(run: RunFolder) -> Mapping[str, Prompt]:
    """Id -> prompt of the training file; empty when the file is no longer there."""
    return _read(run.config()["config"]["data"])


def validation_prompts(run: RunFolder) -> Mapping[str, Prompt]:
    """The same of what the run validates on, which may be split off the training file."""
    config = run.config()["config"]
    return _read(config["validation"] or config["data"])


def heldout_prompts(run: RunFolder) -> Mapping[str, Prompt]:
    """The same of what base and tuned model are compared on."""
    test = run.config()["config"]["test"]
    return _read(test) if test else validation_prompts(run)


def show_prompt(prompts: Mapping[str, Prompt], prompt_id: str) -> dict[str, Any]:
    """The last turn's text, and all turns; without the file only the id is known."""
    prompt = prompts.get(prompt_id)
    if prompt is None:
        return {"id": prompt_id, "text": None, "turns": []}
    turns = [
        {"role": turn["role"], "text": turn.get("content") or ""}
        for turn in prompt.messages  # an assistant's turn of tool calls has no content
    ]
    return {"id": prompt_id, "text": turns[-1]["text"], "turns": turns}


def _read(path: str) -> Mapping[str, Prompt]:
    file = Path(path)
    if not path or not file.is_file():
        return {}
    return _load(file, file.stat().st_mtime_ns)


@lru_cache(maxsize=16)
def _load(path: Path, changed: int) -> Mapping[str, Prompt]:
    try:
        return {prompt.id: prompt for prompt in load_prompts(path)}
    except DataError:  # changed since the run began; the pages can do without
        return {}
