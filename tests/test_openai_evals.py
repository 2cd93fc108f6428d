"""Eval runs through the real openai client, read from the logs of a job's run."""

import json

import openai
import pytest

from openai_server import EXACT, serving, upload
from test_openai_jobs import create

REWARDS = {10: [0.0, 1.0, None], 20: [1.0, 1.0, 0.5]}


@pytest.fixture(scope="module")
def validated(tmp_path_factory):
    """A client, and a job that was validated twice on three rows."""
    with serving(tmp_path_factory.mktemp("evals")) as (services, client):
        job = create(client, validation_file=upload(client))
        folder = services.folder / "jobs" / job.id.removeprefix("ftjob-")
        (folder / "input").mkdir(parents=True)
        (folder / "run").mkdir()
        rows = [
            {"messages": [{"role": "user", "content": f"{i} = ?"}], "reference_answer": str(i)}
            for i in range(3)
        ]
        (folder / "input" / "validation.jsonl").write_text("\n".join(map(json.dumps, rows)))
        (folder / "input" / "train.jsonl").write_text("not read\n")
        lines = [
            {
                "step": step,
                "prompt_id": f"row-{i + 1}",
                "text": f"answer {i}",
                "reward": reward,
                "error": None if reward is not None else "it raised",
                "flags": [] if reward is not None else ["python_grader_runtime_error"],
                "metrics": {"part": 0.25},
                "finish_reason": "length",
                "prompt_tokens": 7,
                "tokens": 5,
            }
            for step, rewards in REWARDS.items()
            for i, reward in enumerate(rewards)
        ]
        text = "\n".join(map(json.dumps, lines))
        (folder / "run" / "validation.jsonl").write_text(f"{text}\n" + '{"step": 30, "half')
        yield client, job


def test_a_job_has_an_eval(validated):
    client, job = validated
    found = client.evals.retrieve(job.model_extra["eval_id"])
    assert (found.object, found.id) == ("eval", job.model_extra["eval_id"])
    assert found.name == f"Validation of {job.id}"
    assert found.testing_criteria[0].model_dump() == EXACT


def test_each_validation_is_a_run(validated):
    client, job = validated
    eval_id = job.model_extra["eval_id"]
    runs = list(client.evals.runs.list(eval_id, limit=1))
    assert [run.name for run in runs] == ["Step 10", "Step 20"]
    counts = [run.result_counts.model_dump() for run in runs]
    assert counts[0] == {"total": 3, "passed": 1, "failed": 1, "errored": 1}
    assert counts[1] == {"total": 3, "passed": 3, "failed": 0, "errored": 0}  # 0.5 is enough
    assert [run.metadata["mean_reward"] for run in runs] == ["0.5", str(2.5 / 3)]
    assert runs[0].data_source.source.id == job.validation_file
    assert (runs[0].status, runs[0].eval_id) == ("completed", eval_id)
    retrieved = client.evals.runs.retrieve(runs[1].id, eval_id=eval_id)
    assert retrieved.to_dict() == runs[1].to_dict()
    newest = client.evals.runs.list(eval_id, order="desc")
    assert [run.name for run in newest] == ["Step 20", "Step 10"]


def test_every_answer_can_be_inspected(validated):
    client, job = validated
    eval_id = job.model_extra["eval_id"]
    run = client.evals.runs.list(eval_id).data[0]
    calls = client.evals.runs.output_items
    items = list(calls.list(run.id, eval_id=eval_id, limit=2))
    assert [item.status for item in items] == ["fail", "pass", "error"]
    first = items[0]
    assert first.datasource_item["reference_answer"] == "0"
    assert first.sample.input[0].content == "0 = ?"
    assert first.sample.output[0].content == "answer 0"
    result = first.results[0]
    assert (result.name, result.type, result.score, result.passed) == (
        "exact",
        "string_check",
        0.0,
        False,
    )
    assert result.sample["scores"] == {"part": 0.25}
    assert items[2].sample.error.message == "it raised"
    assert items[2].results[0].sample["flags"] == ["python_grader_runtime_error"]
    assert first.sample.finish_reason == "length"
    usage = first.sample.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (7, 5, 12)
    retrieved = calls.retrieve(items[1].id, eval_id=eval_id, run_id=run.id)
    assert retrieved.to_dict() == items[1].to_dict()
    failed = calls.list(run.id, eval_id=eval_id, status="fail")
    assert [item.id for item in failed] == [items[0].id, items[2].id]


def test_what_is_not_there_is_not_found(validated):
    client, job = validated
    eval_id = job.model_extra["eval_id"]
    run = client.evals.runs.list(eval_id).data[0]
    calls = client.evals.runs
    for call in (
        lambda: client.evals.retrieve("eval_none"),
        lambda: client.evals.retrieve("eval_abcdefabcdef"),
        lambda: calls.retrieve(f"{run.id}0", eval_id=eval_id),
        lambda: calls.list(eval_id, after="evalrun_x"),
        lambda: calls.output_items.list("run", eval_id=eval_id),
        lambda: calls.output_items.retrieve("item", eval_id=eval_id, run_id=run.id),
        lambda: calls.output_items.retrieve(
            f"outputitem_{job.id[6:]}_10_3", eval_id=eval_id, run_id=run.id
        ),
    ):
        with pytest.raises(openai.NotFoundError) as caught:
            call()
        assert caught.value.code == "not_found"
        assert "There is no " in caught.value.message


def test_a_job_before_its_first_validation_has_no_runs(validated):
    client, _ = validated
    eval_id = create(client).model_extra["eval_id"]
    assert client.evals.runs.list(eval_id).data == []
