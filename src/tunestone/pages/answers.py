"""Base against tuned on the same held-out prompts: the texts side by side, with what changed.

`base.json` and `tuned.json` hold both models' answers. A run that kept no `tuned.json` shows its
answers to the validation prompts instead, which chose the checkpoint too; the page says so.
"""

import difflib
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunestone.pages.prompts import heldout_prompts, show_prompt, validation_prompts
from tunestone.runlog import RunFolder, read_json, read_lines
from tunestone.types import Prompt

_WORDS = re.compile(r"\s+|\w+|[^\w\s]")
KINDS = ("gained", "lost", "same")


@dataclass(frozen=True, slots=True)
class Pair:
    """Both models' answers to one prompt."""

    prompt: Mapping[str, Any]
    base: str
    tuned: str
    base_reward: float | None
    tuned_reward: float | None

    @property
    def kind(self) -> str:
        """`gained`, `lost` or `same`, by reward."""
        change = (self.tuned_reward or 0.0) - (self.base_reward or 0.0)
        return "gained" if change > 0 else "lost" if change < 0 else "same"

    @property
    def fingerprint(self) -> str:
        """Of prompt and both texts: a vote holds for these and no others."""
        text = "\0".join((str(self.prompt["id"]), self.base, self.tuned))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Answers:
    """All pairs, and where they come from."""

    pairs: Sequence[Pair]
    source: str
    """`heldout`, `validation`, or `none`."""
    step: int | None = None
    """Of the tuned model, where it is a checkpoint's."""


def read_answers(run: RunFolder) -> Answers:
    """The best pairs there are."""
    kept = [run.path / name for name in ("base.json", "tuned.json")]
    if all(path.is_file() for path in kept):
        return Answers(_heldout_pairs(run, *map(read_json, kept)), "heldout")
    return _validation_pairs(run)


def _heldout_pairs(run: RunFolder, base: Mapping[str, Any], tuned: Mapping[str, Any]) -> list[Pair]:
    prompts: Mapping[str, Prompt] = heldout_prompts(run)
    answers = zip(
        base["prompt_ids"],
        base["texts"],
        tuned["texts"],
        base["rewards"],
        tuned["rewards"],
        strict=True,
    )
    return [Pair(show_prompt(prompts, prompt_id), *both) for prompt_id, *both in answers]


def _validation_pairs(run: RunFolder) -> Answers:
    by_step: dict[int, dict[str, Mapping[str, Any]]] = {}
    for line in read_lines(run.validation):
        by_step.setdefault(line["step"], {})[line["prompt_id"]] = line
    if len(by_step) < 2 or 0 not in by_step:
        return Answers([], "none")
    report = run.report()
    step = report["best_step"] if report and report.get("best_step") in by_step else max(by_step)
    prompts = validation_prompts(run)
    pairs = [
        Pair(
            show_prompt(prompts, prompt_id),
            before["text"],
            by_step[step][prompt_id]["text"],
            before["reward"],
            by_step[step][prompt_id]["reward"],
        )
        for prompt_id, before in by_step[0].items()
        if prompt_id in by_step[step]
    ]
    return Answers(pairs, "validation", step)


def show_answers(run: RunFolder, *, kind: str, page: int, per_page: int = 20) -> dict[str, Any]:
    """A page of pairs with their differences. `kind`: one of KINDS, or empty for all."""
    answers = read_answers(run)
    counts = {name: sum(pair.kind == name for pair in answers.pairs) for name in KINDS}
    chosen = [pair for pair in answers.pairs if kind in ("", pair.kind)]
    pages = max(1, -(-len(chosen) // per_page))
    page = min(page, pages)
    report = run.report() or {}
    return {
        "source": answers.source,
        "step": answers.step,
        "kind": kind,
        "counts": {**counts, "all": len(answers.pairs)},
        "page": page,
        "pages": pages,
        "pairs": [_shown(pair) for pair in chosen[(page - 1) * per_page : page * per_page]],
        "examples": report.get("examples", []) if answers.source == "none" else [],
    }


def _shown(pair: Pair) -> dict[str, Any]:
    base, tuned = word_difference(pair.base, pair.tuned)
    return {
        "prompt": pair.prompt,
        "kind": pair.kind,
        "base": {"text": pair.base, "reward": pair.base_reward, "pieces": base},
        "tuned": {"text": pair.tuned, "reward": pair.tuned_reward, "pieces": tuned},
    }


Piece = tuple[str, bool]
"""(text, whether only this side has it)."""


def word_difference(before: str, after: str) -> tuple[list[Piece], list[Piece]]:
    """Both texts in pieces of whole words, marked where they differ."""
    a, b = _WORDS.findall(before), _WORDS.findall(after)
    left: list[Piece] = []
    right: list[Piece] = []
    matcher = difflib.SequenceMatcher(None, a, b, autojunk=False)
    for tag, a1, a2, b1, b2 in matcher.get_opcodes():
        if a2 > a1:
            left.append(("".join(a[a1:a2]), tag != "equal"))
        if b2 > b1:
            right.append(("".join(b[b1:b2]), tag != "equal"))
    return left, right
