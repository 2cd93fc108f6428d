"""OpenAI's Python grader from the inside of the sandbox: loads a source, calls its `grade`.

The source is executed once, as a module named `grader`; every sample is a call in a fresh fork of
that. It gets `sample` and `item` by position, as at OpenAI. Whatever it raises, and a result that
is no finite number, leaves as an exception with the lines of the source in its traceback. Numpy's
numbers, booleans and fractions count as numbers.

Nothing heavy is imported here: every call forks the process that did it.
"""

import functools
import linecache
import math
import numbers
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from tunestone.errors import RewardError
from tunestone.rewards.template import SampleParseError, sample_view
from tunestone.types import Prompt, Sample

_FILE = "<grader>"


def load_program(setup: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], float]:
    """Execute `setup["source"]`; the function returned takes `item`, `text` and `truncated`.

    Raises RewardError when the source has no `grade`, and whatever the source raises.
    """
    source = setup["source"]
    module = ModuleType("grader")
    sys.modules["grader"] = module  # dataclasses and pickle look the module up by its name
    linecache.cache[_FILE] = (len(source), None, source.splitlines(keepends=True), _FILE)
    exec(compile(source, _FILE, "exec", dont_inherit=True), vars(module))
    grade = getattr(module, "grade", None)
    if not callable(grade):
        raise RewardError(
            "python grader: after it ran, the source has no function grade.",
            remedy="Write def grade(sample, item) -> float.",
        )
    return functools.partial(_call, grade)


def _call(grade: Callable[..., Any], payload: Mapping[str, Any]) -> float:
    item = dict(payload["item"])
    prompt = Prompt(id="", messages=(), tools=tuple(item.get("tools") or ()))
    value = grade(_sample_argument(Sample(prompt, payload["text"], payload["truncated"])), item)
    if type(value).__module__ == "numpy" and hasattr(value, "item"):
        value = value.item()
    if not isinstance(value, numbers.Real):
        hint = "; is a `return` missing?" if value is None else ""
        raise TypeError(f"grade must return a float, got {type(value).__name__}{hint}")
    if not math.isfinite(value):
        raise ValueError(f"grade must return a finite float, got {value}")
    return float(value)


def _sample_argument(sample: Sample) -> dict[str, Any]:
    """The namespace `sample` as a plain dict; what the answer does not parse to is empty."""
    view = sample_view(sample)
    argument: dict[str, Any] = {"output_json": None, "output_tools": []}
    for name in view:
        try:
            argument[name] = view[name]
        except SampleParseError:
            argument.setdefault(name, None)
    return argument
