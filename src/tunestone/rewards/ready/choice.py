r"""Multiple choice: the letter that was answered against the right one.

An answer stands in a mark: `Answer: C` (the rest of that line), `\boxed{C}`, `<answer>C</answer>`,
or it is the whole completion. In it the letter may be bare, in brackets, or followed by the
option's text; the option's text alone does as well when the row has `choices`. Every mark of the
completion counts, and all must name the same letter: who answers A and B has answered nothing.

The lenient style looks further when there is no mark: for `the answer is C` and `option (C)`, then
for letters in brackets and lines that are one letter, then for the text of exactly one option.
"""

import re
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from string import ascii_uppercase
from typing import Any, Literal, final

from tunestone.rewards.ready.extraction import (
    Score,
    UnusableReferenceError,
    find_boxes,
    find_tags,
    unwrap_reference,
)
from tunestone.rewards.ready.scoring import Arguments, PureGrader
from tunestone.rewards.spec import Context, Spec, TemplateText
from tunestone.rewards.template import Template, UnknownVariableError, item_view, sample_view
from tunestone.types import Sample

Style = Literal["strict", "lenient"]

_MOST_CHARACTERS = 400
"""What stands in a mark is read this far; it bounds the work on a text full of marks."""
_ANSWER_LINE = re.compile(r"\banswer\*{0,2}\s{0,2}[:=]", re.IGNORECASE)
_PHRASE = re.compile(
    r"\b(?i:answer\s{1,2}is|option|choice)\s{0,2}:?\s{0,2}[*$]{0,2}"
    r"(?:\(([A-Za-z])\)|([A-Z])(?![\w'’-]))"
)
_BRACKETED = re.compile(r"(?<!\w)\(([A-Za-z])\)")
_LINE = re.compile(r"^[ \t]*+\(?([A-Z])[).]?[ \t]*+$", re.MULTILINE)
_WRAPPING = " \t\r\n*_`$\"'"
_LATEX_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\{([^{}]{0,80})\}")
_BARE = re.compile(r"\(?([A-Za-z])\)?\s*[.:]?")
_WITH_TEXT = re.compile(r"(?:\(([A-Za-z])\)|([A-Za-z])[).:])\s*(.+)", re.DOTALL)
_ANOTHER = re.compile(r"(?<!\w)[A-Za-z]\)|\A[A-Za-z][.:,]")


@final
class Choice(Spec):
    """1 when the letter answered is the right one, else 0; sub-score `formatted`."""

    type: Literal["choice"] = "choice"
    reference: TemplateText = "{{ item.reference_answer }}"
    """The right option: its letter (`B`, `(b)`), its text, its index from 0, or an object with
    `final_answer`, `answer` or `text`."""
    choices: TemplateText = "{{ item.choices }}"
    """The options, where the row has them: a list of texts, an object from letter to text, or an
    object with `text` and `label` lists (as ARC has it). A row without is graded by letters."""
    style: Style = "strict"
    """`strict`: the answer must stand in a mark. `lenient`: without one, phrases, letters in
    brackets and the text of an option count too."""

    def open(self, context: Context, stack: ExitStack) -> PureGrader:
        """The grader; it holds nothing open."""
        arguments = _arguments(Template.parse(self.reference), Template.parse(self.choices))
        return PureGrader(partial(score_choice, style=self.style), arguments)


def score_choice(text: str, reference: Any, choices: Any = None, *, style: Style) -> Score:
    """The reward and `formatted`: 1 when the marks name one letter.

    Raises UnusableReferenceError when the reference is none of the options.
    """
    options = read_options(choices)
    right = _read_reference(reference, options)
    marks = list(dict.fromkeys(_marks(text)))
    found = {_read_letter(content, options) for content in marks}
    is_formatted = len(found) == 1 and None not in found
    if style == "lenient" and not found - {None}:
        found = _unmarked_letters("\n".join(marks) or text, options)
    return float(found == {right}), {"formatted": float(is_formatted)}


