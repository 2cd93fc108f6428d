"""Model-written code against unit tests: every data set's shape, and solutions that cheat."""

import json
import textwrap
from contextlib import ExitStack
from pathlib import Path

import pytest

from ready_steps import sample
from tunestone.errors import RewardError, SandboxError
from tunestone.rewards.ready.code import Code
from tunestone.rewards.ready.code_program import find_source, is_same, is_same_text
from tunestone.rewards.ready.code_solution import decode, encode
from tunestone.rewards.ready.code_tests import read_suite
from tunestone.rewards.ready.extraction import UnusableReferenceError
from tunestone.rewards.ready.fenced import find_last_block
from tunestone.rewards.spec import Context


@pytest.fixture(scope="module", params=["auto", "landlock"])
def open_code(request):
    """Opens `Code` with these settings, each only once, under each mechanism."""
    opened = {}
    with ExitStack() as stack:

        def open_once(**settings):
            key = json.dumps(settings)
            if key not in opened:
                context = Context(folder=Path(), sandbox=request.param)
                try:
                    opened[key] = Code(test_seconds=1, **settings).open(context, stack)
                except SandboxError as error:
                    pytest.skip(str(error))
            return opened[key]

        yield open_once


def rewards(grader, *samples):
    grades = grader.grade(samples)
    assert [grade.error for grade in grades] == [None] * len(samples)
    return [grade.reward for grade in grades]


DOUBLE = "```python\nn = int(input())\nprint(n * 2)\n```"
ADD = "So:\n```python\ndef add(a, b=1):\n    return a + b\n```\nDone."
PAIRS = [{"input": "3\n", "output": "6"}, {"input": "-4", "output": "-8\n"}]
BODY_ROW = {
    "prompt": "import math\n\ndef area(r: float) -> float:\n    '''Of a circle.'''\n",
    "test": "def check(candidate):\n    assert math.isclose(candidate(2), 4 * math.pi)\n",
    "entry_point": "area",
}

GOOD = {
    "a list of input and output": sample(DOUBLE, tests=PAIRS),
    "the same as JSON in a text": sample(DOUBLE, tests=json.dumps(PAIRS)),
    "APPS": sample(DOUBLE, tests={"inputs": ["1\n", ["2"]], "outputs": ["2\n", ["4"]]}),
    "APPS with a function": sample(
        ADD, tests={"fn_name": "add", "inputs": [[1, 2], [3]], "outputs": [3, [4]]}
    ),
    "LiveCodeBench": sample(
        "class Solution:\n    def join(self, words, by):\n        return by.join(words)",
        tests=[{"input": '["a", "b"]\n"-"', "output": '"a-b"', "testtype": "functional"}],
        entry="join",
    ),
    "MBPP": sample(
        ADD,
        tests={
            "test_list": ["assert add(1) == TWO", "assert abs(add(.1, .2) - .3) < 1e-9"],
            "test_setup_code": "TWO = 2",
            "test_imports": ["import math"],
        },
    ),
    "HumanEval, the whole function": sample(
        "def area(r):\n    return math.pi * r * r", tests=BODY_ROW
    ),
    "HumanEval, the body": sample("    return math.pi * r * r\n", tests=BODY_ROW),
    "HumanEval, a body that was stripped": sample("s = r * r\nreturn math.pi * s", tests=BODY_ROW),
    "a program that exits with status 0": sample(
        "import sys\nprint(int(input()) * 2)\nsys.exit(0)", tests=PAIRS
    ),
}


def test_a_good_solution_has_the_full_reward_in_every_shape(open_code):
    samples = dict(GOOD)
    functional = samples.pop("LiveCodeBench")
    assert rewards(open_code(), *samples.values()) == [1.0] * len(samples)
    stdin = sample(DOUBLE, entry="solve", tests=[{**PAIRS[0], "testtype": "stdin"}])
    assert rewards(open_code(entry_point="{{ item.entry }}"), functional, stdin) == [1.0, 1.0]


