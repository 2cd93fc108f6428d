r"""Where a completion says its answer stands: `#### n` at the end, `\boxed{}`, `<answer>` tags.

Every search is one pass over the text, so a megabyte of braces costs a second at worst, and the
last mark counts: who writes three answers has given the third. A last mark that is not closed is
no answer, even when an earlier one is; a completion cut off in its final answer has none.

No pydantic in here: the sandbox's workers import it.
"""

import re
from typing import Any, Literal

Score = tuple[float, dict[str, float]]
"""A reward and its named sub-scores."""
MarkStyle = Literal["hash", "boxed", "answer_tag"]
"""`hash`: `#### n` on the last line; `boxed`: LaTeX; `answer_tag`: `<answer>..</answer>`."""
MARK_STYLES: tuple[MarkStyle, ...] = ("hash", "boxed", "answer_tag")

_BOX = r"\boxed{"
_BOX_PARTS = re.compile(r"\\boxed\{|\\[\\{}]|[{}]")


class UnusableReferenceError(ValueError):
    """The row's reference answer is not of the kind the grader compares with."""

    is_row_fault = True  # for the sandbox's worker: the program itself is well


def find_marked(text: str, style: MarkStyle) -> str | None:
    """The content of the last mark of that style, stripped, or None when there is none."""
    if style == "hash":
        content = _find_after_hash(text)
    elif style == "boxed":
        content = _find_boxed(text)
    else:
        content = _find_tag(text, "answer")
    return None if content is None else content.strip()


def find_boxes(text: str) -> list[tuple[int, int]]:
    r"""(start, end) of the content of every closed `\boxed{}`, nested braces heeded, by start."""
    spans = []
    open_braces: list[int] = []  # where the content of a box starts, or -1 for a plain brace
    for part in _BOX_PARTS.finditer(text):
        if part[0] == _BOX:
            open_braces.append(part.end())
        elif part[0] == "{":
            open_braces.append(-1)
        elif part[0] == "}" and open_braces:
            start = open_braces.pop()
            if start >= 0:
                spans.append((start, part.start()))
    return sorted(spans)


def find_tags(text: str, name: str) -> list[str]:
    """The contents of all `<name>..</name>`, none within another, in order."""
    pieces = (piece.partition(f"</{name}>") for piece in text.split(f"<{name}>")[1:])
    return [content for content, closing, _ in pieces if closing]


def unwrap_reference(reference: Any) -> Any:
    """The answer inside an object reference: its `final_answer`, `answer` or `text`.

    Raises UnusableReferenceError for an object that has none of them, and for None.
    """
    if isinstance(reference, dict):
        names = ("final_answer", "answer", "text")
        found = [reference[name] for name in names if reference.get(name) is not None]
        if not found:
            keys = ", ".join(map(repr, reference)) or "nothing"
            raise UnusableReferenceError(
                f"the reference answer has none of {', '.join(names)}, only {keys}."
            )
        reference = found[0]
    if reference is None:
        raise UnusableReferenceError("the reference answer is null.")
    return reference


def _find_after_hash(text: str) -> str | None:
    _, mark, after = text.rstrip().rpartition("####")
    return after if mark and "\n" not in after.strip() else None


def _find_boxed(text: str) -> str | None:
    last = text.rfind(_BOX)
    if last < 0:
        return None
    start = last + len(_BOX)
    return next((text[a:b] for a, b in reversed(find_boxes(text)) if a == start), None)


def _find_tag(text: str, name: str) -> str | None:
    _, opening, after = text.rpartition(f"<{name}>")
    content, closing, _ = after.partition(f"</{name}>")
    return content if opening and closing else None
