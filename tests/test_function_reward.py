"""A user's Python reward: loading it, calling it, and recording what goes wrong with it."""

import functools
import math
import sys
import time
from decimal import Decimal

import numpy as np
import pytest

from tunestone.errors import RewardError
from tunestone.rewards.function import FunctionGrader, load_reward_function
from tunestone.types import Grade, Prompt, Sample

PROMPT = Prompt(
    id="sum-1",
    messages=({"role": "user", "content": "2 + 3?"},),
    row={"reference_answer": {"final": "5"}, "task_id": 7},
)


@pytest.fixture
def write(tmp_path):
    """Write a Python file below the test's folder and return its path."""

    def write_file(source, name="reward.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(source)
        return path

    return write_file


def grade(function, *texts) -> list[Grade]:
    return FunctionGrader(function).grade([Sample(PROMPT, text) for text in texts or ("5",)])


def refusal(spec) -> str:
    with pytest.raises(RewardError) as caught:
        load_reward_function(str(spec))
    assert caught.value.code == "reward_error"
    return str(caught.value)


# --- Loading ----------------------------------------------------------------------------------


def test_a_file_is_loaded_and_its_function_called(write):
    path = write(
        "def reward(prompt, completion, row):\n"
        "    return completion == row['reference_answer']['final']\n"
    )
    function = load_reward_function(f"{path}:reward")
    assert [g.reward for g in grade(function, "5", "6")] == [1.0, 0.0]


def test_a_module_is_loaded(write, tmp_path, monkeypatch):
    write("def reward(prompt, completion, row): return 0.5", "my_rewards/short.py")
    monkeypatch.chdir(tmp_path)
    path_before = list(sys.path)
    function = load_reward_function("my_rewards.short:reward")
    assert grade(function)[0].reward == 0.5
    assert sys.path == path_before


def test_siblings_are_importable_and_kept_apart(write):
    source = "import helper_of_reward\ndef reward(prompt, completion, row):\n"
    source += "    return helper_of_reward.VALUE\n"
    paths = []
    for folder, value in (("a", 1), ("b", 2)):
        write(f"VALUE = {value}", f"{folder}/helper_of_reward.py")
        paths.append(write(source, f"{folder}/reward.py"))
    path_before = list(sys.path)
    functions = [load_reward_function(f"{path}:reward") for path in paths]
    assert [grade(function)[0].reward for function in functions] == [1.0, 2.0]
    assert sys.path == path_before
    assert "helper_of_reward" not in sys.modules


def test_a_sibling_package_is_forgotten_whole_and_a_library_is_not(write, tmp_path):
    write("", "kit_of_reward/__init__.py")
    write("ONE = 1", "kit_of_reward/part.py")
    write("", "deep/__init__.py")
    write("TWO = 2", "deep/library_of_reward.py")
    path = write(
        f"import sys\nsys.path.append({str(tmp_path / 'deep')!r})\n"
        "from kit_of_reward.part import ONE\nfrom library_of_reward import TWO\n"
        "def reward(prompt, completion, row): return ONE + TWO\n"
    )
    assert grade(load_reward_function(f"{path}:reward"))[0].reward == 3.0
    assert not [name for name in sys.modules if name.startswith("kit_of_reward")]
    assert "library_of_reward" in sys.modules
    del sys.modules["library_of_reward"]


def test_an_edited_file_is_loaded_anew(write):
    path = write("def reward(prompt, completion, row): return 1")
    first = load_reward_function(f"{path}:reward")
    write("def reward(prompt, completion, row): return 2")
    second = load_reward_function(f"{path}:reward")
    assert [grade(first)[0].reward, grade(second)[0].reward] == [1.0, 2.0]


def test_a_file_named_like_a_library_does_not_shadow_it(write):
    path = write("def reward(prompt, completion, row): return 1", "json.py")
    load_reward_function(f"{path}:reward")
    assert sys.modules["json"].__file__ != str(path)


def test_a_file_with_a_dataclass_loads(write):
    path = write(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Score:\n    value: float = 0.25\n"
        "def reward(prompt, completion, row): return Score().value\n"
    )
    assert grade(load_reward_function(f"{path}:reward"))[0].reward == 0.25


@pytest.mark.parametrize("spec", ["reward.py", "reward.py:", ":reward", ""])
def test_a_spec_must_name_a_file_and_a_function(spec):
    assert refusal(spec) == (
        f"{spec!r} does not name a reward function. "
        "Write path/to/reward.py:function or package.module:function."
    )


def test_a_missing_file_is_named(tmp_path):
    (tmp_path / "folder.py").mkdir()
    assert refusal(f"{tmp_path}/none.py:f").startswith(
        f"the reward file {tmp_path}/none.py does not exist. Check the path"
    )
    assert f"{tmp_path}/folder.py is a folder." in refusal(f"{tmp_path}/folder.py:f")


def test_a_missing_function_names_its_nearest(write):
    path = write("from textwrap import dedent\ndef reward_exact(prompt, completion, row): ...\n")
    assert refusal(f"{path}:reward_exakt") == (
        f"{path} has no function reward_exakt. Did you mean reward_exact?"
    )
    assert refusal(f"{path}:zzz") == f"{path} has no function zzz. It has: reward_exact."
    path = write("reward = 3\n")
    assert "It has no function at all; write def reward(prompt" in refusal(f"{path}:other")
    assert f"reward in {path} is a value of type int, not a function." in refusal(f"{path}:reward")


def test_a_missing_module_is_named():
    assert refusal("no_such_package.reward:f") == (
        "the reward cannot be loaded: no_such_package.reward: ModuleNotFoundError: "
        "No module named 'no_such_package'. Check the name and that it can be imported from here."
    )


def test_a_syntax_error_is_named_with_its_line(write):
    path = write("x = 1\ndef reward(prompt, completion, row)\n    return 1\n")
    assert refusal(f"{path}:reward") == (
        f"the reward cannot be loaded: {path}:2: SyntaxError: expected ':'. "
        "Fix that line; the file must import without an error."
    )


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import no_such_library", "ModuleNotFoundError: No module named 'no_such_library'"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("import json; json.loads('')", "JSONDecodeError: Expecting value"),
        ("eval('1 +')", "SyntaxError: invalid syntax"),
    ],
)
def test_an_exception_at_import_is_named_with_its_line(write, statement, reason):
    path = write(f"import math\n\n{statement}\n")
    modules_before = set(sys.modules)
    assert f"the reward cannot be loaded: {path}:3: {reason}" in refusal(f"{path}:reward")
    added = set(sys.modules) - modules_before
    assert not [name for name in added if name.startswith("tunestone_reward")]


