"""Multiple choice: every way to answer one letter, and none for answering several."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ready_steps import grade, sample
from tunestone.rewards.ready.choice import Choice, read_options, score_choice
from tunestone.rewards.ready.extraction import UnusableReferenceError

CITIES = ["London", "Berlin", "Paris", "New York"]
LETTERS = [
    "{}", "({})", "{})", "{}.", "**{}**", "Answer: {}", "Answer: ({})", "answer: {}.",
    "**Answer:** {}", "Final Answer: {}", "Answer = {}", "Answer:\n{}", r"\boxed{{{}}}",
    r"so \boxed{{\text{{{}}}}}", "<answer>{}</answer>", "<answer>\n({})\n</answer>",
    "I thought about (A) and B.\nAnswer: {}",
]  # fmt: skip


def reward(text: str, reference: object = "C", choices: object = None, style: str = "strict"):
    return score_choice(text, reference, choices, style=style)[0]


@pytest.mark.parametrize("form", LETTERS)
@pytest.mark.parametrize("style", ["strict", "lenient"])
def test_a_letter_in_every_form(form, style):
    for letter in "ABCD":
        text = form.format(letter)
        assert score_choice(text, letter, CITIES, style=style) == (1.0, {"formatted": 1.0})
        assert reward(text, letter.lower(), None, style) == 1.0
        assert reward(form.format(letter.lower()), f"({letter})", CITIES, style) == 1.0
        assert reward(text, "ABCD"["DABC".index(letter)], CITIES, style) == 0.0


@pytest.mark.parametrize("form", ["{}", "Answer: {}", r"\boxed{{{}}}", "<answer>{}</answer>"])
def test_the_text_of_an_option_answers_too(form):
    for text in ("Paris", "paris", "C) Paris", "(C) Paris", "C. Paris", "C: Paris."):
        assert reward(form.format(text), "C", CITIES) == 1
        assert reward(form.format(text), "B", CITIES) == 0
    assert reward(form.format("Paris")) == 0  # without choices only letters are known
    assert reward(form.format("C) Vitamin A")) == 1


@pytest.mark.parametrize(
    "several",
    ["A or C", "A, B, C, D", "A C", "C/D", "(C) (D)", "C) D)", "C and D", "A. B. C.", "ABCD",
     "C, but maybe A", "(C) or (D)", "", "E", "none"],
)  # fmt: skip
@pytest.mark.parametrize("form", ["{}", "Answer: {}", r"\boxed{{{}}}", "<answer>{}</answer>"])
@pytest.mark.parametrize("style", ["strict", "lenient"])
def test_several_letters_at_once_are_no_answer(several, form, style):
    assert reward(form.format(several), "C", CITIES, style) == 0


def test_only_a_short_line_alone_is_an_answer_without_a_mark():
    assert reward("C) Paris, of course") == 1
    assert reward("C) Paris, of course\nand more") == 0
    assert reward("C) Paris, of course " + "and more " * 50) == 0


@pytest.mark.parametrize("style", ["strict", "lenient"])
def test_marks_that_differ_are_no_answer(style):
    for form in ("Answer: {}", r"\boxed{{{}}}", "<answer>{}</answer>"):
        assert reward("\n".join(form.format(letter) for letter in "ABCD"), "D", None, style) == 0
        assert reward("\n".join(form.format("C") for _ in range(3)), "C", None, style) == 1
    assert reward("\\boxed{A}\nAnswer: C", "C", None, style) == 0
    assert reward("Answer: \\boxed{C}", "C", None, style) == 1


@pytest.mark.parametrize(
    "text",
    ["The answer is C.", "the answer is (c)", "I choose option C", "It must be (C).",
     "Not easy.\nC\n", "It is Paris, I think."],
)  # fmt: skip
def test_the_lenient_style_looks_further(text):
    assert score_choice(text, "C", CITIES, style="lenient") == (1.0, {"formatted": 0.0})
    assert score_choice(text, "C", CITIES, style="strict") == (0.0, {"formatted": 0.0})
    assert reward(text, "B", CITIES, "lenient") == 0


@pytest.mark.parametrize(
    "text",
    ["The answer is A. The answer is C.", "(A) no, (C) yes", "London, Berlin, Paris or New York",
     "", "The answer is a city.", "C is A B D", "A\nC\n", "Parish"],
)  # fmt: skip
def test_the_lenient_style_still_wants_one_answer(text):
    assert reward(text, "C", CITIES, "lenient") == 0


def test_an_option_inside_another_is_not_named():
    options = ["York", "New York"]
    assert reward("He lives in New York.", "B", options, "lenient") == 1
    assert reward("He lives in York.", "A", options, "lenient") == 1


@pytest.mark.parametrize(
    "choices",
    [CITIES, dict(zip("ABCD", CITIES, strict=True)), {"text": CITIES, "label": list("ABCD")},
     {"text": CITIES, "label": list("1234")}, {"text": CITIES}],
)  # fmt: skip
def test_every_shape_of_choices_and_reference(choices):
    assert read_options(choices) == dict(zip("ABCD", CITIES, strict=True))
    for reference in ("C", "(c)", 2, "Paris", "C) Paris", {"answer": "C"}, {"text": "Paris"}):
        assert reward("Answer: C", reference, choices) == 1
        assert reward("Answer: A", reference, choices) == 0


@pytest.mark.parametrize(
    ("reference", "choices", "message"),
    [
        ("E", CITIES, "the reference answer is none of the options: 'E'."),
        (4, CITIES, "the reference answer is none of the options: 4."),
        (True, CITIES, "the reference answer is none of the options: True."),
        ("Rome", CITIES, "the reference answer is none of the options: 'Rome'."),
        (None, None, "the reference answer is null."),
        ("A", "A, B", "the choices are neither a list of texts nor an object: 'A, B'."),
        ("A", [], "the choices are neither a list of texts nor an object: []."),
    ],
)
def test_unusable_rows_are_refused(reference, choices, message):
    with pytest.raises(UnusableReferenceError) as caught:
        reward("A", reference, choices)
    assert str(caught.value) == message


@given(st.text() | st.text(alphabet="ABCDabc().:,answer=\\boxed{}<>/* \n"))
def test_arbitrary_text_is_read_without_an_error(text):
    for style in ("strict", "lenient"):
        assert reward(text, "C", CITIES, style) in (0.0, 1.0)


@pytest.mark.parametrize(
    "unit",
    ["answer: ", "Answer: C\n", "\\boxed{", "\\boxed{C}", "(A) ", "C\n", "<answer>", " ", "option ",
     "Paris ", "}", "answer" + " " * 9],
)  # fmt: skip
def test_a_long_text_is_read_in_linear_time(unit):
    start = time.perf_counter()
    reward(unit * (200_000 // len(unit)), "C", CITIES, "lenient")
    assert time.perf_counter() - start < 3


def test_the_grader_uses_choices_where_the_row_has_them():
    grades = grade(
        Choice(),
        sample("Answer: Paris", reference_answer="C", choices=CITIES),
        sample("Answer: C", reference_answer="C"),
        sample("Answer: C", reference_answer="Rome", choices=CITIES),
        sample("Answer: C", choices=CITIES),
    )
    assert [grade.reward for grade in grades] == [1.0, 1.0, None, None]
    assert [grade.flags for grade in grades[2:]] == [("other_error",), ("invalid_variable_error",)]
