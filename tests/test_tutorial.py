"""The commands of the tutorials, run as they stand there.

A block fenced as ```bash is run when the line before it is `<!-- test -->`. With
`<!-- test instead: COMMAND -->` that command stands in for the block (for `make quickstart`, which
installs and takes minutes). All blocks are one shell script, so variables live on.

The text is not changed. The embedded model is replaced behind its name: the cache folder, which
`TUNESTONE_CACHE` moves, already holds a tiny model called smollm2-135m.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PAGES = Path(__file__).parents[1] / "docs" / "tutorial"
BLOCK = re.compile(r"^<!-- test(?: instead: (.+?))? -->\n```bash\n(.*?)^```$", re.M | re.S)


def blocks(text: str) -> list[tuple[int, str]]:
    """(line, commands) of every block that is to be run."""
    return [
        (text.count("\n", 0, found.start(2)) + 1, found[1] or found[2])
        for found in BLOCK.finditer(text)
    ]


def test_marked_blocks_are_found_and_others_are_not() -> None:
    text = "```bash\na\n```\n<!-- test -->\n```bash\nb\nc\n```\n"
    assert blocks(text) == [(6, "b\nc\n")]
    assert blocks("<!-- test instead: d e -->\n```bash\nf\n```\n") == [(3, "d e")]


@pytest.fixture
def environment(tmp_path: Path, tiny_folder: Path) -> dict[str, str]:
    """The tiny model under the embedded model's name, and this Python's commands first."""
    embedded = tmp_path / "cache" / "smollm2-135m"
    shutil.copytree(tiny_folder, embedded)
    (embedded / "tunestone.json").write_text("{}")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {
        **os.environ,
        "PATH": path,
        "TUNESTONE_CACHE": str(embedded.parent),
        "HF_HUB_OFFLINE": "1",
    }


def run_page(name: str, work: Path, environment: dict[str, str]) -> str:
    """Run the marked blocks of a page in the new folder `work`; what they print."""
    found = blocks((PAGES / name).read_text(encoding="utf-8"))
    assert len(found) >= 6
    # What a page leaves running must not outlive a failed test.
    ending = "trap 'kill $(jobs -p) 2> /dev/null || true' EXIT\n"
    steps = [f"echo '--- line {line}' >&2\n{commands}\n" for line, commands in found]
    work.mkdir()
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", ending + "".join(steps)],
        cwd=work, env=environment, timeout=300, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8",
    )  # fmt: skip
    assert result.returncode == 0, result.stdout
    return result.stdout


def test_the_first_run(tmp_path: Path, environment: dict[str, str]) -> None:
    work = tmp_path / "work"
    said = run_page("01-first-run.md", work, environment)
    assert "the same completions" in said
    assert "the same weights" in said
    page = (PAGES / "01-first-run.md").read_text(encoding="utf-8")
    config = re.search(r"^```\n(model = .*?)^```$", page, re.M | re.S)
    assert config is not None
    assert config[1] in said  # the output that the page shows is the real one
    for name, rows in (("train", 160), ("validation", 40), ("test", 40)):
        assert len((work / f"{name}.jsonl").read_text().splitlines()) == rows
    reports = {p.parent.name: json.loads(p.read_text()) for p in work.glob("runs/*/report.json")}
    assert reports["dates"]["steps"] == reports["killed"]["steps"] == 12
    assert reports["dates"]["score"] == "mean reward"
    assert json.loads((work / "runs/dates/eval-test.json").read_text())["score"] == "accuracy"
    assert reports["stopped"]["stopped"] == "stop requested"
    assert (work / "word-problems-adapter" / "adapter_config.json").is_file()
    assert (work / "word-problems-model" / "model.safetensors").is_file()


def test_from_bedrock_to_here(tmp_path: Path, environment: dict[str, str]) -> None:
    said = run_page("02-bedrock-client.md", tmp_path / "work", environment)
    assert "reward of a right answer: [{'id': '1', 'aggregate_reward_score': 1.0" in said
    assert "Completed {'validation': 'Completed'" in said
    assert re.search(r"custom-model/amazon\.nova-2-lite-v1:0:256k/[a-z0-9]{12}$", said, re.M)
    for name in ("step_wise_training_metrics.csv", "validation_metrics.csv", "adapter_model"):
        assert name in said
    assert "deployment: Active" in said
    assert said.count("'outputTokens': 40") == 2  # a tiny random model never ends by itself


def test_from_openai_to_here(tmp_path: Path, environment: dict[str, str]) -> None:
    said = run_page("03-openai-client.md", tmp_path / "work", environment)
    assert r"'2 + 3 = 5\n#### 5' -> 1.0" in said
    assert r"'2 + 3 = 6\n#### 6' -> 0.0" in said
    assert "stands for the embedded model" in said
    assert re.search(r"^Step 20/20", said, re.M)
    assert re.search(r"^succeeded ft:o4-mini-2025-04-16:tunestone:word-problems:", said, re.M)
    assert ":ckpt-step-" in said
