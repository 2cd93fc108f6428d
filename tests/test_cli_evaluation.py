"""`tunestone eval` as a person uses it: a run's two ends, or any two models."""

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tiny import write_tiny_model
from toy import run_to_end, toy_run
from tunestone.cli import app, main
from tunestone.errors import ConfigError, DataError, ModelError, RunError, StorageError
from tunestone.runlog import RunFolder, read_json, write_json


def invoke(*arguments: str | Path) -> Result:
    """Run a command in this process; errors meant for a person are raised."""
    return CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> RunFolder:
    """A toy run with a LoRA result. Only evaluations may be added."""
    folder = tmp_path_factory.mktemp("runs")
    run = toy_run(folder, tiny_folder, max_steps=4, lora_rank=4, test_samples=2)
    run_to_end(run)
    return run


def write_rows(path: Path, count: int) -> Path:
    """Fresh prompts in two halves, `part` saying which."""
    rows = [
        {"messages": [{"role": "user", "content": f"Tell {i}"}], "part": "ab"[i % 2]}
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_every_run_ends_with_its_report_in_three_forms(finished: RunFolder) -> None:
    report = finished.report()
    assert report["drawn"]["prompts"] == 8
    assert report["drawn"]["samples"] == 2
    assert len(report["regression_records"]) == len(report["regressions"])
    assert report["contamination"]["training_prompts"] == 12
    assert report["contamination"]["equal"] == 0
    assert report["cost"]["seconds_per_answer"]["tuned"] > 0
    assert "toy: 8 held-out prompts" in (finished.path / "report.md").read_text()
    assert "<html" in (finished.path / "report.html").read_text()
    assert read_json(finished.path / "base.json")["drawn"]["temperature"] == 1.0


def test_a_resumed_run_reads_the_draws_of_its_base(tmp_path: Path, tiny_folder: Path) -> None:
    run = toy_run(tmp_path, tiny_folder, max_steps=2, test_samples=2)
    first = run_to_end(run)
    kept = read_json(run.path / "base.json")
    kept["drawn"]["rewards_PG"] = [[0.25, 0.25]] * 8  # to be seen in the next report
    write_json(run.path / "base.json", kept)
    again = run_to_end(run)
    assert again["drawn"]["base"]["avg"] == 0.25
    assert again["drawn"]["tuned"] == first["drawn"]["tuned"]
    del kept["drawn"]  # a run that an earlier version began
    write_json(run.path / "base.json", kept)
    assert run_to_end(run)["drawn"] == first["drawn"]


def test_eval_compares_the_ends_of_a_run_again(finished: RunFolder) -> None:
    result = invoke("eval", finished.path)
    assert result.exit_code == 0
    assert "95 % interval" in result.output
    report = read_json(finished.path / "eval-test.json")
    for key in ("n", "base", "tuned", "difference_ci95", "p_value", "regressions"):
        assert report[key] == finished.report()[key]
    assert report["contamination"]["training_prompts"] == 12
    assert (finished.path / "eval-test.html").is_file()


def test_the_report_of_a_training_is_never_replaced(finished: RunFolder, tmp_path: Path) -> None:
    proof = (finished.path / "report.json").read_bytes()
    data = write_rows(tmp_path / "fresh.jsonl", 2)
    invoke("eval", finished.path, "--data", data, "--out", finished.path)
    assert (finished.path / "report.json").read_bytes() == proof
    assert (finished.path / "eval-fresh.json").is_file()


def test_a_run_can_be_graded_by_its_shadow(tmp_path: Path, tiny_folder: Path) -> None:
    shadow = f"{tmp_path / 'reward.py'}:nothing"
    run = toy_run(tmp_path, tiny_folder, max_steps=1, shadow_reward=shadow)
    run_to_end(run)
    assert invoke("eval", run.path, "--reward", shadow).exit_code == 0
    assert read_json(run.path / "eval-test.json")["tuned"]["accuracy"] == 0.0


def test_without_the_training_file_no_leak_is_looked_for(
    tmp_path: Path, tiny_folder: Path, finished: RunFolder
) -> None:
    run = toy_run(tmp_path, tiny_folder, max_steps=1, test_samples=0)
    run_to_end(run)
    (tmp_path / "train.jsonl").unlink()
    data = write_rows(tmp_path / "fresh.jsonl", 2)
    result = invoke("eval", tiny_folder, run.path, data, "--out", tmp_path / "out")
    assert "is gone or has changed: no leak can be looked for" in result.output
    assert read_json(tmp_path / "out" / "report.json")["contamination"] is None


def test_a_run_that_went_on_from_an_adapter_is_compared_with_that(
    tmp_path: Path, finished: RunFolder
) -> None:
    """Without a step the result is the start, so nothing may differ."""
    config = finished.config()["config"]
    run = toy_run(
        tmp_path, Path(config["model"]), max_steps=1, lora_rank=4, test_samples=0,
        start_adapter=str(finished.adapter), learning_rate=1e-12,
    )  # fmt: skip
    run_to_end(run)
    invoke("eval", run.path)
    report = read_json(run.path / "eval-test.json")
    assert report["base"] == report["tuned"]


def test_eval_of_two_models_takes_the_settings_of_the_tuned_run(
    finished: RunFolder, tiny_folder: Path, tmp_path: Path
) -> None:
    data = write_rows(tmp_path / "fresh.jsonl", 12)
    out = tmp_path / "out"
    result = invoke(
        "eval", tiny_folder, finished.path, data, "--samples", 3, "--slice", "part", "--out", out
    )
    assert result.exit_code == 0
    assert {path.name for path in out.iterdir()} == {"report.json", "report.md", "report.html"}
    report = read_json(out / "report.json")
    assert report["n"] == 12
    assert report["drawn"]["samples"] == 3
    assert report["cost"]["tokens_per_answer"]["tuned"] <= 6  # the run's max_completion_tokens
    assert [row["n"] for row in report["slices"][0]["rows"]] == [6, 6]
    assert "By part" in result.output
    assert "avg@3" in result.output
    assert report["contamination"]["training_prompts"] == 12


def test_a_model_against_itself_as_folder_and_as_adapter(
    finished: RunFolder, tiny_folder: Path, tmp_path: Path
) -> None:
    """The run, its adapter's folder and the merged export are one model in three forms."""
    data = write_rows(tmp_path / "fresh.jsonl", 4)
    invoke("export", finished.path, "--merged", "--to", tmp_path / "merged")
    reward = finished.config()["config"]["reward"]
    for other in (finished.adapter, tmp_path / "merged"):
        out = tmp_path / f"out-{other.name}"
        more = ("--reward", reward, "--set", "max_completion_tokens=6", "--samples", 0)
        result = invoke("eval", finished.path, other, data, *more, "--out", out)
        report = read_json(out / "report.json")
        assert report["difference"] == 0
        assert report["drawn"] is None
        assert report["contamination"] is None  # an adapter does not tell what it was trained on
        assert "is not known here" in result.output


def test_prompts_that_were_trained_on_are_counted(
    finished: RunFolder, tiny_folder: Path, tmp_path: Path
) -> None:
    training = finished.config()["config"]["data"]
    result = invoke("eval", tiny_folder, finished.path, training, "--out", tmp_path / "out")
    assert "LEAK: of 12 held-out prompts 12 are in the training data" in result.output


def test_models_need_not_share_a_tokenizer_or_a_length(
    finished: RunFolder, tiny_folder: Path, tmp_path: Path
) -> None:
    """A GPT-2 against a Llama; a prompt longer than the positions of both is left out."""
    other = write_tiny_model(tmp_path / "gpt2", architecture="gpt2")
    data = write_rows(tmp_path / "fresh.jsonl", 2)
    with data.open("a") as file:
        row = {"messages": [{"role": "user", "content": "long " * 220}]}  # 1,100 bytes of 1,024
        file.write(json.dumps(row) + "\n")
    reward = finished.config()["config"]["reward"]
    more = ("--set", "max_completion_tokens=4", "--set", "max_prompt_tokens=5000", "--samples", 1)
    result = invoke(
        "eval", other, tiny_folder, data, "--reward", reward, *more, "--out", tmp_path / "out"
    )
    assert "1 of 3 prompts are left out" in result.output
    assert read_json(tmp_path / "out" / "report.json")["n"] == 2


def test_what_is_wrong_is_said(
    finished: RunFolder, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = write_rows(tmp_path / "fresh.jsonl", 2)
    training = finished.config()["config"]["data"]
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "adapter_config.json").write_text("{}")
    empty = toy_run(tmp_path / "empty", tiny_folder)
    models = (tiny_folder, finished.path)
    wrong = [
        ((finished.path, "--slice", "nope"), DataError, "No held-out row has a field 'nope'"),
        ((finished.path, "--data", training), DataError, "also in the training data"),
        (models, RunError, "on no data"),
        ((*models, data, "--data", data), RunError, "named twice"),
        ((*models, tmp_path / "fesh.jsonl"), DataError, "Did you mean"),
        ((tiny_folder, tiny_folder, data), ConfigError, "no reward"),
        ((*models, data, "--set", "max_completion_tokens=1024"), DataError, "short enough"),
        ((broken, finished.path, data), ModelError, "does not say what it sits on"),
        (("./gone", finished.path, data), ModelError, "There is no model folder"),
        ((tiny_folder, empty.path, data), RunError, "has no result yet"),
        ((tmp_path, ), RunError, "is not a run folder"),
        ((*models, data, "--out", data), StorageError, "is a file, not a folder"),
    ]  # fmt: skip
    for arguments, kind, message in wrong:
        with pytest.raises(kind, match=message):
            invoke("eval", *arguments)
    assert not (tmp_path / "evaluation").exists()


def test_a_wrong_request_exits_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["tunestone", "eval", "nowhere"])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    assert "'nowhere' is not a run folder" in capsys.readouterr().err
    assert invoke("eval", "x", "--samples", "65").exit_code == 2
