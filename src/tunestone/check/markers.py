"""Which markers a reward looks for, guessed from its text, and whether prompts ask for them.

A reward that wants `#### 72` from a model that was never told so pays nothing: the most common
reason for a flat curve (the services' third quality rule: markers of prompt and parser match).
Guessed, not known: the string constants of Python code (docstrings and comments apart) and the
strings of a spec are searched for the markers of the field. So what comes of it is a warning.
"""

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Marker:
    """A sign that an answer is asked to carry."""

    name: str
    """As it is shown to a person."""
    in_prompt: re.Pattern[str]
    """Found in a prompt that asks for it."""


_FIXED = (
    (r"####|#\{4\}", Marker("####", re.compile("####"))),
    (r"boxed", Marker(r"\boxed{}", re.compile("boxed"))),
    (
        r"(?i)\banswer(?: is)?(?:\\s[*+]?|\s)*:",
        Marker("ANSWER:", re.compile(r"(?i)\banswer\s*:")),
    ),
    ("```", Marker("```", re.compile(r"```|(?i:code block)"))),
)
_STYLES = {"hash": "####", "boxed": "boxed", "answer_tag": "<answer>"}  # of the ready graders
_TAG = re.compile(r"(?<!\?P)<([A-Za-z_]\w*)>")
_JSON = Marker("JSON", re.compile(r'(?i)json|\{\s*"'))


def find_markers(reward: str) -> list[Marker]:
    """Markers that a reward's text speaks of: Python source, or a spec as JSON."""
    found: dict[str, Marker] = {}
    reads_json = False
    for text in _strings(reward):
        for pattern, marker in _FIXED:
            if re.search(pattern, text):
                found[marker.name] = marker
        for tag in _TAG.findall(text.replace("\\", "")):
            found[f"<{tag}>"] = Marker(f"<{tag}>", re.compile(re.escape(f"<{tag}>")))
        reads_json |= "output_json" in text
    # A Lambda handler may read its own event with json.loads; that says nothing of answers.
    reads_json |= "json.loads(" in reward and "lambda_handler" not in reward
    return [*found.values(), *([_JSON] if reads_json else [])]


def asks_for(text: str, markers: list[Marker]) -> bool:
    """Whether a prompt's text mentions at least one of them: rewards often accept several."""
    return any(marker.in_prompt.search(text) for marker in markers)


def _strings(reward: str) -> Iterator[str]:
    try:
        spec = json.loads(reward)
    except ValueError:
        yield from _constants(reward)
    else:
        for text in _values(spec):
            yield from _constants(text) if "def " in text else (text,)


def _values(value: Any) -> Iterator[str]:
    """Every string of a spec, and the marks that ready graders in it look for."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _values(item)
    elif isinstance(value, dict):
        yield _STYLES.get(str(value.get("style")), "")
        if value.get("type") == "json":
            yield "output_json"
        if value.get("type") == "format_tags":
            yield from (f"<{tag}>" for tag in value.get("tags", ()))
        for item in value.values():
            yield from _values(item)


def _constants(source: str) -> Iterator[str]:
    """String constants of Python code, docstrings apart; the text itself when it is none."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        yield source
        return
    idle = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in idle:
            yield node.value
