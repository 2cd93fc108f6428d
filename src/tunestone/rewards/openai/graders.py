"""OpenAI's graders that need no model: `string_check`, `text_similarity` and `python`.

The specs are OpenAI's grader JSON as its clients send it. A string in them may hold templates; see
`template.py`. A template that finds no value in the row makes that sample's grade an error with
OpenAI's flag for it, never a zero; what the answer lacks is a zero with a flag; see `unfilled`.

`python` runs in the sandbox under OpenAI's limits: no network, 2 minutes, 2 GiB of memory, 1 GiB
of disk (here: per file). Two things differ. `image_tag` is read and not used: the packages are
those installed here (the extra `graders` installs the rest of OpenAI's list). And a result that is
no number is an error here, where OpenAI gives a zero.
"""

import ast
import operator
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Literal, final

from pydantic import Field, field_validator

from tunestone.errors import RewardError
from tunestone.rewards.openai.similarity import METRICS, too_long
from tunestone.rewards.outcomes import grade_of
from tunestone.rewards.sandbox import Limits, Outcome, Program, Sandbox
from tunestone.rewards.spec import Context, Spec, TemplateText, failed, unfilled
from tunestone.rewards.template import Template, VariableError, item_view, sample_view
from tunestone.types import Grade, Sample

SOURCE_BYTES = 256 * 1024
"""OpenAI's limit on the source of a Python grader."""
PYTHON_LIMITS = Limits(seconds=120, memory_mib=2048, file_mib=1024)
"""OpenAI's limits on one call of a Python grader."""

_OPERATIONS: Mapping[str, Callable[[str, str], bool]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "neq": operator.ne,
    "like": lambda text, reference: reference in text,
    "ilike": lambda text, reference: reference.casefold() in text.casefold(),
}


@final
class StringCheck(Spec):
    """1 when `operation` holds between `input` and `reference`, else 0."""

    type: Literal["string_check"] = "string_check"
    input: TemplateText
    """What is checked, with templates, such as `{{ sample.output_text }}`."""
    reference: TemplateText
    """What it is checked against, with templates, such as `{{ item.reference_answer }}`."""
    operation: Literal["eq", "ne", "neq", "like", "ilike"]
    """`eq`, `ne` (or `neq`): equal or not, every character counts. `like`: the input contains the
    reference; `ilike`: the same, upper and lower case being alike."""

    def open(self, context: Context, stack: ExitStack) -> "TemplateGrader":
        """The grader; it starts nothing."""
        holds = _OPERATIONS[self.operation]
        return TemplateGrader(
            self.input, self.reference, lambda text, reference: (float(holds(text, reference)), {})
        )


@final
class TextSimilarity(Spec):
    """How alike `input` and `reference` are, from 0 to 1; see `similarity.py` for the metrics."""

    type: Literal["text_similarity"] = "text_similarity"
    input: TemplateText
    """What is compared, with templates."""
    reference: TemplateText
    """What it is compared to, with templates."""
    evaluation_metric: Literal[
        "fuzzy_match",
        "bleu",
        "gleu",
        "meteor",
        "rouge_1",
        "rouge_2",
        "rouge_3",
        "rouge_4",
        "rouge_5",
        "rouge_l",
    ]
    """Which measure of likeness."""
    pass_threshold: float | None = Field(default=None, ge=0.0, le=1.0)
    """When given, the sub-score `passed` is 1 from this likeness on, else 0. The reward stays the
    likeness itself: a smooth score is the better teacher."""

    @field_validator("evaluation_metric", mode="before")
    @classmethod
    def _refuse_cosine(cls, metric: object) -> object:
        if metric == "cosine":
            raise RewardError(
                "text_similarity: the metric 'cosine' asks an embedding service for every grade "
                "and is not allowed for reinforcement fine-tuning, at OpenAI either.",
                remedy=f"Use one of {', '.join(METRICS)}.",
            )
        return metric

    def open(self, context: Context, stack: ExitStack) -> "TemplateGrader":
        """The grader; it starts nothing."""
        measure, threshold = METRICS[self.evaluation_metric], self.pass_threshold

        def score(text: str, reference: str) -> tuple[float, dict[str, float]]:
            likeness = measure(text, reference)
            passed = {} if threshold is None else {"passed": float(likeness >= threshold)}
            return likeness, passed

        return TemplateGrader(self.input, self.reference, score, refuse=self._refuse_long)

    def _refuse_long(self, text: str, reference: str) -> str:
        if not too_long(self.evaluation_metric, text, reference):
            return ""
        return (
            f"text_similarity: {len(text):,} and {len(reference):,} characters are too many for "
            f"{self.evaluation_metric}."
        )


