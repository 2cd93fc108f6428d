"""Number match: every way to write a number reads back exactly, and no list of guesses wins."""

import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ready_steps import grade, sample
from tunestone.rewards.ready.extraction import UnusableReferenceError
from tunestone.rewards.ready.numbers import Number, find_answer, parse_number, score_number

DIGITS = {
    "ascii": "0123456789",
    "arabic": "٠١٢٣٤٥٦٧٨٩",
    "fullwidth": "０１２３４５６７８９",
    "bold": "𝟎𝟏𝟐𝟑𝟒𝟓𝟔𝟕𝟖𝟗",
}
CURRENCIES = ["{}", "${}", "€ {}", "USD {}", "US${}", r"\${}", "{}€", "{} EUR", "₹{}", "Rs. {}"]
SCALES = {"": 1, " thousand": 10**3, " million": 10**6, " billions": 10**9, " trillion": 10**12}


def reward(text: str, reference: object, **options: object) -> float:
    return score_number(text, reference, **options)[0]


@given(
    st.integers(0, 10**15),
    st.integers(0, 999),
    st.sampled_from(["", "-", "−", "+"]),
    st.sampled_from([",", "{,}", r",\!", ""]),
    st.sampled_from(CURRENCIES),
    st.sampled_from(list(SCALES)),
    st.sampled_from(list(DIGITS)),
    st.booleans(),
)
def test_a_decimal_number_reads_back(whole, mills, sign, comma, currency, scale, script, inside):
    body = f"{whole:,}".replace(",", comma) + (f".{mills:03d}" if mills else "")
    body = body.translate(str.maketrans(DIGITS["ascii"], DIGITS[script]))
    if "EUR" in currency or "€" in currency[1:]:
        scale = "" if scale else scale  # "5 EUR million" is nobody's way to write
    text = currency.format(sign + body) if inside else sign + currency.format(body)
    if inside and currency in ("USD {}", "Rs. {}", "€ {}"):
        text = sign + currency.format(body)
    value = (whole + Fraction(mills, 1000)) * SCALES[scale] * (-1 if sign in ("-", "−") else 1)
    assert parse_number(text + scale) == value


@given(st.integers(0, 10**6), st.integers(1, 10**6), st.sampled_from(["", "-", "−"]))
def test_a_fraction_reads_back(top, bottom, sign):
    value = Fraction(top, bottom) * (-1 if sign else 1)
    for text in (f"{top}/{bottom}", f"{top} / {bottom}", rf"\frac{{{top}}}{{{bottom}}}"):
        assert parse_number(sign + text) == value
    assert parse_number(rf"\dfrac{{{sign}{top}}}{{{bottom}}}") == value
    assert parse_number(f"{sign}{top:,}/{bottom:,}") == value


@given(st.integers(0, 10**6), st.integers(1, 99), st.data())
def test_a_mixed_number_reads_back(whole, bottom, data):
    top = data.draw(st.integers(0, bottom - 1))
    value = whole + Fraction(top, bottom)
    assert parse_number(f"{whole} {top}/{bottom}") == value
    assert parse_number(f"-{whole} {top}/{bottom}") == -value
    assert parse_number(rf"{whole}\frac{{{top}}}{{{bottom}}}") == value


@given(st.integers(-(10**6), 10**6), st.integers(-300, 300))
def test_scientific_notation_reads_back(mantissa, exponent):
    value = Fraction(mantissa, 100) * Fraction(10) ** exponent
    sign, digits = "-" if mantissa < 0 else "", f"{abs(mantissa) // 100}.{abs(mantissa) % 100:02d}"
    for tail in (
        f"e{exponent}",
        f"E{exponent:+d}",
        rf" \times 10^{{{exponent}}}",
        f"×10^{exponent}",
    ):
        assert parse_number(sign + digits + tail) == value


