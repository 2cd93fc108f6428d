r"""Number match: the answer's number against the row's, after both are normalised.

A number may be written with thousands commas (well placed only: `1,234`, not `12,34`), a currency
sign or code, a percent sign, as a fraction `3/4`, a mixed number `1 3/4` or `½`, in scientific
notation `1.5e3` or `1.5 \times 10^3`, with a Unicode minus, in LaTeX (`\frac{3}{4}`, `\$1{,}000`),
in any script's decimal digits, and with `thousand`, `million`, `billion` or `trillion` behind it.
Values are exact fractions, so no tolerance is spent on rounding.

Percent: both sides are compared as written first, so `12%` agrees with 12; when only one side is a
percent they are compared as a fraction too, so `12%` agrees with 0.12. Which one a data set means
cannot be told from it.

Inside a mark (`####`, a box, a tag) there must be exactly one number, units or words aside: a
list of guesses is no answer. Left out: decimal commas (`1,5`), Indian grouping, `5k` and `5M`,
accounting brackets and number words; each reads some other text wrongly.
"""

import re
import unicodedata
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any, Literal, final

from pydantic import Field

from tunestone.rewards.ready.extraction import (
    MARK_STYLES,
    Score,
    UnusableReferenceError,
    find_marked,
    unwrap_reference,
)
from tunestone.rewards.ready.scoring import PureGrader, from_templates
from tunestone.rewards.spec import Context, Spec, TemplateText

Style = Literal["hash", "boxed", "answer_tag", "last", "flexible"]

_MOST_CHARACTERS = 400
"""A longer number is none: reading it would cost the square of its length."""
_EXCERPT_CHARACTERS = 80
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_CODES = "USD|EUR|GBP|JPY|CNY|INR|CHF|CAD|AUD|NZD|KRW|BRL|MXN|SEK|NOK|DKK|PLN|ZAR|SGD|HKD"

