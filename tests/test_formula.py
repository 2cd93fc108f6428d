"""Formulas: precedence and functions against Python's own, and every way to get them wrong."""

import ast
import math
import operator
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunestone.errors import RewardError
from tunestone.rewards.formula import Formula, FormulaError, is_variable

VALUES = {"a": 0.5, "b": 2.0, "c_2": -3.0, "min": 10.0}


def value(source):
    return Formula.parse(source, VALUES).evaluate(VALUES)


def refusal(source, variables=("accuracy", "length")):
    with pytest.raises(RewardError) as caught:
        Formula.parse(source, variables)
    return str(caught.value)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("1", 1.0),
        (".5 + 5. + 1e-1 + 2E+1", 25.6),
        ("a", 0.5),
        ("(a + b) / 2", 1.25),
        ("1 + 2 * 3 - 4 / 2", 5.0),
        ("1 - 2 - 3", -4.0),
        ("8 / 4 / 2", 1.0),
        ("2 ^ 3 ^ 2", 512.0),  # 2 ^ 9, not 8 ^ 2
        ("-2 ^ 2", -4.0),
        ("(-2) ^ 2", 4.0),
        ("2 ^ -1", 0.5),
        ("2 ^ -1 ^ 2", 0.5),  # 2 ^ (-(1 ^ 2))
        ("--a - -b", 2.5),
        ("3 * -b", -6.0),
        ("c_2^3", -27.0),
        ("abs(c_2) + floor(-0.5) + ceil(0.5)", 3.0),
        ("exp(0) + sqrt(16) + log(exp(2))", 7.0),
        ("min(b)", 2.0),
        ("min(a, b, c_2) + max(a, b, c_2)", -1.0),
        ("min (a,b)", 0.5),
        ("min + 1", 11.0),  # a grader may be called as a function is
        ("\n( ( a ) )\t", 0.5),
    ],
)
def test_a_formula_has_the_value_of_school_arithmetic(source, expected):
    assert value(source) == pytest.approx(expected, abs=1e-12)


def test_the_result_is_a_float():
    assert isinstance(value("floor(2.5)"), float)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "formula: '' ends too early. It may hold graders' names, numbers, + - * / ^,"),
        ("accuracy +", "formula: 'accuracy +' ends too early."),
        ("(accuracy", "formula: '(accuracy' ends too early."),
        ("accuracy)", "formula: ')' is unexpected (character 9)."),
        ("accuracy length", "formula: 'length' is unexpected (character 10)."),
        ("2 accuracy", "formula: 'accuracy' is unexpected (character 3)."),
        ("accuracy ** 2", "formula: '* 2' is unexpected (character 11). Write ^ for powers."),
        ("+accuracy", "formula: '+accuracy' is unexpected (character 1)."),
        ("accuracy; 1", "formula: '; 1' is unexpected (character 9)."),
        ("accuracy.real", "formula: '.real' is unexpected (character 9)."),
        (
            "acuracy",
            "formula: there is no grader 'acuracy' (character 1). Did you mean 'accuracy'?",
        ),
        ("1 + zzz", "there is no grader 'zzz' (character 5). There is accuracy, length."),
        ("mx(1, 2)", "formula: there is no function 'mx' (character 1). Did you mean 'max'?"),
        ("__import__(1)", "there is no function '__import__'"),
        ("max()", "formula: max takes one argument or more, not 0."),
        ("log(1, 2)", "formula: log takes one argument, not 2."),
        ("sqrt()", "formula: sqrt takes one argument, not 0."),
        ("1e999", "formula: 1e999 is too large (character 1)."),
        ("1 + " * 2500 + "1", "formula: 10,001 characters are too many. At most 10,000 are read."),
        ("1+" * 201 + "1", "formula: more than 200 operations inside one another. Group"),
        ("-" * 9_000 + "1", "formula: more than 200 operations inside one another."),
        ("1^" * 4_000 + "1", "formula: more than 200 operations inside one another."),
    ],
)
def test_what_is_no_formula_is_refused(source, message):
    assert message in refusal(source)


def test_two_hundred_operations_fit_inside_one_another():
    assert value("1+" * 200 + "1") == 201.0


def test_parentheses_alone_cost_nothing():
    assert value("(" * 4_000 + "1" + ")" * 4_000) == 1.0


