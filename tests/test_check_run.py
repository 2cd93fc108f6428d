"""A check as a whole: what it reads, where it stops, and what it says of the machine."""

import json
from pathlib import Path

import pytest

from toy import SETTINGS
from tunestone.check.findings import CheckReport
from tunestone.check.memory import available_mib, peak_mib
from tunestone.check.run import CheckTask, run_check
from tunestone.config import resolve

MIB = 1 << 20
LATIN_1 = '''# -*- coding: latin-1 -*-
def echo(prompt, completion, row):
    """Für 'ANSWER: x', as people in München write it."""
    return float(completion == "ANSWER: " + row["reference_answer"])
'''


def rows(count: int, *, start: int = 0, same: bool = False) -> list[dict]:
    return [
        {
            "id": f"row-{i}",
            "messages": [{"role": "user", "content": f"Say {0 if same else i * i} to them"}],
            "reference_answer": str(i),
        }
        for i in range(start, start + count)
    ]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a reward in latin-1, entered."""
    (tmp_path / "reward.py").write_text(LATIN_1, encoding="latin-1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def look(model: Path, data: list[dict], **settings) -> tuple[CheckReport, str, list[str]]:
    """Check this data; the report, the config and what was said."""
    write(Path("train.jsonl"), data)
    toy = {k: v for k, v in SETTINGS.items() if k != "max_steps"}
    given = {"data": "train.jsonl", "model": str(model), "reward": "reward.py:echo"}
    given |= {**toy, "group_size": 2, **settings}
    config, _ = resolve(layers=[("test", given)])
    said: list[str] = []
    report, toml = run_check(CheckTask(config, given, 2, 2), said.append)
    return report, toml, said


def levels(report: CheckReport) -> dict[str, str]:
    return {finding.code: finding.level for finding in report.findings}


def names(report: CheckReport) -> list[str]:
    return [section.name for section in report.sections]


def test_all_rows_are_looked_at_and_the_split_only_trained_on(tiny_folder, folder):
    data = rows(100)
    data[7]["messages"] = data[60]["messages"]
    report, toml, said = look(tiny_folder, data, max_steps=1)
    assert names(report) == ["data", "reward", "signal", "plan"]
    found = levels(report)
    assert "too_few_rows" not in found  # 100 are enough, though 10 are split off
    assert found["few_rows"] == "advice"
    assert found["no_validation_rows"] == "advice"
    assert found["duplicate_prompts"] == "warning"  # whichever side of the split they are on
    # The file is latin-1, which it says; its marker is read all the same.
    assert found["marker_not_asked_for"] == "warning"
    assert toml
    assert report.subject["sandbox"]
    assert f"Sandbox for reward code: {report.subject['sandbox']}." in said
    assert "Drawing 2 completions of each of 2 prompts ..." in said


@pytest.mark.parametrize(
    ("data", "heldout", "code"),
    [
        (rows(12), {"validation": rows(3, start=10)}, "validation_leak"),
        (rows(12), {"test": rows(1)}, "test_leak"),
        (
            rows(12),
            {"validation": rows(2, start=20), "test": rows(2, start=21)},
            "validation_test_overlap",
        ),
        (rows(12, same=True), {}, "nothing_to_validate_on"),
        (rows(1), {}, "nothing_to_validate_on"),
    ],
)
def test_data_that_rules_training_out_is_reported_alone(tiny_folder, folder, data, heldout, code):
    for name, part in heldout.items():
        write(folder / f"{name}.jsonl", part)
    report, toml, said = look(tiny_folder, data, **{name: f"{name}.jsonl" for name in heldout})
    assert names(report) == ["data"]
    assert levels(report)[code] == "fatal"
    assert toml == ""
    assert not any("Drawing" in line for line in said)


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"max_prompt_tokens": 2}, "no_prompt_fits"),
        ({"max_completion_tokens": 100_000}, "context_too_short"),
    ],
)
def test_what_does_not_fit_is_reported_before_anything_is_drawn(
    tiny_folder, folder, settings, code
):
    report, toml, said = look(tiny_folder, rows(12), **settings)
    assert names(report) == ["data", "plan"]
    assert levels(report)[code] == "fatal"
    assert toml == ""
    assert not any("Drawing" in line for line in said)


def test_failures_on_the_models_completions_are_fatal(tiny_folder, folder):
    reward = "def short(prompt, completion, row):\n    assert completion in TRIED\n    return 0.0\n"
    (folder / "reward.py").write_text(f"TRIED = ('', '1')\n{reward}")
    report, _, _ = look(tiny_folder, rows(12), reward="reward.py:short", max_steps=1)
    found = levels(report)
    assert found["not_graded"] == "fatal"
    assert found["reward_errors"] == "fatal"
    assert "no_signal" not in found


class ScriptedGpu:
    """A GPU of 1,000 MiB: 400 free, 250 held by this process, 600 at its peak."""

    def max_memory_allocated(self) -> int:
        return 600 * MIB

    def memory_reserved(self) -> int:
        return 250 * MIB

    def mem_get_info(self) -> tuple[int, int]:
        return 400 * MIB, 1_000 * MIB


def test_on_a_gpu_its_memory_counts():
    assert peak_mib(ScriptedGpu()) == 600
    assert available_mib(ScriptedGpu()) == 650  # what the check holds, it gives back


def test_without_a_gpu_the_process_counts():
    # A Python process with torch takes more than 50 MiB, and less than a TiB.
    assert 50 < peak_mib(None) < MIB
    free = available_mib(None)
    assert free is None or 1 < free < 1e9
