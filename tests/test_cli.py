"""The command line as a person uses it: a process, its output, its exit status."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner, Result

from toy import run_to_end, toy_run
from tunestone.cli import app, main
from tunestone.errors import TunestoneError
from tunestone.runlog import RunFolder, read_lines

TUNESTONE = [sys.executable, "-m", "tunestone.cli"]


def invoke(*arguments: str | Path) -> Result:
    """Run a command in this process; errors meant for a person are raised."""
    return CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)


@pytest.fixture
def finished(tmp_path: Path, tiny_folder: Path) -> RunFolder:
    """A toy run with a LoRA result."""
    run = toy_run(tmp_path / "runs" / "toy", tiny_folder, max_steps=4, lora_rank=4)
    run_to_end(run)
    return run


def test_train_shows_plan_steps_and_report(tmp_path: Path, tiny_folder: Path) -> None:
    toy = toy_run(tmp_path / "toy", tiny_folder)
    config = toy.config()["config"]
    out = tmp_path / "out"
    result = invoke(
        "train", "--model", tiny_folder, "--data", config["data"], "--test", config["test"],
        "--reward", config["reward"], "--set", "max_steps=3", "--set", "lora_rank=0",
        "--set", "max_completion_tokens=6", "--set", "group_size=4", "--set", "eval_every=2",
        "--set", "threads=1", "--out", out,
    )  # fmt: skip
    assert result.exit_code == 0
    assert "1. Measure" in result.output
    assert "3. That takes about" in result.output
    assert [f"{n}/3 " in result.output for n in (1, 2, 3)] == [True] * 3
    assert "95 % interval" in result.output
    report = json.loads((out / "report.json").read_text())
    assert report["n"] == 8
    assert report["heldout"] == config["test"]
    origins = RunFolder.open(out).config()["origins"]
    assert origins["max_steps"] == "--set max_steps=3"
    assert origins["reward"] == "command line"
    assert origins["temperature"] == "default"


def test_a_recipe_writes_its_data_into_the_run(tmp_path: Path, tiny_folder: Path) -> None:
    """The quickstart's path with a tiny model: data and both scores come from the recipe."""
    out = tmp_path / "out"
    small = ("max_steps=1", "warmup_steps=0", "group_size=2", "batch_size=2", "lora_rank=0")
    settings = [part for text in (*small, "max_completion_tokens=3") for part in ("--set", text)]
    result = invoke("train", "word_problems", "--model", tiny_folder, "--out", out, *settings)
    assert result.exit_code == 0
    report = json.loads((out / "report.json").read_text())
    assert report["task"] == "word_problems"
    assert report["n"] == 256
    assert report["base"]["lenient_accuracy"] is None or report["base"]["lenient_accuracy"] >= 0
    names = {path.name for path in (out / "data").iterdir()}
    assert names == {"train.jsonl", "validation.jsonl", "test.jsonl", "test_two_steps.jsonl"}


def test_own_test_data_with_a_recipe_and_resume_from_elsewhere(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    question = {"role": "user", "content": "What is 1 + 1?"}
    row = {"messages": [question], "reference_answer": "2"}
    Path("mine.jsonl").write_text(json.dumps(row) + "\n")
    small = ("max_steps=1", "group_size=2", "batch_size=2", "max_completion_tokens=3")
    settings = [part for text in small for part in ("--set", text)]
    command = ["train", "word_problems", "--model", tiny_folder, "--test", "mine.jsonl"]
    result = invoke(*command, *settings, "--out", "run")
    assert result.exit_code == 0
    assert json.loads(Path("run/report.json").read_text())["n"] == 1
    monkeypatch.chdir(tmp_path / "there")
    assert invoke("train", "--resume", "../here/run").exit_code == 0
    assert invoke("eval", "../here/run").exit_code == 0


def test_a_refused_run_leaves_no_folder(tmp_path: Path, tiny_folder: Path) -> None:
    """The same command works once its fault is mended."""
    out = tmp_path / "out"
    with pytest.raises(TunestoneError, match="There is no model folder"):
        invoke("train", "word_problems", "--out", out, "--model", tmp_path / "typo")
    assert not out.exists()
    small = ("max_steps=1", "group_size=2", "batch_size=2", "max_completion_tokens=3")
    settings = [part for text in small for part in ("--set", text)]
    mended = invoke("train", "word_problems", "--out", out, "--model", tiny_folder, *settings)
    assert mended.exit_code == 0


def test_out_may_not_name_a_file(tmp_path: Path, tiny_folder: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TunestoneError, match="exists and is no run folder"):
        invoke("train", "word_problems", "--model", tiny_folder, "--out", tmp_path / "file")


def test_runs_lists_what_was_reached(finished: RunFolder, tmp_path: Path) -> None:
    result = invoke("runs", finished.path.parent)
    assert "│ run │ done" in result.output
    assert "4/4" in result.output
    assert "done" in result.output
    empty = invoke("runs", tmp_path / "nothing")
    assert "There are no runs" in empty.output


def test_export_gives_an_adapter_and_a_whole_model(finished: RunFolder, tmp_path: Path) -> None:
    assert invoke("export", finished.path, "--to", tmp_path / "adapter").exit_code == 0
    exported = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    result = load_file(finished.adapter / "adapter_model.safetensors")
    assert exported.keys() == result.keys()
    assert invoke("export", finished.path, "--merged", "--to", tmp_path / "m").exit_code == 0
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "m").state_dict()
    name = "model.layers.0.self_attn.q_proj"
    a, b = (exported[f"base_model.model.{name}.lora_{x}.weight"] for x in "AB")
    base = load_file(Path(finished.config()["config"]["model"]) / "model.safetensors")
    expected = base[f"{name}.weight"] + 2.0 * b @ a  # alpha = 2 x rank
    assert merged[f"{name}.weight"].allclose(expected, atol=1e-6)
    with pytest.raises(TunestoneError, match="exists already"):
        invoke("export", finished.path, "--to", tmp_path / "m")


