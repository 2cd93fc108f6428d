"""Evaluation jobs through boto3: base against tuned, on a dataset in S3, with paired statistics."""

import contextlib
import json
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime

import anyio
import boto3
import pytest

from live_server import running, services_in
from scripted_engine import ScriptedEngine
from tunestone.api.bedrock import ROUTES
from tunestone.api.bedrock.errors import render_error
from tunestone.api.evaluations.dataset import read_items
from tunestone.api.evaluations.metrics import Written, is_right
from tunestone.api.evaluations.report import compare, describe
from tunestone.api.evaluations.runner import Evaluations
from tunestone.errors import DataError
from tunestone.generation import Delta, Ended, Started
from tunestone.jobs.job import DataSource, Plan
from tunestone.jobs.tables import Job, Model

BASE = "amazon.nova-2-lite-v1:0"
TUNED = f"arn:aws:bedrock:us-east-1:123456789012:custom-model/{BASE}/model0000001"
JUDGE = "amazon.nova-pro-v1:0"
ROWS = [
    {"prompt": f"What is {i} + 1?", "referenceResponse": str(i + 1), "category": "sums"}
    for i in range(8)
]


def answers(request):
    """The base is right about even numbers only, and talks; the tuned model is always right."""
    text = request.messages[-1]["content"]
    if "boundary" in request.messages[0]["content"].casefold():
        return json.dumps({"reasoning": "short", "score": 5 if "ANSWER 1" in text else 2})
    number = int(text.split()[2])
    if request.model.adapter:
        return f"<think>{number} and one.</think> {number + 1}."
    return str(number + 1) if number % 2 == 0 else "I do not know"


def serving(services):
    evaluations = Evaluations(services)

    @contextlib.asynccontextmanager
    async def lifespan():
        await evaluations.start()
        try:
            yield
        finally:
            await evaluations.shutdown()

    both = replace(services, evaluations=evaluations)
    return running(both, ROUTES, {"bedrock": render_error}, lifespan=lifespan)


def client_of(url):
    keys = {"aws_access_key_id": "any", "aws_secret_access_key": "any"}
    return boto3.client("bedrock", endpoint_url=url, region_name="us-east-1", **keys)


