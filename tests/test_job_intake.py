"""A job that cannot be run says so before it is queued, in the client's own words."""

import csv
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from job_bench import Bench, rows
from tunestone.jobs.intake import count_rows, public, shorten
from tunestone.jobs.job import DataSource, StateError
from tunestone.runlog import read_json


@pytest.fixture
def bench(tmp_path: Path, tiny_folder: Path) -> Iterator[Bench]:
    made = Bench(tmp_path, tiny_folder, jobs_at_once=1)
    made.supervisor.start()
    yield made
    made.supervisor.shutdown()


def refused(bench: Bench, **plan: Any) -> dict[str, Any]:
    """The error of a job that is refused."""
    job_id = bench.add_job(**plan)
    job = bench.wait(job_id)
    assert job.state == "failed"
    assert job.phases["validation"]["status"] == "Failed"
    assert job.phases["training"]["status"] == "NotStarted"
    assert str(bench.folder) not in job.error["message"]
    assert bench.messages(job_id)[-1] == job.error["message"]
    return job.error


def test_a_bad_row_is_named_with_file_and_line(bench: Bench) -> None:
    lines = [*rows("t", 0, 3), '{"messages": "hello"}', "{broken"]
    error = refused(bench, training=bench.add_file(lines, "mine.jsonl"), output="s3://shelf/out")
    assert error["code"] == "data_error"
    assert error["param"] == "training_file"
    assert error["message"].startswith(
        "2 of 5 rows are unusable; the first: mine.jsonl:4: `messages` is a string"
    )
    (manifest,) = bench.shelf.folder.rglob("input_status/manifest.report.csv")
    with manifest.open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["fileName"], row["acceptedRecordCount"]) == ("mine.jsonl", "3")
    assert row["rejectedRecordCount"] == "2"


def test_an_object_keeps_its_address_in_messages(bench: Bench) -> None:
    bench.shelf.folder.mkdir()
    (bench.shelf.folder / "d.jsonl").write_text("[]\n")
    error = refused(bench, training=DataSource("s3", "s3://shelf/d.jsonl"))
    assert error["message"].startswith("s3://shelf/d.jsonl:1: the file holds a JSON array")
    error = refused(bench, training=DataSource("s3", "s3://shelf/gone.jsonl"))
    assert "There is no object s3://shelf/gone.jsonl" in error["message"]


def test_too_few_and_too_many_rows(bench: Bench) -> None:
    error = refused(bench, least_rows=100)
    assert error["code"] == "invalid_number_of_rows"
    assert error["message"] == "train.jsonl has 12 rows; at least 100 are needed."
    error = refused(bench, most_rows=10)
    assert error["message"] == "train.jsonl has 12 rows; at most 10 are allowed."
    held = bench.add_file(rows("v", 20, 5), "held.jsonl")
    error = refused(bench, validation=(held,), most_validation_rows=4)
    assert error["message"] == "held.jsonl has 5 rows; at most 4 are allowed."
    assert error["param"] == "validation_file"


def test_validation_prompts_that_are_trained_on(bench: Bench) -> None:
    held = bench.add_file(rows("v", 10, 3), "held.jsonl")
    error = refused(bench, validation=(held,))
    assert error["message"].startswith(
        "2 prompts of held.jsonl are also in train.jsonl, 'v-10' (there 'train-10') among them"
    )


def test_an_output_that_may_not_be_written(bench: Bench) -> None:
    bench.shelf.open_for_writing = False
    error = refused(bench, output="s3://shelf/out")
    assert error["message"] == "s3://shelf/out: access denied (s3:PutObject)."
    assert error["param"] == "output_data_config"


def test_settings_that_cannot_be(bench: Bench) -> None:
    error = refused(bench, settings={"group_size": 1})
    assert error["code"] == "config_error"
    assert "group_size = 1" in error["message"]


def test_a_start_model_that_is_gone(bench: Bench) -> None:
    error = refused(bench, model="ft:o4-mini:org::gone", start="goneGONEgone")
    assert error == {
        "code": "model_not_found",
        "message": "The model ft:o4-mini:org::gone is gone.",
        "param": "model",
    }


def test_the_safety_hook_decides(tmp_path: Path, tiny_folder: Path) -> None:
    hook = tmp_path / "hook.py"
    hook.write_text(
        "import sys\ntext = open(sys.argv[1]).read()\nprint('looked at it')\n"
        "sys.exit('a forbidden word' if 'Say 3' in text else 0)\n"
    )
    bench = Bench(tmp_path, tiny_folder, safety_hook=f"{sys.executable} {hook}")
    bench.supervisor.start()
    error = refused(bench)
    assert error["code"] == "moderation_refused"
    assert "refused train.jsonl: looked at it\na forbidden word" in error["message"]
    clean = bench.add_job(training=bench.add_file(rows("t", 40, 12)))
    bench.wait(clean, lambda job: job.state != "validating")
    checks = [event for event in bench.events(clean) if event.type == "moderation_checks"]
    assert [event.data["blocked"] for event in checks] == [False]
    bench.supervisor.stop(clean)
    bench.wait(clean)
    bench.supervisor.shutdown()


