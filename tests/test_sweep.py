"""`tunestone sweep`: points trained side by side, their numbers, table and plot."""

import json
import os
import signal
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from toy import toy_run
from tunestone.cli import app, main
from tunestone.config import TrainConfig, resolve
from tunestone.errors import ModelError, RunError
from tunestone.reports.sweep import notes, render_markdown, table
from tunestone.reports.sweep_plot import draw, positions, ticks
from tunestone.runlog import RunFolder, append_lines, read_json, read_lines, write_json
from tunestone.stats import mean_interval
from tunestone.sweeps import (
    Plan,
    Point,
    combine,
    format_value,
    make_point,
    parse_vary,
    run_path,
    summarise,
)

SMALL = {
    "max_steps": 2,
    "eval_every": 1,
    "group_size": 4,
    "max_completion_tokens": 6,
    "lora_rank": 0,
    "warmup_steps": 0,
    "test_samples": 0,
    "threads": 1,
}
SVG = "{http://www.w3.org/2000/svg}"


def invoke(*arguments: str | Path) -> Result:
    """Run a command in this process; errors meant for a person are raised."""
    return CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)


def toy_options(folder: Path, model: Path, **settings: Any) -> list[str | Path]:
    """What the toy task is called by, with settings as `--set`."""
    config = toy_run(folder / "toy", model).config()["config"]
    given = {**SMALL, "validation": config["validation"], "test": config["test"], **settings}
    sets = [part for key, value in given.items() for part in ("--set", f"{key}={value}")]
    return ["--model", model, "--data", config["data"], "--reward", config["reward"], *sets]


def write_finished(
    path: Path, *, tuned: float, base: float = 0.2, score: str = "accuracy", alerts: int = 0
) -> None:
    """A run folder with as much of a result as a sweep reads."""
    run = RunFolder.create(path)
    write_json(path / "tuned.json", {"rewards": [1.0, 1.0, 0.0, 0.0]})
    for step in range(1, alerts + 1):
        run.event("alert", "Entropy is low.", code="entropy_collapse", step=step)
    report = {
        "score": score,
        "base": {"accuracy": base},
        "tuned": {"accuracy": tuned},
        "difference": tuned - base,
        "difference_ci95": [0.0, 0.5],
        "seconds": {
            "prepare": 1.0,
            "base": 9.0,
            "train": 100.0,
            "tuned": 10.0,
            "train_learn": 60.0,
        },
    }
    write_json(path / "report.json", report)


def plan_of(*, grid: bool = False, seeds: tuple[int, ...] = (0,), **varied: list[Any]) -> Plan:
    """A plan around the default settings."""
    rest = TrainConfig()
    points = [
        make_point(resolve(layers=[("test", changed)])[0], rest, list(varied))
        for changed in combine(varied, grid=grid)
    ]
    unique = tuple({point.name: point for point in points}.values())
    return Plan("toy", {"recipe": "", **rest.model_dump(mode="json")}, unique, seeds)


def finish_all(plan: Plan, folder: Path, *, tuned: float = 0.5) -> dict[str, Any]:
    """The record of a plan all of whose runs came to the same."""
    for point in plan.points:
        for seed in plan.seeds:
            write_finished(run_path(folder, point, seed), tuned=tuned)
    return summarise(plan, folder)


def test_two_values_are_trained_and_compared(tmp_path: Path, tiny_folder: Path) -> None:
    out = tmp_path / "sweep"
    command = ("sweep", *toy_options(tmp_path, tiny_folder), "--out", out)
    result = invoke(*command, "--vary", "learning_rate=1e-3,1e-2")
    assert result.exit_code == 0
    assert "2 points x 1 seeds = 2 runs" in result.output
    for number, rate in ((1, "1e-3"), (2, "0.01")):
        assert f"{number}/2 learning_rate={rate}, seed 0: " in result.output
        run = RunFolder.open(out / f"learning_rate={rate},seed=0")
        assert run.config()["config"]["learning_rate"] == float(rate)
        assert run.config()["config"]["seed"] == 0
        point = read_json(out / "sweep.json")["points"][number - 1]
        report = run.report()
        assert point["tuned"] == report["tuned"]["accuracy"]
        assert point["difference"] == report["difference"]
        rewards = read_json(run.path / "tuned.json")["rewards"]
        assert point["tuned_ci95"] == list(mean_interval(rewards))
    bases = {point["base"] for point in read_json(out / "sweep.json")["points"]}
    assert len(bases) == 1
    assert "| learning\\_rate=1e-3 | 1 of 1 |" in (out / "sweep.md").read_text()
    assert (out / "sweep.svg").read_text().startswith("<svg")

    before = {path: path.stat().st_mtime_ns for path in out.glob("*/*.jsonl")}
    again = invoke(*command, "--vary", "learning_rate=1e-3,1e-2,5e-3")
    assert "3 runs" in again.output
    assert "; 2 are done already." in again.output
    assert "1/1 learning_rate=5e-3, seed 0: " in again.output
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(read_json(out / "sweep.json")["points"]) == 3

    with pytest.raises(RunError, match="max_steps is 3 and was 2"):
        invoke(*command, "--set", "max_steps=3", "--vary", "learning_rate=1e-3,1e-2")


