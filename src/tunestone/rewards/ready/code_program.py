"""The judge of model-written code: runs in a worker, holds the tests, and asks the solution.

The tests run here; only calls go to the solution's process, and only plain data comes back (see
`code_process.py`). So the solution never meets a right answer, an `assert`, a frame or a file of
the judge: printing what looks like a result, leaving with status 0, patching builtins, or objects
that equal everything gain it nothing. What a test calls by a name that it does not define itself
is the solution's; `math`, `np` and other modules are the judge's own.

This costs what a test could do inside one process only: an argument is a copy, so a test cannot
see what a function did to it; objects of the solution's own classes can be made, called and looked
into, but not compared; tests that pass functions are refused.
"""

import ast
import importlib
import math
import textwrap
import time
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tunestone.rewards.ready.code_process import (
    Bounds,
    LostError,
    Solution,
    UnhandableError,
    run_program,
)
from tunestone.rewards.ready.extraction import UnusableReferenceError
from tunestone.rewards.ready.fenced import find_last_block

Suite = Mapping[str, Any]
"""Of `code_tests.read_suite`."""

_SOURCE_CHARACTERS = 1 << 17
_LANGUAGES = ("python", "py", "python3")


def load_program(setup: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """The function from `{"text", "arguments": suite}` to `{"reward", "metrics"}`.

    `setup`: `reward`, `strict`, `tolerance`, and `bounds`, the fields of `Bounds`.
    """
    bounds = Bounds(**setup["bounds"])
    is_share = setup["reward"] == "share"
    return partial(_grade, Terms(is_share, setup["strict"], setup["tolerance"], bounds))


@dataclass(frozen=True, slots=True)
class Terms:
    """How solutions are graded."""

    is_share: bool
    """Whether the reward is the share of tests passed, and not 1 or 0."""
    is_strict: bool
    """Whether the code must be fenced."""
    tolerance: float
    bounds: Bounds


def _grade(terms: Terms, payload: Mapping[str, Any]) -> dict[str, Any]:
    suite = payload["arguments"]
    source = find_source(payload["text"], suite, strict=terms.is_strict)
    share = 0.0
    if source is not None:
        deadline = time.monotonic() + terms.bounds.total_seconds
        passed = _RUNNERS[suite["style"]](source, suite, terms, deadline)
        share = passed / len(suite["tests"])
    metrics = {"compiled": float(source is not None), "passed_share": share}
    return {"reward": share if terms.is_share else float(share == 1), "metrics": metrics}


def find_source(text: str, suite: Suite, *, strict: bool) -> bytes | None:
    """The solution in a completion, or None when there is none that compiles.

    The row's prefix comes first; a completion that does not define the entry point goes on where
    the prefix ends, as the body of its function.
    """
    code = find_last_block(text, _LANGUAGES)
    if code is None and not strict:
        code = text
    if code is None:
        return None
    prefix, entry = suite["prefix"], suite["entry_point"]
    if not prefix:
        return _compiled(code)
    if _compiled(code) is not None and (not entry or _defines(code, entry)):
        return _compiled(f"{prefix.rstrip()}\n\n{code}") or _compiled(code)
    body = code.strip("\n")
    body = body if body[:1].isspace() else textwrap.indent(body, "    ")
    return _compiled(f"{prefix.rstrip()}\n{body}\n")


def run_stdin(source: bytes, suite: Suite, terms: Terms, deadline: float) -> int:
    """How many tests a program passes that reads standard input and prints."""
    passed = 0
    for test in suite["tests"]:
        end = min(deadline, time.monotonic() + terms.bounds.test_seconds)
        output = run_program(source, test["input"], terms.bounds, end)
        passed += output is not None and is_same_text(output, test["output"], terms.tolerance)
    return passed


def run_calls(source: bytes, suite: Suite, terms: Terms, deadline: float) -> int:
    """How many calls of the entry point give the right value."""

    def check(solution: Solution, test: Mapping[str, Any]) -> None:
        found = solution.ask("find", suite["entry_point"])(*test["args"])
        right = test["output"]
        # APPS wraps some of its values into a list of one.
        rights = [right, right[0]] if isinstance(right, list) and len(right) == 1 else [right]
        if not any(is_same(found, one, terms.tolerance) for one in rights):
            raise AssertionError

    return _count_passed(source, suite["tests"], check, terms.bounds, deadline)


def run_code(source: bytes, suite: Suite, terms: Terms, deadline: float) -> int:
    """How many pieces of test code end without an exception."""
    own: dict[str, Any] = {"__name__": "test"}
    try:
        own |= {name: importlib.import_module(path) for name, path in suite["modules"].items()}
        exec(suite["trusted_prefix"], own)
    # The row's code may raise anything; its samples have an error then.
    except Exception as error:  # noqa: BLE001
        raise UnusableReferenceError(f"code of the row fails before the tests: {error!r}") from None

    def check(solution: Solution, test: Mapping[str, Any]) -> None:
        asked = {name: solution.ask("find", name) for name in test["names"]}
        namespace = {**own, **asked}
        exec(test["code"], namespace)
        if suite["has_check"]:
            namespace["check"](asked[suite["entry_point"]])

    return _count_passed(source, suite["tests"], check, terms.bounds, deadline)


def is_same_text(output: str, right: str, tolerance: float) -> bool:
    """Whether a program printed what is right, white space at the ends of lines aside.

    With a tolerance, words that are numbers may differ by it, absolutely or relatively.
    """
    lines, right_lines = (
        [line.rstrip() for line in text.rstrip().splitlines()] for text in (output, right)
    )
    if lines == right_lines:
        return True
    if not tolerance or len(lines) != len(right_lines):
        return False
    pairs = zip(lines, right_lines, strict=True)
    return all(_are_near(a.split(), b.split(), tolerance) for a, b in pairs)


def _are_near(words: list[str], right_words: list[str], tolerance: float) -> bool:
    if len(words) != len(right_words):
        return False
    return all(
        a == b or is_same(_number(a), _number(b), tolerance)
        for a, b in zip(words, right_words, strict=True)
    )


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return math.nan  # which is the same as nothing


def is_same(value: Any, right: Any, tolerance: float) -> bool:
    """Whether two plain values are equal: tuples as lists, numbers within the tolerance."""
    if isinstance(value, list | tuple) and isinstance(right, list | tuple):
        return len(value) == len(right) and all(
            is_same(a, b, tolerance) for a, b in zip(value, right, strict=True)
        )
    if isinstance(value, int | float) and isinstance(right, int | float) and tolerance:
        return math.isclose(value, right, rel_tol=tolerance, abs_tol=tolerance)
    return bool(value == right)


_RUNNERS = {"stdin": run_stdin, "calls": run_calls, "code": run_code}


def _count_passed(
    source: bytes,
    tests: Sequence[Any],
    check: Callable[[Solution, Any], None],
    bounds: Bounds,
    deadline: float,
) -> int:
    """How many tests `check` lets pass; a solution that is lost in one is started again."""
    waiting = deque(tests)
    passed = 0

    def end_of_test() -> float:
        return min(deadline, time.monotonic() + bounds.test_seconds)

    while waiting:
        try:
            solution = Solution(source, bounds, end_of_test())
        # Executing it may raise anything; then it passes nothing, now or later.
        except (Exception, LostError):  # noqa: BLE001
            return passed
        with solution:
            while waiting and not solution.is_lost:
                solution.deadline = end_of_test()
                passed += _passes(partial(check, solution, waiting.popleft()), solution)
    return passed


def _passes(check: Callable[[], None], solution: Solution) -> bool:
    try:
        check()
    except (UnhandableError, ImportError) as error:  # of the test: the solution's become foreign
        raise UnusableReferenceError(f"a test of the row cannot be run: {error}") from None
    # Whatever else it raises, the test has failed.
    except (Exception, LostError):  # noqa: BLE001
        return False
    return not solution.is_lost  # which a bare `except` of the test may have kept from us


def _compiled(code: str) -> bytes | None:
    """The source, if it is Python of a decent length: compiling may take quadratic time."""
    if len(code) > _SOURCE_CHARACTERS:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            compile(code, "solution.py", "exec", dont_inherit=True)
        # Zero bytes and lone surrogates are ValueErrors; the others come of endless nesting.
        except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
            return None
    return code.encode()


def _defines(code: str, name: str) -> bool:
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return any(isinstance(node, kinds) and node.name == name for node in ast.parse(code).body)
