"""The run folder: what is written is whole, one process writes, a full disk breaks nothing."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tunestone.errors import RunError, StorageError
from tunestone.runlog import RunFolder, append_lines, read_lines, storage_errors, write_json


@pytest.fixture
def run(tmp_path):
    """A run folder that has its config."""
    folder = RunFolder.create(tmp_path / "run")
    folder.write_config({"seed": 3})
    return folder


def child(source, *arguments):
    """Run Python source in a process of its own."""
    command = [sys.executable, "-c", source, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30)


# --- the folder -----------------------------------------------------------------------------


def test_a_created_run_can_be_opened(run):
    opened = RunFolder.open(run.path)
    assert opened.config() == {"seed": 3}
    assert opened.report() is None
    assert opened.checkpoints.is_dir()
    assert read_lines(opened.metrics) == []


def test_an_empty_folder_may_become_a_run(tmp_path):
    assert RunFolder.create(tmp_path).path == tmp_path


def test_a_place_that_is_taken_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(RunError) as caught:
        RunFolder.create(tmp_path)
    assert caught.value.message == f"'{tmp_path}' exists and is no run folder."
    assert caught.value.remedy == "Choose another with --out."
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_earlier_run_is_never_written_over(run):
    with pytest.raises(RunError) as caught:
        RunFolder.create(run.path)
    assert caught.value.message == f"The run folder '{run.path}' exists already."
    assert caught.value.remedy == "Continue it with --resume, or choose another with --out."


def test_a_folder_without_config_is_no_run(tmp_path):
    with pytest.raises(RunError) as caught:
        RunFolder.open(tmp_path)
    assert caught.value.message == f"'{tmp_path}' is not a run folder: it has no config.json."


def test_the_report_is_what_was_written(run):
    write_json(run.path / "report.json", {"gain": 0.25})
    assert run.report() == {"gain": 0.25}


def test_a_stop_file_is_noticed(run):
    assert not run.stop_requested()
    (run.path / "STOP").touch()
    assert run.stop_requested()


# --- the lock -------------------------------------------------------------------------------

HOLD = """
import pathlib, sys
from tunestone.errors import RunError
from tunestone.runlog import RunFolder
try:
    with RunFolder(pathlib.Path(sys.argv[1])).locked():
        print("held")
except RunError as error:
    print(error)