def test_an_exception_in_a_sibling_is_named_there(write):
    sibling = write("\n1 / 0\n", "broken_of_reward.py")
    path = write("import broken_of_reward\n")
    assert f"loaded: {sibling}:2: ZeroDivisionError" in refusal(f"{path}:reward")
    sibling = write("\n)\n", "broken_of_reward.py")
    assert f"loaded: {sibling}:2: SyntaxError: unmatched ')'." in refusal(f"{path}:reward")


def test_an_interrupt_while_loading_is_not_swallowed(write):
    path = write("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load_reward_function(f"{path}:reward")


# --- The signature ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parameters",
    [
        "prompt, completion",
        "prompt, completion, row, extra",
        "prompt, completion, *, data",
        "completion, text, row",
        "",
    ],
)
def test_a_wrong_signature_is_refused(write, parameters):
    path = write(f"def reward({parameters}): ...")
    assert refusal(f"{path}:reward") == (
        f"the reward function reward({parameters}) cannot be called with a prompt, a completion "
        "and a row. Expected: def reward(prompt, completion, row)."
    )


def test_an_async_function_is_refused(write):
    path = write("async def reward(prompt, completion, row): ...")
    assert refusal(f"{path}:reward") == (
        "the reward function reward is async. Expected: def reward(prompt, completion, row)."
    )


@pytest.mark.parametrize(
    "head",
    [
        "prompt, completion, row",
        "prompt, completion, *, row",
        "*, row, completion, prompt",
        "row, prompt, completion",
        "messages, text, data, strict=True",
        "*arguments",
        "**arguments",
    ],
)
def test_every_way_to_take_the_three_arguments(write, head):
    path = write(f"def reward({head}):\n    seen.append(locals())\n    return 1\nseen = []\n")
    function = load_reward_function(f"{path}:reward")
    assert grade(function, "five")[0].reward == 1.0
    [seen] = function.__globals__["seen"]
    values = {"messages": "prompt", "text": "completion", "data": "row"}
    seen = {values.get(name, name): value for name, value in seen.items()}
    given = seen.get("arguments", seen)
    if isinstance(given, tuple):
        given = dict(zip(("prompt", "completion", "row"), given, strict=True))
    assert given["prompt"] == ({"role": "user", "content": "2 + 3?"},)
    assert given["completion"] == "five"
    assert given["row"] == {"reference_answer": {"final": "5"}, "task_id": 7, "id": "sum-1"}


def test_the_grader_itself_checks_the_signature():
    with pytest.raises(RewardError, match=r"<lambda>\(x\) cannot be called with a prompt"):
        FunctionGrader(lambda x: x)


def test_a_callable_without_a_signature_is_called_by_position():
    # `max` has no signature to look at; three values that cannot be compared make a bad grade.
    assert "TypeError" in grade(max)[0].error


def test_a_partial_keeps_its_bound_argument():
    def scaled(prompt, completion, row, factor):
        return factor * len(completion)

    assert grade(functools.partial(scaled, factor=0.5), "abc")[0].reward == 1.5


