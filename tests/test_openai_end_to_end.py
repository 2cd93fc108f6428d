"""A real job from upload to result through the real openai client: server, trainer, tiny model."""

import json
import time

import openai
import pytest

from live_server import serving
from openai_server import EXACT, method
from tiny import write_tiny_model

BASE = "o4-mini-2025-04-16"
SCHEMA = {
    "type": "object",
    "properties": {"even": {"type": "boolean"}},
    "required": ["even"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "parity", "schema": SCHEMA}}
GRADER = {
    "type": "multi",
    "name": "parity",
    "graders": {
        "right": {**EXACT, "name": "right", "input": "{{ sample.output_json.even }}"},
        "short": {"type": "length", "soft_limit": 2, "hard_limit": 30},
        # A null in it: settings of a run as TOML could not hold one.
        "shape": {
            "type": "json",
            "schema": {"properties": {"even": {"enum": [True, False, None]}}},
        },
    },
    "calculate_output": "right + 0 * short + 0 * shape",
}
HYPERPARAMETERS = {
    "n_epochs": 1,
    "batch_size": 4,
    "eval_interval": 1,
    "eval_samples": 3,
    "compute_multiplier": 0.5,
    "learning_rate_multiplier": 0.5,
}
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


def rows(first, count):
    lines = (
        {
            "messages": [{"role": "user", "content": f"{i}?"}],
            "reference_answer": "true" if i % 2 == 0 else "false",
        }
        for i in range(first, first + count)
    )
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(client, job) after the job has ended, over a server of its own."""
    folder = tmp_path_factory.mktemp("end")
    model = write_tiny_model(folder)
    config = folder / "server.toml"
    alias = f'{{source = "{model}", settings = {{max_completion_tokens = 60, lora_rank = 4}}}}'
    config.write_text(f'trainer_threads = 1\n[base_models]\n"{BASE}" = {alias}\n')
    with (
        serving(folder / "data", "--config", str(config)) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client,
    ):
        files = [
            client.files.create(file=("rows.jsonl", rows(*span)), purpose="fine-tune").id
            for span in ((0, 8), (100, 5))
        ]
        job = client.fine_tuning.jobs.create(
            model=BASE,
            training_file=files[0],
            validation_file=files[1],
            suffix="parity",
            seed=3,
            method=method(GRADER, hyperparameters=HYPERPARAMETERS, response_format=FORMAT),
        )
        seen = [job.status]
        deadline = time.monotonic() + 300
        while job.status in ("validating_files", "queued", "running"):
            assert time.monotonic() < deadline, server.log()
            time.sleep(0.1)
            job = client.fine_tuning.jobs.retrieve(job.id)
            if job.status != seen[-1]:
                seen.append(job.status)
        assert job.status == "succeeded", (job.error, server.log())
        assert seen[0] == "validating_files"
        yield client, job


def test_the_job_says_what_it_trained_with(trained):
    _, job = trained
    assert job.fine_tuned_model == f"ft:{BASE}:tunestone:parity:{job.id.removeprefix('ftjob-')}"
    assert job.trained_tokens > 0
    assert job.created_at <= job.finished_at
    shown = job.method.reinforcement.hyperparameters.model_dump()
    assert shown == {**HYPERPARAMETERS, "reasoning_effort": "default"}


def test_every_step_has_a_metrics_event_with_all_keys(trained):
    client, job = trained
    events = list(client.fine_tuning.jobs.list_events(job.id, limit=3))
    steps = [event for event in events if event.type == "metrics"]
    assert [event.data["step"] for event in steps] == [2, 1]
    for event in steps:
        assert event.data.keys() >= MANTLE_KEYS
        for told in ("scores", "timing", "errors"):
            names = [grader["name"] for grader in event.data[told]["graders"]]
            assert names == ["right", "short", "shape"]
        assert event.data["series"]["score/shape/valid_schema"] == 1.0
    said = [event.message for event in events]
    assert said[-1] == f"Created fine-tuning job: {job.id}"
    assert any(message.startswith("Checkpoint of step") for message in said)


def test_every_answer_was_held_to_the_schema(trained):
    """An untrained tiny model writes noise; only the grammar makes this JSON."""
    client, job = trained
    eval_id = job.model_extra["eval_id"]
    runs = list(client.evals.runs.list(eval_id))
    assert runs
    for run in runs:
        assert (run.result_counts.total, run.result_counts.errored) == (3, 0)
        for item in client.evals.runs.output_items.list(run.id, eval_id=eval_id):
            answer = json.loads(item.sample.output[0].content)
            assert answer.keys() == {"even"}
            assert item.sample.input[0].content.endswith("?")
            assert item.results[0].score in (0.0, 1.0)


def test_checkpoints_and_the_result_are_models(trained):
    client, job = trained
    checkpoints = list(client.fine_tuning.jobs.checkpoints.list(job.id))
    steps = [checkpoint.step_number for checkpoint in checkpoints]
    assert steps == sorted(steps, reverse=True)
    assert 1 <= len(steps) <= 4  # the best three and the last
    assert "valid_reward_mean" in checkpoints[0].metrics.model_extra
    listed = {model.id for model in client.models.list()}
    assert {job.fine_tuned_model, checkpoints[0].fine_tuned_model_checkpoint} <= listed


def test_the_result_file_is_a_table_of_the_steps(trained):
    client, job = trained
    [file_id] = job.result_files
    assert client.files.retrieve(file_id).purpose == "fine-tune-results"
    lines = client.files.content(file_id).text.splitlines()
    assert lines[0].startswith("step,")
    assert len(lines) == 3