def test_entry_point_and_prefix_may_stand_in_keys_of_their_own(open_code):
    grader = open_code(
        tests="{{ item.test }}", entry_point="{{ item.entry_point }}", prefix="{{ item.code }}"
    )
    row = {"code": BODY_ROW["prompt"], "test": BODY_ROW["test"], "entry_point": "area"}
    body, wrong = "    return math.pi * r ** 2", "    return math.pi * r"
    assert rewards(grader, sample(body, **row), sample(wrong, **row)) == [1.0, 0.0]


def test_values_cross_as_what_they_are(open_code):
    source = textwrap.dedent("""
        import collections, decimal, fractions, enum
        class Level(enum.IntEnum):
            HIGH = 3
        class Pair:
            def __init__(self, a, b):
                self.a, self.b = a, b
        def echo(value): return value
        def make(name): return {
            "counter": collections.Counter("aab"), "level": Level.HIGH, "big": 7 ** 9000,
            "decimal": decimal.Decimal("0.1"), "fraction": fractions.Fraction(1, 3),
            "generator": (i * i for i in range(3)), "nan": float("nan")}[name]
        def first(pairs): return [pair.a for pair in pairs]
        def fail(): raise LookupError("no")
    """)
    tests = [
        "v = [1, (2.5, None), {'k': {3}}, b'x', 2 + 1j, range(3)]\nassert echo(v) == v",
        "assert type(echo((1,))) is tuple and echo(True) is True and echo({}) == {}",
        "assert make('counter') == {'a': 2, 'b': 1} and make('level') == 3",
        "assert make('big') == 7 ** 9000 and make('nan') != make('nan')",
        "from decimal import Decimal\nassert make('decimal') == Decimal('0.1')",
        "from fractions import Fraction\nassert make('fraction') == Fraction(1, 3)",
        "assert list(make('generator')) == [0, 1, 4]",
        "assert first([Pair(1, 2), Pair(b=4, a=3)]) == [1, 3] and Pair(1, 2).b == 2",
        "try:\n    fail()\nexcept LookupError as error:\n    assert str(error) == 'no'\n"
        "else:\n    assert False",
    ]
    [grade] = open_code(reward="share").grade([sample(source, tests=tests)])
    assert (grade.reward, grade.error) == (1.0, None)


def test_what_is_wrong_has_no_reward_and_sub_scores_say_how_far_it_came(open_code):
    cases = [
        sample(ADD, tests=["assert add(1) == 2", "assert add(1) == 3", "assert add(0) == 1"]),
        sample("def add(a:", tests=["assert add(1) == 2"]),
        sample("```python\nprint(6)\n```", tests=PAIRS),
        sample("print(6)\nprint(-8)\n1 / 0", tests=PAIRS),
        sample("", tests=PAIRS),
    ]
    grades = open_code().grade(cases)
    assert [grade.reward for grade in grades] == [0.0] * 5
    assert [grade.metrics["compiled"] for grade in grades] == [1.0, 0.0, 1.0, 1.0, 1.0]
    # Two of three asserts; nothing; one of two tests by a constant; a crash after the right line.
    shares = [grade.metrics["passed_share"] for grade in grades]
    assert shares == [pytest.approx(2 / 3), 0.0, 0.5, 0.0, 0.0]
    assert open_code(reward="share").grade(cases[:1])[0].reward == pytest.approx(2 / 3)


