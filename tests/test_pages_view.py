"""`tunestone view` as a person starts it, and the pages of a run that was really trained."""

import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from fake_run import write_run
from toy import run_to_end, toy_run
from tunestone import cli
from tunestone.errors import ConfigError
from tunestone.pages.app import build_view
from tunestone.pages.library import FolderLibrary
from tunestone.runlog import read_json, read_lines


def test_view_serves_until_ctrl_c(tmp_path: Path) -> None:
    write_run(tmp_path / "mine", steps=1, prompts=1, group=2, report=False)
    command = [sys.executable, "-m", "tunestone.cli", "view", str(tmp_path), "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        address = re.fullmatch(r"Pages of 1 runs?: (http://127\.0\.0\.1:\d+/)  \(.*\)\n", line)[1]
        with urllib.request.urlopen(address, timeout=300) as answer:
            assert "mine" in answer.read().decode()
        wrong = urllib.request.Request(address, headers={"host": "evil.example"})
        with pytest.raises(urllib.error.HTTPError, match="421"):
            urllib.request.urlopen(wrong, timeout=300)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=300)
    assert (process.returncode, stderr) == (0, "")


def test_view_loads_no_torch(tmp_path: Path) -> None:
    program = (
        "import sys; import tunestone.cli; from tunestone.pages.app import build_view; "
        "print([name for name in ('torch', 'transformers', 'plotly') if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"


@pytest.mark.parametrize("host", ["0.0.0.0", "0", "::"])
def test_view_wants_one_name(tmp_path: Path, host: str) -> None:
    result = CliRunner().invoke(cli.app, ["view", str(tmp_path), "--host", host])
    assert isinstance(result.exception, ConfigError)
    assert "no name that requests could be held to" in str(result.exception)


def test_a_run_that_was_really_trained_has_all_its_pages(tmp_path: Path, tiny_folder: Path) -> None:
    run = toy_run(tmp_path, tiny_folder, max_steps=4)
    run_to_end(run)
    client = TestClient(build_view(FolderLibrary([run.path]), []), base_url="http://localhost")
    overview = client.get("/runs/run.json").json()
    metrics = read_lines(run.metrics)
    reward = {c["id"]: c for c in overview["charts"]}["reward"]["series"]
    assert [p[1] for p in reward["training"]] == [m["reward_mean"] for m in metrics]
    assert [p[0] for p in reward["validation"]] == [0, 2, 4]
    assert overview["report"]["difference"] == read_json(run.path / "report.json")["difference"]
    rollouts = client.get("/runs/run/rollouts.json?step=2").json()
    assert rollouts["coloured_by"] == "tokens"
    for group in rollouts["groups"]:
        assert group["prompt"]["text"].startswith("Say ")
        for completion in group["completions"]:
            lengths = [len(piece["text"]) for piece in completion["pieces"]]
            assert 1 <= len(lengths) <= completion["length"]
    answers = client.get("/runs/run/answers.json").json()
    assert answers["counts"]["all"] == (8 if answers["source"] == "heldout" else 4)
    prompt = rollouts["groups"][0]["prompt"]["id"]
    for page in ("", "/rollouts", "/answers", "/vote", f"/prompt?id={prompt}&colour=changes"):
        assert client.get(f"/runs/run{page}").status_code == 200
