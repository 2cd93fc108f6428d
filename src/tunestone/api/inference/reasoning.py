"""Tells reasoning from answer in a model's text, while it is still being written.

<think>...</think> answer              Qwen, DeepSeek and many more; only at the very beginning,
                                       so that an answer may speak of the tags
...</think> answer                     the same where the chat template wrote the opening tag
<|channel|>analysis<|message|>...      gpt-oss: a mark before each part
"""

import re
from typing import Any, Literal

Kind = Literal["text", "reasoning"]

_HARMONY: dict[str, Kind | None] = {
    "<|channel|>analysis<|message|>": "reasoning",
    "<|channel|>commentary<|message|>": "text",
    "<|channel|>final<|message|>": "text",
    "<|end|>": None,
    "<|return|>": None,
    "<|start|>assistant": None,
}
_THOUGHT: dict[str, Kind | None] = {"</think>": "text", **_HARMONY}
_OPENING = re.compile(r"\s*<think>")


class ReasoningSplitter:
    """Takes text as it comes and gives it back in pieces of one kind, without the marks.

    It holds back only what may be the beginning of a mark. White space next to a mark is dropped.
    """

    def __init__(self, *, thinking: bool) -> None:
        """`thinking`: whether the prompt ended inside an open `<think>`."""
        self._kind: Kind = "reasoning" if thinking else "text"
        self._at_start = True
        self._trims = thinking
        self._held = ""

    def feed(self, text: str) -> list[tuple[Kind, str]]:
        """What can be told so far."""
        self._held += text
        if self._at_start and not self._begin():
            return []
        pieces: list[tuple[Kind, str]] = []
        while found := self._next_mark():
            place, mark = found
            self._emit(self._held[:place].rstrip(), pieces)
            self._held = self._held[place + len(mark) :]
            self._kind = self._marks()[mark] or self._kind
            self._trims = True
        if self._trims:
            self._held = self._held.lstrip()
        place = _tail(self._held, self._marks())
        self._emit(self._held[:place], pieces)
        self._held = self._held[place:]
        return pieces

    @property
    def holds(self) -> bool:
        """Whether something is held back."""
        return bool(self._held)

    def finish(self) -> list[tuple[Kind, str]]:
        """What was held back."""
        pieces: list[tuple[Kind, str]] = []
        self._emit(self._held, pieces)
        self._held = ""
        return pieces

    def _begin(self) -> bool:
        """Whether the beginning is settled: an opening tag there is taken off."""
        opening = _OPENING.match(self._held)
        if opening:
            self._kind, self._trims = "reasoning", True
            self._held = self._held[opening.end() :]
        elif "<think>".startswith(self._held.lstrip()):
            return False
        self._at_start = False
        return True

    def _marks(self) -> dict[str, Kind | None]:
        return _THOUGHT if self._kind == "reasoning" else _HARMONY

    def _next_mark(self) -> tuple[int, str] | None:
        places = [(self._held.find(mark), mark) for mark in self._marks()]
        return min(((place, mark) for place, mark in places if place >= 0), default=None)

    def _emit(self, text: str, pieces: list[tuple[Kind, str]]) -> None:
        shown = text.lstrip() if self._trims else text
        if shown:
            self._trims = False
            pieces.append((self._kind, shown))


def _tail(text: str, marks: dict[str, Kind | None]) -> int:
    """Where a mark may have begun at the end of the text, with the white space before it."""
    longest = max(map(len, marks)) - 1
    for place in range(max(0, len(text) - longest), len(text)):
        if any(mark.startswith(text[place:]) for mark in marks):
            break
    else:
        place = len(text)
    return len(text[:place].rstrip())


def effort_variables(effort: str | None, *, enforced: bool) -> dict[str, Any]:
    """What a chat template is told: `reasoning_effort` (gpt-oss), `enable_thinking` (Qwen).

    With an `enforced` form the answer has no room for reasoning, so none is asked for.
    """
    variables: dict[str, Any] = {"reasoning_effort": effort} if effort else {}
    if enforced:
        variables["enable_thinking"] = False
    elif effort:
        variables["enable_thinking"] = effort not in {"none", "minimal"}
    return variables