def interrupt_when(path: Path) -> threading.Thread:
    """Press Ctrl-C once as soon as there is such a file."""

    def press() -> None:
        deadline = time.monotonic() + 120
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press, daemon=True)
    thread.start()
    return thread


def test_a_sweep_that_was_interrupted_goes_on(tmp_path: Path, tiny_folder: Path) -> None:
    out = tmp_path / "sweep"
    options = toy_options(tmp_path, tiny_folder, max_steps=16, eval_every=8)
    command = ("sweep", *options, "--vary", "batch_size=2,3", "--out", out)
    first = RunFolder(out / "batch_size=2,seed=0")
    thread = interrupt_when(first.metrics)
    stopped = invoke(*command)
    thread.join()
    assert stopped.exit_code == 0
    assert "1/2 batch_size=2, seed 0: unfinished" in stopped.output
    assert "2 of 2 runs are not finished: the same command goes on" in stopped.output
    assert len(read_lines(first.metrics)) < 16
    assert not (out / "batch_size=3,seed=0").exists()
    went_on = invoke(*command)
    assert "2 of 2" not in went_on.output
    for size in (2, 3):
        run = RunFolder(out / f"batch_size={size},seed=0")
        assert [line["step"] for line in read_lines(run.metrics)] == list(range(1, 17))
    kinds = [event["kind"] for event in read_lines(first.events)]
    assert "resumed" in kinds


def test_a_run_that_diverges_does_not_end_the_sweep(tmp_path: Path, tiny_folder: Path) -> None:
    """Rewards near the largest float32, not divided by their deviation: the gradient overflows."""
    options = toy_options(tmp_path, tiny_folder, algorithm="dr_grpo")
    reward = tmp_path / "huge.py"
    reward.write_text("def huge(p, completion, row):\n    return 8e37 * (len(completion) % 2)\n")
    options[options.index("--reward") + 1] = f"{reward}:huge"
    command = ("sweep", *options, "--vary", "learning_rate=1e-3,1e-2", "--out", tmp_path / "out")
    result = invoke(*command)
    assert result.exit_code == 0
    assert "2/2 learning_rate=0.01, seed 0: diverged" in result.output
    points = read_json(tmp_path / "out" / "sweep.json")["points"]
    assert [point["runs"][0]["state"] for point in points] == ["diverged", "diverged"]
    assert "2 are done already" in invoke(*command).output