HOSTILE = {
    "leaves with status 0": "import os\nos._exit(0)",
    "exits politely": "import sys\nsys.exit(0)",
    "exits within the call": "import os\ndef f(x): os._exit(0)",
    "prints what looks like a result": """
        print('{"value": 2}\\n{"reward": 1}', flush=True)
        def f(x): print('{"value": 2}'); return 0""",
    "prints at the end": """
        import atexit
        atexit.register(print, "OK")
        def f(x): return 0""",
    "answers in a thread": """
        import threading
        def f(x):
            while True: threading.Thread(target=print, args=("2",)).start()""",
    "equals everything": """
        class Any:
            __eq__ = lambda self, other: True
            __ne__ = lambda self, other: False
            __hash__ = lambda self: 0
        def f(x): return Any()""",
    "is an integer that equals everything": """
        class Any(int):
            __eq__ = lambda self, other: True
        def f(x): return Any(7)""",
    "patches builtins": """
        import builtins, sys
        builtins.AssertionError = builtins.SystemExit = ValueError
        builtins.abs = builtins.round = lambda *_: 0
        abs = lambda x: 0
        def check(candidate): return True
        def f(x): return 7""",
    "looks through frames and garbage": """
        import gc, sys
        def f(x):
            found = []
            frame = sys._getframe()
            while frame:
                found += [*frame.f_locals.values(), *frame.f_globals.values()]
                frame = frame.f_back
            found += gc.get_objects()
            return next((2 for o in found if isinstance(o, str) and "== 2" in o), 0)""",
    "looks into the judge's memory": """
        import os
        def f(x):
            judge = f"/proc/{os.getppid()}"
            for name in ("mem", "environ", "fd/0", "cwd/x"):
                try: open(f"{judge}/{name}", "rb").read(1); return 2
                except OSError: continue
            return 0""",
    "writes answers to every descriptor": """
        import os
        def f(x):
            for descriptor in range(64):
                try: os.write(descriptor, b'{"value": true}\\n' * 9)
                except OSError: continue
            os._exit(0)""",
    "talks nonsense": """
        import os
        for descriptor in range(64):
            try: os.write(descriptor, b'{"value": {"bytes": 5}}\\n')
            except OSError: continue""",
    "kills the judge": """
        import os
        def f(x): os.kill(os.getppid(), 9)""",
    "takes what others may use": """
        import os, resource
        for pid in (os.getppid(), 1):
            for kind in (resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE, resource.RLIMIT_CPU):
                try: resource.prlimit(pid, kind, (0, 0))
                except OSError: continue
        def f(x): return 0""",
    "starts processes": """
        import os
        def f(x):
            while True: os.fork()""",
    "replaces what the test imports": """
        import os, tempfile
        for folder in (".", os.environ["HOME"], tempfile.gettempdir()):
            for name in ("bisect", "tabnanny"):
                open(f"{folder}/{name}.py", "w").write("raise SystemExit")
        def f(x): return 0""",
    "hangs": "while True: pass",
    "sleeps": "import time\ndef f(x): time.sleep(60)",
    "allocates": "def f(x): return len(bytearray(10 << 30))",
    "crashes": "import ctypes\ndef f(x): return ctypes.string_at(0)",
    "recurses": "def f(x): return [f(x)]",
    "answers endlessly": "def f(x): return 'a' * (1 << 23)",
    "answers what contains itself": "def f(x):\n    a = []\n    a.append(a)\n    return a",
    "fills the disk": """
        with open("big", "wb") as file:
            while True: file.write(bytes(1 << 20)); file.flush()""",
    "prints endlessly": "while True: print('x' * 1000)",
}


def test_a_hostile_solution_gets_nothing_and_disturbs_nobody(open_code):
    tests = ["import tabnanny\nassert abs(f(1) - 2) < 1e-9 and f(1) == 2"]
    good = sample("def f(x): return x + 1", tests=tests)
    samples = [good]
    for source in HOSTILE.values():
        samples += [sample(textwrap.dedent(source), tests=tests), good]
    grades = open_code().grade(samples)
    found = {
        name: (grades[2 * i + 1].reward, grades[2 * i + 1].error) for i, name in enumerate(HOSTILE)
    }
    assert found == dict.fromkeys(HOSTILE, (0.0, None))
    assert [grade.reward for grade in grades[::2]] == [1.0] * (len(HOSTILE) + 1)


