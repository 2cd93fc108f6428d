"""A user's Python function as the reward, called in this process.

The whole contract is one signature:

    def reward(prompt, completion, row):
        return 1.0 if completion.strip() == row["reference_answer"] else 0.0

`prompt` is the tuple of chat messages, `completion` the sampled text, `row` a dict of every key of
the data row besides `messages`, `reference_answer` and `id` among them. It returns a number, or a
dict with `reward` and named numeric sub-scores, which are logged but not trained on. A function
with these parameter names is called by name (so keyword-only ones work); any other names are
called by position.

What is wrong with the file is said when it is loaded. What goes wrong on one completion is
recorded on that completion: a bad rollout is data, not a crash. Left out on purpose: time limits
and isolation (`rewards/code.py` grades in a child process for that), and any clipping of rewards,
which would hide a mistake of scale.
"""

import copy
import difflib
import importlib
import importlib.util
import inspect
import itertools
import math
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from tunestone.data import fingerprint
from tunestone.errors import RewardError
from tunestone.types import Grade, Sample

RewardFunction = Callable[..., Any]

_SIGNATURE = "def reward(prompt, completion, row)"
_PARAMETERS = ("prompt", "completion", "row")
_ERROR_CHARACTERS = 4_000
"""A recorded traceback keeps its last part of this length; the reason stands at its end."""
_load_numbers = itertools.count(1)


class FunctionGrader:
    """Grades with a Python function, one call per sample, in order; see the module's docstring."""

    def __init__(self, function: RewardFunction) -> None:
        """Raises RewardError when the function cannot be called as the contract says."""
        check_signature(function)
        self._function = function
        self._by_name = _binds_by_name(function)

    def grade(self, samples: Sequence[Sample]) -> list[Grade]:
        """One grade per sample. Never raises for a bad completion; `seconds` is wall time."""
        return [self._grade_one(sample) for sample in samples]

    def _grade_one(self, sample: Sample) -> Grade:
        arguments = _copy_arguments(sample)
        start = time.perf_counter()
        try:
            if self._by_name:
                value = self._function(**arguments)
            else:
                value = self._function(*arguments.values())
        # The function is the user's and may raise anything, or exit. Not BaseException: Ctrl-C is
        # meant for the trainer.
        except (Exception, SystemExit) as error:  # noqa: BLE001
            return _failed(_describe_failure(error), time.perf_counter() - start)
        return _read_value(value, seconds=time.perf_counter() - start)


def source_sha256(function: RewardFunction) -> str:
    """SHA-256 of the file that defines the function; empty when it has none."""
    names: dict[str, Any] = getattr(inspect.unwrap(function), "__globals__", {})
    file = names.get("__file__")
    return fingerprint(Path(file)) if file and Path(file).is_file() else ""


def load_reward_function(spec: str) -> RewardFunction:
    """Load `path/to/reward.py:function` or `package.module:function` and check its signature.

    While a file is loaded, its folder is importable, so it can import its siblings; do so at the
    top of the file, not inside the function. Afterwards `sys.path` is as before and the siblings
    are forgotten again, so that two rewards may each have a `helpers.py`. A file is executed anew
    at each load. For a module the current folder is importable in the same way.

    Raises RewardError naming what is missing, the nearest name, or the file and line that failed.
    """
    source, separator, name = spec.rpartition(":")
    if not separator or not source or not name:
        raise RewardError(
            f"{spec!r} does not name a reward function.",
            remedy="Write path/to/reward.py:function or package.module:function.",
        )
    is_file = source.endswith(".py") or "/" in source or "\\" in source
    module = _load_file(Path(source)) if is_file else _load_module(source)
    function = _find_function(module, name, source)
    check_signature(function)
    return function


def check_signature(function: RewardFunction) -> None:
    """Raise RewardError unless the function takes (prompt, completion, row) and is not async."""
    name = getattr(function, "__name__", type(function).__name__)
    remedy = f"Expected: {_SIGNATURE}."
    if inspect.iscoroutinefunction(function):
        raise RewardError(f"the reward function {name} is async.", remedy=remedy)
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # written in C, with no signature to look at; a wrong call shows in the grades
    if _binds_by_name(function):
        return
    names = list(signature.parameters)
    swapped = any(known in names and names.index(known) != i for i, known in enumerate(_PARAMETERS))
    if swapped or not _binds(signature, 3):
        raise RewardError(
            f"the reward function {name}{signature} cannot be called with a prompt, a completion "
            "and a row.",
            remedy=remedy,
        )


def _binds_by_name(function: RewardFunction) -> bool:
    try:
        inspect.signature(function).bind(**dict.fromkeys(_PARAMETERS))
    except (TypeError, ValueError):
        return False
    return True


