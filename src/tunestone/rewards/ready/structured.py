"""JSON answers: a schema to satisfy, a reference to agree with field by field, or both.

With a schema the work runs in the sandbox: a schema's `pattern` or `uniqueItems` may take longer
than anybody wants to wait on a text that was written to make it so. A `$ref` resolves inside the
schema only; nothing is fetched.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any, Literal, Self, final

from pydantic import Field, model_validator

from tunestone.errors import RewardError
from tunestone.rewards.ready.extraction import UnusableReferenceError
from tunestone.rewards.ready.json_match import Style, check_schema, score_json
from tunestone.rewards.ready.scoring import (
    Arguments,
    PureGrader,
    from_templates,
    open_sandboxed,
)
from tunestone.rewards.spec import Context, Spec, TemplateText
from tunestone.types import Grader, Sample


@final
class Json(Spec):
    """The share of leaf fields that are right (F1); sub-scores `valid_json`, `valid_schema` and
    `fields`. See `json_match.py` for how fields are counted."""

    type: Literal["json"] = "json"
    reference: TemplateText | None = "{{ item.reference_answer }}"
    """The right object, or a text that is one. Null: only the schema counts, reward 1 or
    `malformed_reward`."""
    json_schema: dict[str, Any] | TemplateText | None = Field(default=None, alias="schema")
    """JSON Schema that an answer must satisfy, as an object or a template that resolves to one."""
    style: Style = "lenient"
    """`strict`: the whole completion is JSON. `lenient`: that, or else its first fenced block, or
    else its first object that parses (list, where the reference is a list)."""
    tolerance: float = Field(default=0.0, ge=0)
    """Largest absolute difference at which two numbers are equal."""
    strip: bool = True
    """Whether white space around strings is ignored."""
    casefold: bool = False
    """Whether the case of strings is ignored."""
    malformed_reward: float = Field(default=0.0, le=0)
    """Reward of an answer that is no JSON or breaks the schema."""
    timeout_seconds: float = Field(default=5.0, gt=0)
    """Wall time one answer may take, where there is a schema."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.reference is None and self.json_schema is None:
            raise RewardError(
                "json: neither a schema nor a reference is given.",
                remedy="Give one of them; without both every object would be right.",
            )
        if isinstance(self.json_schema, dict):
            try:
                check_schema(self.json_schema)
            except UnusableReferenceError as error:
                raise RewardError(str(error), remedy="Mend the schema.") from None
        return self

    def open(self, context: Context, stack: ExitStack) -> Grader:
        """The grader; with a schema its workers end with the stack."""
        options = self.model_dump(
            include={"style", "tolerance", "strip", "casefold", "malformed_reward"}
        )
        if self.json_schema is None:
            return PureGrader(partial(score_json, **options), self._arguments())
        return open_sandboxed(
            {"scorer": "json", "options": options},
            self._arguments(),
            seconds=self.timeout_seconds,
            context=context,
            stack=stack,
        )

    def _arguments(self) -> Arguments:
        texts = {"reference": self.reference, "schema": self.json_schema}
        resolve = from_templates(
            **{name: text for name, text in texts.items() if isinstance(text, str)}
        )
        if not isinstance(self.json_schema, dict):
            return resolve
        inline = {"schema": self.json_schema}

        def with_schema(sample: Sample) -> Mapping[str, Any]:
            return {**resolve(sample), **inline}

        return with_schema
