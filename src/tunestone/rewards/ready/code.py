"""Code that has to pass the unit tests of its row, run where neither it nor the tests can cheat.

Three processes stand behind one grade: the trainer, a confined worker that holds the tests
(`code_program.py`), and within it the solution, which sees arguments and gives answers. A solution
that fails, hangs, crashes, allocates too much or does not compile has reward 0: that is what it is
worth. A row without usable tests is an error on its samples.

Left out: tests that run in the solution's own process (unittest classes, `mock.patch`), for there
no verdict can be trusted: any object may equal everything, and any frame may be rewritten.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, Literal, final

from pydantic import Field

from tunestone.rewards.ready.code_tests import read_suite
from tunestone.rewards.ready.scoring import SandboxedGrader, from_templates
from tunestone.rewards.sandbox import Limits, Program, Sandbox
from tunestone.rewards.spec import Context, Spec, TemplateText
from tunestone.types import Sample

_LOADER = "tunestone.rewards.ready.code_program:load_program"
_GRACE_SECONDS = 5.0
_JUDGE_MIB = 256


@final
class Code(Spec):
    """Whether the completion's Python passes; sub-scores `compiled` and `passed_share`."""

    type: Literal["code"] = "code"
    tests: TemplateText = "{{ item.tests }}"
    """The row's tests, in any shape of `code_tests.py`: those of MBPP, HumanEval, APPS,
    LiveCodeBench; also a whole row of MBPP or HumanEval."""
    entry_point: TemplateText | None = None
    """Name of the function that is tested, such as `{{ item.entry_point }}`."""
    prefix: TemplateText | None = None
    """Code that completions go on from, such as HumanEval's `{{ item.prompt_code }}`: put before
    them, whether they hold the whole function or its body only."""
    reward: Literal["all", "share"] = "all"
    """`all`: 1 when every test passes, else 0. `share`: the share of tests passed."""
    strict: bool = False
    """Whether the code must stand in a closed fence; otherwise a text without one is the code."""
    tolerance: float = Field(default=0.0, ge=0)
    """Largest difference, absolute or relative, between printed or returned numbers and the right
    ones. Asserts say for themselves what is near enough."""
    test_seconds: float = Field(default=5.0, gt=0)
    """Wall time of one test."""
    timeout_seconds: float = Field(default=30.0, gt=0)
    """Wall time of all tests of a completion; those that are left then have failed."""
    memory_mib: int = Field(default=1024, ge=64)
    """Address space of the solution."""

    def open(self, context: Context, stack: ExitStack) -> SandboxedGrader:
        """The grader; its workers end with the stack. Raises SandboxError."""
        mechanism = context.mechanism
        bounds = {
            "test_seconds": self.test_seconds,
            "total_seconds": self.timeout_seconds,
            "memory_mib": self.memory_mib,
            "is_confined": mechanism.name != "none",
        }
        setup = {**self.model_dump(include={"reward", "strict", "tolerance"}), "bounds": bounds}
        limits = Limits(
            seconds=self.timeout_seconds + _GRACE_SECONDS,
            memory_mib=self.memory_mib + _JUDGE_MIB,
        )
        sandbox = Sandbox(Program(_LOADER, setup), limits, mechanism)
        return SandboxedGrader(stack.enter_context(sandbox), self._arguments())

    def _arguments(self) -> Any:
        texts = {"tests": self.tests, "entry_point": self.entry_point, "prefix": self.prefix}
        resolve = from_templates(**{name: text for name, text in texts.items() if text})

        def read(sample: Sample) -> Mapping[str, Any]:
            return read_suite(**resolve(sample))

        return read