@final
class PythonGrader(Spec):
    """`def grade(sample, item) -> float` in a text of Python, run in the sandbox."""

    type: Literal["python"] = "python"
    source: str
    """The Python source, less than 256 KiB, that defines `grade`. `sample` has `output_text`,
    `output_json` (None when the answer is no JSON), `output_tools` and `choices`; `item` is the
    data row."""
    image_tag: str | None = None
    """OpenAI's name for a set of installed packages. Read, so that a grader made for OpenAI runs
    unchanged, and not used."""

    @field_validator("source")
    @classmethod
    def _check_source(cls, source: str) -> str:
        check_source(source)
        return source

    def open(self, context: Context, stack: ExitStack) -> "SourceGrader":
        """The grader, with a sandbox of its own. Raises RewardError when the source fails."""
        program = Program(
            loader="tunestone.rewards.openai.program:load_program",
            setup={"source": self.source},
        )
        sandbox = Sandbox(program, PYTHON_LIMITS, context.mechanism)
        return SourceGrader(stack.enter_context(sandbox).call)


@final
class TemplateGrader:
    """Fills two templates from each sample and scores the two texts."""

    def __init__(
        self,
        input: str,
        reference: str,
        score: Callable[[str, str], tuple[float, dict[str, float]]],
        *,
        refuse: Callable[[str, str], str] = lambda text, reference: "",
    ) -> None:
        """`score` gives reward and sub-scores of (input, reference); it must take any text that
        `refuse` has no reason to refuse."""
        self._input = Template.parse(input)
        self._reference = Template.parse(reference)
        self._score = score
        self._refuse = refuse

    def grade(self, samples: Sequence[Sample]) -> list[Grade]:
        """One grade per sample; an error where a template finds no value."""
        return [self._grade_one(sample) for sample in samples]

    def _grade_one(self, sample: Sample) -> Grade:
        start = time.perf_counter()
        item, answer = item_view(sample), sample_view(sample)
        try:
            text, reference = self._input.render(item, answer), self._reference.render(item, answer)
        except VariableError as error:
            return unfilled(error, seconds=time.perf_counter() - start)
        if reason := self._refuse(text, reference):
            return failed(reason, "other_error", seconds=time.perf_counter() - start)
        reward, metrics = self._score(text, reference)
        return Grade(reward=reward, seconds=time.perf_counter() - start, metrics=metrics)


@final
class SourceGrader:
    """Grades by calls of a sandboxed program; see `program.py`."""

    def __init__(self, call: Callable[[Sequence[Any]], list[Outcome]]) -> None:
        """`call` is that of a sandbox: one outcome per payload, in order."""
        self._call = call

    def grade(self, samples: Sequence[Sample]) -> list[Grade]:
        """One grade per sample; what raises, or is ended by the sandbox, is an error."""
        # The answer travels as text and is parsed over there: what a model wrote should not cost
        # this process more than it must.
        payloads = [
            {"item": item_view(sample), "text": sample.text, "truncated": sample.truncated}
            for sample in samples
        ]
        return [grade_of(outcome) for outcome in self._call(payloads)]


def check_source(source: str) -> None:
    """Raise RewardError unless the text is Python, short enough, and defines `grade`."""
    remedy = "Write def grade(sample, item) -> float."
    size = len(source.encode(errors="replace"))
    if size >= SOURCE_BYTES:
        raise RewardError(
            f"python grader: the source has {size:,} bytes, the limit is {SOURCE_BYTES:,}.",
            remedy="Move data out of the source, into the rows.",
        )
    try:
        tree = ast.parse(source, "<grader>")
        compile(tree, "<grader>", "exec", dont_inherit=True)
    except SyntaxError as error:
        where = f"line {error.lineno}: " if error.lineno else ""
        raise RewardError(
            f"python grader: {where}{error.msg}.", remedy="The source must be Python."
        ) from error
    # Lone surrogates; expressions too deep for the compiler.
    except (ValueError, RecursionError, MemoryError) as error:
        raise RewardError(f"python grader: it does not compile: {error}.") from error
    if not _defines_grade(tree):
        raise RewardError("python grader: the source defines no function grade.", remedy=remedy)


def _defines_grade(tree: ast.Module) -> bool:
    """Whether anything in the source could bind the name; running it has the last word."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == "grade":
            return True
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id == "grade":
            return True
        if isinstance(node, ast.alias) and (node.asname or node.name) in ("grade", "*"):
            return True
    return False