# Every repetition is possessive or of a fixed length, so a digit is looked at a fixed number of
# times and a whole text is searched in linear time.
_PLAIN = r"(?:\d{1,3}(?:,\d{3}(?!\d))++|\d++)"
_DECIMAL = rf"(?:{_PLAIN}(?:\.\d++)?+|(?<!\.)\.\d++)"
_SIGN = r"(?:(?<![\w)\]}])[-+])?"
_CURRENCY = rf"(?:(?:US|A|C|NZ|HK|S)?[$€£¥₹₩₽₫₺₴₦₱¢]|(?:{_CODES}|Rs\.?)(?![A-Za-z]))"
_NUMBER = re.compile(
    rf"""
    (?<![A-Za-z_\d])(?<!\d/)                                    # not within a name, date, number
    (?<!\^)(?<![\^_]\{{)(?<!\^[-+])(?<!\^\{{[-+])               # nor a power or an index
    (?P<sign>{_SIGN}) (?:{_CURRENCY}[ ]?(?P<inner_sign>{_SIGN}))?
    (?: (?:(?P<whole>\d++)[ ])? (?P<top>{_DECIMAL})[ ]?/[ ]?(?P<bottom>{_DECIMAL})(?!/\d)
      | (?P<decimal>{_DECIMAL})
        (?: [eE](?P<exponent>[-+]?\d{{1,3}})(?!\d)
          | [ ]?(?:\\times|\\cdot|[×·*x])[ ]?10[ ]?\^(?P<brace>\{{)?
            (?P<power>[-+]?\d{{1,3}})(?!\d)(?(brace)\}})
        )?+ (?![eE][-+]?\d)                                     # an exponent beyond our range
    )
    (?:[ ]?(?P<scale>thousand|million|billion|trillion)s?\b)?
    (?:[ ]?(?:(?P<percent>%|per[ ]?cent\b)|{_CURRENCY}))?
    """,
    re.VERBOSE,
)
_LATEX_FRACTION = re.compile(
    r"(\d?) ?\\[dtc]?frac ?(?:\{([^{}]{1,40})\}|(\d))(?:\{([^{}]{1,40})\}|(\d))"
)
_VULGAR_FRACTION = re.compile(r"(\d?) ?([¼-¾⅐-⅞])")
_UNSIGNED = re.compile(_DECIMAL)
_SAME = str.maketrans("−–﹣－＋⁄％\u00a0\u2009\u202f", "----+/%   ")
_LATEX = {"{,}": ",", r"\!": "", r"\,": "", r"\$": "$", r"\%": "%", r"\ ": " "}
_LATEX_PART = re.compile("|".join(map(re.escape, _LATEX)))


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number as it was written: 12% is 12 and a percent."""

    value: Fraction
    is_percent: bool = False


@final
class Number(Spec):
    """1 when the answer's number is the row's, else 0; sub-score `formatted`."""

    type: Literal["number"] = "number"
    reference: TemplateText = "{{ item.reference_answer }}"
    """The right answer: a number, a text that holds one (GSM8K's `.. #### 72` too), or an object
    with `final_answer`, `answer` or `text`."""
    style: Style = "flexible"
    r"""Where the answer must stand: `hash` (`#### 72` as the end of the text), `boxed` (the last
    `\boxed{72}`), `answer_tag` (the last `<answer>72</answer>`), `last` (the last number of the
    text), or `flexible`: the first of these four that there is."""
    tolerance: float = Field(default=0.0, ge=0)
    """Largest absolute difference that counts as equal, in the units of the reference as written.
    """
    relative_tolerance: float = Field(default=0.0, ge=0)
    """Largest difference as a share of the reference; the wider of the two tolerances holds."""
    format_reward: float = Field(default=0.0, ge=0, lt=1)
    """Reward of a wrong answer that is `formatted`."""

    def open(self, context: Context, stack: ExitStack) -> PureGrader:
        """The grader; it holds nothing open."""
        score = partial(
            score_number,
            style=self.style,
            tolerance=self.tolerance,
            relative_tolerance=self.relative_tolerance,
            format_reward=self.format_reward,
        )
        return PureGrader(score, from_templates(reference=self.reference))


def score_number(
    text: str,
    reference: Any,
    *,
    style: Style = "flexible",
    tolerance: float = 0.0,
    relative_tolerance: float = 0.0,
    format_reward: float = 0.0,
) -> Score:
    """The reward and `formatted`: 1 when an answer stood as `style` asks, in a mark if flexible.

    Raises UnusableReferenceError when the reference holds no single number.
    """
    expected = read_reference(reference)
    answer, is_formatted = find_answer(text, style)
    is_right = answer is not None and agrees(
        answer, expected, tolerance=tolerance, relative_tolerance=relative_tolerance
    )
    reward = 1.0 if is_right else format_reward if is_formatted else 0.0
    return reward, {"formatted": float(is_formatted)}


def parse_number(text: str) -> Fraction | None:
    """The number the whole text is, as written (12% is 12); None when it is anything else."""
    match = _NUMBER.fullmatch(_normalise(text).strip(" \t\r\n*`").removesuffix("."))
    quantity = _read(match) if match else None
    return None if quantity is None else quantity.value


def find_answer(text: str, style: Style) -> tuple[Quantity | None, bool]:
    """The answer's number, if any, and whether it stood as the style asks."""
    for mark in MARK_STYLES:
        if style in (mark, "flexible"):
            content = find_marked(text, mark)
            answer = None if content is None else _read_only_number(content)
            if answer is not None:
                return answer, True
    if style not in ("last", "flexible"):
        return None, False
    last = deque(_NUMBER.finditer(_normalise(text)), maxlen=1)
    answer = _read(last[0]) if last else None
    return answer, style == "last" and answer is not None


def read_reference(reference: Any) -> Quantity:
    """The number of a reference answer; see `Number.reference`. Raises UnusableReferenceError."""
    answer = unwrap_reference(reference)
    quantity = None
    if isinstance(answer, str):
        contents = [find_marked(answer, mark) for mark in MARK_STYLES]
        marked = next((content for content in contents if content is not None), answer)
        quantity = _read_only_number(marked)
    elif isinstance(answer, int | float) and not isinstance(answer, bool):
        quantity = _read_only_number(str(answer))
    if quantity is None:
        excerpt = repr(answer)[:_EXCERPT_CHARACTERS]
        raise UnusableReferenceError(f"the reference answer is not one number: {excerpt}.")
    return quantity


def agrees(
    answer: Quantity, reference: Quantity, *, tolerance: float, relative_tolerance: float
) -> bool:
    """Whether two numbers are equal within the wider tolerance; percent as in the module's letter.

    Both tolerances are in the units of the reference as written.
    """
    # Through their decimal text: 0.3 as a float is less than three tenths.
    width = max(Fraction(str(tolerance)), Fraction(str(relative_tolerance)) * abs(reference.value))
    readings = [answer.value]
    if answer.is_percent and not reference.is_percent:
        readings.append(answer.value / 100)
    if reference.is_percent and not answer.is_percent:
        readings.append(answer.value * 100)
    return any(abs(reading - reference.value) <= width for reading in readings)


def _read_only_number(text: str) -> Quantity | None:
    """The one number in a text, however often it is written; None when there are others."""
    found = {_read(match) for match in _NUMBER.finditer(_normalise(text))}
    return found.pop() if len(found) == 1 else None


def _read(match: re.Match[str]) -> Quantity | None:
    """The value of a match; None for a zero denominator, an improper mixed or endless number."""
    if len(match[0]) > _MOST_CHARACTERS:
        return None
    if match["decimal"]:
        value = _to_fraction(match["decimal"])
        value *= Fraction(10) ** int(match["exponent"] or match["power"] or 0)
    else:
        whole, top, bottom = (
            _to_fraction(match[name] or "0") for name in ("whole", "top", "bottom")
        )
        if bottom == 0 or (match["whole"] and top >= bottom):
            return None
        value = whole + top / bottom
    value *= _SCALES.get(match["scale"], 1)
    is_negative = (match["sign"] == "-") != (match["inner_sign"] == "-")
    return Quantity(-value if is_negative else value, bool(match["percent"]))


def _to_fraction(decimal: str) -> Fraction:
    return Fraction(decimal.replace(",", ""))


def _normalise(text: str) -> str:
    """One way to write each sign; LaTeX's spaces, escapes and fractions as plain text."""
    text = _LATEX_PART.sub(lambda part: _LATEX[part[0]], text.translate(_SAME))
    text = _LATEX_FRACTION.sub(_write_latex_fraction, text)
    text = _VULGAR_FRACTION.sub(_write_vulgar_fraction, text)
    return re.sub(r"\A\s*+([-+])\s++", r"\1", text)


def _write_latex_fraction(match: re.Match[str]) -> str:
    before, top, bottom = match[1], match[2] or match[3], match[4] or match[5]
    sign = "-" if top.startswith("-") and not before else ""
    if not (_UNSIGNED.fullmatch(top, len(sign)) and _UNSIGNED.fullmatch(bottom)):
        return match[0]
    return f"{before} {top}/{bottom}" if before else f"{top}/{bottom}"


def _write_vulgar_fraction(match: re.Match[str]) -> str:
    value = Fraction(unicodedata.numeric(match[2])).limit_denominator(10)
    before = f"{match[1]} " if match[1] else ""
    return f"{before}{value.numerator}/{value.denominator}"