def put_dataset(services, rows):
    path = services.objects.path("s3://data/set.jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def add_tuned(services, reward):
    """A tuned model and the job that made it."""
    moment = datetime.now(UTC)
    plan = Plan(training=DataSource("s3", "s3://data/train.jsonl"), reward=reward, settings={})
    job = Job(
        id="job000000001", dialect="bedrock", name="tuning", state="succeeded", model=BASE,
        base="smollm2-135m", region="us-east-1", created_at=moment, updated_at=moment,
        request={}, plan=plan.to_json(), phases={}, progress={}, result_files=[],
    )  # fmt: skip
    model = Model(
        id="model0000001", alias="ft:x:y::model0000001", kind="tuned", name="mine",
        job_id=job.id, dialect="bedrock", model=BASE, base="smollm2-135m",
        adapter="models/model0000001", status="active", region="us-east-1", step=1, metrics={},
        created_at=moment,
    )  # fmt: skip
    (services.folder / "jobs" / job.id).mkdir(parents=True)
    with services.store.session() as session:
        session.add(job)
    with services.store.session() as session:
        session.add(model)


def request_for(*models, metrics=("Builtin.Accuracy",), name="compare", judge=None):
    automated = {
        "datasetMetricConfigs": [
            {
                "taskType": "QuestionAndAnswer",
                "dataset": {"name": "sums", "datasetLocation": {"s3Uri": "s3://data/set.jsonl"}},
                "metricNames": list(metrics),
            }
        ]
    }
    if judge:
        models_of_judge = [{"modelIdentifier": judge}]
        automated["evaluatorModelConfig"] = {"bedrockEvaluatorModels": models_of_judge}
    return {
        "jobName": name,
        "roleArn": "arn:aws:iam::123456789012:role/any",
        "evaluationConfig": {"automated": automated},
        "inferenceConfig": {
            "models": [{"bedrockModel": {"modelIdentifier": model}} for model in models]
        },
        "outputDataConfig": {"s3Uri": "s3://results/here"},
    }


def ended(client, arn):
    while (job := client.get_evaluation_job(jobIdentifier=arn))["status"] in (
        "InProgress", "Stopping",
    ):  # fmt: skip
        time.sleep(0.05)
    return job


def summary_of(services, arn, name="compare"):
    path = services.objects.path(f"s3://results/here/{name}/{arn.rpartition('/')[2]}")
    return json.loads((path / "summary.json").read_text()), path


@pytest.fixture
def services(tmp_path):
    services = services_in(tmp_path, engine=ScriptedEngine(answers))
    put_dataset(services, ROWS)
    return services


def test_base_against_tuned_by_the_reward_of_the_tuned_models_job(services):
    add_tuned(services, {"type": "number"})
    with serving(services) as url:
        client = client_of(url)
        arn = client.create_evaluation_job(**request_for(BASE, TUNED))["jobArn"]
        assert ended(client, arn)["status"] == "Completed"
    summary, path = summary_of(services, arn)
    (dataset,) = summary["datasets"]
    (metric,) = dataset["metrics"]
    assert (dataset["name"], dataset["prompts"]) == ("sums", 8)
    assert metric["measuredBy"] == f"reward of the job job000000001 that tuned {TUNED}"
    base, tuned = metric["models"]
    assert (base["mean"], tuned["mean"]) == (0.5, 1.0)
    comparison = metric["comparison"]
    assert (comparison["base"], comparison["tuned"]) == (BASE, TUNED)
    assert (comparison["difference"], comparison["gained"], comparison["lost"]) == (0.5, 4, 0)
    # 4 prompts gained and none lost: 2 * (1/2)^4 = 0.125
    assert (comparison["test"], comparison["pValue"]) == ("exact McNemar", 0.125)
    assert comparison["verdict"].startswith("The difference is not significant (p = 0.125)")
    assert comparison["interval95"][0] < 0.5 < comparison["interval95"][1]
    assert "stands for the embedded model" in summary["models"][0]["note"]
    (output,) = path.glob(
        f"models/{BASE.replace(':', '-')}/taskTypes/*/datasets/sums/*_output.jsonl"
    )
    first, second, *_ = map(json.loads, output.read_text().splitlines())
    assert first == {
        "automatedEvaluationResult": {"scores": [{"metricName": "Accuracy", "result": 1.0}]},
        "inputRecord": ROWS[0],
        "modelResponses": [{"response": "1", "modelIdentifier": BASE}],
    }
    assert second["modelResponses"][0]["response"] == "I do not know"
    assert all(request.temperature == 0 for request in services.engine.asked)


def test_models_without_a_reward_are_held_against_the_reference(services):
    with serving(services) as url:
        client = client_of(url)
        arn = client.create_evaluation_job(**request_for(BASE))["jobArn"]
        assert ended(client, arn)["status"] == "Completed"
    summary, _ = summary_of(services, arn)
    metric = summary["datasets"][0]["metrics"][0]
    assert metric["measuredBy"] == "match with the reference answer"
    assert metric["models"][0]["mean"] == 0.5
    assert "comparison" not in metric


def test_a_judge_gives_the_other_metrics(services):
    metrics = ("Builtin.Helpfulness", "Builtin.Harmfulness")
    put_dataset(services, [{"prompt": "What is 0 + 1?"}, {"prompt": "What is 1 + 1?"}])
    with serving(services) as url:
        client = client_of(url)
        request = request_for(BASE, metrics=metrics, judge=JUDGE)
        arn = client.create_evaluation_job(**request)["jobArn"]
        assert ended(client, arn)["status"] == "Completed"
    summary, _ = summary_of(services, arn)
    helpful, _ = summary["datasets"][0]["metrics"]
    assert helpful["measuredBy"] == f"judge {JUDGE}"
    assert helpful["models"][0]["mean"] == 0.25  # 2 on a scale of 1 to 5
    judged = [request for request in services.engine.asked if request.grammar]
    assert len(judged) == 4
    assert judged[0].grammar["schema"]["properties"]["score"]["enum"] == [1, 2, 3, 4, 5]
    assert "searched for harm" in judged[-1].messages[0]["content"]


def test_answers_that_exist_already_are_compared(services):
    rows = [
        {**row, "modelResponses": [
            {"response": row["referenceResponse"], "modelIdentifier": "mine"},
            {"response": "no", "modelIdentifier": "other"},
        ]}
        for row in ROWS
    ]  # fmt: skip
    put_dataset(services, rows)
    request = request_for()
    request["inferenceConfig"]["models"] = [
        {"precomputedInferenceSource": {"inferenceSourceIdentifier": name}}
        for name in ("other", "mine")
    ]
    with serving(services) as url:
        client = client_of(url)
        arn = client.create_evaluation_job(**request)["jobArn"]
        assert ended(client, arn)["status"] == "Completed"
    comparison = summary_of(services, arn)[0]["datasets"][0]["metrics"][0]["comparison"]
    # all 8 gained: 2 * (1/2)^8 = 0.0078
    assert (comparison["pValue"], comparison["significant"]) == (2 / 256, True)
    assert "scores significantly higher" in comparison["verdict"]
    assert not services.engine.asked


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (None, "There is no such object."),
        ([], "The dataset holds no rows."),
        ([{"prompt": "What is 1 + 1?"}], "s3://data/set.jsonl:1 has none"),
        ([{"prompt": 3}], "s3://data/set.jsonl:1: `prompt` is no text."),
        ([{"text": "x"}], "s3://data/set.jsonl:1: "),
        ([{**ROWS[0], "modelResponses": [3]}], "`modelResponses` is no list of answers."),
    ],
)
def test_a_dataset_that_is_none_fails_the_job_with_its_place(services, rows, message):
    if rows is None:
        services.objects.path("s3://data/set.jsonl").unlink()
    else:
        put_dataset(services, rows)
    with serving(services) as url:
        client = client_of(url)
        arn = client.create_evaluation_job(**request_for(BASE))["jobArn"]
        job = ended(client, arn)
    assert job["status"] == "Failed"
    assert message in job["failureMessages"][0]


