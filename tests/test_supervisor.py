"""Jobs that really run: tiny models, real trainers in processes of their own."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from job_bench import Bench, rows
from tunestone.errors import RunError
from tunestone.jobs import ending
from tunestone.jobs.job import StateError
from tunestone.jobs.tables import File, Job
from tunestone.runlog import read_lines

LONG = {"max_steps": 2000, "eval_every": 500, "patience": 0}
"""Settings of a run that ends only because somebody ends it."""
MANTLE_KEYS = {
    "step",
    "total_steps",
    "critic_rewards_mean",
    "actor_pg_loss",
    "actor_entropy",
    "actor_grad_norm",
    "critic_advantages_mean",
    "response_length_mean",
}


@pytest.fixture
def bench(tmp_path: Path, tiny_folder: Path) -> Iterator[Bench]:
    made = Bench(tmp_path, tiny_folder)
    made.supervisor.start()
    yield made
    made.supervisor.shutdown()


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_whole_life_of_a_job(bench: Bench) -> None:
    held = [bench.add_file(rows("v", first, 3), f"held-{first}.jsonl") for first in (20, 30)]
    job_id = bench.add_job(
        validation=tuple(held),
        output="s3://shelf/out/",
        suffix="toy",
        settings={"max_steps": 7, "eval_every": 1, "patience": 0},
    )
    running = bench.wait(job_id, lambda job: job.progress.get("step", 0) >= 1)
    assert running.started_at
    assert running.estimated_end >= running.created_at
    job = bench.wait(job_id)
    assert (job.state, job.error) == ("succeeded", None)
    assert job.ended_at >= job.started_at
    assert {name: phase["status"] for name, phase in job.phases.items()} == dict.fromkeys(
        ("validation", "data_processing", "training"), "Completed"
    )
    times = [p[key] for p in job.phases.values() for key in ("created_at", "updated_at")]
    assert times == sorted(times)
    assert times[-1] == job.ended_at.isoformat()
    assert job.progress["dropped_prompts"] == 0
    check_events(bench, job_id)
    check_models(bench, job)
    check_artefacts(bench, job)


def check_events(bench: Bench, job_id: str) -> None:
    """Each step once, with all keys, after what it followed; messages from start to end."""
    events = bench.events(job_id)
    steps = [event for event in events if event.type == "metrics"]
    assert [event.data["step"] for event in steps] == list(range(1, 8))
    assert steps[3].message.startswith("Step 4/7: training metrics, train mean reward=")
    samples = read_lines(bench.run_folder(job_id) / "samples.jsonl")
    for event in steps:
        assert all(isinstance(event.data[key], float | int) for key in MANTLE_KEYS)
        own = [s for s in samples if s["step"] == event.data["step"]]
        assert event.data["critic_rewards_mean"] == pytest.approx(
            sum(s["reward"] for s in own) / len(own)
        )
        assert event.data["critic_advantages_mean"] == pytest.approx(
            sum(s["advantage"] for s in own) / len(own)
        )
        assert event.data["full_valid_mean_reward"] == event.data["scores"]["valid_reward_mean"]
    messages = [event.message for event in events if event.type == "message"]
    assert messages[0] == "12 training rows were validated; the job is queued."
    assert "The job has started." in messages
    assert messages[-1].startswith("The job has succeeded; the result is the model of step ")
    keys = [event.key for event in events]
    assert keys.index("checkpoint:3") > keys.index("metrics:3")
    note = next(event for event in events if event.key == "note:model")
    assert "stands for the embedded model" in note.message
    shown = json.dumps([[event.message, event.data] for event in events])
    assert str(bench.folder) not in shown


def check_models(bench: Bench, job: Job) -> None:
    """The three best checkpoints by validation reward and the last, and the result."""
    metrics = read_lines(bench.run_folder(job.id) / "metrics.jsonl")
    ranked = sorted(metrics, key=lambda record: -record["validation_reward"])
    kept = {record["step"] for record in ranked[:3]} | {7}
    models = bench.models(job.id)
    checkpoints = [model for model in models if model.kind == "checkpoint"]
    assert {model.step for model in checkpoints} == kept
    for model in checkpoints:
        name = f"ft:o4-mini-2025-04-16:org:toy:{job.id}:ckpt-step-{model.step}"
        assert model.alias == name
        reward = metrics[model.step - 1]["validation_reward"]
        assert model.metrics["full_valid_mean_reward"] == reward
    (tuned,) = [model for model in models if model.kind == "tuned"]
    assert tuned.alias == f"ft:o4-mini-2025-04-16:org:toy:{job.id}"
    assert all((bench.folder / m.adapter / "adapter_config.json").is_file() for m in models)
    assert {model.base for model in models} == {str(bench.model)}


def check_artefacts(bench: Bench, job: Job) -> None:
    """CSVs on AWS's paths, one for each validator, the manifest, and the weights."""
    out = bench.shelf.folder / "out" / f"model-customization-job-{job.id}"
    steps = read_csv(out / "training_artifacts" / "step_wise_training_metrics.csv")
    assert list(steps[0])[:4] == ["step_number", "epoch_number", "training_loss", "perplexity"]
    assert [row["step_number"] for row in steps] == [str(n) for n in range(7)]
    assert [row["epoch_number"] for row in steps] == list("0001112")  # 12 prompts, 4 a step
    folder = out / "validation_artifacts" / "post_fine_tuning_validation"
    whole, *parts = (
        read_csv(folder / name / "validation_metrics.csv")
        for name in ("", "validator-1", "validator-2")
    )
    assert list(whole[0])[:4] == ["step_number", "epoch_number", "validation_loss", "perplexity"]
    for row, first, second in zip(whole, *parts, strict=True):
        mean = (float(first["reward_mean"]) + float(second["reward_mean"])) / 2
        assert float(row["reward_mean"]) == pytest.approx(mean)
        assert float(row["validation_loss"]) == pytest.approx(1 - mean)
    best = job.progress["best_step"]
    if best:
        assert job.progress["validation_losses"] == [
            pytest.approx(float(part[best - 1]["validation_loss"])) for part in parts
        ]
    assert read_csv(out / "input_status" / "manifest.report.csv")[0] == {
        "fileName": "train.jsonl",
        "totalProcessedRecordCount": "12",
        "acceptedRecordCount": "12",
        "partiallyAcceptedRecordCount": "0",
        "rejectedRecordCount": "0",
    }
    assert json.loads((out / "report.json").read_text())["best_step"] == best
    told = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    assert told[0]["message"] == "12 training rows were validated; the job is queued."
    assert "stands for the embedded model" in told[1]["message"]
    for path in (out / "report.json", out / "events.jsonl"):
        assert str(bench.folder) not in path.read_text()
    assert (out / "model" / "adapter_model.safetensors").is_file()
    with bench.store.session() as session:
        result = session.get_one(File, job.result_files[0])
    assert (result.purpose, result.filename) == ("fine-tune-results", "step_metrics.csv")
    assert len(read_csv(bench.folder / result.path)) == 7


