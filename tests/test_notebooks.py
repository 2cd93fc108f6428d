"""AWS's public RFT notebooks, cell by cell, with `AWS_ENDPOINT_URL` alone (`notebook_cells.py`).

Reward functions are our own in the shapes AWS's have; the jobs are not trained here.
"""

import json
import warnings
from contextlib import ExitStack

import pytest

from local_aws_server import local_server
from notebook_cells import FIELDS, Nova, OpenWeight
from scripted_engine import ScriptedEngine
from tunestone.jobs.job import Plan
from tunestone.jobs.store import now
from tunestone.jobs.tables import Event, Job
from tunestone.rewards.grader import parse_spec
from tunestone.rewards.spec import Context
from tunestone.types import Prompt, Sample

MATH = """
import re
def lambda_handler(event, context):
    results = []
    for item in event:
        truth = item["metadata"]["reference_answer"].get("final_answer")
        said = re.findall(r"#### (-?[0-9.,]+)", item["messages"][-1]["content"])
        results.append({"id": item["id"], "aggregate_reward_score": float(said[-1:] == [truth])})
    return results
"""
WRAPPED = """
import re
def lambda_handler(event, context):
    items = event if isinstance(event, list) else event.get("trajectories", [])
    scores = []
    for item in items:
        answer = item.get("reference_answer", {})
        text = answer.get("text", "") if isinstance(answer, dict) else ""
        good = text[-2:] == item["messages"][-1]["content"][-2:]
        scores.append({"id": item["id"], "aggregate_reward_score": float(good), "score": 1.0,
                       "metrics_list": []})
    return scores
"""
JUDGED = """
import json, boto3
client = boto3.client("bedrock-runtime")
def lambda_handler(event, context):
    results = []
    for item in event:
        answer = client.converse(
            modelId="openai.gpt-oss-120b-1:0",
            messages=[{"role": "user", "content": [{"text": item["messages"][-1]["content"]}]}],
            inferenceConfig={"maxTokens": 500, "temperature": 0.0},
        )
        text = "".join(b.get("text", "") for b in answer["output"]["message"]["content"])
        results.append({"id": item["id"], "aggregate_reward_score": json.loads(text)["score"]})
    return results
"""
SIZES = {
    "batchSize": 16,
    "trainingSamplePerPrompt": 2,
    "maxPromptLength": 256,
    "inferenceMaxTokens": 32,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    engine = ScriptedEngine(lambda request: '{"score": 0.7}')
    with local_server(tmp_path_factory.mktemp("notebooks") / "data", engine=engine) as found:
        yield found


@pytest.fixture
def url(server, monkeypatch):
    for name in ("AWS_PROFILE", "AWS_BEARER_TOKEN_BEDROCK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server[0])
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "my-own")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "my-own")
    return server[0]


