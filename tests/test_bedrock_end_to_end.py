"""The whole way with the real program: a notebook's calls, a real training, a killed server."""

import io
import json
import time
import zipfile

import boto3
import pytest

from bedrock_client import NOVA, REGION, ROLE, connect, job_request, rft
from live_server import serving
from postgres import find_binaries, postgres_cluster, postgres_url  # noqa: F401 - fixtures
from tiny import write_tiny_model

HANDLER = """
def lambda_handler(event, context):
    return [
        {"id": one["id"], "aggregate_reward_score": len(one["messages"][-1]["content"]) / 100}
        for one in event
    ]
"""


def client_of(server, service):
    return boto3.client(
        service,
        endpoint_url=server.url,
        region_name=REGION,
        aws_access_key_id="any",
        aws_secret_access_key="any",
    )


def rows(count, *, first=0):
    lines = [
        {"messages": [{"role": "user", "content": f"Say {i}"}], "reference_answer": str(i)}
        for i in range(first, first + count)
    ]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def deploy_function(server):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("lambda_function.py", HANDLER)
    function = client_of(server, "lambda").create_function(
        FunctionName="reward",
        Runtime="python3.11",
        Role=ROLE,
        Handler="lambda_function.lambda_handler",
        Code={"ZipFile": packed.getvalue()},
        Timeout=60,
        MemorySize=512,
    )
    return function["FunctionArn"]


def wait_for(get, done):
    while not done(found := get()):
        time.sleep(0.1)
    return found


@pytest.fixture
def database(request):
    """Options that choose PostgreSQL, where there is one: the other way through uses SQLite."""
    found = find_binaries() is not None
    return ("--database", request.getfixturevalue("postgres_url")) if found else ()


def test_from_a_dataset_to_a_deployed_model_though_the_server_is_killed(tmp_path, database):
    table = tmp_path / "serve.toml"
    tiny = write_tiny_model(tmp_path / "tiny")
    table.write_text(
        f'least_rows = 4\n[base_models."{NOVA}"]\nsource = "{tiny}"\n'
        "settings = { lora_rank = 4 }\n"
    )
    options = ("--local-aws", "--config", str(table), *database)
    with serving(tmp_path / "data", *options) as server:
        s3 = client_of(server, "s3")
        s3.create_bucket(Bucket="bucket")
        s3.put_object(Bucket="bucket", Key="train.jsonl", Body=rows(16))
        validators = [{"s3Uri": f"s3://bucket/validation-{i}.jsonl"} for i in range(2)]
        for i in range(2):
            body = rows(2, first=100 * (i + 1))
            s3.put_object(Bucket="bucket", Key=f"validation-{i}.jsonl", Body=body)
        config = rft(batchSize=16, trainingSamplePerPrompt=2, inferenceMaxTokens=8)
        config["graderConfig"]["lambdaGrader"]["lambdaArn"] = deploy_function(server)
        request = job_request(
            "end-to-end",
            validationDataConfig={"validators": validators},
            customizationConfig={"rftConfig": config},
        )
        bedrock = connect(server.url)
        bedrock.create_model_customization_job(**request)
        job = wait_for(
            lambda: bedrock.get_model_customization_job(jobIdentifier="end-to-end"),
            lambda job: job["status"] not in ("InProgress", "Stopping"),
        )
        assert job["status"] == "Completed", job.get("failureMessage")
        assert {phase["status"] for phase in job["statusDetails"].values()} == {"Completed"}
        assert len(job["validationMetrics"]) == 2
        model = job["outputModelArn"]
        listed = bedrock.list_model_customization_jobs(
            statusEquals="Completed", nameContains="END-to"
        )["modelCustomizationJobSummaries"]
        assert [(one["jobArn"], one["customModelArn"]) for one in listed] == [
            (job["jobArn"], model)
        ]
        [one] = bedrock.list_custom_models(nameContains="end-to")["modelSummaries"]
        assert one["modelArn"] == model
        arn = bedrock.create_custom_model_deployment(modelDeploymentName="d", modelArn=model)[
            "customModelDeploymentArn"
        ]
        server.process.kill()
        server.process.wait()
    with serving(tmp_path / "data", *options) as server:
        bedrock = connect(server.url)
        found = wait_for(
            lambda: bedrock.get_custom_model_deployment(customModelDeploymentIdentifier=arn),
            lambda found: found["status"] != "Creating",
        )
        assert found["status"] == "Active", found.get("failureMessage")
        [one] = bedrock.list_custom_model_deployments(statusEquals="Active", nameContains="D")[
            "modelDeploymentSummaries"
        ]
        assert one["customModelDeploymentArn"] == arn
        answer = client_of(server, "bedrock-runtime").converse(
            modelId=arn,
            messages=[{"role": "user", "content": [{"text": "Say 3"}]}],
            inferenceConfig={"maxTokens": 5},
        )
        assert 1 <= answer["usage"]["outputTokens"] <= 5