def test_jobs_wait_for_their_turn_and_can_be_stopped(bench: Bench) -> None:
    first = bench.add_job(settings=LONG)
    bench.wait(first, lambda job: job.progress.get("step", 0) >= 2)
    second = bench.add_job(settings=LONG)
    bench.wait(second, lambda job: job.state == "queued")
    third = bench.add_job(settings=LONG)
    bench.wait(third, lambda job: job.state == "queued")
    assert [bench.job(job_id).state for job_id in (first, second, third)] == [
        "running",
        "queued",
        "queued",
    ]
    bench.supervisor.stop(third)
    assert bench.job(third).state == "stopped"

    bench.supervisor.stop(first)
    stopping = bench.job(first)
    assert stopping.state in {"running", "stopped"}
    assert stopping.phases["training"]["status"] in {"Stopping", "Stopped"}
    stopped = bench.wait(first)
    assert (stopped.state, stopped.error) == ("stopped", None)
    assert stopped.phases["training"]["status"] == "Stopped"
    assert {model.kind for model in bench.models(first)} == {"checkpoint"}
    assert bench.messages(first)[-1] == "The job was stopped."
    for change in (bench.supervisor.stop, bench.supervisor.pause, bench.supervisor.resume):
        with pytest.raises(StateError, match="stopped"):
            change(first)

    bench.wait(second, lambda job: job.progress.get("step", 0) >= 1)
    bench.supervisor.grace_seconds["stop"] = 0.0  # it is killed where it stands
    bench.supervisor.stop(second)
    assert bench.wait(second).state == "stopped"
    assert bench.messages(third)[-1] == "The job was stopped."


