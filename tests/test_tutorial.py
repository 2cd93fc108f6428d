"""The commands of the tutorial, run as they stand there.

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

PAGE = Path(__file__).parents[1] / "docs" / "tutorial" / "01-first-run.md"
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


def use_one_core() -> None:
    """Two threads that wait for each other on a busy machine take minutes for a tiny model."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def test_the_first_run(tmp_path: Path, environment: dict[str, str]) -> None:
    found = blocks(PAGE.read_text(encoding="utf-8"))
    assert len(found) >= 10
    steps = [f"echo '--- line {line}' >&2\n{commands}\n" for line, commands in found]
    work = tmp_path / "work"
    work.mkdir()
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "".join(steps)],
        cwd=work, env=environment, timeout=300, check=False, preexec_fn=use_one_core,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8",
    )  # fmt: skip
    assert result.returncode == 0, result.stdout
    assert "the same completions" in result.stdout
    assert "the same weights" in result.stdout
    config = re.search(r"^```\n(model = .*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    assert config is not None
    assert config[1] in result.stdout  # the output that the page shows is the real one
    for name, rows in (("train", 160), ("validation", 40), ("test", 40)):
        assert len((work / f"{name}.jsonl").read_text().splitlines()) == rows
    reports = {p.parent.name: json.loads(p.read_text()) for p in work.glob("runs/*/report.json")}
    assert reports["dates"]["steps"] == reports["killed"]["steps"] == 12
    assert reports["dates"]["score"] == "mean reward"
    assert json.loads((work / "runs/dates/eval-test.json").read_text())["score"] == "accuracy"
    assert reports["stopped"]["stopped"] == "stop requested"
    assert (work / "word-problems-adapter" / "adapter_config.json").is_file()
    assert (work / "word-problems-model" / "model.safetensors").is_file()
