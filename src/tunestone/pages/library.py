"""Which runs there are to show, and under which name each stands in addresses.

`Library` is the seam: `tunestone view` shows run folders, the server the runs of its jobs.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tunestone.errors import RunError
from tunestone.runlog import RunFolder


@dataclass(frozen=True, slots=True)
class ShownJob:
    """What a server knows of the job that a run belongs to."""

    id: str
    """As its clients name it."""
    door: str
    """Through which it came: `bedrock` or `openai`."""
    model: str
    """The base as its client named it."""
    created: str
    """ISO time."""
    state: str
    """One of the states in `jobs/job.py`."""
    wish: str = ""
    """`stop` or `pause` while a running job is asked to."""
    error: str = ""
    """Why it failed."""
    actions: tuple[str, ...] = ()
    """What may be asked of it now: `stop`, `pause`, `resume`."""
    tuned: str = ""
    """The name under which its result answers; empty where there is none."""


@dataclass(frozen=True, slots=True)
class ShownRun:
    """A run under its name in addresses."""

    key: str
    """Letters, digits, `-` and `_` only."""
    name: str
    folder: RunFolder
    job: ShownJob | None = None
    """None for a run that no server's job made."""

    @property
    def has_begun(self) -> bool:
        """Whether there is anything in its folder; a job waits before, and may fail."""
        return (self.folder.path / "config.json").is_file()


class Library(Protocol):
    """The runs that may be looked at."""

    def runs(self) -> list[ShownRun]:
        """All of them, in the order they are shown."""
        ...

    def find(self, key: str) -> ShownRun | None:
        """The run of that name, None when there is none. Only what `runs` lists can be reached."""
        ...


class FolderLibrary:
    """Run folders, and folders that hold some; these may get more while they are shown."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Raises RunError for a path that is neither."""
        self._paths = [path.resolve() for path in paths]
        for path in self._paths:
            if not path.is_dir():
                raise RunError(f"'{path}' is not a folder.", remedy="Name a run folder.")
            if not _runs_in(path) and len(self._paths) > 1:
                raise RunError(
                    f"'{path}' is not a run folder and holds none.",
                    remedy="`tunestone runs` lists the runs there are.",
                )

    def runs(self) -> list[ShownRun]:
        """The newest first."""
        begun = {run: date for path in self._paths for run, date in _runs_in(path).items()}
        shown: dict[str, ShownRun] = {}
        for folder in begun:
            slug = re.sub(r"[^A-Za-z0-9_-]+", "-", folder.name).strip("-") or "run"
            key, number = slug, 1
            while key in shown:
                number += 1
                key = f"{slug}-{number}"
            shown[key] = ShownRun(key, folder.name, RunFolder(folder))
        return sorted(shown.values(), key=lambda run: begun[run.folder.path], reverse=True)

    def find(self, key: str) -> ShownRun | None:
        """The run of that name."""
        return next((run for run in self.runs() if run.key == key), None)


def _runs_in(path: Path) -> dict[Path, str]:
    """Run folder -> when it was begun."""
    here = [path / "config.json"]
    files = here if here[0].is_file() else sorted(path.glob("*/config.json"))
    # A link that leads out of the folder would show what nobody asked to show.
    inside = [file.parent for file in files if file.parent.resolve().is_relative_to(path)]
    dates = {folder: _begun(folder) for folder in inside}
    return {folder: date for folder, date in dates.items() if date is not None}


def _begun(folder: Path) -> str | None:
    """None for what is no run: a model's folder has a config.json too, and a run may vanish."""
    try:
        record = RunFolder(folder).config()
    except (OSError, ValueError):
        return None
    return record["created"] if {"created", "config", "origins"} <= record.keys() else None