def test_a_hostile_program_gets_nothing(open_code):
    tests = [{"input": "1", "output": "OK"}, {"input": "2", "output": "OK"}]
    names = [
        *("leaves with status 0", "exits politely", "prints what looks like a result"),
        *("talks nonsense", "takes what others may use", "hangs", "fills the disk"),
    ]
    samples = [sample(textwrap.dedent(HOSTILE[name]), tests=tests) for name in names]
    grades = open_code().grade([*samples, sample("print('OK')", tests=tests)])
    assert {(grade.reward, grade.error) for grade in grades[:-1]} == {(0.0, None)}
    assert grades[-1].reward == 1.0


def test_no_exception_of_a_solution_ends_a_test_early(open_code):
    """In one process, the first two would pass: the map ends, the bare except swallows all."""
    cases = [
        ("def f(x): raise StopIteration", "assert all(y == 2 for y in map(f, [1, 2]))"),
        ("import os\ndef f(x): os._exit(0)", "try:\n    f(1)\nexcept:\n    x = 1\nassert True"),
        ("import sys\ndef f(x): sys.exit()", "try:\n    f(1)\nexcept Exception:\n    assert True"),
        ("def f(x): return object()", "assert f(1)"),
        ("import types\nmath = types.SimpleNamespace(isclose=bool)\ndef f(x): return 7",
         "assert math.isclose(f(1), 2)"),
        ("def f(x): return {'x': 1}.clear", "assert f(1) == f(1) or not f(1)"),
    ]  # fmt: skip
    samples = [sample(source, tests=[test]) for source, test in cases]
    assert rewards(open_code(), *samples) == [0.0] * len(cases)


def test_helpers_of_the_prompt_are_the_judges_own(open_code):
    """Rewriting `twice` would pass `twice(f(1)) == 4` for every f."""
    row = {
        "prompt": "def twice(x):\n    return 2 * x\n\ndef f(x):\n    '''x + 1'''\n",
        "test": "def check(candidate):\n    assert twice(candidate(1)) == 4\n",
        "entry_point": "f",
    }
    cheat = "def twice(x):\n    return 4\n\ndef f(x):\n    return 7\n"
    good = "def f(x):\n    return twice(x) // 2 + 1\n"
    assert rewards(open_code(), sample(cheat, tests=row), sample(good, tests=row)) == [0.0, 1.0]


def test_a_lost_solution_is_started_again_for_the_next_test(open_code):
    source = "import os\ndef f(x):\n    if x == 1: os._exit(0)\n    return x"
    tests = ["assert f(0) == 0", "assert f(1) == 1", "assert f(2) == 2"]
    [grade] = open_code(reward="share").grade([sample(source, tests=tests)])
    assert grade.reward == pytest.approx(2 / 3)


def test_all_tests_together_have_a_limit_too(open_code):
    source = "import time\nfor _ in iter(input, ''): time.sleep(.7)"
    tests = [{"input": "x\n\n", "output": ""}] * 10
    grader = open_code(timeout_seconds=1, reward="share")
    [grade] = grader.grade([sample(source, tests=tests)])
    # One test takes 0.7 s; the second is cut off after 0.3 s, and no other is run.
    assert grade.reward == pytest.approx(0.1)
    assert 1.0 < grade.seconds < 2.5


MALFORMED = [
    ([], "the row has no tests"),
    ("[1, 2", "the tests are no JSON"),
    (7, "neither inputs and outputs nor code"),
    ([{"input": "1"}], "without input or output"),
    ({"inputs": ["1", "2"], "outputs": ["1"]}, "2 inputs and 1 outputs"),
    ([{"input": "1", "output": "1", "testtype": "functional"}], "entry_point must name"),
    (["assert f(1) =="], "no Python"),
    (["assert 1 == 1"], "calls nothing of the solution"),
    (["f(1)"], "asserts nothing"),
    (["def test():\n    assert f(1) == 2"], "asserts nothing"),
    ("def check(candidate):\n    assert candidate(1) == 2", "entry_point must name"),
]