def rows_in(folder, name: str, count: int, reference) -> "dict[str, object]":
    files = {}
    for split in ("train", "val", "test"):
        path = folder / f"{name}-{split}.jsonl"
        rows = [
            {
                "messages": [{"role": "user", "content": f"{split}: {i}+1?"}],
                "reference_answer": reference(i + 1),
                "task_id": f"{split}-{i}",
            }
            for i in range(count)
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        files[split] = path
    return files


def event_of(answer: str, reference) -> list:
    messages = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": answer}]
    return [
        {
            "id": "test_001",
            "messages": messages,
            "reference_answer": reference,
            "metadata": {"reference_answer": reference},
        }
    ]


def test_the_nova_notebook(url, server, tmp_path):
    book = Nova("gsm8k", region="us-east-1", bucket="my-own-bucket")
    book.upload(rows_in(tmp_path, "gsm8k", 100, lambda n: {"final_answer": str(n)}))
    arn = book.deploy(MATH, module="gsm8k_rew_func")
    assert arn == "arn:aws:lambda:us-east-1:123456789012:function:gsm8k-reward-function"
    assert book.deploy(MATH, module="gsm8k_rew_func") == arn  # as when the cell is run again
    result = book.try_reward(event_of("2 + 2 = 4\n#### 4", {"final_answer": "4"}))
    assert [(item["id"], item["aggregate_reward_score"]) for item in result] == [("test_001", 1.0)]
    job_arn = book.create_job("gsm8k-rft-job-1", arn, **SIZES)
    job = book.look("gsm8k-rft-job-1")
    assert (job["jobArn"], job["status"]) == (job_arn, "InProgress")
    with server[1].store.session() as session:
        plan = Plan.from_json(session.query(Job).filter_by(name="gsm8k-rft-job-1").one().plan)
    assert plan.reward["handler"] == "gsm8k_rew_func.lambda_handler"
    assert plan.reward["network"] is False
    source = tmp_path / "fetched.jsonl"
    server[1].objects.download(plan.training.location, source)
    assert len(source.read_text().splitlines()) == 100


def test_the_nova_notebook_with_a_judge(url, server, tmp_path, monkeypatch):
    book = Nova("pandalm", region="us-east-1", bucket="my-own-bucket")
    arn = book.deploy(JUDGED, module="pandalm_rew_func", judges=True)
    result = book.try_reward(event_of("The first answer is better.", {"label": 1}))
    assert result == [{"id": "test_001", "aggregate_reward_score": 0.7}]
    asked = server[1].engine.asked[-1]
    assert asked.messages[-1]["content"] == "The first answer is better."
    book.upload(rows_in(tmp_path, "pandalm", 100, lambda n: {"label": n % 3}))
    body = book.s3.get_object(Bucket=book.bucket, Key="rft-data/datasets/pandalm/train.jsonl")
    assert len(body["Body"].read().splitlines()) == 100
    book.create_job("pandalm-rft-job-1", arn, **SIZES)
    with server[1].store.session() as session:
        plan = Plan.from_json(session.query(Job).filter_by(name="pandalm-rft-job-1").one().plan)
    assert plan.reward["network"] is True
    told = server[1].objects.environment()
    assert set(plan.reward["environment"]) == set(told)
    for name, value in told.items():  # as the supervisor does it for the trainer
        monkeypatch.setenv(name, value)
    sample = Sample(Prompt("p", ({"role": "user", "content": "?"},), {}), "The second one is.")
    with ExitStack() as stack:
        grader = parse_spec(plan.reward).open(Context(tmp_path), stack)
        assert [grade.reward for grade in grader.grade([sample])] == [0.7]


@pytest.mark.parametrize("model", ["openai.gpt-oss-20b", "qwen.qwen3-32b-v1:0"])
def test_the_open_weight_notebooks(url, server, tmp_path, model):
    book = OpenWeight(model[:4], region="us-west-2", bucket="my-own-bucket")
    arn = book.deploy(WRAPPED, module="gsm8k_gptoss_rew_func")
    assert book.try_reward({"trajectories": event_of("#### 72", {"text": "so: #### 72"})})[0]["id"]
    client = book.connect(url)
    assert client.fine_tuning.jobs.list(limit=10).model_dump()["object"] == "list"
    path = rows_in(tmp_path, "open", 100, lambda n: f"one more: #### {n}")["train"]
    with path.open("rb") as file:
        uploaded = client.files.create(file=file, purpose="fine-tune")
    listed = client.files.list(purpose="fine-tune")
    assert uploaded.id in [found.id for found in listed.data]
    assert client.files.retrieve(uploaded.id).model_dump()["bytes"] == path.stat().st_size
    with warnings.catch_warnings():  # the client warns of a grader it does not know
        warnings.simplefilter("ignore", UserWarning)
        job = book.create_job(client, model, uploaded.id, arn)
        echoed = job.model_dump()["method"]["reinforcement"]["grader"]
    assert echoed["lambda"] == {"function": arn}
    assert job.id in [found.id for found in client.fine_tuning.jobs.list(limit=200).data]
    assert client.fine_tuning.jobs.retrieve(job.id).status == "validating_files"
    add_metrics(server[1], job.id.removeprefix("ftjob-"))
    events = client.fine_tuning.jobs.list_events(fine_tuning_job_id=job.id, limit=100)
    metrics = [event.data for event in events.data if event.type == "metrics"]
    assert [[one[field] for field in FIELDS] for one in metrics] == [[0.5] * 6]
    assert metrics[0]["step"] == 1
    checkpoints = client.fine_tuning.jobs.checkpoints.list(fine_tuning_job_id=job.id)
    assert checkpoints.model_dump()["data"] == []
    with server[1].store.session() as session:
        reward = session.get(Job, job.id.removeprefix("ftjob-")).plan["reward"]
    assert reward["wrap_reference_answer"] is True
    assert reward["handler"] == "gsm8k_gptoss_rew_func.lambda_handler"


def test_the_open_weight_notebooks_ask_models(url):
    client = OpenWeight("asks", region="us-west-2", bucket="my-own-bucket").connect(url)
    model = "openai.gpt-oss-20b"
    messages = [{"role": "user", "content": "An essay."}]
    answer = client.chat.completions.create(model=model, messages=messages, max_tokens=100)
    assert answer.model_dump()["choices"][0]["message"]["content"] == '{"score": 0.7}'
    stream = client.responses.create(
        model=model, input=messages, stream=True, reasoning={"effort": "low"}
    )
    texts = [event.delta for event in stream if event.type == "response.output_text.delta"]
    assert "".join(texts) == '{"score": 0.7}'
    assert model in [found.id for found in client.models.list().data]


def add_metrics(services, job_id: str) -> None:
    """An event of a step, as the supervisor writes it."""
    data = {"step": 1, "total_steps": 67, **dict.fromkeys(FIELDS, 0.5)}
    with services.store.session() as session:
        session.add(
            Event(
                id=f"ftevent-{job_id}",
                job_id=job_id,
                key="metrics:1",
                created_at=now(),
                level="info",
                type="metrics",
                message="Step 1/67: training metrics",
                data=data,
            )
        )
