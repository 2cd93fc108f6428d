"""A user's Python reward, through the sandbox: loading it, calling it, recording its faults."""

import sys
from contextlib import ExitStack

import pytest

from tunestone.errors import RewardError, SandboxError
from tunestone.rewards.function import load_program, load_reward_function
from tunestone.rewards.grader import fingerprint_reward, open_grader, parse_spec
from tunestone.rewards.sandbox import choose_mechanism
from tunestone.rewards.spec import Context
from tunestone.types import Grade, Prompt, Sample

PROMPT = Prompt(
    id="sum-1",
    messages=({"role": "user", "content": "2 + 3?"},),
    row={"reference_answer": {"final": "5"}, "task_id": 7},
)
HEAD = "def reward(prompt, completion, row):\n"


@pytest.fixture
def write(tmp_path):
    """Write a Python file below the test's folder and return its path."""

    def write_file(source, name="reward.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(source)
        return path

    return write_file


@pytest.fixture
def open_here(tmp_path):
    """Open a reward in the test's folder; its workers end with the test."""
    with ExitStack() as stack:
        yield lambda written: open_grader(written, Context(tmp_path), stack)


@pytest.fixture
def refusal(open_here):
    """What is said of a reward that cannot be opened."""

    def refuse(written) -> str:
        with pytest.raises(RewardError) as caught:
            open_here(written)
        assert caught.value.code == "reward_error"
        return str(caught.value)

    return refuse


def grade(grader, *texts, prompt=PROMPT) -> list[Grade]:
    return grader.grade([Sample(prompt, text) for text in texts or ("5",)])


# --- Loading ----------------------------------------------------------------------------------


def test_a_file_is_loaded_and_its_function_called(write, open_here):
    path = write(f"{HEAD}    return completion == row['reference_answer']['final']\n")
    for spec in ("reward.py:reward", f"{path}:reward"):
        assert [g.reward for g in grade(open_here(spec), "5", "6")] == [1.0, 0.0]


def test_files_and_modules_are_sought_in_the_contexts_folder(
    write, open_here, tmp_path, monkeypatch
):
    write(f"{HEAD}    return 0.5", "my_rewards/short.py")
    elsewhere = tmp_path.parent / f"elsewhere-of-{tmp_path.name}"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert grade(open_here("my_rewards/short.py:reward"))[0].reward == 0.5
    assert grade(open_here("my_rewards.short:reward"))[0].reward == 0.5


def test_a_file_that_cannot_be_read_says_so(tmp_path):
    # A file that is there and fails when it is read, for any user.
    with pytest.raises(RewardError, match=r"mem cannot be read: .+\. Check its permissions\."):
        load_reward_function("/proc/self/mem:reward", tmp_path)


def test_siblings_of_one_name_in_two_folders_do_not_meet(write, open_here):
    for folder, value in (("a", 1), ("b", 2)):
        write(f"VALUE = {value}", f"{folder}/helper_of_reward.py")
        write(
            f"import helper_of_reward\n{HEAD}    return helper_of_reward.VALUE\n",
            f"{folder}/reward.py",
        )
    path_before = list(sys.path)
    first, second = (open_here(f"{folder}/reward.py:reward") for folder in "ab")
    rewards = [grade(grader)[0].reward for grader in (first, second, first, second)]
    assert rewards == [1.0, 2.0, 1.0, 2.0]
    # Nothing of them is loaded into the trainer.
    assert sys.path == path_before
    assert "helper_of_reward" not in sys.modules


def test_a_linked_file_has_the_siblings_of_its_real_folder(write, open_here, tmp_path):
    write("VALUE = 3", "real/helper_of_reward.py")
    source = f"import helper_of_reward\n{HEAD}    return helper_of_reward.VALUE\n"
    (tmp_path / "linked.py").symlink_to(write(source, "real/reward.py"))
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for spec in ("linked.py:reward", "link/reward.py:reward"):
        assert grade(open_here(spec))[0].reward == 3.0


def test_an_edited_file_is_loaded_anew(write, open_here, tmp_path):
    write(f"{HEAD}    return 1")
    fingerprint = fingerprint_reward("reward.py:reward", Context(tmp_path))
    first = open_here("reward.py:reward")
    write(f"{HEAD}    return 2")
    second = open_here("reward.py:reward")
    # What was loaded stays as it was; the fingerprint tells the two apart.
    assert [grade(first)[0].reward, grade(second)[0].reward] == [1.0, 2.0]
    assert fingerprint_reward("reward.py:reward", Context(tmp_path)) != fingerprint


def test_a_file_named_like_a_library_does_not_shadow_it(write, open_here):
    write(f"import json\n{HEAD}    return len(json.dumps([1, 2]))", "json.py")
    assert grade(open_here("json.py:reward"))[0].reward == 6.0  # "[1, 2]"


def test_a_file_with_a_dataclass_loads(write, open_here):
    write(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        f"@dataclass\nclass Score:\n    value: float = 0.25\n{HEAD}    return Score().value\n"
    )
    assert grade(open_here("reward.py:reward"))[0].reward == 0.25


@pytest.mark.parametrize("spec", ["reward.py", "reward.py:", ":reward", ""])
def test_a_spec_must_name_a_file_and_a_function(refusal, spec):
    assert refusal(spec) == (
        f"{spec!r} does not name a reward function. "
        "Write path/to/reward.py:function or package.module:function."
    )


@pytest.mark.parametrize("name", ["none.py", "no/folder/reward.py"])
def test_a_missing_file_is_named(refusal, tmp_path, name):
    assert refusal(f"{name}:f").startswith(
        f"the reward file {tmp_path / name} does not exist. Check the path"
    )


def test_a_folder_is_no_reward_file(refusal, tmp_path):
    (tmp_path / "folder.py").mkdir()
    assert f"the reward file {tmp_path}/folder.py is a folder." in refusal("folder.py:f")


def test_a_missing_function_names_its_nearest(write, refusal):
    path = write("from textwrap import dedent\ndef reward_exact(prompt, completion, row): ...\n")
    assert refusal("reward.py:reward_exakt") == (
        f"{path} has no function reward_exakt. Did you mean reward_exact?"
    )
    assert refusal("reward.py:zzz") == f"{path} has no function zzz. It has: reward_exact."
    write("reward = 3\n")
    assert "It has no function at all; write def reward(prompt" in refusal("reward.py:other")
    assert f"reward in {path} is a value of type int, not a function." in refusal(
        "reward.py:reward"
    )


def test_a_missing_module_is_named(refusal):
    assert refusal("no_such_package.reward:f") == (
        "the reward cannot be loaded: no_such_package.reward: ModuleNotFoundError: "
        "No module named 'no_such_package'. Check the name and that it can be imported from here."
    )


def test_a_syntax_error_is_named_with_its_line(write, refusal):
    path = write("x = 1\ndef reward(prompt, completion, row)\n    return 1\n")
    assert refusal("reward.py:reward") == (
        f"the reward cannot be loaded: {path}:2: SyntaxError: expected ':'. "
        "Fix that line; the file must import without an error."
    )


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero."),
        ("import no_such_library", "ModuleNotFoundError: No module named 'no_such_library'."),
        ("raise SystemExit(3)", "SystemExit: 3."),
        ("raise SystemExit", "SystemExit."),
        ("raise KeyboardInterrupt", "KeyboardInterrupt."),
        ("import json; json.loads('')", "JSONDecodeError: Expecting value"),
        ("eval('1 +')", "SyntaxError: invalid syntax"),
    ],
)
def test_an_exception_at_import_is_named_with_its_line(write, refusal, statement, reason):
    path = write(f"import math\n\n{statement}\n")
    assert f"the reward cannot be loaded: {path}:3: {reason}" in refusal("reward.py:reward")