@pytest.mark.parametrize(("tests", "reason"), MALFORMED)
def test_tests_that_cannot_be_used_are_refused(tests, reason):
    with pytest.raises(UnusableReferenceError, match=reason):
        read_suite(tests)


def test_a_row_without_usable_tests_is_an_error_on_its_samples(open_code):
    cases = [
        sample(ADD, tests=[]),
        sample(ADD),
        sample(ADD, tests=["assert add(lambda: 1) == 2"]),
        sample(ADD, tests=["import no_such_module\nassert add(1) == 2"]),
        sample(ADD, tests=["assert add(1) == 2"]),
    ]
    empty, missing, function, module, good = open_code().grade(cases)
    assert (empty.reward, empty.flags) == (None, ("other_error",))
    assert (missing.reward, missing.flags) == (None, ("invalid_variable_error",))
    assert "item.tests does not exist" in missing.error
    assert function.reward is None and "a value of type function" in function.error
    assert module.reward is None and "No module named 'no_such_module'" in module.error
    assert good.reward == 1.0


def test_wrong_settings_are_refused():
    with pytest.raises(RewardError, match="template"):
        Code(tests="{{ item.tests")
    with pytest.raises(ValueError, match="test_seconds"):
        Code(test_seconds=0)


def test_the_last_closed_fence_in_the_language_counts():
    text = "```python\na\n```\n```\nb\n```\n```json\n{}\n```\n"
    assert find_last_block(text, ["python"]) == "b\n"
    assert find_last_block("```Python \n  a\n```", ["python"]) == "  a\n"
    assert find_last_block(text + "```python\ncut", ["python"]) is None
    assert find_last_block("no fence", ["python"]) is None
    assert find_last_block("```" + "a" * 300_000 + "`", ["python"]) is None  # in linear time


def test_strict_wants_a_fence():
    suite = {"prefix": "", "entry_point": ""}
    assert find_source("x = 1", suite, strict=False) == b"x = 1"
    assert find_source("x = 1", suite, strict=True) is None
    assert find_source("```py\nx = 1\n```", suite, strict=True) == b"x = 1\n"
    for broken in (
        "```py\nx =\n```",
        "\x00",
        "\ud800",
        "(" * 100_000,
        "x = " + "-" * 100_000 + "1",
    ):
        assert find_source(broken, suite, strict=False) is None


def test_printed_text_is_compared_by_lines_and_numbers_within_a_tolerance():
    assert is_same_text("1 2 \n3\n\n", "1 2\n3", 0)
    assert not is_same_text("1  2", "1 2", 0)
    assert not is_same_text(" 1", "1", 0)
    assert not is_same_text("1\n\n2", "1\n2", 0)
    assert not is_same_text("0.33333", "0.3333", 0)
    assert is_same_text("x 0.33333", "x  0.3333", 1e-4)
    assert not is_same_text("x 0.3335", "x 0.3333", 1e-4)
    assert not is_same_text("nan", "0", 1e-4)
    assert not is_same_text("1 2", "1\n2", 1e-4)


def test_values_are_compared_with_tuples_as_lists_and_numbers_within_a_tolerance():
    assert is_same((1, [2.0]), [1, (2,)], 0)
    assert not is_same([1, 2.0001], [1, 2], 0)
    assert is_same([1, 2.0001], [1, 2], 1e-3)
    assert not is_same([1], [1, 2], 1e-3)
    assert not is_same("1", 1, 1e-3)


def test_only_what_encode_writes_is_decoded():
    def refuse(value):
        raise KeyError(value)

    for value in ({(1, "a"): frozenset({2})}, bytearray(b"\xff"), -(2**70), [None, True, 1e400]):
        assert decode(json.loads(json.dumps(encode(value, refuse))), refuse) == value
    for data in ({"object": 1}, {"int": "0x1", "b": 2}, {"ref": 1}, {"dict": [[1]]}, {}):
        with pytest.raises((ValueError, KeyError)):
            decode(data, refuse)
