"""How a pure scoring function becomes a grader: called here, or in the sandbox.

A scoring function takes the completion's text and what the sample's row holds for it (the
reference answer, mostly), and returns a reward and named sub-scores. It is pure, so it is tested
alone. Functions that finish in linear time on any text are called in this process; those that may
hang (`re`, sympy) or that evaluate what the model wrote go through the sandbox, by the same seam.

What a row lacks is an error on its samples, never a zero: the model is not to blame for it. What
the answer lacks is a zero with a flag.
"""

import importlib.util
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, final

from tunestone.errors import RewardError
from tunestone.rewards.outcomes import grade_of
from tunestone.rewards.ready.extraction import Score, UnusableReferenceError
from tunestone.rewards.sandbox import Limits, Program, Sandbox
from tunestone.rewards.spec import Context, failed, unfilled
from tunestone.rewards.template import Template, VariableError, item_view, sample_view
from tunestone.types import Grade, Sample

Arguments = Callable[[Sample], Mapping[str, Any]]
"""From a sample to the named arguments of a scoring function, besides the text.

May raise VariableError and UnusableReferenceError."""

_LOADER = "tunestone.rewards.ready.sandboxed:load_program"


def from_templates(**texts: str) -> Arguments:
    """Arguments that are templates resolved over the sample's row."""
    templates = {name: Template.parse(text) for name, text in texts.items()}

    def resolve(sample: Sample) -> Mapping[str, Any]:
        item, answer = item_view(sample), sample_view(sample)
        return {name: template.resolve(item, answer) for name, template in templates.items()}

    return resolve


def no_arguments(sample: Sample) -> Mapping[str, Any]:
    """For functions that look at the text only."""
    return {}


@final
class PureGrader:
    """Grades with a scoring function called in this process."""

    def __init__(self, score: Callable[..., Score], arguments: Arguments) -> None:
        self._score = score
        self._arguments = arguments

    def grade(self, samples: Sequence[Sample]) -> list[Grade]:
        """One grade per sample, in order; a row the function cannot use is an error."""
        return [self._grade_one(sample) for sample in samples]

    def _grade_one(self, sample: Sample) -> Grade:
        start = time.perf_counter()
        arguments = _resolve(self._arguments, sample)
        if isinstance(arguments, Grade):
            return arguments
        try:
            reward, metrics = self._score(sample.text, **arguments)
        except UnusableReferenceError as error:
            return failed(str(error), "other_error", seconds=time.perf_counter() - start)
        return Grade(reward=reward, metrics=metrics, seconds=time.perf_counter() - start)


@final
class SandboxedGrader:
    """Grades with a scoring function of `ready/sandboxed.py`, called in confined workers."""

    def __init__(self, sandbox: Sandbox, arguments: Arguments) -> None:
        self._sandbox = sandbox
        self._arguments = arguments

    def grade(self, samples: Sequence[Sample]) -> list[Grade]:
        """One grade per sample, in order; a call the sandbox ends is an error on its sample."""
        arguments = [_resolve(self._arguments, sample) for sample in samples]
        payloads = [
            {"text": sample.text, "arguments": dict(found)}
            for sample, found in zip(samples, arguments, strict=True)
            if not isinstance(found, Grade)
        ]
        outcomes = iter(self._sandbox.call(payloads))
        return [
            found if isinstance(found, Grade) else grade_of(next(outcomes)) for found in arguments
        ]


def open_sandboxed(
    setup: Mapping[str, Any],
    arguments: Arguments,
    *,
    seconds: float,
    context: Context,
    stack: ExitStack,
) -> SandboxedGrader:
    """A grader whose scorer is `setup["scorer"]`; its workers end with the stack."""
    sandbox = Sandbox(
        Program(loader=_LOADER, setup=setup),
        Limits(seconds=seconds),
        context.mechanism,
    )
    return SandboxedGrader(stack.enter_context(sandbox), arguments)


def require_package(module: str, *, package: str, extra: str) -> None:
    """Raise RewardError with the command that installs the package when it is missing."""
    if importlib.util.find_spec(module) is None:
        raise RewardError(
            f"this reward needs the {package} package.",
            remedy=f"pip install 'tunestone[{extra}]'",
        )


def _resolve(arguments: Arguments, sample: Sample) -> Mapping[str, Any] | Grade:
    """The arguments, or the grade that says why there are none."""
    start = time.perf_counter()
    try:
        return arguments(sample)
    except VariableError as error:
        return unfilled(error, seconds=time.perf_counter() - start)
    except UnusableReferenceError as error:
        return failed(str(error), "other_error", seconds=time.perf_counter() - start)
