"""The scoring functions that may hang or that evaluate what the model wrote; run in the sandbox.

`load_program` is what a worker loads: `setup` names the scorer and its options, and each payload
holds the text and the arguments of its row. Only the scorer's own libraries are imported, once, in
the loader: a fork costs by the memory of its parent.

Time limits are the sandbox's. math-verify's own are switched off, since what they cut short it
counts as wrong, and a grader that gave up is not an answer that is wrong. What it cannot compare
(a set with a matrix) it calls unequal; that stands.
"""

import difflib
import json
import logging
import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial
from typing import Any

from tunestone.errors import RewardError
from tunestone.rewards.ready.extraction import (
    MarkStyle,
    Score,
    UnusableReferenceError,
    find_marked,
    unwrap_reference,
)

Scorer = Callable[..., Score]

_WARMING = [
    (r"\boxed{(x+1)^2}", "x^2 + 2x + 1"),
    (r"\boxed{\{1, \sqrt{8}\}}", r"\{2\sqrt{2}, 1\}"),
    (r"\boxed{0.25}", r"\frac{1}{3}"),
]
_MATH_SIGNS = re.compile(r"\\?\$|(?<!\\)\\[()\[\]]")


def load_program(setup: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """The function from `{"text", "arguments"}` to `{"reward", "metrics"}` that a worker calls.

    `setup`: `scorer`, one of `regex`, `math`, `json`, `reasoning_gym`, and its `options`.
    """
    score = _LOADERS[setup["scorer"]](**setup.get("options", {}))

    def grade(payload: Mapping[str, Any]) -> dict[str, Any]:
        reward, metrics = score(payload["text"], **payload["arguments"])
        return {"reward": reward, "metrics": metrics}

    return grade


def score_regex(
    text: str, reference: Any = None, *, pattern: re.Pattern[str], mode: str, group: int | str = 1
) -> Score:
    """1 when the pattern is found (`search`), is the whole text (`fullmatch`), or when the group of
    its last match is the reference (`capture`); sub-score `matched`."""
    if mode == "fullmatch":
        is_right = is_found = pattern.fullmatch(text) is not None
    elif mode == "search":
        is_right = is_found = pattern.search(text) is not None
    else:
        last = deque(pattern.finditer(text), maxlen=1)  # who writes several has given the last
        is_found = bool(last)
        captured = last[0][group] if last else None
        is_right = captured is not None and captured.strip() == _as_text(reference)
    return float(is_right), {"matched": float(is_found)}


def load_regex(*, pattern: str, mode: str, group: int | str = 1, flags: int = 0) -> Scorer:
    """`score_regex` with the pattern compiled."""
    return partial(score_regex, pattern=re.compile(pattern, flags), mode=mode, group=group)


def load_expression(*, style: str, digits: int) -> Scorer:
    """The scorer of `expression.py`; needs math-verify."""
    import math_verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that it has no time limit
    parse = partial(math_verify.parse, parsing_timeout=None, raise_on_error=False)

    def score(text: str, reference: Any) -> Score:
        gold = parse(_as_math(_as_text(unwrap_reference(reference))))
        if not gold:
            raise UnusableReferenceError(f"the reference answer is no formula: {reference!r:.80}.")
        content = find_expression(text, style)
        answer = parse(_as_math(content)) if content else []
        is_right = bool(answer) and math_verify.verify(
            gold, answer, float_rounding=digits, timeout_seconds=None, raise_on_error=False
        )
        return float(is_right), {"formatted": float(content is not None)}

    # Sympy and the grammar do much at their first use. Once here, it is in the memory of every
    # fork; else each call would pay for it, ten times what the call itself takes.
    for answer, reference in _WARMING:
        score(answer, reference)
    return score


def find_expression(text: str, style: str) -> str | None:
    """The formula in the last mark of that style; for `flexible` in the last box, else tag."""
    styles: tuple[MarkStyle, ...] = ("boxed", "answer_tag")
    found = [find_marked(text, mark) for mark in styles if style in (mark, "flexible")]
    return next((content for content in found if content), None)


def load_json(**options: Any) -> Scorer:
    """`score_json` with its options."""
    from tunestone.rewards.ready.json_match import score_json

    return partial(score_json, **options)


def load_reasoning_gym(*, dataset: str, style: str) -> Scorer:
    """The scorer of `gym.py`; needs reasoning-gym.

    Raises RewardError when there is no such dataset; one that only a row names is that row's fault.
    """
    from reasoning_gym.factory import DATASETS, get_score_answer_fn

    scorer_of = lru_cache(maxsize=None)(get_score_answer_fn)
    if dataset:
        if dataset not in DATASETS:
            raise RewardError(_no_dataset(dataset), remedy=_nearest(dataset, DATASETS))
        scorer_of(dataset)

    def score(text: str, entry: Mapping[str, Any]) -> Score:
        name = dataset or str(entry["metadata"].get("source_dataset", ""))
        if name not in DATASETS:
            raise UnusableReferenceError(f"{_no_dataset(name)} {_nearest(name, DATASETS)}")
        answer = text.strip() if style == "whole" else find_marked(text, "answer_tag")
        reward = float(scorer_of(name)(answer=answer, entry=entry))
        return reward, {"formatted": float(answer is not None)}

    return score


def _no_dataset(name: str) -> str:
    return f"reasoning-gym has no dataset {name!r}."


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"Did you mean {close[0]}?" if close else "reasoning_gym.factory.DATASETS lists them."


def _as_math(formula: str) -> str:
    """On one line in one pair of dollar signs: of several, math-verify reads the last one."""
    return f"${' '.join(_MATH_SIGNS.sub(' ', formula).split())}$"


def _as_text(value: Any) -> str:
    return value.strip() if isinstance(value, str) else json.dumps(value)


_LOADERS: Mapping[str, Callable[..., Scorer]] = {
    "regex": load_regex,
    "math": load_expression,
    "json": load_json,
    "reasoning_gym": load_reasoning_gym,
}