"""


def test_a_second_process_is_refused_until_the_first_is_done(run):
    with run.locked():
        refused = child(HOLD, run.path)
    assert refused.stdout.strip() == (
        f"Another process is training '{run.path}'. "
        f"Wait for it, or end it with: touch {run.path / 'STOP'}"
    )
    assert child(HOLD, run.path).stdout.strip() == "held"


def test_the_same_process_cannot_hold_it_twice(run):
    with (
        run.locked(),
        pytest.raises(RunError, match="Another process is training"),
        RunFolder.open(run.path).locked(),
    ):
        raise AssertionError("two holders")
    with run.locked():
        assert run.is_locked()
    assert not run.is_locked()


def test_an_error_gives_the_lock_back(run):
    with pytest.raises(KeyError), run.locked():
        raise KeyError("training failed")
    assert not run.is_locked()


def test_a_killed_process_gives_the_lock_back(run):
    source = HOLD.replace('print("held")', "import os; os.kill(os.getpid(), 9)")
    assert child(source, run.path).returncode == -9
    assert not run.is_locked()


# --- JSONL ----------------------------------------------------------------------------------


def test_records_are_read_back_as_written(tmp_path):
    log = tmp_path / "log.jsonl"
    records = [{"text": "a\nb\r\u2028\u0085 ü 🙂", "n": 1.5}, {"none": None, "list": [1]}]
    append_lines(log, records[:1])
    append_lines(log, records[1:])
    assert read_lines(log) == records
    assert log.read_bytes().count(b"\n") == 2


def test_a_log_that_is_not_there_is_empty(tmp_path):
    assert read_lines(tmp_path / "log.jsonl") == []


def test_a_last_line_that_is_half_written_is_left_out(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert read_lines(log) == [{"step": 1}, {"step": 2}]
    log.write_text('{"st')
    assert read_lines(log) == []


def test_a_last_line_that_ends_inside_a_character_is_left_out(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_bytes(b'{"step": 1}\n{"text": "\xc3')  # the first byte of a two-byte letter
    assert read_lines(log) == [{"step": 1}]


def test_an_event_after_a_crash_does_not_spoil_the_log(run):
    run.event("step", "one")
    with run.events.open("a") as file:
        file.write('{"time": "2026-01-')  # killed here
    run.drop_broken_lines()  # as every session does when it begins
    run.event("resume", "two")
    assert [event["kind"] for event in read_lines(run.events)] == ["step", "resume"]


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_json_is_refused_and_nothing_is_written(tmp_path, number):
    log, file = tmp_path / "log.jsonl", tmp_path / "a.json"
    append_lines(log, [{"loss": 1.0}])
    write_json(file, {"loss": 1.0})
    with pytest.raises(ValueError, match="Out of range float values are not JSON compliant"):
        append_lines(log, [{"loss": 2.0}, {"loss": number}])
    with pytest.raises(ValueError, match="Out of range float values are not JSON compliant"):
        write_json(file, {"loss": number})
    assert read_lines(log) == [{"loss": 1.0}]
    assert json.loads(file.read_text()) == {"loss": 1.0}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "log.jsonl"]


def test_event_times_are_utc(run):
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    run.event("step", "Step 1 done", step=1)
    (event,) = read_lines(run.events)
    time = datetime.fromisoformat(event.pop("time"))
    assert time.utcoffset() == timedelta(0)
    assert before <= time <= datetime.now(UTC)
    assert event == {"kind": "step", "message": "Step 1 done", "step": 1}


# --- cutting back ---------------------------------------------------------------------------


def test_step_logs_are_cut_back_to_what_a_checkpoint_remembers(run):
    append_lines(run.metrics, [{"step": 1}])
    remembered = run.lengths()
    # {"step": 1} and a newline are 12 bytes
    assert remembered == {"metrics.jsonl": 12, "samples.jsonl": 0, "validation.jsonl": 0}
    append_lines(run.metrics, [{"step": 2}, {"step": 3}])
    append_lines(run.samples, [{"step": 2}])
    run.event("step", "stays")
    with run.metrics.open("a") as file:
        file.write('{"half')
    run.cut_back(remembered)
    assert read_lines(run.metrics) == [{"step": 1}]
    assert run.metrics.stat().st_size == 12
    assert read_lines(run.samples) == []
    assert len(read_lines(run.events)) == 1
    append_lines(run.metrics, [{"step": 2}])
    assert read_lines(run.metrics) == [{"step": 1}, {"step": 2}]


def test_logs_that_are_not_there_need_no_cutting(run):
    run.cut_back({"metrics.jsonl": 12})
    assert not run.metrics.exists()


def test_cutting_back_never_lengthens(run):
    append_lines(run.metrics, [{"step": 1}])
    run.cut_back({"metrics.jsonl": 24})
    append_lines(run.metrics, [{"step": 3}])
    assert read_lines(run.metrics) == [{"step": 1}, {"step": 3}]


# --- a full disk ----------------------------------------------------------------------------

# No file of the child may grow beyond 4,096 bytes: what writes then fail with is what a full disk
# gives, an OSError in the middle of the file.
FULL_DISK = """
import pathlib, resource, sys
from tunestone.errors import StorageError
from tunestone.runlog import append_lines, write_json
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
write, path = {"json": write_json, "lines": append_lines}[sys.argv[1]], pathlib.Path(sys.argv[2])
record = {"text": "x" * 100_000}
try:
    write(path, record if sys.argv[1] == "json" else [record])
except StorageError as error:
    print(error)
"""


def full_disk_message(path):
    return (
        f"Could not write '{path}': the disk (or the quota) is full. "
        "What was written before is intact. Make room or allow writing, then --resume."
    )


def test_a_full_disk_leaves_the_old_json_file_whole(tmp_path):
    path = tmp_path / "report.json"
    write_json(path, {"old": True})
    result = child(FULL_DISK, "json", path)
    assert result.stdout.strip() == full_disk_message(path), result.stderr
    assert json.loads(path.read_text()) == {"old": True}
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]  # no temporary file is left


def test_a_full_disk_leaves_the_old_lines_readable(tmp_path):
    path = tmp_path / "log.jsonl"
    append_lines(path, [{"step": 1}])
    result = child(FULL_DISK, "lines", path)
    assert result.stdout.strip() == full_disk_message(path), result.stderr
    assert read_lines(path) == [{"step": 1}]


def test_a_json_file_is_replaced_not_overwritten(tmp_path):
    path = tmp_path / "report.json"
    write_json(path, {"old": "x" * 100_000})
    with path.open() as reader:  # a reader that began before sees the old one to its end
        start = reader.read(10)
        write_json(path, {"new": True})
        assert json.loads(start + reader.read()) == {"old": "x" * 100_000}
    assert json.loads(path.read_text()) == {"new": True}
    assert path.read_text().endswith("}\n")


def test_a_refused_write_is_a_storage_error():
    with (
        pytest.raises(StorageError, match=r"Could not write 'a/b': Permission denied\."),
        storage_errors(Path("a/b")),
    ):
        raise PermissionError(13, "Permission denied")


def test_a_failure_that_is_no_write_stays_what_it_is():
    with pytest.raises(ZeroDivisionError), storage_errors(Path("a")):
        print(1 / 0)
