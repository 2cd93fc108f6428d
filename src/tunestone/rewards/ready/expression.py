"""Mathematical expressions, compared by math-verify: `1/2` is 0.5, and `(x+1)^2` is `x^2+2x+1`.

It reads LaTeX with a grammar and asks sympy whether two expressions are equal, which may take for
ever; so it runs in the sandbox, and an answer that takes too long is an error, not a zero. We cut
the answer out of its mark first, since math-verify left alone takes any formula of the text.
"""

from contextlib import ExitStack
from typing import Literal, final

from pydantic import Field

from tunestone.rewards.ready.scoring import (
    SandboxedGrader,
    from_templates,
    open_sandboxed,
    require_package,
)
from tunestone.rewards.spec import Context, Spec, TemplateText


@final
class Expression(Spec):
    """1 when the answer's expression equals the row's, else 0; sub-score `formatted`."""

    type: Literal["math"] = "math"
    reference: TemplateText = "{{ item.reference_answer }}"
    """The right expression, LaTeX or plain, with or without dollar signs; or an object with
    `final_answer`, `answer` or `text`."""
    style: Literal["boxed", "answer_tag", "flexible"] = "flexible"
    r"""Where the answer must stand: the last `\boxed{}`, the last `<answer>` tag, or the first of
    these two that there is."""
    digits: int = Field(default=6, ge=0, le=15)
    """Decimal places to which numbers must agree."""
    timeout_seconds: float = Field(default=10.0, gt=0)
    """Wall time one answer may take."""

    def open(self, context: Context, stack: ExitStack) -> SandboxedGrader:
        """The grader; its workers end with the stack. Raises RewardError without math-verify."""
        require_package("math_verify", package="math-verify", extra="math")
        return open_sandboxed(
            {"scorer": "math", "options": {"style": self.style, "digits": self.digits}},
            from_templates(reference=self.reference),
            seconds=self.timeout_seconds,
            context=context,
            stack=stack,
        )