def test_an_exception_in_a_module_is_named_there(write, refusal):
    path = write("\n1 / 0\n", "my_rewards/short.py")
    assert f"loaded: {path}:2: ZeroDivisionError" in refusal("my_rewards.short:reward")


def test_an_exception_in_a_sibling_is_named_there(write, refusal):
    sibling = write("\n1 / 0\n", "broken_of_reward.py")
    write("import broken_of_reward\n")
    assert f"loaded: {sibling}:2: ZeroDivisionError" in refusal("reward.py:reward")
    sibling = write("\n)\n", "broken_of_reward.py")
    assert f"loaded: {sibling}:2: SyntaxError: unmatched ')'." in refusal("reward.py:reward")


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
def test_a_wrong_signature_is_refused(write, refusal, parameters):
    write(f"def reward({parameters}): ...")
    assert refusal("reward.py:reward") == (
        f"the reward function reward({parameters}) cannot be called with a prompt, a completion "
        "and a row. Expected: def reward(prompt, completion, row)."
    )


def test_an_async_function_is_refused(write, refusal):
    write("async def reward(prompt, completion, row): ...")
    assert refusal("reward.py:reward") == (
        "the reward function reward is async. Expected: def reward(prompt, completion, row)."
    )


@pytest.mark.parametrize(
    "parameters",
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
def test_every_way_to_take_the_three_arguments(write, open_here, parameters):
    write(
        f"""

NAMES = {{"messages": "prompt", "text": "completion", "data": "row"}}

def reward({parameters}):
    given = dict(locals())
    given.pop("strict", None)
    given = given.get("arguments", given)
    if isinstance(given, tuple):
        given = dict(zip(NAMES.values(), given, strict=True))
    given = {{NAMES.get(name, name): value for name, value in given.items()}}
    assert given == {{
        "prompt": {PROMPT.messages!r},
        "completion": "five",
        "row": { ({**PROMPT.row, "id": "sum-1"})!r},
    }}, given
    return 1
"""
    )
    [result] = grade(open_here("reward.py:reward"), "five")
    assert (result.reward, result.error) == (1.0, None)


def test_a_callable_without_a_signature_is_called_by_position(write, open_here):
    # `max` has no signature to look at; three values that cannot be compared make a bad grade.
    write("reward = max")
    assert "TypeError: '>' not supported" in grade(open_here("reward.py:reward"))[0].error


def test_a_partial_keeps_its_bound_argument(write, open_here):
    write(
        "import functools\ndef scaled(prompt, completion, row, factor):\n"
        "    return factor * len(completion)\nreward = functools.partial(scaled, factor=0.5)\n"
    )
    assert grade(open_here("reward.py:reward"), "abc")[0].reward == 1.5


# --- Grades -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def calculate(tmp_path_factory):
    """The grade of a reward that returns this Python expression; one worker for all tests."""
    folder = tmp_path_factory.mktemp("calculate")
    (folder / "reward.py").write_text(
        "import math\nfrom decimal import Decimal\nimport numpy as np\n"
        f"{HEAD}    return eval(completion)\n"
    )
    with ExitStack() as stack:
        grader = open_grader("reward.py:reward", Context(folder), stack)
        yield lambda expression: grade(grader, expression)[0]


@pytest.mark.parametrize(
    ("expression", "reward"),
    [
        ("True", 1.0),
        ("False", 0.0),
        ("-3", -3.0),
        ("0.25", 0.25),
        ("np.float32(0.5)", 0.5),
        ("np.int64(2)", 2.0),
        ("np.bool_(True)", 1.0),
        ("{'reward': 0.5}", 0.5),
    ],
)
def test_numbers_become_rewards(calculate, expression, reward):
    result = calculate(expression)
    assert result == Grade(reward=reward, seconds=result.seconds)
    assert type(result.reward) is float


def test_sub_scores_become_metrics(calculate):
    result = calculate("{'reward': 1, 'format': True, 'length': np.int64(3), 'value': 0.5}")
    assert result.reward == 1.0
    assert result.metrics == {"format": 1.0, "length": 3.0, "value": 0.5}


@pytest.mark.parametrize(
    ("expression", "error"),
    [
        ("None", "the reward must be a number, got None; is a `return` missing?"),
        ("'1'", "the reward must be a number, got str"),
        ("[1]", "the reward must be a number, got list"),
        ("np.ones(2)", "can only convert an array of size 1 to a Python scalar"),
        ("Decimal(1)", "a value of type Decimal is not JSON"),
        ("1j", "a value of type complex is not JSON"),
        ("math.nan", "the reward must be finite, got nan"),
        ("-math.inf", "the reward must be finite, got -inf"),
        ("np.float64('nan')", "the reward must be finite, got nan"),
        ("10**400", "the reward is an integer too large for a float"),
        ("{}", "the result has no 'reward', only nothing"),
        ("{'score': 1}", "the result has no 'reward', only 'score'"),
        ("{'reward': None}", "the reward must be a number, got None; is a `return` missing?"),
        ("{'reward': {'reward': 1}}", "the reward must be a number, got dict"),
        ("{'reward': 1, 'a': 'x'}", "the sub-score 'a' must be a number, got str"),
        ("{'reward': 1, 'a': math.nan}", "the sub-score 'a' must be finite, got nan"),
    ],
)
def test_what_is_no_reward_becomes_an_error(calculate, expression, error):
    result = calculate(expression)
    assert result.reward is None
    assert result.error.endswith(error)
    assert result.flags == ("python_grader_runtime_error",)
    assert result.metrics == {}


def test_a_raise_is_recorded_from_the_users_frame_on(write, open_here):
    path = write(f"{HEAD}    return helper(completion)\ndef helper(text):\n    return int(text)\n")
    bad, good = grade(open_here("reward.py:reward"), "five", "5")
    assert bad.reward is None
    lines = [line for line in bad.error.splitlines() if "^" not in line]
    assert lines == [
        "Traceback (most recent call last):",
        f'  File "{path}", line 2, in reward',
        "    return helper(completion)",
        f'  File "{path}", line 4, in helper',
        "    return int(text)",
        "ValueError: invalid literal for int() with base 10: 'five'",
    ]
    assert bad.flags == ("python_grader_runtime_error",)
    assert good == Grade(reward=5.0, seconds=good.seconds)


def test_a_long_traceback_keeps_its_end(write, open_here):
    write(f"{HEAD}    raise ValueError('x' * 10_000 + 'the reason')\n")
    [result] = grade(open_here("reward.py:reward"))
    assert len(result.error) < 5_000
    assert result.error.startswith("[...] xxx")
    assert result.error.endswith("the reason")


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("return reward(prompt, completion, row)", "RecursionError: maximum recursion depth"),
        ("raise SystemExit('no more')", "SystemExit: no more"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    ],
)
def test_whatever_is_raised_harms_its_own_sample_only(write, open_here, statement, error):
    write(f"{HEAD}    if completion == 'good':\n        return 1\n    {statement}\n")
    good, bad, again = grade(open_here("reward.py:reward"), "good", "bad", "good")
    assert bad.error.splitlines()[-1].startswith(error)
    assert bad.reward is None
    assert (good.reward, again.reward) == (1.0, 1.0)


