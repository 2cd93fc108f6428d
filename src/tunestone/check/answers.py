"""The ways in which a reference answer can be written as the answer of a model.

Nobody says how the reward wants it, so all are tried, and the report names what works. The value
is what is left of a reference when its wrapping is taken off: the usual key of an object, what
stands behind `####` or in `\\boxed{}` in a whole solution.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

KEYS = ("final_answer", "answer", "label", "value", "result", "output", "text", "solution")
"""Keys under which objects keep the answer, the most telling first."""
_MARKED = re.compile(
    r"####\s*(?P<hash>[^\n]+)|\\boxed\{(?P<box>[^{}]*)\}|<answer>\s*(?P<tag>.*?)\s*</answer>"
    r"|(?i:\banswer\s*:)\s*(?P<said>[^\n]+)",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Way:
    """One form of an answer."""

    name: str
    """Shown to a person, with `x` for the value."""
    write: Callable[[Any], str]
    """The reference answer as a completion."""


def value_of(reference: Any) -> str:
    """The bare answer in a reference: `72` of `{"text": "48 + 24 = 72. #### 72"}`."""
    if isinstance(reference, Mapping):
        for key in KEYS:
            if reference.get(key) is not None:
                return value_of(reference[key])
        if len(reference) == 1:
            return value_of(next(iter(reference.values())))
        return _dump(reference)
    if not isinstance(reference, str):
        return _dump(reference)
    marks = list(_MARKED.finditer(reference))
    inner = next((text for text in marks[-1].groups() if text is not None), "") if marks else ""
    return inner.strip() or reference.strip()


def whole_text(reference: Any) -> str:
    """The reference as text, nothing taken off: a string as it is, anything else as JSON."""
    return reference if isinstance(reference, str) else _dump(reference)


def is_empty(reference: Any) -> bool:
    """Whether there is nothing in it: null, blank, an empty list, an object of such values."""
    if isinstance(reference, Mapping):
        return all(is_empty(value) for value in reference.values())
    if isinstance(reference, str):
        return not reference.strip()
    return reference is None or reference == []


def _inside(template: str) -> Callable[[Any], str]:
    return lambda reference: template.replace("{x}", value_of(reference))


WAYS = (
    Way("x", value_of),
    Way("#### x", _inside("#### {x}")),
    Way(r"\boxed{x}", _inside(r"\boxed{{x}}")),
    Way("<answer>x</answer>", _inside("<answer>{x}</answer>")),
    Way("ANSWER: x", _inside("ANSWER: {x}")),
    Way("The answer is x.", _inside("The answer is {x}.")),
    Way(
        "<think>...</think> <answer>x</answer>",
        _inside("<think>\nLet me think it through.\n</think>\n<answer>{x}</answer>"),
    ),
    Way("```x```", _inside("```\n{x}\n```")),
    Way('{"answer": x}', lambda reference: _dump({"answer": value_of(reference)})),
    Way("the whole reference_answer", whole_text),
    Way(
        "its last line",
        lambda reference: (whole_text(reference).strip().splitlines() or [""])[-1],
    ),
)
"""What is tried, the plainest first; of ways that work equally often the first is named."""


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