@given(
    st.integers(-(10**6), 10**6), st.sampled_from(["%", " %", r"\%", " percent", "per cent", "％"])
)
def test_a_percent_is_compared_as_written_then_as_a_fraction(number, percent):
    assert parse_number(f"{number}{percent}") == number
    assert reward(f"#### {number}{percent}", number) == 1
    assert reward(f"#### {number}{percent}", number / 100) == 1
    assert reward(f"#### {number}", f"{number}{percent}") == 1
    assert reward(f"#### {Fraction(number, 100)}", f"{number}{percent}") == 1
    # Both are percents: 1200% is not 12%.
    assert reward(f"#### {100 * number}{percent}", f"{number}%") == (number == 0)
    assert reward(f"#### {number}", number / 100) == (number == 0)


@pytest.mark.parametrize(
    ("text", "value"),
    [("½", Fraction(1, 2)), ("1½", Fraction(3, 2)), ("2 ¾", Fraction(11, 4)), ("⅔", Fraction(2, 3)),
     (".5", Fraction(1, 2)), ("72.", 72), ("**72**", 72), ("$72$", 72), ("- 5", -5),
     (r"\frac34", Fraction(3, 4)),
     (r"\$1{,}000", 1000), ("007", 7), ("0.10", Fraction(1, 10))],
)  # fmt: skip
def test_other_ways_to_write_a_number(text, value):
    assert parse_number(text) == value


@pytest.mark.parametrize(
    "text",
    ["", " ", "x", "12,34", "1,2345", "1,234,56", ",123", "1/0", "5 12/4", "5k", "--5", "1.2.3",
     "1 2", "5 apples", "9" * 500, "1e9999", "²", "5²", "V", "one", "nan", "inf", "0x1F", "1_000"],
)  # fmt: skip
def test_what_is_no_number(text):
    assert parse_number(text) is None


@given(st.text() | st.text(alphabet="0123456789,./-+$€%{}\\frac boxed#<>answer^e½x\n"))
def test_arbitrary_text_is_read_without_an_error(text):
    parse_number(text)
    for style in ("hash", "boxed", "answer_tag", "last", "flexible"):
        assert score_number(text, 987654321, style=style)[0] == 0


@pytest.mark.parametrize(
    ("style", "text", "found"),
    [
        ("hash", "6 * 12 = 72\n#### 72", 72),
        ("hash", "#### $1,072.50 \n", Fraction(2145, 2)),
        ("hash", "#### 72 apples", 72),
        ("hash", "#### 1 #### 2 #### 3", 3),
        ("hash", "#### 72\nSo the answer is 72.", None),
        ("hash", "#### 71 or 72", None),
        ("hash", "#### 71, 72, 73", None),
        ("hash", "The answer is 72", None),
        ("hash", "Write your answer after ####", None),
        ("boxed", r"\boxed{1} then \boxed{72}", 72),
        ("boxed", r"\boxed{\text{so } \frac{3}{4}}", Fraction(3, 4)),
        ("boxed", r"\boxed{72 \text{ cm}^2}", 72),
        ("boxed", r"\boxed{x_{1} = 72}", 72),
        ("boxed", r"\boxed{\boxed{72}}", 72),
        ("boxed", r"\boxed{71, 72}", None),
        ("boxed", r"\boxed{72} and now \boxed{7", None),
        ("boxed", "72", None),
        ("answer_tag", "<answer>1</answer> no: <answer> $72 </answer>", 72),
        ("answer_tag", "<answer>72</answer> or <answer>73", None),
        ("answer_tag", "<answer>71 72</answer>", None),
        ("last", "It was 3, then 10-20, so 72.", 72),
        ("last", "答案是72", 72),
        ("last", "from 10-20", 20),
        ("last", "it fell by -20", -20),
        ("last", "72 is x2", 72),
        ("last", "no number", None),
        ("flexible", "<answer>5</answer> \\boxed{6}\n#### 7", 7),
        ("flexible", "#### 7\n<answer>5</answer> \\boxed{6} 8", 6),
        ("flexible", "<answer>5</answer> 8", 5),
        ("flexible", "5 then 8", 8),
    ],
)  # fmt: skip
def test_where_the_answer_stands(style, text, found):
    answer, _ = find_answer(text, style)
    assert (answer and answer.value) == found