def test_every_call_gets_fresh_arguments_and_a_fresh_module(write, open_here):
    write(
        f"calls = []\n{HEAD}"
        "    calls.append(completion)\n"
        "    known = row['reference_answer'].pop('final') + prompt[0]['content']\n"
        "    prompt[0]['content'] = row['id'] = 'gone'\n"
        "    return {'reward': known == '52 + 3?', 'calls': len(calls)}\n"
    )
    for result in grade(open_here("reward.py:reward"), "a", "b", "c", "d"):
        assert (result.reward, result.metrics, result.error) == (1.0, {"calls": 1.0}, None)
    assert PROMPT.row == {"reference_answer": {"final": "5"}, "task_id": 7}
    assert PROMPT.messages[0]["content"] == "2 + 3?"


def test_the_row_holds_the_tools_when_there_are_some(write, open_here):
    tool = {"type": "function", "function": {"name": "add"}}
    write(f"{HEAD}    assert row == eval(completion), row\n    return 1\n")
    grader = open_here("reward.py:reward")
    with_tools = Prompt(id="a", messages=PROMPT.messages, tools=(tool,))
    without = Prompt(id="b", messages=PROMPT.messages)
    [first] = grade(grader, str({"id": "a", "tools": [tool]}), prompt=with_tools)
    [second] = grade(grader, str({"id": "b"}), prompt=without)
    assert (first.error, second.error) == (None, None)


