"""A user's Python function as the reward. This part runs in the trainer; see also `function.py`."""

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, Literal, final

from pydantic import Field

from tunestone.errors import RewardError, SandboxError
from tunestone.rewards.function import find_file, is_file, split_spec
from tunestone.rewards.outcomes import grade_of
from tunestone.rewards.sandbox import Limits, Mechanism, Program, Sandbox
from tunestone.rewards.spec import Context, Spec
from tunestone.types import Grade, Sample


@final
class Function(Spec):
    """A Python function of prompt, completion and row, run in the sandbox."""

    type: Literal["function"] = "function"
    path: str
    """`path/to/reward.py:function` or `package.module:function`."""
    timeout_seconds: float = Field(default=60.0, gt=0, le=3600)
    """Longest time for one completion."""
    memory_mib: int = Field(default=2048, ge=64)
    """Most memory one completion may take beyond what the loaded file takes."""
    processes: int = Field(default=32, ge=1)
    """Most processes at once."""
    network: bool = False
    """Whether it may open connections, to a judge for example."""
    environment: tuple[str, ...] = ()
    """Names of environment variables it gets to see; no others are handed on."""
    readable: tuple[str, ...] = ()
    """Files and folders it may read besides its own folder and the Python installation."""

    def open(self, context: Context, stack: ExitStack) -> "FunctionGrader":
        """The grader; its workers end with the stack. Raises RewardError, SandboxError."""
        source, name = split_spec(self.path)
        path, folder = self.path, context.folder.resolve()
        if is_file(source):
            file = find_file(folder / source)
            path, folder = f"{file}:{name}", file.parent
        program = Program(
            "tunestone.rewards.function:load_program",
            {"path": path, "folder": str(folder)},
            readable=(folder, *self._find_readable(context)),
        )
        limits = Limits(
            seconds=self.timeout_seconds,
            memory_mib=self.memory_mib,
            processes=self.processes,
            network=self.network,
            environment=self.environment,
        )
        sandbox = Sandbox(program, limits, self._mechanism(context))
        return FunctionGrader(stack.enter_context(sandbox))

    def files(self, context: Context) -> list[Path]:
        """The file with the function."""
        source, _ = split_spec(self.path)
        file = context.folder / source if is_file(source) else find_module(source, context.folder)
        return [file] if file is not None else []

    def _find_readable(self, context: Context) -> list[Path]:
        paths = [context.folder / path for path in self.readable]
        for path in paths:
            if not path.exists():
                raise RewardError(
                    f"function reward: readable: {path} does not exist.",
                    remedy=f"Check the path; it is taken from {context.folder.resolve()}.",
                )
        return paths

    def _mechanism(self, context: Context) -> Mechanism:
        """What confines it. Our own recipes are trusted where nothing can."""
        try:
            return context.mechanism
        except SandboxError:
            if self.path.startswith("tunestone.recipes.") and not is_file(split_spec(self.path)[0]):
                return Mechanism("none", namespaces=False)
            raise


@final
class FunctionGrader:
    """Calls the function for each sample, each in a fresh fork of its own."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def grade(self, samples: Sequence[Sample]) -> list[Grade]:
        """One grade per sample; what raises, or is ended by the sandbox, is an error."""
        outcomes = self._sandbox.call([_arguments(sample) for sample in samples])
        return [grade_of(outcome) for outcome in outcomes]


def _arguments(sample: Sample) -> dict[str, Any]:
    prompt = sample.prompt
    row = {**prompt.row, "id": prompt.id}
    if prompt.tools:
        row["tools"] = list(prompt.tools)
    return {"prompt": list(prompt.messages), "completion": sample.text, "row": row}


def find_module(name: str, folder: Path) -> Path | None:
    """Where a module lies, found without importing anything; None when it cannot be told."""
    places: list[str] | None = [str(folder), *sys.path]
    found = None
    for part in name.split("."):
        found = PathFinder.find_spec(part, places)
        if found is None:
            return None
        places = list(found.submodule_search_locations or ())
    return Path(found.origin) if found and found.has_location and found.origin else None
