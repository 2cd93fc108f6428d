"""OpenAI's graders that ask a model: `score_model` and `label_model`.

The spec is OpenAI's JSON, plus an optional `endpoint` that says where the model lives. The
templates are the user's, and so is their safety: an answer put between two lines of a prompt can
argue with it. `judge` fences what it shows; use it where you need not run OpenAI's own spec.

A result outside `range` is clipped, as OpenAI does it. A result that is no number is an error and
counted as one; OpenAI's dialect renders it the way OpenAI does, as 0. Images and audio are refused.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Generic, Literal, Self, TypeVar, final

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tunestone.rewards.judges.asking import (
    Answer,
    Asker,
    Question,
    UnreadableReply,
    answer_grade,
    object_schema,
    open_asker,
    read_number,
)
from tunestone.rewards.judges.chat_models import Endpoint, Message, SamplingParams, Schema
from tunestone.rewards.spec import Context, Spec, TemplateText, unfilled
from tunestone.rewards.template import Template, VariableError, item_view, sample_view
from tunestone.types import Grade, Sample

_TEXT_BLOCKS = ("input_text", "output_text", "text")
_STEPS = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"description": {"type": "string"}, "conclusion": {"type": "string"}},
        "required": ["description", "conclusion"],
        "additionalProperties": False,
    },
}


class GraderMessage(BaseModel):
    """One message to the model; its text may hold templates."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    role: Literal["user", "assistant", "system", "developer"]
    """`developer` is sent as `system`, which every endpoint knows."""
    content: TemplateText
    """Text, or text blocks, which are joined by a line break."""
    type: Literal["message"] | None = None

    @field_validator("content", mode="before")
    @classmethod
    def _join_blocks(cls, content: Any) -> Any:
        blocks = content if isinstance(content, list) else [content]
        return "\n".join(_text_of(block) for block in blocks)


class ScoreModel(Spec):
    """A model gives a number: OpenAI's `score_model`."""

    type: Literal["score_model"] = "score_model"
    model: str = Field(min_length=1)
    """What the endpoint calls it."""
    input: tuple[GraderMessage, ...] = Field(min_length=1)
    """The conversation it answers."""
    range: tuple[float, float] = (0.0, 1.0)
    """Lowest and highest reward; what lies outside is clipped."""
    sampling_params: SamplingParams = SamplingParams()
    """How its answer is drawn; by default as the endpoint does."""
    endpoint: Endpoint = Endpoint()
    """Where it is asked."""

    @property
    def calls_models(self) -> bool:
        """It does, each time a text is not in the cache."""
        return True

    @model_validator(mode="after")
    def _range_rises(self) -> Self:
        if not self.range[0] < self.range[1]:
            raise ValueError(f"range must be [lowest, highest], got {list(self.range)}")
        return self

    def open(self, context: Context, stack: ExitStack) -> "ModelGrader[float]":
        """The grader. Raises RewardError when its client cannot be made."""
        low, high = self.range
        schema = object_schema(steps=_STEPS, result={"type": "number"})
        return ModelGrader(
            open_asker(
                self.model, self.endpoint, params=self.sampling_params, context=context, stack=stack
            ),
            messages=self.input,
            schema=schema,
            read=lambda reply: read_number(reply, "result"),
            grade=lambda result: Grade(min(max(result, low), high), metrics={"result": result}),
        )


class LabelModel(Spec):
    """A model picks a label; some labels pass: OpenAI's `label_model`."""

    type: Literal["label_model"] = "label_model"
    model: str = Field(min_length=1)
    """What the endpoint calls it."""
    input: tuple[GraderMessage, ...] = Field(min_length=1)
    """The conversation it answers."""
    labels: tuple[str, ...] = Field(min_length=1)
    """What it may answer."""
    passing_labels: tuple[str, ...] = Field(min_length=1)
    """The labels that give reward 1; the others give 0."""
    sampling_params: SamplingParams = SamplingParams()
    """How its answer is drawn; OpenAI's type has no such field."""
    endpoint: Endpoint = Endpoint()
    """Where it is asked."""

    @property
    def calls_models(self) -> bool:
        """It does, each time a text is not in the cache."""
        return True

    @model_validator(mode="after")
    def _passing_labels_are_labels(self) -> Self:
        if len(set(self.labels)) < len(self.labels):
            raise ValueError("labels must differ from one another")
        strangers = [label for label in self.passing_labels if label not in self.labels]
        if strangers:
            raise ValueError(f"passing_labels has {strangers}, not among labels {self.labels}")
        return self

    def open(self, context: Context, stack: ExitStack) -> "ModelGrader[str]":
        """The grader. Raises RewardError when its client cannot be made."""
        schema = object_schema(steps=_STEPS, label={"type": "string", "enum": list(self.labels)})
        return ModelGrader(
            open_asker(
                self.model, self.endpoint, params=self.sampling_params, context=context, stack=stack
            ),
            messages=self.input,
            schema=schema,
            read=self._read_label,
            grade=lambda label: Grade(
                float(label in self.passing_labels), metrics={"label": self.labels.index(label)}
            ),
        )

    def _read_label(self, reply: Mapping[str, Any]) -> str:
        label = reply.get("label")
        if label not in self.labels:
            raise UnreadableReply(
                f"the judge's label should be one of {self.labels}, got {label!r}"
            )
        return str(label)


T = TypeVar("T")


@final
class ModelGrader(Generic[T]):
    """Fills the templates, asks, and turns what was read into a grade, sample by sample."""

    def __init__(
        self,
        asker: Asker,
        *,
        messages: Sequence[GraderMessage],
        schema: Schema,
        read: Callable[[Mapping[str, Any]], T],
        grade: Callable[[T], Grade],
    ) -> None:
        self.asker = asker
        """Counts what came from the cache."""
        self._messages = [
            ("system" if m.role == "developer" else m.role, Template.parse(m.content))
            for m in messages
        ]
        self._schema = schema
        self._read = read
        self._grade = grade

    def grade(self, samples: Sequence[Sample]) -> list[Grade]:
        """One grade per sample, in order; `seconds` is the time its own requests took."""
        prepared = [self._prepare(sample) for sample in samples]
        answers = iter(self.asker.ask_all([p for p in prepared if isinstance(p, Question)]))
        return [p if isinstance(p, Grade) else self._judge(next(answers)) for p in prepared]

    def _prepare(self, sample: Sample) -> Question[T] | Grade:
        item, output = item_view(sample), sample_view(sample)
        try:
            messages: tuple[Message, ...] = tuple(
                {"role": role, "content": template.render(item, output)}
                for role, template in self._messages
            )
        except VariableError as error:
            return unfilled(error)
        return Question(messages, self._schema, self._read)

    def _judge(self, answer: Answer[T]) -> Grade:
        return answer_grade(answer, model=self.asker.name, grade=self._grade)


def _text_of(block: Any) -> str:
    if isinstance(block, str):
        return block
    kind = block.get("type") if isinstance(block, dict) else type(block).__name__
    if kind in _TEXT_BLOCKS and isinstance(block.get("text"), str):
        return str(block["text"])
    raise ValueError(
        f"content must be text or text blocks, got {kind!r}; images and audio are not read here"
    )
