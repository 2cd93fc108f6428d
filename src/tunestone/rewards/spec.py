"""What every kind of reward has in common: a frozen spec that opens as a grader.

A spec is plain data (a TOML table, a JSON object, OpenAI's grader JSON): validated when it is read,
opened when it is used. Opening may start worker processes or connections; they live as long as the
`ExitStack` they were opened on.
"""

from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict

from tunestone.errors import SandboxError
from tunestone.rewards.sandbox import Mechanism, choose_mechanism
from tunestone.rewards.template import Template, VariableError
from tunestone.types import Grade, GradeFlag, Grader


def _check_template(text: str) -> str:
    Template.parse(text)
    return text


TemplateText = Annotated[str, AfterValidator(_check_template)]
"""A field that holds a template; a malformed one is refused with a RewardError when it is read."""


@dataclass(frozen=True, slots=True)
class Context:
    """Where a reward is opened: what its paths are relative to, and what confines its code."""

    folder: Path
    """Relative paths in a spec start here."""
    sandbox: str = "auto"
    """What is to confine reward code: `auto`, or the name of a mechanism."""
    cache: Path | None = None
    """Folder for the answers of judges; None keeps them in memory."""

    @property
    def mechanism(self) -> Mechanism:
        """What confines it on this machine. Raises SandboxError when nothing can."""
        return choose_mechanism(self.sandbox)

    def tell_sandbox(self, say: Callable[[str], None]) -> None:
        """Say what confines reward code, once it is opened; nothing where nothing can: it would
        have been refused if the reward needed it."""
        with suppress(SandboxError):
            say(f"Sandbox for reward code: {self.mechanism.description}.")


class Spec(BaseModel):
    """Base of all reward specs. A subclass adds a literal `type`, its fields and `open`."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )
    name: str = ""
    """A label for whoever reads the spec, as in OpenAI's graders. Only a `multi` over a lone grader
    uses it: as the variable of the formula."""

    @property
    def calls_models(self) -> bool:
        """Whether it asks other models, which costs tokens."""
        return False

    def open(self, context: Context, stack: ExitStack) -> Grader:
        """The grader; what it starts is ended with the stack. Raises RewardError."""
        raise NotImplementedError

    def files(self, context: Context) -> list[Path]:
        """Files whose content decides the rewards, for the fingerprint of a run."""
        return []


def failed(
    error: str,
    flag: GradeFlag,
    *,
    seconds: float = 0.0,
    attempts: int = 1,
    tokens: dict[str, Any] | None = None,
) -> Grade:
    """A grade that is an error of one kind."""
    return Grade(
        reward=None,
        error=error,
        seconds=seconds,
        attempts=attempts,
        flags=(flag,),
        tokens=tokens or {},
    )


def unfilled(error: VariableError, *, seconds: float = 0.0) -> Grade:
    """The grade where a template finds no value.

    What the row lacks is an error: the model is not to blame. What the answer lacks, such as JSON
    or a tool call, is a 0 with its flag, as at OpenAI: to answer so is what is to be learnt.
    """
    if error.blames_answer:
        return Grade(reward=0.0, seconds=seconds, flags=(error.flag,))
    return failed(str(error), error.flag, seconds=seconds)