def test_a_model_that_is_refused_leaves_no_run(tmp_path: Path, tiny_folder: Path) -> None:
    out = tmp_path / "out"
    options = toy_options(tmp_path, tiny_folder)
    wrong = [tmp_path / "typo" if part == tiny_folder else part for part in options]
    with pytest.raises(ModelError, match="There is no model folder"):
        invoke("sweep", *wrong, "--vary", "learning_rate=1e-3,1e-2", "--out", out)
    assert not list(out.glob("*/"))
    assert (
        invoke("sweep", *options, "--vary", "learning_rate=1e-3,1e-2", "--out", out).exit_code == 0
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--vary", "learning_rat=1e-5,1e-4"], "Did you mean 'learning_rate'?"),
        (["--vary", "learning_rate=1e-4,7"], "learning_rate = 7 (command line): Input should be"),
        (["--vary", "learning_rate=1e-4,1e-3", "--set", "learning_rate=1e-4"], "set and varied"),
        (["--vary", "group_size=4,8", "--vary", "group_size=2,16"], "varied twice"),
        (["--vary", "model=a,b", "--model", "c"], "'model' is both set and varied"),
        (["--vary", "learning_rate="], "names 0 values"),
        (["--vary", "learning_rate=1e-4"], "names 1 value, and"),
        (["--vary", "temperature=1,1.0"], "names 2 values, and a sweep compares two or more that"),
        (["--vary", "algorithm=grpo,,dapo"], "has an empty value"),
        (["--vary", "group_size"], "not of the form"),
        ([], "There is nothing to vary."),
        (["--vary", "reward=number,choice"], "decides what is measured"),
        (["--vary", "data=a.jsonl,b.jsonl"], "--set test=FILE"),
        (["--vary", "seed=0,1"], "Use --seeds 0,1,2."),
        (["--vary", "group_size=4,8", "--set", "seed=1"], "Use --seeds 0,1,2."),
        (["--vary", "group_size=4,8", "--seeds", "0,x"], "is not a list of whole numbers"),
        (
            ["--vary", "refill_limit=1,2", "--vary", "kl_coefficient=0.1,0.2", "--grid"],
            "refill_limit replaces groups",
        ),
    ],
)
def test_what_cannot_be_swept_is_refused(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["tunestone", "sweep", "word_problems", *arguments])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_values_are_read_as_settings_are() -> None:
    assert parse_vary("learning_rate=1e-5, 1e-4") == ("learning_rate", [1e-5, 1e-4])
    assert parse_vary("algorithm=grpo,dr_grpo") == ("algorithm", ["grpo", "dr_grpo"])
    assert parse_vary("mask_truncated=true,false") == ("mask_truncated", [True, False])
    written = [
        format_value(value) for value in (1e-5, 3e-4, 0.28, 1e20, 0.0, 8, True, "grpo", ["a"])
    ]
    assert written == ["1e-5", "3e-4", "0.28", "1e20", "0.0", "8", "true", "grpo", '["a"]']


def test_one_setting_is_varied_at_a_time_unless_all_are() -> None:
    """The defaults are learning_rate = 1e-4 and group_size = 8, a point of both lists."""
    varied = {"learning_rate": [1e-5, 1e-4], "group_size": [8, 16]}
    alone = plan_of(**varied).points
    assert [point.name for point in alone] == ["learning_rate=1e-5", "unchanged", "group_size=16"]
    assert alone[0].values == {"learning_rate": 1e-5, "group_size": 8}
    assert alone[0].changed == {"learning_rate": 1e-5}
    together = [point.name for point in plan_of(grid=True, **varied).points]
    assert together == [
        "learning_rate=1e-5", "learning_rate=1e-5,group_size=16", "unchanged", "group_size=16",
    ]  # fmt: skip


def test_run_folders_have_names_that_paths_can_have() -> None:
    odd = Point("model=../a b", {"model": "../a b"}, {"model": "../a b"})
    name = run_path(Path("out"), odd, 3).name
    assert name.startswith("model=.._a_b-")
    assert name.endswith(",seed=3")
    assert run_path(Path("out"), Point("model=.._a_b", {}, {}), 3).name == "model=.._a_b,seed=3"


def test_numbers_over_seeds(tmp_path: Path) -> None:
    """Tuned 0.5, 0.6, 0.7: mean 0.6, deviation 0.1, t(2) = 4.303: half 4.303 x 0.1 / 1.7321 =
    0.2484. Then 0.9 and 1.0: deviation 0.0707, t(1) = 12.706: half 0.635, cut at 1."""
    plan = plan_of(group_size=[4, 8, 16, 32], seeds=(0, 1, 2))
    four, eight, sixteen, _ = plan.points
    for seed, tuned in enumerate((0.5, 0.6, 0.7)):
        write_finished(run_path(tmp_path, four, seed), tuned=tuned, alerts=2 * seed)
    for seed, tuned in enumerate((0.9, 1.0)):
        write_finished(run_path(tmp_path, eight, seed), tuned=tuned)
    write_finished(run_path(tmp_path, sixteen, 0), tuned=0.5)
    diverged = RunFolder.create(run_path(tmp_path, sixteen, 1))
    append_lines(diverged.events, [{"kind": "note"}, {"kind": "diverged"}])
    record = summarise(plan, tmp_path)
    first, second, third, fourth = record["points"]
    assert first["base"] == pytest.approx(0.2)
    assert first["tuned"] == pytest.approx(0.6)
    assert first["tuned_ci95"] == pytest.approx((0.3516, 0.8484), abs=1e-4)
    assert first["difference_ci95"] == pytest.approx((0.1516, 0.6484), abs=1e-4)
    assert first["seconds"] == 120.0
    assert [run["alerts"] for run in first["runs"]] == [
        (),
        ("entropy_collapse",),
        ("entropy_collapse",),
    ]
    assert second["tuned_ci95"] == pytest.approx((0.3147, 1.0), abs=1e-3)
    assert third["tuned_ci95"] == pytest.approx((0.15, 0.85), abs=1e-3)  # Wilson's, 2 of 4
    assert [run["state"] for run in third["runs"]] == ["finished", "diverged", "unfinished"]
    assert fourth["tuned"] is fourth["tuned_ci95"] is None
    assert table(record).rows == [
        ("group_size=4", "3 of 3", "20.0 %", "60.0 % [35.2, 84.8]", "+40.0 [+15.2, +64.8]", "2.0",
         "entropy_collapse (2)"),
        ("unchanged", "2 of 3", "20.0 %", "95.0 % [31.5, 100.0]", "+75.0 [+11.5, +100.0]", "2.0",
         ""),
        ("group_size=16", "1 of 3", "20.0 %", "50.0 % [15.0, 85.0]", "+30.0 [+0.0, +50.0]", "2.0",
         "diverged (1)"),
        ("group_size=32", "0 of 3", "–", "–", "–", "–", ""),
    ]  # fmt: skip
    said = " ".join(notes(record))
    assert "Where a point does not say otherwise: group_size = 8." in said
    assert "The highest is unchanged. The best of 3 owes something to luck" in said
    assert "5 of 12 runs are not finished" in said  # one of 8, one of 16, three of 32
    json.dumps(record, allow_nan=False)