def read_options(choices: Any) -> dict[str, str]:
    """Letter -> text of the option; all 26 letters with empty texts when there are no choices.

    Raises UnusableReferenceError for another shape.
    """
    if choices is None:
        return dict.fromkeys(ascii_uppercase, "")
    if not isinstance(choices, Mapping | list | tuple) or not choices:
        raise UnusableReferenceError(
            f"the choices are neither a list of texts nor an object: {choices!r:.80}."
        )
    if isinstance(choices, Mapping) and isinstance(choices.get("text"), list):
        labels = choices.get("label") or list(ascii_uppercase)
        choices = {str(label): text for label, text in zip(labels, choices["text"], strict=False)}
    if isinstance(choices, list | tuple):
        choices = dict(zip(ascii_uppercase, choices, strict=False))
    # Labels may be digits (1 to 4, in parts of ARC); answers are letters then, by place.
    labels = [str(label).strip().upper() for label in choices]
    if not all(len(label) == 1 and label in ascii_uppercase for label in labels):
        labels = list(ascii_uppercase)
    return {label: str(text).strip() for label, text in zip(labels, choices.values(), strict=False)}


def _arguments(reference: Template, choices: Template) -> Arguments:
    def resolve(sample: Sample) -> Mapping[str, Any]:
        item, answer = item_view(sample), sample_view(sample)
        right = reference.resolve(item, answer)
        try:
            return {"reference": right, "choices": choices.resolve(item, answer)}
        except UnknownVariableError:
            return {"reference": right}  # this row has letters only

    return resolve


def _read_reference(reference: Any, options: Mapping[str, str]) -> str:
    answer = unwrap_reference(reference)
    letters = list(options)
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(letters):
        return letters[answer]
    if isinstance(answer, str):
        letter = _read_letter(answer, options)
        if letter is not None:
            return letter
    raise UnusableReferenceError(f"the reference answer is none of the options: {answer!r:.80}.")


def _marks(text: str) -> list[str]:
    """What stands in the marks, each cut to a bounded length; a short line alone is one itself."""
    marks = [text[start : min(end, start + _MOST_CHARACTERS)] for start, end in find_boxes(text)]
    marks += [content[:_MOST_CHARACTERS] for content in find_tags(text, "answer")]
    for match in _ANSWER_LINE.finditer(text):
        after = text[match.end() : match.end() + _MOST_CHARACTERS]
        line = after.lstrip(_WRAPPING).split("\n", 1)[0]
        if r"\boxed{" not in line and "<answer>" not in line:  # those are marks themselves
            marks.append(line)
    whole = text.strip() if len(text) <= _MOST_CHARACTERS else ""
    return marks if marks or not whole or "\n" in whole else [whole]


def _unmarked_letters(text: str, options: Mapping[str, str]) -> set[str | None]:
    for pattern in (_PHRASE, _BRACKETED, _LINE):
        letters = {next(filter(None, found.groups())).upper() for found in pattern.finditer(text)}
        if letters & options.keys():
            return {letter for letter in letters if letter in options}
    return _named_options(text.casefold(), options)


def _named_options(text: str, options: Mapping[str, str]) -> set[str | None]:
    """The options whose text occurs as words, without those that are part of another such one."""
    named = {
        letter: option.casefold()
        for letter, option in options.items()
        if option and re.search(rf"(?<!\w){re.escape(option.casefold())}(?!\w)", text)
    }
    return {
        letter
        for letter, option in named.items()
        if not any(option != other and option in other for other in named.values())
    }


def _read_letter(content: str, options: Mapping[str, str]) -> str | None:
    """The single option that a short text names by letter, by letter and text, or by text."""
    content = _LATEX_TEXT.sub(r"\1", content).strip(_WRAPPING)
    by_text = [letter for letter, text in options.items() if text and _same(content, text)]
    if by_text:
        return by_text[0] if len(by_text) == 1 else None
    if bare := _BARE.fullmatch(content):
        return _known(bare[1], options)
    labelled = _WITH_TEXT.fullmatch(content)
    if labelled is None:
        return None
    letter, rest = _known(labelled[1] or labelled[2], options), labelled[3]
    is_its_text = letter is not None and _same(rest, options[letter])
    return letter if is_its_text or not _ANOTHER.search(rest) else None


def _known(letter: str, options: Mapping[str, str]) -> str | None:
    return letter.upper() if letter.upper() in options else None


def _same(left: str, right: str) -> bool:
    return left.strip(_WRAPPING + ".").casefold() == right.strip(_WRAPPING + ".").casefold()
