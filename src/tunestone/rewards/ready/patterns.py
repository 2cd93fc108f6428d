"""Form rather than content: a regular expression, and tags in their order.

`re` may take exponential time on a text a model has written to please it, so the pattern runs in
the sandbox, where a call that takes too long is ended and recorded as an error. The tags are found
with plain string searches, in linear time, here.
"""

import re
from contextlib import ExitStack
from functools import partial
from itertools import pairwise
from typing import Literal, Self, final

from pydantic import Field, model_validator

from tunestone.errors import RewardError
from tunestone.rewards.ready.extraction import Score
from tunestone.rewards.ready.scoring import (
    PureGrader,
    SandboxedGrader,
    from_templates,
    no_arguments,
    open_sandboxed,
)
from tunestone.rewards.spec import Context, Spec, TemplateText

_FLAGS = {"ignore_case": re.IGNORECASE, "multiline": re.MULTILINE, "dotall": re.DOTALL}


@final
class Regex(Spec):
    """1 when the pattern fits, else 0; sub-score `matched`."""

    type: Literal["regex"] = "regex"
    pattern: str = Field(min_length=1)
    """In the syntax of Python's `re`."""
    mode: Literal["search", "fullmatch", "capture"] = "search"
    """`search`: it occurs; `fullmatch`: it is the whole completion; `capture`: what `group`
    captured in its last match is the reference, white space around it aside."""
    reference: TemplateText = "{{ item.reference_answer }}"
    """The right text, for `capture` only; a number is compared as JSON writes it."""
    group: int | str = 1
    """Which group `capture` compares, by number or name."""
    flags: tuple[Literal["ignore_case", "multiline", "dotall"], ...] = ()
    """Flags of `re`."""
    timeout_seconds: float = Field(default=2.0, gt=0)
    """Wall time one answer may take."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            compiled = re.compile(self.pattern, self._flags())
        except (re.error, RecursionError, OverflowError) as error:
            raise RewardError(
                f"regex: the pattern {self.pattern!r:.80} is not valid: {error}.",
                remedy="Mend it; in TOML, 'single quotes' keep backslashes as they are.",
            ) from None
        known = {*range(compiled.groups + 1), *compiled.groupindex}
        if self.mode == "capture" and self.group not in known:
            raise RewardError(
                f"regex: the pattern {self.pattern!r:.80} has no group {self.group!r}.",
                remedy="Put what shall be compared in brackets: Answer: (\\d+)",
            )
        return self

    def open(self, context: Context, stack: ExitStack) -> SandboxedGrader:
        """The grader; its workers end with the stack."""
        options = {
            "pattern": self.pattern,
            "mode": self.mode,
            "group": self.group,
            "flags": self._flags(),
        }
        needs_reference = self.mode == "capture"
        return open_sandboxed(
            {"scorer": "regex", "options": options},
            from_templates(reference=self.reference) if needs_reference else no_arguments,
            seconds=self.timeout_seconds,
            context=context,
            stack=stack,
        )

    def _flags(self) -> int:
        return int(sum(_FLAGS[flag] for flag in set(self.flags)))


@final
class FormatTags(Spec):
    """The share of conditions on tags that hold; each condition is a sub-score.

    Conditions: each tag opens once, closes once after that, and holds more than white space; and,
    once all of them do, they stand in order without overlap (`order`) and nothing but white space
    stands outside (`outside`). A text without tags so has 0, not the share of what it did not do.
    """

    type: Literal["format_tags"] = "format_tags"
    tags: tuple[str, ...] = Field(default=("think", "answer"), min_length=1)
    """Names of the tags, in the order in which they must stand."""
    partial_credit: bool = True
    """Whether some of the conditions give some of the reward; else all of them 1 or 0."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        wrong = [tag for tag in self.tags if not re.fullmatch(r"[\w-]+", tag)]
        if wrong or len(set(self.tags)) < len(self.tags):
            raise RewardError(
                f"format_tags: the tags {list(self.tags)} are not different plain names.",
                remedy='Write names without brackets: ["think", "answer"].',
            )
        return self

    def open(self, context: Context, stack: ExitStack) -> PureGrader:
        """The grader; it holds nothing open."""
        score = partial(score_tags, tags=self.tags, partial_credit=self.partial_credit)
        return PureGrader(score, no_arguments)


def score_tags(text: str, *, tags: tuple[str, ...], partial_credit: bool = True) -> Score:
    """The reward and the conditions; see FormatTags."""
    spans = {tag: _find_span(text, tag) for tag in tags}
    metrics = {tag: float(span is not None) for tag, span in spans.items()}
    found = [span for span in spans.values() if span is not None]
    is_complete = len(found) == len(tags)
    in_order = is_complete and all(left[1] <= right[0] for left, right in pairwise(found))
    metrics["order"] = float(in_order)
    metrics["outside"] = float(in_order and not _outside(text, found).strip())
    share = sum(metrics.values()) / len(metrics)
    return (share if partial_credit else float(share == 1)), metrics


def _find_span(text: str, tag: str) -> tuple[int, int] | None:
    """Where the one element of that name starts and ends, its tags included."""
    opening, closing = f"<{tag}>", f"</{tag}>"
    if text.count(opening) != 1 or text.count(closing) != 1:
        return None
    start, end = text.find(opening), text.find(closing)
    content = text[start + len(opening) : end]  # empty when the tag closes before it opens
    return (start, end + len(closing)) if content.strip() else None


def _outside(text: str, spans: list[tuple[int, int]]) -> str:
    starts = [start for start, _ in spans]
    ends = [end for _, end in spans]
    return "".join(text[a:b] for a, b in zip([0, *ends], [*starts, len(text)], strict=True))
