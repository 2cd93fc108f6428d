"""A user's Python function as the reward. This part runs in the sandbox's worker.

The whole contract is one signature:

    def reward(prompt, completion, row):
        return 1.0 if completion.strip() == row["reference_answer"] else 0.0

`prompt` is the tuple of chat messages, `completion` the sampled text, `row` a dict of every key of
the data row besides `messages`, `reference_answer` and `id` among them. It returns a number, or a
dict with `reward` and named numeric sub-scores, which are logged but not trained on. A function
with these parameter names is called by name (so keyword-only ones work); any other names are
called by position.

What is wrong with the file is said when it is loaded. What goes wrong on one completion is
recorded on that completion: a bad rollout is data, not a crash. Left out on purpose: any clipping
of rewards, which would hide a mistake of scale. Only the standard library is imported here, since
every call forks this process; see `worker/main.py`.
"""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from tunestone.errors import RewardError

RewardFunction = Callable[..., Any]

_SIGNATURE = "def reward(prompt, completion, row)"
_PARAMETERS = ("prompt", "completion", "row")


def load_program(setup: dict[str, Any]) -> Callable[[Any], Any]:
    """The function of `setup["path"]`, as one from a payload to a reward with its sub-scores.

    A relative path, and a module that is not installed, are sought in `setup["folder"]`. A payload
    has `prompt`, `completion` and `row`. Raises RewardError when it cannot be loaded or called.
    """
    function = load_reward_function(setup["path"], Path(setup["folder"]))
    by_name = _binds_by_name(function)

    def call(payload: dict[str, Any]) -> Any:
        arguments = {**payload, "prompt": tuple(payload["prompt"])}
        value = function(**arguments) if by_name else function(*arguments.values())
        if not isinstance(value, dict) or "reward" not in value:
            return value
        return {
            "reward": value["reward"],
            "metrics": {k: v for k, v in value.items() if k != "reward"},
        }

    return call


def load_reward_function(spec: str, folder: Path) -> RewardFunction:
    """Load `path/to/reward.py:function` or `package.module:function` and check its signature.

    The folder of the file, or `folder` for a module, becomes importable in this process.

    Raises RewardError naming what is missing, the nearest name, or the file and line that failed.
    """
    source, name = split_spec(spec)
    module = _load_file(folder / source) if is_file(source) else _load_module(source, folder)
    function = _find_function(module, name, source)
    check_signature(function, str(module.__file__))
    return function


def split_spec(spec: str) -> tuple[str, str]:
    """File or module, and function. Raises RewardError when one is missing."""
    source, separator, name = spec.rpartition(":")
    if not separator or not source or not name:
        raise RewardError(
            f"{spec!r} does not name a reward function.",
            remedy="Write path/to/reward.py:function or package.module:function.",
        )
    return source, name


def is_file(source: str) -> bool:
    """Whether the first half of a spec names a file rather than a module."""
    return source.endswith(".py") or "/" in source or "\\" in source


def find_file(path: Path) -> Path:
    """The reward file, links followed. Raises RewardError when there is none."""
    if not path.is_file():
        state = "is a folder" if path.is_dir() else "does not exist"
        raise RewardError(
            f"the reward file {path} {state}.",
            remedy="Check the path; it is taken from the folder the command runs in.",
        )
    return path.resolve()


def check_signature(function: RewardFunction, file: str) -> None:
    """Raise RewardError unless the function takes (prompt, completion, row) and is not async.

    `file` is where it is from, to say how a Lambda handler in there is written.
    """
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
    if names[:1] == ["event"] and len(names) == 2:
        raise RewardError(
            f"{name}{signature} is the handler of a Lambda.",
            remedy=f'Write {{"type": "lambda", "path": "{file}", "handler": "{name}"}}.',
        )
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
    path = find_file(path)
    try:
        source = path.read_bytes()
    except OSError as error:
        raise RewardError(
            f"the reward file {path} cannot be read: {error.strerror}.",
            remedy="Check its permissions.",
        ) from error
    name = f"tunestone_reward_{path.stem}"  # so that a file called json.py shadows nothing
    specification = importlib.util.spec_from_file_location(name, path)
    if specification is None:
        raise RewardError(f"{path} is not a Python file.", remedy="Name a file ending in .py.")
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # dataclasses and pickle look the module up by its name
    sys.path.insert(0, str(path.parent))
    try:
        # Compiled here rather than by the loader, whose bytecode cache misses a quick edit.
        exec(compile(source, str(path), "exec", dont_inherit=True), vars(module))
    # Importing runs the user's code, which may raise anything, an exit or an interrupt too.
    except BaseException as error:
        raise _import_error(error, source=str(path), folder=path.parent) from error
    return module


def _load_module(name: str, folder: Path) -> ModuleType:
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(name)
    # As above: the user's code, which may raise anything.
    except BaseException as error:
        raise _import_error(error, source=name, folder=folder) from error


def _import_error(error: BaseException, *, source: str, folder: Path) -> RewardError:
    """Say file and line: of the syntax error, or of the last frame that is the user's own code."""
    import traceback  # here, as below: only a failure needs it, and every fork pays for it

    reason = f"{type(error).__name__}: {error}".removesuffix(": ")
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
        import difflib

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


def _describe_type(value: object) -> str:
    kind = type(value)
    home = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"a value of type {home}{kind.__qualname__}"