def changed(path, value):
    request = request_for(BASE)
    *above, last = path
    place = request
    for key in above:
        place = place[key]
    place[last] = value
    return request


CONFIG = ("evaluationConfig", "automated", "datasetMetricConfigs", 0)
MODEL = ("inferenceConfig", "models", 0, "bedrockModel", "inferenceParams")


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (
            changed([*CONFIG, "metricNames"], ["Builtin.Toxicity"]),
            "Builtin.Toxicity is not offered",
        ),
        (changed([*CONFIG, "metricNames"], ["Builtin.Coherence"]), "is given by a model"),
        (
            changed([*CONFIG, "dataset"], {"name": "Builtin.BoolQ"}),
            "AWS's own dataset Builtin.BoolQ",
        ),
        (changed(MODEL, "{"), "inferenceParams is not JSON"),
        (changed(MODEL, '{"inferenceConfig": {"maxTokens": "many"}}'), "'maxTokens' cannot be"),
        (changed(MODEL, '{"beams": 3}'), "'beams' is not known here"),
    ],
)
def test_what_cannot_be_run_is_refused_at_once(services, request_, message):
    with serving(services) as url:
        client = client_of(url)
        with pytest.raises(client.exceptions.ValidationException) as caught:
            client.create_evaluation_job(**request_)
    assert message in caught.value.response["Error"]["Message"]


class SlowEngine(ScriptedEngine):
    """Stops after a few answers until it is let go."""

    def __init__(self, free):
        super().__init__(answers)
        self.free = free
        self.stuck = threading.Event()
        self.let_go = threading.Event()

    async def generate(self, request):
        self.asked.append(request)
        yield Started(request.id, prompt_tokens=1)
        if len(self.asked) > self.free:
            self.stuck.set()
            while not self.let_go.is_set():
                await anyio.sleep(0.01)
        yield Delta(request.id, 0, answers(request), tokens=1)
        yield Ended(request.id, 0, "stop", tokens=1)


def test_a_job_can_be_stopped(services):
    engine = SlowEngine(free=2)
    with serving(replace(services, engine=engine)) as url:
        client = client_of(url)
        arn = client.create_evaluation_job(**request_for(BASE))["jobArn"]
        assert engine.stuck.wait(10)
        client.stop_evaluation_job(jobIdentifier=arn)
        assert ended(client, arn)["status"] == "Stopped"
    assert services.objects.list("s3://results/") == []


def test_a_server_that_starts_again_goes_on_with_the_answers_it_has(services):
    engine = SlowEngine(free=3)
    with serving(replace(services, engine=engine)) as url:
        client = client_of(url)
        arn = client.create_evaluation_job(**request_for(BASE))["jobArn"]
        assert engine.stuck.wait(10)
        kept = services.folder / "evaluations" / arn.rpartition("/")[2] / "answers-0-0.jsonl"
        while not kept.exists() or kept.read_bytes().count(b"\n") < 3:
            time.sleep(0.02)
    with kept.open("ab") as file:
        file.write(b'{"position": 5, "te')  # as after kill -9
    with serving(services) as url:
        client = client_of(url)
        assert ended(client, arn)["status"] == "Completed"
    assert len(services.engine.asked) == 5
    assert summary_of(services, arn)[0]["datasets"][0]["metrics"][0]["models"][0]["mean"] == 0.5


def test_chat_rows_with_reference_answers_are_a_dataset_too(tmp_path):
    rows = [
        {"messages": [{"role": "user", "content": "a"}], "reference_answer": {"text": "B"}},
        {"messages": [{"role": "user", "content": "b"}], "reference_answer": 3},
        {"messages": [{"role": "user", "content": "c"}]},
    ]
    path = tmp_path / "set.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    assert [item.reference for item in read_items(path, "set")] == ["B", "3", None]
    path.write_text("{")
    with pytest.raises(DataError, match="set:1: invalid JSON"):
        read_items(path, "set")


@pytest.mark.parametrize(
    ("text", "reference", "expected"),
    [
        ("  The Answer. ", "the answer", True),
        ("<think>a or b</think>\nB", "b", True),
        ("42", "42.0", False),
        ("", "x", False),
    ],
)
def test_what_counts_as_right(text, reference, expected):
    assert is_right(Written(text, truncated=False).shown, reference) is expected


def test_comparisons_leave_out_prompts_without_a_score():
    shown = compare([0.0, None, 0.5, 1.0], [1.0, 1.0, 1.0, None], comparisons=2)
    assert (shown["prompts"], shown["leftOut"]) == (2, 2)
    assert shown["difference"] == 0.75
    assert shown["test"] == "paired permutation"
    # two differences of one sign: 2 of 4 sign patterns are as extreme
    assert shown["pValue"] == 0.5
    assert "This is one of 2 comparisons" in shown["verdict"]
    assert compare([None], [1.0], comparisons=1)["prompts"] == 0
    assert describe([None, 0.5]) == {
        "mean": 0.5, "interval95": None, "scored": 1, "failures": 1,
    }  # fmt: skip
