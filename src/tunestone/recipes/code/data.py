"""One-line Python functions from a sentence, each with tests made by running a right answer.

A simple task is one operation, a composed one two. Constants vary, and a task with its constants is
in one split only. Tests are drawn until neither a constant function passes them nor the identity.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunestone.recipes import splits

SYSTEM = "Write the Python function that is asked for, on one line. Write nothing else."
EXAMPLES = (
    ("f(n): n plus 40", "def f(n): return n + 40"),
    ("f(s): s in small letters, without its first character", "def f(s): return s.lower()[1:]"),
    ("f(xs): how many numbers in xs are odd", "def f(xs): return len([x for x in xs if x % 2])"),
    ("f(s): s between two stars", "def f(s): return '*' + s + '*'"),
    ("f(xs): half of each number in xs", "def f(xs): return [x / 2 for x in xs]"),
    ("f(s): whether s ends with g", "def f(s): return s.endswith('g')"),
    ("f(n): 9 times the smaller of n and 5", "def f(n): return 9 * min(n, 5)"),
    ("f(xs): xs without its first 6 numbers", "def f(xs): return xs[6:]"),
)

COMPOSED_IN_TEN = {1: 0, 2: 4}
"""Level -> how many of ten tasks take two operations."""
LEVELS = (2, 1)
"""Keys of COMPOSED_IN_TEN, the usual one first."""
_TESTS = 4


@dataclass(frozen=True, slots=True)
class Task:
    """What a function is to return, in words and as an expression, with gaps for constants."""

    text: str
    expression: str


_SIMPLE: Mapping[str, tuple[Task, ...]] = {
    "n": (
        Task("{a} times n", "{a} * n"),
        Task("n minus {a}", "n - {a}"),
        Task("{a} minus n", "{a} - n"),
        Task("n to the power of {d}", "n ** {d}"),
        Task("n divided by {a}, rounded down", "n // {a}"),
        Task("the remainder of n divided by {a}", "n % {a}"),
        Task("the larger of n and {a}", "max(n, {a})"),
        Task("the smaller of n and {a}", "min(n, {a})"),
        Task("whether n is greater than {a}", "n > {a}"),
        Task("whether n is a multiple of {d}", "n % {d} == 0"),
    ),
    "s": (
        Task("the first {d} characters of s", "s[:{d}]"),
        Task("the last {d} characters of s", "s[-{d}:]"),
        Task("s without its first {d} characters", "s[{d}:]"),
        Task("s repeated {a} times", "s * {a}"),
        Task("how often the letter {c} is in s", "s.count('{c}')"),
        Task("s with every {c} replaced by {e}", "s.replace('{c}', '{e}')"),
        Task("s with '{c}{e}' at its end", "s + '{c}{e}'"),
        Task("s with '{c}{e}' in front", "'{c}{e}' + s"),
        Task("whether s starts with {c}", "s.startswith('{c}')"),
        Task("whether s contains {c}", "'{c}' in s"),
    ),
    "xs": (
        Task("the first {d} numbers in xs", "xs[:{d}]"),
        Task("the last {d} numbers in xs", "xs[-{d}:]"),
        Task("each number in xs times {a}", "[x * {a} for x in xs]"),
        Task("each number in xs plus {a}", "[x + {a} for x in xs]"),
        Task("the numbers in xs greater than {a}", "[x for x in xs if x > {a}]"),
        Task("the numbers in xs less than {a}", "[x for x in xs if x < {a}]"),
        Task("the numbers in xs except {a}", "[x for x in xs if x != {a}]"),
        Task("whether {a} is in xs", "{a} in xs"),
        Task("xs with {a} added at its end", "xs + [{a}]"),
        Task("xs with {a} and {b} added at its end", "xs + [{a}, {b}]"),
    ),
}
_COMPOSED: Mapping[str, tuple[Task, ...]] = {
    "n": (
        Task("{a} times n, plus {b}", "{a} * n + {b}"),
        Task("n plus {b}, times {a}", "(n + {b}) * {a}"),
        Task("the square of n, minus {b}", "n ** 2 - {b}"),
        Task("the larger of n and {a}, plus {b}", "max(n, {a}) + {b}"),
        Task("the remainder of n divided by {a}, times {b}", "n % {a} * {b}"),
    ),
    "s": (
        Task("the first {d} characters of s in capital letters", "s[:{d}].upper()"),
        Task("s backwards, repeated {a} times", "s[::-1] * {a}"),
        Task("the length of s times {a}", "len(s) * {a}"),
        Task("the length of s plus {a}", "len(s) + {a}"),
        Task("{a} dashes followed by s", "'-' * {a} + s"),
        Task("the last {d} characters of s backwards", "s[-{d}:][::-1]"),
    ),
    "xs": (
        Task("the sum of the numbers in xs greater than {a}", "sum(x for x in xs if x > {a})"),
        Task("how many numbers in xs are greater than {a}", "len([x for x in xs if x > {a}])"),
        Task("how many numbers in xs are less than {a}", "len([x for x in xs if x < {a}])"),
        Task("the {d} largest numbers in xs, largest first", "sorted(xs)[::-1][:{d}]"),
        Task("the sum of xs times {a}", "sum(xs) * {a}"),
        Task("the largest number in xs minus {a}", "max(xs) - {a}"),
    ),
}
_WORDS = ("banana", "letter", "tunestone", "river", "seesaw", "onion", "attic", "noodle", "error")
_LETTERS = "abdeilnorstuvw"


def generate(
    seed: int, *, level: int = LEVELS[0], sizes: Mapping[str, int] = splits.SIZES
) -> dict[str, list[splits.Row]]:
    """Rows in Bedrock's shape for each split, with `kind` and `operations` to slice by."""
    composed = COMPOSED_IN_TEN[level]
    kinds = [
        (name, operations)
        for name in _SIMPLE
        for operations in [1] * (10 - composed) + [2] * composed
    ]
    return {
        split: splits.make_split(_draw, kinds, split=split, count=count, seed=f"{seed}-{level}")
        for split, count in sizes.items()
    }