def test_listing_every_number_does_not_win():
    numbers = list(range(1000))
    for separator in (" ", ", ", "\n", " or ", "/"):
        listed = separator.join(map(str, numbers))
        for text in (f"#### {listed}", rf"\boxed{{{listed}}}", f"<answer>{listed}</answer>"):
            for style in ("hash", "boxed", "answer_tag"):
                assert reward(text, 72, style=style) == 0
    assert reward(" ".join(f"#### {n}" for n in numbers), 72) == 0
    assert reward(" ".join(rf"\boxed{{{n}}}" for n in numbers), 72) == 0


@pytest.mark.parametrize(
    "reference",
    [72, 72.0, "72", "72 clips", "<<48/2=24>>24 of them.\n#### 72", r"\boxed{72}", "$72.00",
     {"final_answer": "72"}, {"answer": 72}, {"text": "6 * 12\n#### 72"}],
)  # fmt: skip
def test_every_shape_of_reference(reference):
    assert reward("#### 72", reference) == 1
    assert reward("#### 71", reference) == 0


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("seventy", "the reference answer is not one number: 'seventy'."),
        ("71 or 72", "the reference answer is not one number: '71 or 72'."),
        (True, "the reference answer is not one number: True."),
        (float("nan"), "the reference answer is not one number: nan."),
        (None, "the reference answer is null."),
        ({"value": 1}, "has none of final_answer, answer, text, only 'value'."),
        ([72], "the reference answer is not one number: [72]."),
    ],
)
def test_an_unusable_reference_is_refused(reference, message):
    with pytest.raises(UnusableReferenceError, match="the reference answer") as caught:
        score_number("#### 72", reference)
    assert message in str(caught.value)


def test_tolerances_are_exact_and_in_units_of_the_reference():
    assert reward("#### 0.3", 0, tolerance=0.3) == 1  # a float 0.3 is below three tenths
    assert reward("#### 0.31", 0, tolerance=0.3) == 0
    assert reward("#### 0.333", "1/3", relative_tolerance=0.001) == 1  # off by exactly 0.1 %
    assert reward("#### 0.3329", "1/3", relative_tolerance=0.001) == 0
    assert reward("#### 0.125", "12%", tolerance=0.5) == 1  # 12.5 against 12
    assert reward("#### 0.13", "12%", tolerance=0.5) == 0


def test_the_sub_score_and_the_format_reward():
    assert score_number("#### 71", 72, format_reward=0.1) == (0.1, {"formatted": 1.0})
    assert score_number("#### 72", 72, format_reward=0.1) == (1.0, {"formatted": 1.0})
    assert score_number("72", 72, format_reward=0.1) == (1.0, {"formatted": 0.0})
    assert score_number("71", 72, format_reward=0.1) == (0.0, {"formatted": 0.0})
    assert score_number("", 72, format_reward=0.1) == (0.0, {"formatted": 0.0})


@pytest.mark.parametrize(
    "unit", ["1,", "111,", "1/", "1 3/", "1", " ", "\\boxed{", "{", "#### 1 ", "<answer>", "½",
             "\\frac{1}", "1e", "9 x 10^", "$", "-"],
)  # fmt: skip
def test_a_long_text_is_read_in_linear_time(unit):
    # The quadratic ways to read these take minutes.
    text = unit * (200_000 // len(unit))
    start = time.perf_counter()
    find_answer(text, "flexible")
    assert time.perf_counter() - start < 3


def test_the_grader_reads_the_row_and_reports_what_it_lacks():
    rows = [
        sample("#### 72", reference_answer="#### 72"),
        sample("#### 72", reference_answer="seventy"),
        sample("#### 72", answer=72),
        sample("71", reference_answer=72),
    ]
    grades = grade(Number(style="hash"), *rows)
    assert [grade.reward for grade in grades] == [1.0, None, None, 0.0]
    assert [grade.flags for grade in grades] == [
        (), ("other_error",), ("invalid_variable_error",), ()
    ]  # fmt: skip
    assert grades[1].error == "the reference answer is not one number: 'seventy'."
    assert "reference_answer" in grades[2].error
    assert all(grade.seconds > 0 for grade in grades)
    other = Number(reference="{{ item.facts.sum }}")
    assert grade(other, sample("#### 72", facts={"sum": 72}))[0].reward == 1.0