class LateStore:
    """A database during whose first transaction the work beside the supervisor comes to its end."""

    def __init__(self, bench: Bench, job_id: str) -> None:
        self._bench, self._job_id = bench, job_id

    @contextmanager
    def session(self) -> Iterator[Any]:
        with self._bench.store.session() as session:
            yield session
        self._bench.supervisor._busy.discard(self._job_id)


def test_a_job_is_taken_in_once(tmp_path: Path, tiny_folder: Path) -> None:
    bench = Bench(tmp_path, tiny_folder)
    supervisor, job_id = bench.supervisor, bench.add_job()
    supervisor._busy.add(job_id)  # a thread is taking it in, and is done while the round looks
    supervisor._store = LateStore(bench, job_id)
    supervisor._round()
    supervisor.shutdown()
    assert bench.job(job_id).phases == {}
    supervisor._store = bench.store
    supervisor.stop(job_id)  # before any thread got to it
    supervisor._take_in(job_id)
    assert bench.job(job_id).phases["validation"]["status"] == "NotStarted"
    assert not (bench.folder / "jobs" / job_id).exists()


def test_how_many_logged_calls_were_left_out_is_told(bench: Bench) -> None:
    records = [
        {
            "schemaType": "ModelInvocationLog",
            "requestId": f"call-{i}",
            "requestMetadata": {"team": "red" if i else "blue"},
            "input": {"inputBodyJson": {"prompt": f"Say {i}"}},
        }
        for i in range(12)
    ]
    log = bench.shelf.path("s3://shelf/logs/a.json")
    log.parent.mkdir(parents=True)
    log.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    source = DataSource("logs", "s3://shelf/logs/", filters={"equals": {"team": "red"}})
    left_out = "1 of 12 logged calls were left out: by the filters."
    error = refused(bench, training=source, least_rows=12, output="s3://shelf/out")
    assert error["message"] == (f"s3://shelf/logs/ has 11 rows; at least 12 are needed. {left_out}")
    (manifest,) = bench.shelf.path("s3://shelf/out").glob("*/input_status/manifest.report.csv")
    assert manifest.read_text().splitlines()[1] == "logs,11,11,0,0"
    job_id = bench.add_job(training=source)
    bench.wait(job_id, lambda job: job.state != "validating")
    bench.supervisor.stop(job_id)
    (told,) = [event for event in bench.events(job_id) if event.key == "left_out:0"]
    assert (told.level, told.message) == ("warn", left_out)


def test_ids_of_several_validators_are_kept_apart(bench: Bench) -> None:
    held = [bench.add_file(rows("v", first, 2), "held.jsonl") for first in (20, 30)]
    same = [{**row, "id": f"v-{n + 20}"} for n, row in enumerate(rows("w", 40, 2))]
    job_id = bench.add_job(validation=(*held, bench.add_file(same, "third.jsonl")))
    bench.wait(job_id, lambda job: job.state != "validating")
    bench.supervisor.stop(job_id)
    owners = read_json(bench.folder / "jobs" / job_id / "input" / "validators.json")
    assert owners == {
        "v-20": 0,
        "v-21": 0,
        "v-30": 1,
        "v-31": 1,
        "v-20-validator-3": 2,
        "v-21-validator-3": 2,
    }


def test_pause_needs_a_job_that_can_rest(bench: Bench) -> None:
    first = bench.add_job(settings={"max_steps": 500, "patience": 0})
    bench.wait(first, lambda job: job.state == "running")
    second = bench.add_job()
    bench.wait(second, lambda job: job.state == "queued")
    bench.supervisor.pause(second)
    assert bench.job(second).state == "paused"
    with pytest.raises(StateError, match="only a paused job can be resumed"):
        bench.supervisor.resume(first)
    bench.supervisor.resume(second)
    assert bench.job(second).state == "queued"
    bench.supervisor.stop(second)
    bench.supervisor.stop(first)
    with pytest.raises(StateError, match="There is no job nobody"):
        bench.supervisor.stop("nobody")


def test_unusable_rows_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    good = b'{"id": "a", "messages": [{"role": "user", "content": "x"}]}\n'
    path.write_bytes(good + b"\n" + b"\xff\n" + b"{}\n")
    total, rejected, fault = count_rows(path)
    assert (total, rejected, fault.line) == (3, 2, 3)
    path.write_bytes(good * 2)
    total, rejected, fault = count_rows(path)
    assert (total, rejected) == (2, 1)
    assert "already used on line 1" in fault.message
    path.write_bytes(b"")
    total, rejected, fault = count_rows(path)
    assert total == 0
    assert "the file is empty" in fault.message


def test_messages_show_no_path_of_the_server(tmp_path: Path) -> None:
    lines = (
        f"{tmp_path}/input/train.jsonl:3: broken; see {tmp_path}/trainer.log\n"
        '  File "/tmp/tunestone-lambda-ab12/pack/reward.py", line 1'
    )
    assert public(lines, tmp_path, {"train.jsonl": "mine.jsonl"}) == (
        'mine.jsonl:3: broken; see trainer.log\n  File "/var/task/pack/reward.py", line 1'
    )


def test_long_messages_keep_both_ends() -> None:
    text = "head" + "x" * 5000 + "tail"
    short = shorten(text)
    assert len(short) <= 2048
    assert short.startswith("head")
    assert short.endswith("tail")
    assert shorten("short") == "short"