def test_wall_seconds_are_recorded_for_good_and_bad_completions(write, open_here):
    write(f"import time\n{HEAD}    time.sleep(0.02)\n    return 1 / len(completion)\n")
    good, bad = grade(open_here("reward.py:reward"), "x", "")
    assert (good.reward, bad.reward) == (1.0, None)
    for result in (good, bad):
        assert 0.02 <= result.seconds < 2


# --- The table --------------------------------------------------------------------------------


def test_a_call_that_takes_too_long_is_ended(write, open_here):
    write(f"import time\n{HEAD}    time.sleep(float(completion))\n    return 1\n")
    table = {"type": "function", "path": "reward.py:reward", "timeout_seconds": 0.3}
    good, bad, again = grade(open_here(table), "0", "60", "0")
    assert (bad.reward, bad.error) == (None, "no result within the limit of 0.3 s")
    assert bad.flags == ("unresponsive_reward_error",)
    assert 0.3 <= bad.seconds < 10
    assert (good.reward, again.reward) == (1.0, 1.0)


def test_what_is_readable_is_said_in_the_table(write, open_here, tmp_path):
    write("own", "code/words.txt")
    write("theirs", "data/words.txt")
    write("more", "data/deep/words.txt")
    write(
        f"from pathlib import Path\n{HEAD}    return len(Path(completion).read_text())\n",
        "code/reward.py",
    )
    own, theirs, more = (
        str(tmp_path / name) for name in ("code/words.txt", "data/words.txt", "data/deep/words.txt")
    )
    table = {"type": "function", "path": "code/reward.py:reward"}

    def read(*readable):
        results = grade(open_here({**table, "readable": readable}), own, theirs, more)
        assert all(("Error" in result.error) for result in results if result.reward is None)
        return [result.reward for result in results]

    assert read() == [3.0, None, None]
    assert read("data/words.txt") == [3.0, 6.0, None]
    assert read(str(tmp_path / "data")) == [3.0, 6.0, 4.0]