def _draw(rng: random.Random, kind: tuple[str, int]) -> tuple[str, splits.Row]:
    """A task on a number `n`, a text `s` or a list `xs`, of one or two operations."""
    name, operations = kind
    tests: list[dict[str, Any]] = []
    while not _tell_apart(tests):
        task = rng.choice((_SIMPLE if operations == 1 else _COMPOSED)[name])
        text, expression = _fill(task, rng)
        tests = _make_tests(name, expression, rng)
    row = {
        "messages": splits.dialog(SYSTEM, EXAMPLES, f"f({name}): {text}"),
        "reference_answer": f"def f({name}): return {expression}",
        "tests": tests,
        "kind": {"n": "number", "s": "text", "xs": "list"}[name],
        "operations": operations,
    }
    return expression, row


def _fill(task: Task, rng: random.Random) -> tuple[str, str]:
    first, second = rng.sample(_LETTERS, 2)
    constants = {
        "a": rng.randint(2, 60),
        "b": rng.randint(2, 60),
        "c": first,
        "d": rng.randint(2, 5),
        "e": second,
    }
    return task.text.format(**constants), task.expression.format(**constants)


def _make_tests(name: str, expression: str, rng: random.Random) -> list[dict[str, Any]]:
    # The expression is one of those above, filled with constants of ours.
    function: Callable[[Any], Any] = eval(f"lambda {name}: {expression}")
    inputs = [_draw_input(name, rng) for _ in range(_TESTS)]
    return [{"input": [given], "output": function(given)} for given in inputs]


def _tell_apart(tests: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a constant function, or one that gives back its argument, fails."""
    outputs = [test["output"] for test in tests]
    return any(output != outputs[0] for output in outputs) and any(
        test["output"] != test["input"][0] for test in tests
    )


def _draw_input(name: str, rng: random.Random) -> Any:
    if name == "n":
        return rng.randint(-10, 70)
    if name == "s":
        return rng.choice(_WORDS)
    return [rng.randint(0, 65) for _ in range(rng.randint(5, 8))]