def test_values_stand_by_size_by_logarithm_or_side_by_side() -> None:
    assert positions([1e-5, 1e-4, 1e-3]) == pytest.approx([0, 0.5, 1])
    assert positions([4, 8, 16]) == pytest.approx([0, 1 / 3, 1])
    assert positions([0, 8, 32]) == pytest.approx([0, 0.25, 1])  # 0 has no logarithm
    assert positions(["grpo", "dapo", "cispo"]) == [0, 0.5, 1]
    assert positions([False, True]) == [0, 1]
    assert ticks(0.184, 0.61) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    assert ticks(-0.04, 0.03) == pytest.approx([-0.04, -0.02, 0, 0.02, 0.04])
    assert ticks(0.5, 0.5) == pytest.approx([0.5, 1.0])


def test_the_plot_stands_where_the_numbers_are(tmp_path: Path) -> None:
    """Scores 0 to 1 on 178 pixels above 212: 0.2 is at 212 - 35.6 = 176.4, the base of 0 at 212.
    From 1e-5 to 1e-3 on 280 pixels from 56: 1e-4 in the middle, 196."""
    plan = plan_of(learning_rate=[1e-5, 1e-4, 1e-3])
    for point, tuned in zip(plan.points, (0.0, 0.2, 1.0), strict=True):
        write_finished(run_path(tmp_path, point, 0), tuned=tuned, base=0.0)
    root = ElementTree.fromstring(draw(summarise(plan, tmp_path)))
    base, line = (element.get("points").split() for element in root.iter(f"{SVG}polyline"))
    assert base == ["56.0,212.0", "196.0,212.0", "336.0,212.0"]
    assert line == ["56.0,212.0", "196.0,176.4", "336.0,34.0"]
    labels = [element.text for element in root.iter(f"{SVG}text")]
    assert labels == ["learning_rate", "0 %", "50 %", "100 %", "1e-5", "1e-4", "1e-3", "base"]


def test_a_grid_has_a_line_for_each_other_value(tmp_path: Path) -> None:
    varied = {"learning_rate": [1e-5, 1e-4], "group_size": [8, 16]}
    alone = ElementTree.fromstring(draw(finish_all(plan_of(**varied), tmp_path)))
    assert len(list(alone.iter(f"{SVG}polyline"))) == 4  # base and tuned in two panels
    together = draw(finish_all(plan_of(grid=True, **varied), tmp_path / "grid"))
    assert len(list(ElementTree.fromstring(together).iter(f"{SVG}polyline"))) == 6
    assert "group_size=16" in together
    assert "learning_rate=1e-5" in together


def test_a_plot_of_nothing_and_of_signs_that_svg_reads_otherwise(tmp_path: Path) -> None:
    plan = plan_of(model=["<script>", "b"])
    assert ElementTree.fromstring(draw(summarise(plan, tmp_path))) is not None
    record = finish_all(plan, tmp_path)
    assert "<script>" not in draw(record)
    assert "<script>" not in render_markdown(record)
