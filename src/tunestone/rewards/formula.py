"""The formula that combines graders: `calculate_output` of OpenAI's multi grader.

    0.7 * accuracy + 0.3 * max(0, 1 - length ^ 2)

A variable is the name of a grader: letters, digits and underscores, not starting with a digit.
There are numbers, parentheses, `+ - * /`, unary minus, and `^`, which groups to the right and binds
tighter than a minus in front of it, so that `-2 ^ 2` is -4 (as in mathematics and in Python). `log`
is the natural logarithm; `min` and `max` take one or more arguments, the other functions one.

A grammar says all that, and nothing is ever evaluated as Python. Whatever is wrong with the text is
refused when it is parsed; arithmetic that has no finite real result fails on its sample only.
"""

import difflib
import functools
import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Self, final

from lark import Lark, Token, UnexpectedInput, UnexpectedToken

from tunestone.errors import RewardError

_NAME = r"[^\W\d]\w*"
_GRAMMAR = rf"""
    ?start: sum
    ?sum: product | sum "+" product -> add | sum "-" product -> subtract
    ?product: signed | product "*" signed -> multiply | product "/" signed -> divide
    ?signed: power | "-" signed -> negate
    ?power: atom | atom "^" signed -> power
    ?atom: NUMBER -> number | NAME -> variable | call | "(" sum ")"
    call: NAME "(" (sum ("," sum)*)? ")"
    NUMBER: /([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?/
    NAME: /{_NAME}/
    %ignore /\s+/
"""
_LONGEST = 10_000
_DEEPEST = 200
"""Operations inside operations; a sum of n terms is n - 1 deep. Keeps clear of Python's own limit
of recursion."""

_OPERATORS: dict[str, Callable[..., float]] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / b,
    "negate": lambda a: -a,
    "power": math.pow,  # an error, not a complex number, where there is no real power
}
_FUNCTIONS: dict[str, Callable[..., float]] = {
    "min": lambda *values: min(values),
    "max": lambda *values: max(values),
    "abs": abs,
    "floor": math.floor,
    "ceil": math.ceil,
    "exp": math.exp,
    "sqrt": math.sqrt,
    "log": math.log,
}
_ANY_COUNT = ("min", "max")
_SIGNS = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/", "power": "^"}


class FormulaError(ArithmeticError):
    """The formula has no finite real value for these variables; the message says where."""


@dataclass(frozen=True, slots=True)
class _Operation:
    """A function of the values of its operands."""

    name: str
    function: Callable[..., float]
    operands: tuple["_Node", ...]


_Node = float | str | _Operation
"""A number, the name of a variable, or an operation."""


@final
@dataclass(frozen=True, slots=True)
class Formula:
    """A parsed formula. Make it with `Formula.parse`."""

    source: str
    root: _Node

    @classmethod
    def parse(cls, source: str, variables: Collection[str]) -> Self:
        """The formula written in `source`, over these variables.

        Raises RewardError for broken syntax, an unknown variable or function (naming the nearest),
        a wrong number of arguments, and a formula that is too long or nested too deeply.
        """
        if len(source) > _LONGEST:
            raise RewardError(
                f"formula: {len(source):,} characters are too many.",
                remedy=f"At most {_LONGEST:,} are read.",
            )
        try:
            tree = _parser().parse(source)
        except UnexpectedInput as error:
            raise _syntax_error(source, error) from None
        return cls(source, _build(tree, variables, depth=1))

    def evaluate(self, values: Mapping[str, float]) -> float:
        """The value, given one finite number for each variable. Raises FormulaError."""
        return _evaluate(self.root, values)


def is_variable(name: str) -> bool:
    """Whether a grader of this name can stand in a formula."""
    return re.fullmatch(_NAME, name) is not None


@functools.cache
def _parser() -> Lark:
    return Lark(_GRAMMAR, parser="lalr")


def _build(tree: Any, variables: Collection[str], *, depth: int) -> _Node:
    """The node for a lark tree, or a branch of it. Raises RewardError."""
    kind, children = str(tree.data), tree.children
    if kind == "number":
        return _read_number(children[0])
    if kind == "variable":
        return _known(children[0], variables, what="grader")
    if depth > _DEEPEST:
        raise RewardError(
            f"formula: more than {_DEEPEST} operations inside one another.",
            remedy="Group the terms of a long sum with parentheses.",
        )
    function = _OPERATORS.get(kind)
    if function is None:
        kind = _known(children[0], _FUNCTIONS, what="function")
        function, children = _FUNCTIONS[kind], children[1:]
        if not children or (len(children) > 1 and kind not in _ANY_COUNT):
            needed = "one argument or more" if kind in _ANY_COUNT else "one argument"
            raise RewardError(f"formula: {kind} takes {needed}, not {len(children)}.")
    return _Operation(
        kind, function, tuple(_build(child, variables, depth=depth + 1) for child in children)
    )


def _read_number(token: Token) -> float:
    value = float(token)
    if not math.isfinite(value):
        raise RewardError(f"formula: {token} is too large{_place(token)}.")
    return value


def _known(name: Token, known: Collection[str], *, what: str) -> str:
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        raise RewardError(
            f"formula: there is no {what} {str(name)!r}{_place(name)}.",
            remedy=f"Did you mean {close[0]!r}?" if close else f"There is {', '.join(known)}.",
        )
    return str(name)


def _evaluate(node: _Node, values: Mapping[str, float]) -> float:
    if isinstance(node, float):
        return node
    if isinstance(node, str):
        return values[node]
    operands = [_evaluate(operand, values) for operand in node.operands]
    try:
        result = float(node.function(*operands))
    except (ValueError, ArithmeticError):  # sqrt(-1), log(0), 1 / 0, exp(1000)
        result = math.nan
    # Checked at every step, for 1 / (1e300 * 1e300) would come out as a harmless zero.
    if not math.isfinite(result):
        raise FormulaError(f"formula: {_show(node.name, operands)} is not a finite real number")
    return result


def _show(name: str, operands: list[float]) -> str:
    numbers = [f"{operand:g}" for operand in operands]
    if name in _SIGNS:
        return f"({numbers[0]}) {_SIGNS[name]} ({numbers[1]})"
    return f"{name}({', '.join(numbers)})"


def _place(token: Token) -> str:
    return f" (character {(token.start_pos or 0) + 1})"


def _syntax_error(source: str, error: UnexpectedInput) -> RewardError:
    position = error.pos_in_stream if error.pos_in_stream is not None else len(source)
    # At the end of the text lark points at its last token instead.
    at_end = isinstance(error, UnexpectedToken) and error.token.type == "$END"
    fault = (
        f"{source!r} ends too early"
        if at_end
        else f"{source[position : position + 20]!r} is unexpected (character {position + 1})"
    )
    allowed = f"graders' names, numbers, + - * / ^, parentheses and {', '.join(_FUNCTIONS)}"
    remedy = "Write ^ for powers." if "**" in source else f"It may hold {allowed}."
    return RewardError(f"formula: {fault}.", remedy=remedy)
