"""Nothing that was begun is lost: trainers and servers are killed, jobs rest and go on."""

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

from job_bench import Bench
from test_resume import assert_same_weights
from toy import without_times
from tunestone.jobs import trainer
from tunestone.jobs.tables import Job
from tunestone.runlog import read_lines

HERE = Path(__file__).parent
SETTINGS = {"max_steps": 30, "eval_every": 10, "patience": 0}


def assert_same_run(bench: Bench, disturbed: str, undisturbed: str) -> None:
    """The same metrics, samples and weights, bit for bit, and each step told once."""
    ours, theirs = bench.run_folder(disturbed), bench.run_folder(undisturbed)
    lines = [list(map(without_times, read_lines(p / "metrics.jsonl"))) for p in (ours, theirs)]
    assert lines[0] == lines[1]
    for name in ("samples.jsonl", "validation.jsonl"):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes()
    assert_same_weights(ours / "adapter", theirs / "adapter")
    told = Counter(event.key for event in bench.events(disturbed))
    assert set(told.values()) == {1}
    assert [k for k in told if k.startswith("metrics:")] == [f"metrics:{n}" for n in range(1, 31)]


def after_step(step: int):
    """Whether a job has got further than `step`."""
    return lambda job: job.state == "running" and job.progress.get("step", 0) > step


def test_a_job_that_was_paused_and_killed_ends_with_the_same_bits(
    tmp_path: Path, tiny_folder: Path
) -> None:
    bench = Bench(tmp_path, tiny_folder)
    bench.supervisor.start()
    training = bench.add_file([{"messages": [{"role": "user", "content": c}]} for c in "abcdefgh"])
    disturbed = bench.add_job(training=training, settings=SETTINGS, reward="unhurried")
    bench.wait(disturbed, after_step(1))
    bench.supervisor.pause(disturbed)
    paused = bench.wait(disturbed, lambda job: job.state == "paused")
    assert paused.wish == ""
    assert not trainer.is_alive(bench.folder / "jobs" / disturbed)
    (checkpoint,) = bench.models(disturbed)  # what the pause kept can be asked
    assert (bench.folder / checkpoint.adapter / "adapter_model.safetensors").is_file()

    bench.supervisor.resume(disturbed)
    bench.wait(disturbed, after_step(paused.progress["step"]))
    mark = trainer.read_mark(bench.folder / "jobs" / disturbed)
    os.kill(mark["pid"], signal.SIGKILL)
    undisturbed = bench.add_job(training=training, settings=SETTINGS, reward="unhurried")
    for job_id in (disturbed, undisturbed):
        assert bench.wait(job_id).state == "succeeded"
    messages = bench.messages(disturbed)
    assert any(m.startswith("The trainer was ended by signal 9") for m in messages)
    assert sum(m == "The training goes on." for m in messages) == 2
    assert_same_run(bench, disturbed, undisturbed)
    bench.supervisor.shutdown()


def serve(bench: Bench) -> "subprocess.Popen[str]":
    """A server process over the bench's folder, ready."""
    command = [sys.executable, "job_server.py", str(bench.folder.parent), str(bench.model)]
    server = subprocess.Popen(command, cwd=HERE, stdout=subprocess.PIPE, text=True)
    assert server.stdout.readline() == "ready\n"
    return server


def test_the_server_is_killed_and_shut_down_in_the_middle_of_a_job(
    tmp_path: Path, tiny_folder: Path
) -> None:
    bench = Bench(tmp_path, tiny_folder)
    settings = {**SETTINGS, "max_steps": 60, "eval_every": 30}
    job_id = bench.add_job(settings=settings, reward="unhurried")
    waiting = bench.add_job(settings={"max_steps": 1})
    server = serve(bench)
    bench.wait(job_id, after_step(1))
    server.kill()
    server.wait()
    folder = bench.folder / "jobs" / job_id
    mark = trainer.read_mark(folder)
    assert trainer.is_alive(folder)  # it trains on by itself

    server = serve(bench)
    step = bench.job(job_id).progress["step"]
    bench.wait(job_id, after_step(step))
    assert trainer.read_mark(folder) == mark  # the same process, found again
    assert "The server is back; the training went on." in bench.messages(job_id)

    server.terminate()
    assert server.wait() == 0
    assert not trainer.is_alive(folder)
    assert bench.job(job_id).state == "queued"
    assert bench.messages(job_id)[-1].startswith("The server was shut down")

    bench.supervisor.start()
    job = bench.wait(job_id)
    assert (job.state, job.error) == ("succeeded", None)
    assert bench.wait(waiting).state == "succeeded"
    steps = [event.data["step"] for event in bench.events(job_id) if event.type == "metrics"]
    assert steps == list(range(1, 61))
    bench.supervisor.shutdown()


def test_a_job_whose_trainer_ended_while_no_server_looked_is_finished(
    tmp_path: Path, tiny_folder: Path
) -> None:
    bench = Bench(tmp_path, tiny_folder)
    job_id = bench.add_job(settings={"max_steps": 2})
    server = serve(bench)
    bench.wait(job_id, lambda job: bool(job.process))
    server.kill()
    server.wait()
    folder = bench.folder / "jobs" / job_id
    bench.wait(job_id, lambda job: not trainer.is_alive(folder))
    assert bench.job(job_id).state == "running"  # as far as anybody knows
    bench.supervisor.start()
    assert bench.wait(job_id).state == "succeeded"
    bench.supervisor.shutdown()


def test_a_trainer_that_is_gone_is_not_signalled(tmp_path: Path) -> None:
    """A process id that another process has by now: here our own, with another start time."""
    (tmp_path / "trainer.json").write_text(f'{{"pid": {os.getpid()}, "started": "1"}}')
    trainer.send_signal(tmp_path, signal.SIGKILL)
    assert not trainer.is_alive(tmp_path)


def test_a_wish_of_before_the_crash_is_kept(tmp_path: Path, tiny_folder: Path) -> None:
    """The server dies after it was told to stop a job whose trainer dies too."""
    bench = Bench(tmp_path, tiny_folder)
    job_id = bench.add_job()
    with bench.store.session() as session:
        job = session.get_one(Job, job_id)
        job.state, job.wish = "running", "stop"
    bench.supervisor.start()
    assert bench.wait(job_id).state == "stopped"
    bench.supervisor.shutdown()