def _binds(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        state = "is a folder" if path.is_dir() else "does not exist"
        raise RewardError(
            f"the reward file {path} {state}.",
            remedy="Check the path; it is taken from the folder the command runs in.",
        )
    path = path.resolve()
    # A name of its own per load, so that no file shadows another one or a library.
    name = f"tunestone_reward_{next(_load_numbers)}_{path.stem}"
    specification = importlib.util.spec_from_file_location(name, path)
    if specification is None:
        raise RewardError(f"{path} is not a Python file.", remedy="Name a file ending in .py.")
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # dataclasses and pickle look the module up by its name
    try:
        with _forget_siblings(path.parent), _importable(path.parent):
            # Compiled here rather than by the loader, whose bytecode cache misses a quick edit.
            exec(compile(path.read_bytes(), str(path), "exec", dont_inherit=True), vars(module))
    # Importing runs the user's code, which may raise anything; an exit there is a fault too.
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _import_error(error, source=str(path), folder=path.parent) from error
    return module


def _load_module(name: str) -> ModuleType:
    try:
        with _importable(Path.cwd()):
            return importlib.import_module(name)
    # As above: the user's code, which may raise anything.
    except (Exception, SystemExit) as error:
        raise _import_error(error, source=name, folder=Path.cwd()) from error


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Put the folder first on `sys.path` for a while."""
    before = list(sys.path)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = before


@contextmanager
def _forget_siblings(folder: Path) -> Iterator[None]:
    """Drop the modules found directly in the folder from `sys.modules` afterwards.

    The reward keeps its own references to them. Only modules that lie in the folder itself: below
    it there may be a virtual environment, and libraries must stay. A folder that is on `sys.path`
    anyway is left alone.
    """
    if str(folder) in sys.path:
        yield
        return
    before = set(sys.modules)
    try:
        yield
    finally:
        added = set(sys.modules) - before
        siblings = {name for name in added if "." not in name and _lies_in(name, folder)}
        for name in added:
            if name.partition(".")[0] in siblings:
                del sys.modules[name]


def _lies_in(name: str, folder: Path) -> bool:
    """Whether a top-level module is `folder/name.py` or the package `folder/name/`."""
    specification = getattr(sys.modules[name], "__spec__", None)
    if specification is None or specification.name != name:
        return False
    if specification.submodule_search_locations is not None:
        return any(
            Path(place).parent == folder for place in specification.submodule_search_locations
        )
    return Path(specification.origin or "").parent == folder


def _import_error(error: BaseException, *, source: str, folder: Path) -> RewardError:
    """Say file and line: of the syntax error, or of the last frame that is the user's own code."""
    reason = f"{type(error).__name__}: {error}"
    remedy = "Fix that line; the file must import without an error."
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<")
        and frame.filename not in (__file__, importlib.__file__)
    ]
    own = [frame for frame in frames if Path(frame.filename).parent == folder] or frames
    if isinstance(error, SyntaxError) and error.filename and not error.filename.startswith("<"):
        where, reason = f"{error.filename}:{error.lineno}", f"{type(error).__name__}: {error.msg}"
    elif own:
        where = f"{own[-1].filename}:{own[-1].lineno}"
    else:
        where, remedy = source, "Check the name and that it can be imported from here."
    return RewardError(f"the reward cannot be loaded: {where}: {reason}.", remedy=remedy)


def _find_function(module: ModuleType, name: str, source: str) -> RewardFunction:
    if not hasattr(module, name):
        known = [
            key
            for key, value in vars(module).items()
            if inspect.isfunction(value) and value.__module__ == module.__name__
        ]
        nearest = difflib.get_close_matches(name, known, n=1)
        if nearest:
            remedy = f"Did you mean {nearest[0]}?"
        elif known:
            remedy = f"It has: {', '.join(sorted(known))}."
        else:
            remedy = f"It has no function at all; write {_SIGNATURE}."
        raise RewardError(f"{source} has no function {name}.", remedy=remedy)
    found = getattr(module, name)
    if not callable(found):
        raise RewardError(
            f"{name} in {source} is {_describe_type(found)}, not a function.",
            remedy=f"Expected: {_SIGNATURE}.",
        )
    function: RewardFunction = found
    return function


def _copy_arguments(sample: Sample) -> dict[str, Any]:
    """Fresh copies, so that a reward that changes what it is given harms no other call."""
    prompt = sample.prompt
    row = {**copy.deepcopy(dict(prompt.row)), "id": prompt.id}
    if prompt.tools:
        row["tools"] = copy.deepcopy(list(prompt.tools))
    messages = tuple(copy.deepcopy(dict(message)) for message in prompt.messages)
    return {"prompt": messages, "completion": sample.text, "row": row}


def _read_value(value: object, *, seconds: float) -> Grade:
    """The function's result as a grade: a number, or a dict with `reward` and sub-scores."""
    scores = value if isinstance(value, dict) else {"reward": value}
    if "reward" not in scores:
        keys = ", ".join(map(repr, scores)) or "nothing"
        return _failed(f"the reward function's dict has no 'reward', only {keys}", seconds)
    numbers: dict[str, float] = {}
    for name, score in scores.items():
        number, fault = _read_number(score)
        if fault:
            what = "the reward" if name == "reward" else f"the sub-score {name!r}"
            return _failed(f"{what} must be a finite number, got {fault}", seconds)
        if not isinstance(name, str):
            return _failed(f"the name of a sub-score must be a string, got {name!r}", seconds)
        numbers[name] = number
    return Grade(reward=numbers.pop("reward"), seconds=seconds, metrics=numbers)


def _failed(reason: str, seconds: float) -> Grade:
    return Grade(reward=None, error=reason, seconds=seconds)


def _read_number(value: object) -> tuple[float, str]:
    """The value as a float and "", or 0.0 and what is wrong with it."""
    if value is None:
        return 0.0, "None; is a `return` missing?"
    if not isinstance(value, int | float | np.bool_ | np.integer | np.floating):
        return 0.0, _describe_type(value)
    try:
        number = float(value)
    except OverflowError:
        return 0.0, "an int too large for a float"
    return (number, "") if math.isfinite(number) else (0.0, str(number))


def _describe_type(value: object) -> str:
    kind = type(value)
    home = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"a value of type {home}{kind.__qualname__}"


def _describe_failure(error: BaseException) -> str:
    """The traceback from the user's function on, without our own frame above it."""
    trace = error.__traceback__
    own = trace.tb_next if trace is not None else None
    text = "".join(traceback.format_exception(type(error), error, own)).strip()
    return text if len(text) <= _ERROR_CHARACTERS else "[...] " + text[-_ERROR_CHARACTERS:]