# --- Grades -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "reward"),
    [
        (True, 1.0),
        (False, 0.0),
        (-3, -3.0),
        (0.25, 0.25),
        (np.float32(0.5), 0.5),
        (np.int64(2), 2.0),
        (np.bool_(True), 1.0),
        ({"reward": 0.5}, 0.5),
    ],
)
def test_numbers_become_rewards(value, reward):
    [result] = grade(lambda prompt, completion, row: value)
    assert result.reward == reward
    assert type(result.reward) is float
    assert result.error is None
    assert result.metrics == {}


def test_sub_scores_become_metrics():
    [result] = grade(lambda prompt, completion, row: {"reward": 1, "format": True, "length": 3})
    assert result.reward == 1.0
    assert result.metrics == {"format": 1.0, "length": 3.0}


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (None, "the reward must be a finite number, got None; is a `return` missing?"),
        ("1", "the reward must be a finite number, got a value of type str"),
        ([1], "the reward must be a finite number, got a value of type list"),
        (np.ones(1), "the reward must be a finite number, got a value of type numpy.ndarray"),
        (Decimal(1), "the reward must be a finite number, got a value of type decimal.Decimal"),
        (1j, "the reward must be a finite number, got a value of type complex"),
        (math.nan, "the reward must be a finite number, got nan"),
        (-math.inf, "the reward must be a finite number, got -inf"),
        (np.float64("nan"), "the reward must be a finite number, got nan"),
        (10**400, "the reward must be a finite number, got an int too large for a float"),
        ({}, "the reward function's dict has no 'reward', only nothing"),
        ({"score": 1}, "the reward function's dict has no 'reward', only 'score'"),
        ({"reward": None}, "the reward must be a finite number, got None; is a `return` missing?"),
        ({"reward": 1, "a": "x"}, "the sub-score 'a' must be a finite number, got a value of type"),
        ({"reward": 1, "a": math.nan}, "the sub-score 'a' must be a finite number, got nan"),
        ({"reward": 1, 2: 3}, "the name of a sub-score must be a string, got 2"),
    ],
)
def test_what_is_no_reward_becomes_an_error(value, error):
    [result] = grade(lambda prompt, completion, row: value)
    assert result.reward is None
    assert result.error.startswith(error)
    assert result.metrics == {}


def test_a_raise_is_recorded_from_the_users_frame_on(write):
    path = write(
        "def reward(prompt, completion, row):\n    return helper(completion)\n"
        "def helper(text):\n    return int(text)\n"
    )
    function = load_reward_function(f"{path}:reward")
    bad, good = grade(function, "five", "5")
    assert bad.reward is None
    assert bad.error.splitlines()[:3] == [
        "Traceback (most recent call last):",
        f'  File "{path}", line 2, in reward',
        "    return helper(completion)",
    ]
    assert bad.error.endswith("ValueError: invalid literal for int() with base 10: 'five'")
    assert "function.py" not in bad.error
    assert good == Grade(reward=5.0, seconds=good.seconds)


def test_a_long_traceback_keeps_its_end():
    def reward(prompt, completion, row):
        raise ValueError("x" * 10_000 + "the reason")

    [result] = grade(reward)
    assert len(result.error) < 5_000
    assert result.error.startswith("[...] xxx")
    assert result.error.endswith("the reason")


def test_endless_recursion_is_recorded():
    def reward(prompt, completion, row):
        return reward(prompt, completion, row)

    assert "RecursionError" in grade(reward)[0].error


def test_an_interrupt_is_not_swallowed():
    def reward(prompt, completion, row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        grade(reward)


def test_a_reward_that_exits_does_not_end_the_run():
    def reward(prompt, completion, row):
        raise SystemExit("no more")

    assert "SystemExit: no more" in grade(reward)[0].error


def test_a_reward_that_changes_its_arguments_harms_nobody():
    def reward(prompt, completion, row):
        first = row["reference_answer"].pop("final") == "5" and prompt[0]["content"] == "2 + 3?"
        prompt[0]["content"] = row["id"] = "gone"
        return first

    assert [g.reward for g in grade(reward, "a", "b")] == [1.0, 1.0]
    assert PROMPT.row == {"reference_answer": {"final": "5"}, "task_id": 7}
    assert PROMPT.messages[0]["content"] == "2 + 3?"

    calls = Prompt(id="a", messages=({"role": "user", "content": "?", "parts": [1]},))
    grader = FunctionGrader(lambda prompt, completion, row: prompt[0]["parts"].pop())
    assert [g.reward for g in grader.grade([Sample(calls, "x")] * 2)] == [1.0, 1.0]


def test_the_row_holds_the_tools_when_there_are_some():
    tool = {"type": "function", "function": {"name": "add"}}
    prompt = Prompt(id="a", messages=PROMPT.messages, tools=(tool,))
    seen = []
    FunctionGrader(lambda prompt, completion, row: seen.append(row)).grade([Sample(prompt, "x")])
    assert seen == [{"id": "a", "tools": [tool]}]


def test_wall_seconds_are_recorded_for_good_and_bad_completions():
    def reward(prompt, completion, row):
        time.sleep(0.02)
        return 1 / len(completion)

    for result in grade(reward, "x", ""):
        assert 0.02 <= result.seconds < 2
