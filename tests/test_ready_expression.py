"""Expressions: equal ones by math-verify, and a hanging or listed answer that gains nothing."""

import pytest

from ready_steps import grade, sample
from tunestone.rewards.ready.expression import Expression
from tunestone.rewards.ready.sandboxed import find_expression, load_program


@pytest.fixture(scope="module")
def score():
    program = load_program({"scorer": "math", "options": {"style": "flexible", "digits": 6}})

    def score(text, reference):
        return program({"text": text, "arguments": {"reference": reference}})

    return score


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        (r"\frac{1}{2}", "0.5"),
        ("(x+1)^2", "x^2+2x+1"),
        (r"\sqrt{8}", r"2\sqrt{2}"),
        (r"\{1, 2\}", r"$\{2, 1\}$"),
        ("x = 3", 3),
        ("1,000", "1000"),
        ("$3$", {"final_answer": r"\(3\)"}),
        (r"\$3", {"answer": 3}),
        (r"\[3\]", 3),
    ],
)
def test_equal_expressions(score, answer, reference):
    for form in (r"so \boxed{{{}}}", "<answer>{}</answer>"):
        result = score(form.format(answer), reference)
        assert result == {"reward": 1.0, "metrics": {"formatted": 1.0}}


@pytest.mark.parametrize(
    "answer",
    ["4", "1, 2, 3", "3, 4", "2 or 3", "3 and 4", "$1$ $2$ $3$", "$3$ or $4$",
     "4$, so $3", "4\n3", "4$\n$3", r"1$ \(2\) $3", r"\{1, 2, 3\}",
     "x", "-3", "3=4", ")(", "", "^^", r"\frac{", "3 " * 500, "three", r"\text{3 or 4}"],
)  # fmt: skip
def test_unequal_broken_and_listed_answers(score, answer):
    assert score(rf"\boxed{{{answer}}}", 3)["reward"] == 0.0


def test_only_the_last_mark_counts(score):
    assert score(r"\boxed{1} \boxed{2} \boxed{3}", 3)["reward"] == 1.0
    assert score(r"\boxed{3} \boxed{2} \boxed{1}", 3)["reward"] == 0.0
    assert score(r"\boxed{3} and \boxed{3", 3)["reward"] == 0.0
    assert score("3", 3) == {"reward": 0.0, "metrics": {"formatted": 0.0}}


def test_where_the_expression_stands():
    text = r"<answer>1</answer> \boxed{2}"
    assert find_expression(text, "flexible") == "2"
    assert find_expression(text, "answer_tag") == "1"
    assert find_expression("<answer>1</answer>", "boxed") is None


def test_a_reference_that_is_no_formula_raises(score):
    with pytest.raises(ValueError, match="the reference answer is no formula: ''"):
        score(r"\boxed{3}", "")
    with pytest.raises(ValueError, match="the reference answer is null"):
        score(r"\boxed{3}", None)


def test_the_grader_in_the_sandbox():
    endless = r"\boxed{" + "9^{" * 6 + "9" + "}" * 7  # a tower of powers, which sympy works out
    texts = [r"\boxed{0.5}", r"\boxed{2}", endless]
    grades = grade(
        Expression(timeout_seconds=1),
        *[sample(text, reference_answer=r"\frac{1}{2}") for text in texts],
        sample(r"\boxed{1}"),
        sample(r"\boxed{1}", reference_answer=""),
    )
    assert [grade.reward for grade in grades[:2]] == [1.0, 0.0]
    assert [grade.reward for grade in grades[2:]] == [None, None, None]
    assert [grade.flags for grade in grades[2:]] == [
        ("unresponsive_reward_error",),
        ("invalid_variable_error",),
        ("other_error",),
    ]