def test_chat_answers_once_and_in_a_dialog(finished: RunFolder, tiny_folder: Path) -> None:
    once = invoke("chat", finished.path, "--prompt", "Say 3", "--max-tokens", "4")
    assert once.exit_code == 0
    assert once.output.strip()
    dialog = CliRunner().invoke(
        app, ["chat", str(tiny_folder), "--max-tokens", "4"], input="Say 3\nSay 4\n\n"
    )
    assert dialog.exit_code == 0
    assert dialog.output.count("> ") == 3


def test_config_shows_every_origin(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("group_size = 4\n")
    result = invoke("config", "word_problems", "--config", file, "--set", "seed=9")
    assert "group_size = 4  # from: " + str(file) in result.output
    assert "seed = 9  # from: --set seed=9" in result.output
    assert "batch_size = 16  # from: recipe word_problems" in result.output
    assert "temperature = 1.0  # from: default" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "error: The setting 'reward' is empty."),
        (["train", "word_problms"], "Did you mean 'word_problems'?"),
        (["train", "--set", "group_sise=4"], "Did you mean 'group_size'?"),
        (["train", "--resume", "nowhere"], "'nowhere' is not a run folder"),
        (["train", "word_problems", "--resume", "x"], "so it stands alone"),
        (["export", "nowhere", "--to", "x"], "is not a run folder"),
        (["train", "--data", "no.jsonl", "--reward", "r.py:f"], "r.py"),
    ],
)
def test_wrong_requests_exit_with_2_and_say_why(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["tunestone", *arguments])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def start_training(run: RunFolder) -> subprocess.Popen[str]:
    """Continue a run in a process of its own and wait until it has done two steps."""
    process = subprocess.Popen(
        [*TUNESTONE, "train", "--resume", str(run.path)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while len(read_lines(run.metrics)) < 2:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


def test_ctrl_c_once_finishes_and_reports(tmp_path: Path, tiny_folder: Path) -> None:
    run = toy_run(tmp_path, tiny_folder, max_steps=5000, eval_every=500)
    process = start_training(run)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "Ending after this step" in errors
    report = run.report()
    assert report["stopped"] == "stop requested"
    assert report["steps"] == len(read_lines(run.metrics))
    assert "Report:" in output


def test_ctrl_c_twice_stops_at_once(tmp_path: Path, tiny_folder: Path) -> None:
    """A step of minutes: the second Ctrl-C does not wait for its end."""
    run = toy_run(tmp_path, tiny_folder, max_steps=5000, eval_every=500)
    reward = tmp_path / "reward.py"
    reward.write_text(
        "import time\nfrom pathlib import Path\n" + reward.read_text().replace(
            "def letters(prompt, completion, row):",
            "def letters(prompt, completion, row):\n"
            "    time.sleep(float((Path(__file__).parent / 'pause').read_text()))",
        )
    )  # fmt: skip
    (tmp_path / "pause").write_text("0")
    process = start_training(run)
    (tmp_path / "pause").write_text("0.5")  # from now on 32 completions take 8 s on two cores
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "continues it" in errors
    assert run.report() is None
