"""The prompts behind the ids in the logs, from the data files that the run names."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from tunestone.data import fingerprint, load_prompts
from tunestone.runlog import RunFolder
from tunestone.types import Prompt


def training_prompts(run: RunFolder) -> Mapping[str, Prompt]:
    """Id -> prompt of the training file; empty when the file is gone or another one."""
    return _read(run, "data")


def validation_prompts(run: RunFolder) -> Mapping[str, Prompt]:
    """The same of what the run validates on, which may be split off the training file."""
    return _read(run, "validation", "data")


def heldout_prompts(run: RunFolder) -> Mapping[str, Prompt]:
    """The same of what base and tuned model are compared on."""
    return _read(run, "test", "validation", "data")


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


def _read(run: RunFolder, *names: str) -> Mapping[str, Prompt]:
    """Of the first of these files that the run has."""
    files = run.config()["files"]
    record = next((files[name] for name in names if name in files), None)
    if record is None or not Path(record["path"]).is_file():
        return {}
    path = Path(record["path"])
    return _load(path, record["sha256"], path.stat().st_mtime_ns)


@lru_cache(maxsize=16)
def _load(path: Path, sha256: str, changed: int) -> Mapping[str, Prompt]:
    """Ids may be numbers of lines, so a file that has changed since would show wrong prompts."""
    if fingerprint(path) != sha256:
        return {}
    return {prompt.id: prompt for prompt in load_prompts(path)}
