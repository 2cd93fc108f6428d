"""Nothing is lost: a run that is killed anywhere ends with the same bits."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from toy import run_to_end, toy_run, without_times
from tunestone.core.checkpoint import load_checkpoint, newest_checkpoint
from tunestone.errors import RunError, StorageError
from tunestone.runlog import RunFolder, checkpoint_path, checkpoint_steps, read_lines

HERE = Path(__file__).parent


@pytest.mark.parametrize(("lora_rank", "kills"), [(0, 8), (4, 6)])
def test_killed_runs_end_with_the_same_bits(tmp_path: Path, lora_rank: int, kills: int) -> None:
    command = [sys.executable, "killer.py", str(tmp_path), str(kills), str(lora_rank), "7"]
    result = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    # A session can end just before its kill; most must not, or nothing was tested.
    assert json.loads(result.stdout)["kills"] >= kills - 2

    whole, killed = (RunFolder(tmp_path / n / "run") for n in ("undisturbed", "killed"))
    steps = read_lines(whole.metrics)
    assert [record["step"] for record in steps] == list(range(1, 13))
    assert list(map(without_times, read_lines(killed.metrics))) == list(map(without_times, steps))
    assert killed.samples.read_bytes() == whole.samples.read_bytes()
    assert_same_weights(killed.adapter, whole.adapter)
    assert_same_weights(
        checkpoint_path(killed.checkpoints, 12), checkpoint_path(whole.checkpoints, 12)
    )
    for key in ("base", "tuned", "difference", "p_value", "best_step"):
        assert killed.report()[key] == whole.report()[key]
    assert not list(killed.checkpoints.glob(".writing-*"))


def assert_same_weights(left: Path, right: Path) -> None:
    """Every safetensors file of both folders, bit for bit."""
    names = sorted(path.name for path in left.glob("*.safetensors"))
    assert names == sorted(path.name for path in right.glob("*.safetensors"))
    assert names
    for name in names:
        ours, theirs = load_file(left / name), load_file(right / name)
        assert ours.keys() == theirs.keys()
        assert all(ours[key].equal(theirs[key]) for key in ours)


def test_a_damaged_checkpoint_is_never_picked_up(tmp_path: Path, tiny_folder: Path) -> None:
    run = toy_run(tmp_path, tiny_folder, max_steps=4)
    run_to_end(run)
    newest = newest_checkpoint(run.checkpoints)
    assert newest is not None
    assert newest.step == 4
    tensors = checkpoint_path(run.checkpoints, 4) / "tensors.safetensors"
    data = bytearray(tensors.read_bytes())
    data[-1] ^= 1
    tensors.write_bytes(data)
    assert load_checkpoint(run.checkpoints, 4) is None
    older = newest_checkpoint(run.checkpoints)
    assert older is None or older.step < 4


def test_full_disk_is_a_clear_error_and_the_last_checkpoint_stays_good(
    tmp_path: Path, tiny_folder: Path
) -> None:
    """A file-size limit stands for the full disk: writing fails in the middle of a file."""
    run = toy_run(tmp_path, tiny_folder, max_steps=6)
    size = 0

    def fill_disk_after_step_3(record: dict[str, object]) -> None:
        nonlocal size
        if record["step"] == 3:
            size = (checkpoint_path(run.checkpoints, 2) / "tensors.safetensors").stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, resource.RLIM_INFINITY))

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(StorageError, match=r"step-000004.*(full|too large)"):
            run_to_end(run, step=fill_disk_after_step_3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert checkpoint_steps(run.checkpoints)[-1] == 2
    assert newest_checkpoint(run.checkpoints).step == 2
    assert run_to_end(run)["steps"] == 6
    assert [record["step"] for record in read_lines(run.metrics)] == [1, 2, 3, 4, 5, 6]


def test_early_stopping_stands_when_the_run_is_killed_before_its_report(
    tmp_path: Path, tiny_folder: Path
) -> None:
    settings = {"reward": "constant", "max_steps": 9, "eval_every": 1, "patience": 3}
    run = toy_run(tmp_path, tiny_folder, **settings)
    report = run_to_end(run)
    (run.path / "report.json").unlink()
    again = run_to_end(run)
    assert (
        (again["steps"], again["stopped"])
        == (report["steps"], report["stopped"])
        == (
            3,
            "no better validation reward in 3 validations",
        )
    )


def test_a_run_stopped_on_request_goes_on_when_resumed(tmp_path: Path, tiny_folder: Path) -> None:
    run = toy_run(tmp_path, tiny_folder, max_steps=4)
    stopped = run_to_end(run, stop_requested=lambda: True)
    assert (stopped["steps"], stopped["stopped"]) == (1, "stop requested")
    assert run_to_end(run)["steps"] == 4
    undisturbed = toy_run(tmp_path / "other", tiny_folder, max_steps=4)
    run_to_end(undisturbed)
    assert_same_weights(run.adapter, undisturbed.adapter)


def test_a_damaged_best_checkpoint_is_said(tmp_path: Path, tiny_folder: Path) -> None:
    run = toy_run(tmp_path, tiny_folder, reward="constant", max_steps=2)
    run_to_end(run)  # nothing beats the base: step 0 is the best
    (checkpoint_path(run.checkpoints, 0) / "tensors.safetensors").write_bytes(b"")
    assert run_to_end(run)["best_step"] == 2
    kinds = [event["kind"] for event in read_lines(run.events)]
    assert "checkpoint_damaged" in kinds


def test_a_mended_reward_is_never_compared_with_the_old_one(
    tmp_path: Path, tiny_folder: Path
) -> None:
    """The base scored 0 under the old reward; under the new one both score the same."""
    run = toy_run(tmp_path, tiny_folder, max_steps=2, reward="constant")
    reward = tmp_path / "reward.py"
    text = reward.read_text()
    assert "return 1.0" in text
    reward.write_text(text.replace("    return 1.0", "    return 0.0"))
    assert run_to_end(run)["base"]["accuracy"] == 0.0
    reward.write_text(text)
    report = run_to_end(run)
    assert report["base"]["accuracy"] == report["tuned"]["accuracy"] == 1.0
    assert report["relative_gain"] == 0.0
    newest = newest_checkpoint(run.checkpoints)
    assert newest is not None
    assert newest.state["loop"]["watched_from"] == 2
    run_to_end(run)
    assert [event["kind"] for event in read_lines(run.events)].count("reward_changed") == 1


def test_a_full_disk_while_the_result_is_written(tmp_path: Path, tiny_folder: Path) -> None:
    run = toy_run(tmp_path, tiny_folder, max_steps=2)
    run_to_end(run)
    result = (run.adapter / "model.safetensors").read_bytes()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(result) // 2, resource.RLIM_INFINITY))
        with pytest.raises(StorageError, match=r"Could not write .*adapter"):
            run_to_end(run)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (run.adapter / "model.safetensors").read_bytes() == result
    assert not list(run.path.glob(".writing-*"))


def test_changed_data_is_refused(tmp_path: Path, tiny_folder: Path) -> None:
    run = toy_run(tmp_path, tiny_folder, max_steps=2)
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write('{"messages": [{"role": "user", "content": "new"}]}\n')
    with pytest.raises(RunError, match=r"The data file .*train.jsonl' has changed"):
        run_to_end(run)


def test_two_processes_cannot_train_the_same_run(tmp_path: Path, tiny_folder: Path) -> None:
    run = toy_run(tmp_path, tiny_folder, max_steps=2)
    with run.locked(), pytest.raises(RunError, match="Another process is training"):
        run_to_end(RunFolder(run.path))


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path, tiny_folder: Path) -> None:
    run = toy_run(tmp_path, tiny_folder, max_steps=3)
    first = run_to_end(run)
    logs = run.metrics.read_bytes(), run.samples.read_bytes()
    again = run_to_end(run)
    assert (run.metrics.read_bytes(), run.samples.read_bytes()) == logs
    assert again["tuned"] == first["tuned"]
