"""Rewards as they are written: short forms, files, and what is said of those that are wrong."""

from contextlib import ExitStack
from pathlib import Path

import pytest

from tunestone.errors import RewardError
from tunestone.rewards.grader import open_grader, parse_spec, read_spec
from tunestone.rewards.spec import Context
from tunestone.types import Prompt, Sample

JUDGE = {"type": "judge", "template": "reasoning", "model": "m"}
SCORE = {"type": "score_model", "model": "m", "input": [{"role": "user", "content": "Rate it."}]}
HANDLER = """
def lambda_handler(event, context):
    return [{"id": s["id"], "aggregate_reward_score": 0.25} for s in event]
"""


def refusal(written, folder: Path = Path()) -> str:
    with pytest.raises(RewardError) as caught:
        read_spec(written, Context(folder))
    assert caught.value.code == "reward_error"
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "g1.json",
            '{"type": "string_chek"}',
            "g1.json: there is no reward of type 'string_chek'. Did you mean 'string_check'? There",
        ),
        ("g1.toml", "[weights]\na = 1", "g1.toml: the table has no `type`. There are: function,"),
        (
            "g1.json",
            '{"type": "number", "stile": "hash"}',
            "g1.json: number reward: stile: there is no such field. Did you mean 'style'?",
        ),
        ("g1.json", "[1]", 'g1.json: a grader is a JSON object. Write {"type": ...}.'),
        (
            "g1.json",
            '{"type": }',
            "g1.json: this is no JSON: Expecting value: line 1 column 10 (char 9). "
            "Write one grader in JSON.",
        ),
        ("g1.toml", "type =", "g1.toml: this is no TOML: Invalid value"),
    ],
)
def test_what_is_wrong_in_a_file_begins_with_its_name(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    assert refusal(name, tmp_path).startswith(message)


@pytest.mark.parametrize("name", ["none.json", "none.toml"])
def test_a_file_that_is_not_there_is_named_with_the_folder(tmp_path, name):
    remedy = f"Check the path; it is taken from {tmp_path}."
    assert refusal(name, tmp_path) == f"there is no file {name}. {remedy}"


def test_what_cannot_be_read_at_all_says_why(tmp_path):
    (tmp_path / "g1.json").mkdir()
    assert refusal("g1.json", tmp_path).startswith("g1.json: cannot be read: Is a directory.")
    (tmp_path / "g2.toml").write_bytes(b"\xff")
    assert refusal("g2.toml", tmp_path).startswith("g2.toml: this is no TOML: 'utf-8' codec")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            JUDGE | {"endpoint": {"url": "http://127.0.0.1:1"}},
            "judge reward: endpoint.url: there is no such field. Did you mean 'base_url'?",
        ),
        (
            JUDGE | {"sampling_params": {"temprature": 0}},
            "judge reward: sampling_params.temprature: there is no such field. "
            "Did you mean 'temperature'?",
        ),
        (
            SCORE | {"input": [{"rule": "user", "role": "user", "content": "x"}]},
            "score_model reward: input.0.rule: there is no such field. Did you mean 'role'?",
        ),
        (
            JUDGE | {"modl": "x"},
            "judge reward: modl: there is no such field. Did you mean 'model'?",
        ),
        ({"type": "judge", "template": "reasoning"}, "judge reward: needs `model`."),
        (SCORE | {"input": [{"role": "user"}]}, "score_model reward: input.0: needs `content`."),
        (SCORE | {"input": "Rate it."}, "score_model reward: input: must be a list."),
        (JUDGE | {"endpoint": "here"}, "judge reward: endpoint: must be a table."),
        (
            JUDGE | {"endpoint": {"base_url": "127.0.0.1:8000"}},
            "judge reward: endpoint.base_url: '127.0.0.1:8000' is not an address; "
            "write http://127.0.0.1:8000/v1.",
        ),
        (
            JUDGE | {"endpoint": {"base_url": "http://me:pw@127.0.0.1:8000"}},
            "judge reward: endpoint.base_url: a password in the address ends up in logs; "
            "use `api_key_env`.",
        ),
        ({"name": "x"}, "the table has no `type`. There are: function,"),
    ],
)
def test_a_fault_is_named_where_it_is_with_the_nearest_field_of_that_place(table, message):
    with pytest.raises(RewardError) as caught:
        parse_spec(table)
    assert str(caught.value).startswith(message)


def grade(written, folder, text="#### 72"):
    prompt = Prompt("q", ({"role": "user", "content": "?"},), {"reference_answer": "72"})
    with ExitStack() as stack:
        grader = open_grader(written, Context(folder), stack)
        [found] = grader.grade([Sample(prompt, text)])
    return found


@pytest.mark.parametrize(
    "written", ["mine.handlers:lambda_handler", "mine/handlers.py:lambda_handler"]
)
def test_a_lambda_handler_may_be_named_as_a_module_or_a_file(tmp_path, written):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "handlers.py").write_text(HANDLER)
    assert grade(written, tmp_path).reward == 0.25


def test_our_templates_can_be_named_as_modules(tmp_path):
    templates = "tunestone.rewards.ready.lambda_templates"
    for name in ("math_reasoning", "generic"):
        spec = read_spec(f"{templates}.{name}:lambda_handler", Context(tmp_path))
        assert (spec.type, Path(spec.path).name) == ("lambda", f"{name}.py")
    assert grade(f"{templates}.math_reasoning:lambda_handler", tmp_path).reward == 1.0


def test_a_module_that_is_not_there_is_still_named(tmp_path):
    with pytest.raises(RewardError, match="No module named 'nowhere'"):
        grade("nowhere.handlers:lambda_handler", tmp_path)


def test_a_handler_under_another_name_says_how_it_is_written(tmp_path):
    file = tmp_path / "reward.py"
    file.write_text(HANDLER.replace("lambda_handler", "score_all"))
    with pytest.raises(RewardError) as caught:
        grade("reward.py:score_all", tmp_path)
    written = {"type": "lambda", "path": str(file), "handler": "score_all"}
    assert str(caught.value).startswith(
        "score_all(event, context) is the handler of a Lambda. Write"
    )
    assert str(written).replace("'", '"') in str(caught.value)
    assert grade(written, tmp_path).reward == 0.25