def test_a_job_that_went_back_to_its_base_offers_no_checkpoint_of_it(bench: Bench) -> None:
    """No group has signal in five steps; the checkpoint of the fifth holds the base's weights."""
    settings = {"eval_every": 5, "max_steps": 6, "on_alert": {"no_signal": "rollback"}}
    job_id = bench.add_job(reward="nothing", settings=settings)
    assert bench.wait(job_id).state == "succeeded"
    told = [event for event in bench.events(job_id) if event.data]
    (back,) = [event for event in told if event.data.get("kind") == "rolled_back"]
    assert (back.data["step"], back.data["to_step"], back.level) == (5, 0, "warn")
    assert 5 not in {model.step for model in bench.models(job_id)}


def test_a_plateau_and_a_base_without_reward_are_told(bench: Bench) -> None:
    job_id = bench.add_job(reward="nothing", settings={"eval_every": 1, "patience": 1})
    job = bench.wait(job_id)
    assert job.state == "succeeded"
    assert job.progress["stopped"] == "no better validation reward in 1 validations"
    assert (
        "Stopped early after step 1: no better validation reward in 1 validations."
        in bench.messages(job_id)
    )
    (alert,) = [event for event in bench.events(job_id) if event.level == "warn" and event.data]
    assert alert.data["code"] == "base_earns_nothing"
    assert "The base model earns nothing" in alert.message
    assert job.progress["dropped_prompts"] == 0
    assert job.progress["validation_losses"] == []  # no validator was named


def test_a_broken_reward_fails_the_job_with_its_traceback(bench: Bench) -> None:
    job_id = bench.add_job(reward="broken")
    job = bench.wait(job_id)
    assert job.state == "failed"
    assert job.error["code"] == "reward_error"
    assert job.error["param"] == "grader"
    assert "KeyError: 'no such key'" in job.error["message"]
    assert "reward.py" in job.error["message"]
    assert len(job.error["message"]) <= 2048
    assert job.phases["data_processing"]["status"] == "Completed"
    assert job.phases["training"]["status"] == "Failed"
    assert bench.events(job_id)[-1].level == "error"


def test_training_goes_on_from_a_tuned_model(bench: Bench) -> None:
    settings = {"max_steps": 6, "eval_every": 2, "patience": 0, "lora_rank": 8}
    first = bench.wait(bench.add_job(settings=settings, suffix="one"))
    (tuned,) = [model for model in bench.models(first.id) if model.kind == "tuned"]
    second = bench.wait(
        bench.add_job(model=tuned.alias, start=tuned.id, base=tuned.base, suffix="two")
    )
    assert (second.state, second.error) == ("succeeded", None)
    assert second.progress["settings"]["lora_rank"] == 8  # that of the adapter
    assert second.progress["base_reward"] == first.progress["tuned_reward"]
    (again,) = [model for model in bench.models(second.id) if model.kind == "tuned"]
    assert again.alias == f"ft:o4-mini-2025-04-16:org:two:{second.id}"
    assert again.base == tuned.base  # its adapter sits on the base, not on the first adapter


def test_an_output_that_is_gone_costs_no_model(bench: Bench) -> None:
    bench.shelf.full = True
    settings = {"max_steps": 1, "lora_rank": 0}
    job = bench.wait(bench.add_job(output="s3://shelf/out", settings=settings))
    assert job.state == "succeeded"
    for model in bench.models(job.id):  # every weight was trained: the folder is the whole model
        assert model.adapter == ""
        assert (Path(model.base) / "model.safetensors").is_file()
    (told,) = [m for m in bench.messages(job.id) if "artefacts" in m]
    assert "the bucket is gone" in told


def test_a_second_supervisor_is_refused(bench: Bench) -> None:
    second = bench.new_supervisor()
    with pytest.raises(RunError, match="Another server runs the jobs of"):
        second.start()
    second.shutdown()


def test_a_trainer_that_dies_again_and_again_fails_its_job(
    tmp_path: Path, tiny_folder: Path
) -> None:
    made = Bench(tmp_path, tiny_folder)
    job_id = made.add_job()
    folder = made.folder / "jobs" / job_id
    folder.mkdir(parents=True)
    (folder / "trainer.log").write_text("loading\nKilled\n")
    for state in ("queued", "queued", "failed"):
        with made.store.session() as session:
            job = session.get_one(Job, job_id)
            job.state = "running"
            ending.killed(session, job, folder, -9)
        assert made.job(job_id).state == state
    message = made.job(job_id).error["message"]
    assert message.startswith("The trainer was ended by signal 9 (out of memory?) 3 times")
    assert message.endswith("Killed")