@pytest.mark.parametrize(
    ("source", "operation"),
    [
        ("1 / (a - 0.5)", "(1) / (0)"),
        ("log(0)", "log(0)"),
        ("log(c_2)", "log(-3)"),
        ("sqrt(c_2)", "sqrt(-3)"),
        ("c_2 ^ a", "(-3) ^ (0.5)"),
        ("0 ^ -1", "(0) ^ (-1)"),
        ("exp(1000)", "exp(1000)"),
        ("10 ^ 400", "(10) ^ (400)"),
        ("1 / (1e300 * 1e300)", "(1e+300) * (1e+300)"),
        ("max(1e308 + 1e308, 0)", "(1e+308) + (1e+308)"),
    ],
)
def test_arithmetic_without_a_finite_real_result_names_the_operation(source, operation):
    with pytest.raises(FormulaError) as caught:
        value(source)
    assert str(caught.value) == f"formula: {operation} is not a finite real number"


def test_names_that_can_be_variables():
    assert all(map(is_variable, ["a", "_", "a_1", "größe"]))
    assert not any(map(is_variable, ["", "1a", "a-b", "a b", "a.b", "a\n"]))


# --- properties

FUNCTIONS = {"abs": abs, "floor": math.floor, "ceil": math.ceil, "exp": math.exp}
FUNCTIONS |= {"sqrt": math.sqrt, "log": math.log}


def _join(draw_from):
    """Texts of larger formulas out of smaller ones, with no more parentheses than drawn."""
    pair = st.tuples(draw_from, st.sampled_from(["+", "-", "*", "/", "^", " - "]), draw_from)
    several = st.tuples(st.sampled_from(["min", "max"]), st.lists(draw_from, min_size=2))
    return st.one_of(
        pair.map("".join),
        draw_from.map(lambda text: f"({text})"),
        draw_from.map(lambda text: f"-{text}"),
        st.tuples(st.sampled_from(sorted(FUNCTIONS)), draw_from).map(lambda t: f"{t[0]}({t[1]})"),
        several.map(lambda t: f"{t[0]}({', '.join(t[1])})"),
    )


LEAVES = st.sampled_from(["a", "b", "c_2", "0.0", "1.0", "2.5", "1e300"])
FORMULAS = st.recursive(LEAVES, _join, max_leaves=12)


OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}


def by_python(source):
    """The value by Python's own grammar, whose `**` binds and groups as our `^` does.

    None as soon as one step has no finite real value, whatever becomes of it later.
    """
    try:
        return _walk(ast.parse(source.replace("^", "**"), mode="eval").body)
    except (ArithmeticError, ValueError):
        return None


def _walk(node):
    match node:
        case ast.Constant():
            result = node.value
        case ast.Name():
            result = VALUES[node.id]
        case ast.UnaryOp():
            result = -_walk(node.operand)
        case ast.BinOp():
            result = OPERATORS[type(node.op)](_walk(node.left), _walk(node.right))
        case ast.Call():
            functions = {**FUNCTIONS, "min": min, "max": max}
            arguments = [_walk(argument) for argument in node.args]
            # Python's min and max of a single number want a list
            result = functions[node.func.id](
                arguments if node.func.id in ("min", "max") else arguments[0]
            )
    if isinstance(result, complex) or not math.isfinite(result):
        raise ArithmeticError(f"{result} is no finite real number")
    return float(result)


@settings(max_examples=1_000)
@given(FORMULAS)
def test_formulas_have_the_value_python_gives_them_or_fail_where_it_has_none(source):
    expected = by_python(source)
    if expected is None:
        with pytest.raises(FormulaError):
            value(source)
    else:
        assert value(source) == pytest.approx(expected, rel=1e-12, abs=1e-300)


@given(st.text(st.sampled_from("ab12.e+-*/^(), minaxlogsqrt"), max_size=40) | st.text())
def test_any_text_is_a_formula_or_refused(source):
    try:
        formula = Formula.parse(source, VALUES)
    except RewardError as error:
        assert str(error).startswith("formula: ")
        return
    try:
        assert math.isfinite(formula.evaluate(VALUES))
    except FormulaError as error:
        assert re.search(r"is not a finite real number$", str(error))
