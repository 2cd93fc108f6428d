"""`tunestone check` and `tunestone grade`, as typed."""

import json
from pathlib import Path
from typing import Literal, get_args

import pytest
from typer.testing import CliRunner, Result

from toy import SETTINGS
from tunestone.cli import app
from tunestone.cli.rewards import SandboxName
from tunestone.config import TrainConfig, read_toml, resolve
from tunestone.errors import ConfigError, DataError, RewardError, StorageError

REWARD = '''
def letters(prompt, completion, row):
    """Share of the first four characters that are ASCII letters."""
    return sum(c.isascii() and c.isalpha() for c in completion[:4]) / 4

def constant(prompt, completion, row):
    return 0.0

def echo(prompt, completion, row):
    if completion == "boom":
        raise ValueError("boom")
    return {"reward": float(completion == row["reference_answer"]), "length": len(completion)}
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with 24 rows of data and a file of rewards, entered."""
    rows = [
        {
            "id": f"row-{i}",
            "messages": [{"role": "user", "content": f"Say the number {i} with {i * 7} words"}],
            "reference_answer": str(i),
        }
        for i in range(24)
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "reward.py").write_text(REWARD)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments])


def check(model: Path, reward: str, *more: str) -> Result:
    settings = [f"--set={k}={v}" for k, v in SETTINGS.items() if k != "max_steps"]
    arguments = ("--reward", reward, "--model", str(model), "--prompts", "6", "--completions", "4")
    return run("check", "train.jsonl", *arguments, *settings, *more)


def test_check_reports_and_writes_a_config_that_trains(folder, tiny_folder):
    # Steps enough for seconds: the forecast is in whole ones.
    result = check(tiny_folder, "reward.py:letters", "--set=max_steps=500")
    report = json.loads((folder / "check" / "check.json").read_text())
    assert [section["name"] for section in report["sections"]] == [
        "data",
        "reward",
        "signal",
        "plan",
    ]
    # The toy reward pays for letters, whatever they say: the probes must find that.
    assert report["fatal"]
    assert result.exit_code == 1
    assert "Do not train yet" in result.output
    facts = {section["name"]: section["facts"] for section in report["sections"]}
    assert facts["data"]["rows"] == 24  # all of them, those split off for validation too
    assert "Sandbox for reward code: " in result.output
    assert report["subject"]["sandbox"] in result.output
    assert facts["signal"]["prompts"] == 6
    assert facts["signal"]["completions_of_each"] == 4
    assert facts["plan"]["seconds"] > 0
    assert facts["plan"]["memory_mib"] > 0
    config, _ = resolve(layers=[("check", read_toml(folder / "check" / "config.toml"))])
    assert config.data == "train.jsonl"
    assert config.reward == "reward.py:letters"
    assert config.learning_rate == SETTINGS["learning_rate"]  # what was given is kept
    assert "<html" in (folder / "check" / "check.html").read_text()


def test_a_reward_without_signal_is_fatal(folder, tiny_folder):
    result = check(tiny_folder, "reward.py:constant", "--out", "elsewhere")
    assert result.exit_code == 1
    report = json.loads((folder / "elsewhere" / "check.json").read_text())
    codes = {
        finding["code"]: finding["level"]
        for section in report["sections"]
        for finding in section["findings"]
    }
    assert codes["no_signal"] == "fatal"


def test_an_impossible_folder_is_told_before_the_work(folder):
    # There is no model of this name: were the folder looked at last, that would be the error.
    arguments = ["check", "train.jsonl", "--reward", "number", "--model", "nowhere", "--out"]
    for out in ("reward.py", "reward.py/deeper"):
        with pytest.raises(StorageError, match=r"'.*reward\.py' is a file"):
            CliRunner().invoke(app, [*arguments, out], catch_exceptions=False)


def test_a_leak_is_in_the_report(folder, tiny_folder):
    (folder / "copy.jsonl").write_bytes((folder / "train.jsonl").read_bytes())
    result = check(tiny_folder, "reward.py:letters", "--validation", "copy.jsonl")
    assert result.exit_code == 1, result.output
    report = json.loads((folder / "check" / "check.json").read_text())
    (section,) = report["sections"]
    levels = {finding["code"]: finding["level"] for finding in section["findings"]}
    assert (section["name"], levels["validation_leak"]) == ("data", "fatal")
    assert (
        "24 of 24 validation prompts are also trained on"
        in (folder / "check" / "check.html").read_text()
    )
    assert not (folder / "check" / "config.toml").exists()
    assert "Drawing" not in result.output


def test_check_needs_a_reward(folder):
    with pytest.raises(ConfigError, match="no reward to check"):
        CliRunner().invoke(app, ["check", "train.jsonl"], catch_exceptions=False)


def test_grade_scores_given_completions(folder):
    rows = [
        {"messages": [{"role": "user", "content": "1?"}], "reference_answer": "1", **answer}
        for answer in (
            {"completion": "1"},
            {"completions": ["2", "boom"]},
            {
                "messages": [
                    {"role": "user", "content": "1?"},
                    {"role": "assistant", "content": "1"},
                ]
            },
        )
    ]
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = run("grade", "answers.jsonl", "--reward", "reward.py:echo")
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["reward"] for line in lines] == [1.0, 0.0, None, 1.0]
    assert [line["id"] for line in lines] == ["row-1", "row-2", "row-2", "row-3"]
    assert lines[0]["metrics"] == {"length": 1.0}
    assert lines[2]["flags"] == ["python_grader_runtime_error"]
    assert "ValueError: boom" in lines[2]["error"]
    assert "4 completions graded" in result.stderr
    assert "1 without a reward: 1 python_grader_runtime_error." in result.stderr

    result = run("grade", "answers.jsonl", "--reward", "number", "--out", "grades.jsonl")
    assert "Reward: mean" in result.stdout
    written = [json.loads(line) for line in (folder / "grades.jsonl").read_text().splitlines()]
    assert [line["reward"] for line in written] == [1.0, 0.0, 0.0, 1.0]


def test_grade_names_what_is_wrong(folder):
    with pytest.raises(DataError, match=r"train\.jsonl:1: the row holds no completion to grade"):
        CliRunner().invoke(
            app, ["grade", "train.jsonl", "--reward", "number"], catch_exceptions=False
        )
    (folder / "answers.jsonl").write_text(
        '{"messages": [{"role": "user", "content": "1?"}], "completion": "1"}\n'
    )
    with pytest.raises(RewardError, match="there is no reward 'numbr'"):
        CliRunner().invoke(
            app, ["grade", "answers.jsonl", "--reward", "numbr"], catch_exceptions=False
        )


def test_grade_fails_when_no_completion_could_be_graded(folder):
    row = {"messages": [{"role": "user", "content": "1?"}], "completion": "boom"}
    (folder / "answers.jsonl").write_text(json.dumps(row) + "\n")
    result = run("grade", "answers.jsonl", "--reward", "reward.py:echo", "--out", "grades.jsonl")
    assert result.exit_code == 1
    assert "1 without a reward" in result.stdout
    assert json.loads((folder / "grades.jsonl").read_text())["reward"] is None  # written first


def test_grade_takes_the_sandboxes_that_a_config_takes(folder):
    names = get_args(TrainConfig.model_fields["sandbox"].annotation)
    assert SandboxName.__args__ == (Literal[names],)
    result = run("grade", "answers.jsonl", "--reward", "number", "--sandbox", "foo")
    assert result.exit_code == 2
    assert "'foo' is not one of 'auto'" in result.stderr


@pytest.fixture
def labelled(folder):
    """Four rows that people called good and bad; `reward.py:echo` gives the same."""
    rows = [
        {
            "messages": [{"role": "user", "content": f"{i}?"}],
            "reference_answer": "1",
            "completion": completion,
            "label": label,
        }
        for i, (completion, label) in enumerate([("1", "good"), ("2", "bad")] * 2)
    ]
    (folder / "labelled.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def agreement(*values: str) -> Result:
    command = ["judge", "agreement", "labelled.jsonl", "--reward", "reward.py:echo", "--json"]
    options = [f"--value={value}" for value in values]
    return CliRunner().invoke(app, command + options, catch_exceptions=False)


@pytest.mark.usefixtures("labelled")
def test_agreement_takes_the_worth_of_named_labels():
    assert json.loads(agreement("good=1", " bad = 0.0").stdout)["accuracy"] == 1.0
    with pytest.raises(RewardError, match=r"'bad' has no value.*--value NAME=NUMBER"):
        agreement("good=1")


@pytest.mark.usefixtures("labelled")
@pytest.mark.parametrize("value", ["good", "bad=zero", "=1", "bad=", "bad=nan", "bad=inf"])
def test_agreement_refuses_a_worth_that_is_no_number(value):
    with pytest.raises(ConfigError) as caught:
        agreement("good=1", value)
    assert caught.value.message == f"'--value {value}' is not of the form NAME=NUMBER."