def test_a_readable_path_must_exist(write, refusal, tmp_path):
    write(f"{HEAD}    return 1")
    table = {"type": "function", "path": "reward.py:reward", "readable": ["data"]}
    assert refusal(table) == (
        f"function reward: readable: {tmp_path}/data does not exist. "
        f"Check the path; it is taken from {tmp_path}."
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"timeout_second": 3},
            "timeout_second: there is no such field. Did you mean 'timeout_seconds'?",
        ),
        ({"readible": ["a"]}, "readible: there is no such field. Did you mean 'readable'?"),
        (
            {"zzz": 1},
            "zzz: there is no such field. Its fields are: name, path, timeout_seconds, "
            "memory_mib, processes, network, environment, readable.",
        ),
        ({"timeout_seconds": 0}, "timeout_seconds: Input should be greater than 0."),
        (
            {"timeout_seconds": 3601},
            "timeout_seconds: Input should be less than or equal to 3600.",
        ),
        ({"timeout_seconds": float("nan")}, "timeout_seconds: Input should be a finite number."),
        (
            {"memory_mib": 1, "processes": 0},
            "memory_mib: Input should be greater than or equal to 64; "
            "processes: Input should be greater than or equal to 1.",
        ),
        ({"readable": "data"}, "readable: must be a list."),
        ({"path": None}, "path: Input should be a valid string."),
    ],
)
def test_a_wrong_field_is_named_with_the_nearest_known_one(fields, message):
    with pytest.raises(RewardError) as caught:
        parse_spec({"type": "function", "path": "reward.py:reward", **fields})
    assert str(caught.value) == f"function reward: {message}"


def test_a_table_must_name_its_path_and_its_type():
    with pytest.raises(RewardError, match=r"^function reward: needs `path`\.$"):
        parse_spec({"type": "function"})
    with pytest.raises(
        RewardError, match=r"no reward of type 'funktion'\. Did you mean 'function'"
    ):
        parse_spec({"type": "funktion", "path": "reward.py:reward"})


# --- Where nothing can confine it -------------------------------------------------------------


@pytest.fixture
def _nothing_confines(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    choose_mechanism.cache_clear()
    yield
    choose_mechanism.cache_clear()


@pytest.mark.usefixtures("_nothing_confines")
def test_only_our_own_recipes_run_where_nothing_can_confine_them(write, tmp_path):
    context = Context(tmp_path, sandbox="bubblewrap")
    write(f"{HEAD}    return 1")
    # Folders of the user's that look like ours are not.
    for name in ("recipes/word_problems/reward.py", "recipes/other.py"):
        write("raise RuntimeError('not ours')", f"tunestone/{name}")
    write(f"{HEAD}    return 1", "tunestone.recipes.mine/reward.py")
    with ExitStack() as stack:
        ours = open_grader("tunestone.recipes.word_problems.reward:strict", context, stack)
        assert grade(ours, prompt=PROMPT)[0].error is None
        for theirs in ("reward.py:reward", "tunestone.recipes.mine/reward.py:reward"):
            with pytest.raises(SandboxError, match="bwrap is not installed"):
                open_grader(theirs, context, stack)
        with pytest.raises(RewardError, match=r"No module named 'tunestone\.recipes\.other'"):
            open_grader("tunestone.recipes.other:reward", context, stack)


# --- In this process --------------------------------------------------------------------------


def test_the_program_is_a_function_from_a_payload_to_a_result(write, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    write(f"{HEAD}    return eval(completion)")
    call = load_program({"path": "reward.py:reward", "folder": str(tmp_path)})
    payload = {"prompt": [{"role": "user"}], "row": {"id": "a"}}
    assert call({**payload, "completion": "(prompt, row)"}) == (({"role": "user"},), {"id": "a"})
    assert call({**payload, "completion": "{'reward': 1, 'form': 0.5}"}) == {
        "reward": 1,
        "metrics": {"form": 0.5},
    }
