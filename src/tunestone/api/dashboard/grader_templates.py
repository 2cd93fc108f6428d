"""Graders to begin with, each with the fields that a form shows of it.

The fields and their meanings are those of the reward specs; only the examples are written here.
"""

import inspect
from typing import Any

from tunestone.api.dashboard.fields import describe
from tunestone.jobs.names import EMBEDDED
from tunestone.pages.app import Data
from tunestone.rewards.grader import KINDS

_REFERENCE = "{{ item.reference_answer }}"
_ANSWER = "{{ sample.output_text }}"
_SOURCE = '''def grade(sample, item):
    """1 when the last line of the answer is the row's reference answer, else 0."""
    lines = sample["output_text"].strip().splitlines() or [""]
    return float(lines[-1].strip() == str(item["reference_answer"]))
'''
_EXACT: Data = {
    "type": "string_check",
    "name": "exact",
    "input": _ANSWER,
    "reference": _REFERENCE,
    "operation": "eq",
}
_CLOSE: Data = {
    "type": "text_similarity",
    "name": "close",
    "input": _ANSWER,
    "reference": _REFERENCE,
    "evaluation_metric": "fuzzy_match",
}
TEMPLATES: tuple[tuple[str, Data], ...] = (
    (
        "Number: the right number, wherever or where it must stand",
        {"type": "number", "name": "number", "reference": _REFERENCE, "style": "flexible"},
    ),
    ("String check: equal, or contained", _EXACT),
    ("Text similarity: how alike two texts are", _CLOSE),
    (
        "Multiple choice: the right letter or option",
        {"type": "choice", "name": "choice", "reference": _REFERENCE, "style": "lenient"},
    ),
    (
        "JSON fields: the share of fields that are right",
        {"type": "json", "name": "fields", "reference": _REFERENCE, "style": "lenient"},
    ),
    ("Python: a function of your own", {"type": "python", "name": "python", "source": _SOURCE}),
    (
        "Unit tests: code that passes",
        {"type": "code", "name": "tests", "tests": "{{ item.tests }}", "reward": "share"},
    ),
    (
        "Judge: a model, by a rubric",
        {
            "type": "judge",
            "name": "judge",
            "model": EMBEDDED,
            "template": "instruction_following",
        },
    ),
    (
        "Score model: a model, by your own prompt",
        {
            "type": "score_model",
            "name": "score",
            "model": EMBEDDED,
            "range": [0, 1],
            "input": [
                {"role": "system", "content": "Give a number from 0 (wrong) to 1 (right)."},
                {
                    "role": "user",
                    "content": f"Right answer: {_REFERENCE}\nAnswer to grade: {_ANSWER}",
                },
            ],
        },
    ),
    (
        "Several graders: a formula over their rewards",
        {
            "type": "multi",
            "name": "both",
            "graders": {"exact": _EXACT, "close": _CLOSE},
            "calculate_output": "0.7 * exact + 0.3 * close",
        },
    ),
)
"""(what it looks for, grader)"""
_NOT_SHOWN = ("type", "name", "endpoint")
"""What the choice of a template decides, a mere label, and what the API refuses."""


def grader_templates() -> list[Data]:
    """All templates with title, meaning, grader and fields.

    A field says by `path` where its value stands in the grader, and by `more` that the template
    leaves it at its default.
    """
    return [
        {
            "type": grader["type"],
            "title": title,
            "meaning": " ".join((inspect.getdoc(KINDS[grader["type"]]) or "").split()),
            "grader": grader,
            "fields": _fields(grader),
        }
        for title, grader in TEMPLATES
    ]


def _fields(grader: Data) -> list[Data]:
    found: list[Data] = []
    for name, field in KINDS[grader["type"]].model_fields.items():
        shown = describe(name, field)
        key = shown["name"]
        if key in _NOT_SHOWN:
            continue
        if key == "input" and isinstance(grader["input"], list):
            found += [_message(shown, number, turn) for number, turn in enumerate(grader["input"])]
        else:
            code = {"kind": "code"} if key == "source" else {}
            found.append({**shown, **code, "path": [key], "more": key not in grader})
    return found


def _message(shown: Data, number: int, turn: dict[str, Any]) -> Data:
    """The text of one message of a judge's prompt."""
    place: Data = {"path": ["input", number, "content"], "more": False}
    return {**shown, **place, "kind": "long", "label": f"{turn['role']} message"}
