"""Tags, the logging configuration, base models and evaluation jobs through boto3."""

import pytest

from bedrock_client import (
    ACCOUNT,
    NOVA,
    NOVA_ARN,
    REGION,
    ROLE,
    connect,
    finish_job,
    job_request,
    make_model,
    refusal,
    serving_bedrock,
)
from live_server import services_in
from tunestone.jobs.tables import Evaluation, Setting


@pytest.fixture(scope="module")
def services(tmp_path_factory):
    return services_in(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def client(services):
    with serving_bedrock(services) as url:
        yield connect(url)


def as_tags(count, *, first=0):
    return [{"key": f"key-{i:02}", "value": f"value {i}"} for i in range(first, first + count)]


def tags_of(client, arn):
    return client.list_tags_for_resource(resourceARN=arn)["tags"]


def test_tags_of_a_job_and_of_its_model(client, services):
    request = job_request("tagged", jobTags=as_tags(2), customModelTags=as_tags(1, first=7))
    arn = client.create_model_customization_job(**request)["jobArn"]
    assert tags_of(client, arn) == as_tags(2)
    client.tag_resource(resourceARN=arn, tags=[{"key": "key-00", "value": "new"}])
    client.untag_resource(resourceARN=arn, tagKeys=["key-01", "never-there"])
    assert tags_of(client, arn) == [{"key": "key-00", "value": "new"}]
    finish_job(services, "tagged")
    model = client.get_custom_model(modelIdentifier="tagged-model")["modelArn"]
    assert tags_of(client, model) == as_tags(1, first=7)
    client.untag_resource(resourceARN=model, tagKeys=["key-07"])
    assert tags_of(client, model) == []


def test_fifty_tags_and_no_more(client):
    arn = client.create_model_customization_job(**job_request("fifty", jobTags=as_tags(50)))[
        "jobArn"
    ]
    with pytest.raises(client.exceptions.TooManyTagsException) as caught:
        client.tag_resource(resourceARN=arn, tags=as_tags(1, first=50))
    answer = caught.value.response
    assert answer["Error"]["Message"] == (
        "The resource would have 51 tags; at most 50 are allowed."
    )
    assert answer["resourceName"] == arn
    assert len(tags_of(client, arn)) == 50
    client.tag_resource(resourceARN=arn, tags=[{"key": "key-00", "value": "changed"}])
    code, _ = refusal(
        client.create_model_customization_job, **job_request("51", customModelTags=as_tags(51))
    )
    assert code == "TooManyTagsException"
    code, _ = refusal(client.get_model_customization_job, jobIdentifier="51")
    assert code == "ResourceNotFoundException"


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        (
            [{"key": "a", "value": "1"}, {"key": "a", "value": "2"}],
            "Duplicate tag keys found: a.",
        ),
        (
            [{"key": "aws:x", "value": "1"}],
            "Tag keys that begin with aws: are reserved: aws:x.",
        ),
    ],
)
def test_tags_that_are_none(client, tags, message):
    answer = refusal(client.create_model_customization_job, **job_request("t", jobTags=tags))
    assert answer == ("ValidationException", message)


def test_deployments_have_tags_and_lose_them(client, services):
    model = make_model(services, client, "tagged-deployment")
    create = client.create_custom_model_deployment
    arn = create(modelDeploymentName="d", modelArn=model, tags=as_tags(3))[
        "customModelDeploymentArn"
    ]
    assert tags_of(client, arn) == as_tags(3)
    client.delete_custom_model_deployment(customModelDeploymentIdentifier=arn)
    assert refusal(client.list_tags_for_resource, resourceARN=arn) == (
        "ResourceNotFoundException",
        f"There is no custom model deployment {arn}.",
    )


def test_tags_of_what_is_none_of_ours(client):
    arn = f"arn:aws:bedrock:{REGION}:{ACCOUNT}:guardrail/abcdefabcdef"
    answer = refusal(client.list_tags_for_resource, resourceARN=arn)
    assert answer[0] in ("ResourceNotFoundException", "ValidationException")
    arn = f"arn:aws:bedrock:{REGION}:{ACCOUNT}:model-import-job/abcdefabcdef"
    assert refusal(client.list_tags_for_resource, resourceARN=arn) == (
        "ResourceNotFoundException",
        f"There is no resource {arn}.",
    )


def test_the_logging_configuration(client, services):
    assert "loggingConfig" not in client.get_model_invocation_logging_configuration()
    config = {
        "s3Config": {"bucketName": "logs", "keyPrefix": "a/b"},
        "textDataDeliveryEnabled": True,
    }
    put = client.put_model_invocation_logging_configuration
    answer = put(loggingConfig=config)
    assert "x-tunestone-note" not in answer["ResponseMetadata"]["HTTPHeaders"]
    assert client.get_model_invocation_logging_configuration()["loggingConfig"] == config
    with services.store.session() as session:
        assert session.get(Setting, "invocation_logging").value == config
    watched = config | {"cloudWatchConfig": {"logGroupName": "group", "roleArn": ROLE}}
    headers = put(loggingConfig=watched)["ResponseMetadata"]["HTTPHeaders"]
    assert headers["x-tunestone-note"] == (
        "There is no CloudWatch here: cloudWatchConfig is stored and echoed, and nothing is "
        "delivered to it. Records go to s3Config."
    )
    assert client.get_model_invocation_logging_configuration()["loggingConfig"] == watched
    del watched["s3Config"]
    assert refusal(put, loggingConfig=watched) == (
        "ValidationException",
        "loggingConfig.s3Config is required: Tunestone delivers records to S3 only, since it has "
        "no CloudWatch.",
    )
    client.delete_model_invocation_logging_configuration()
    assert "loggingConfig" not in client.get_model_invocation_logging_configuration()


def test_base_models_are_listed_with_what_they_can(client):
    models = client.list_foundation_models()["modelSummaries"]
    assert [model["modelId"] for model in models] == [
        NOVA,
        "tunestone.o4-mini-2025-04-16",
        "openai.gpt-oss-20b",
        "qwen.qwen3-32b",
        "tunestone.smollm2-135m",
    ]
    assert models[0]["modelArn"] == NOVA_ARN
    assert models[0]["responseStreamingSupported"] is True
    of_qwen = client.list_foundation_models(byProvider="Qwen")["modelSummaries"]
    assert [model["modelId"] for model in of_qwen] == ["qwen.qwen3-32b"]
    assert client.list_foundation_models(byOutputModality="IMAGE")["modelSummaries"] == []
    assert client.list_foundation_models(byCustomizationType="FINE_TUNING")["modelSummaries"] == []
    assert len(client.list_foundation_models(byInferenceType="ON_DEMAND")["modelSummaries"]) == 5


def test_a_base_model_says_what_stands_behind_it(tmp_path):
    table = {"qwen.qwen3-32b": {"source": "Qwen/Qwen3-0.6B"}}
    with serving_bedrock(services_in(tmp_path, base_models=table)) as url:
        client = connect(url)
        answer = client.get_foundation_model(modelIdentifier="qwen.qwen3-32b-v1:0")
        note = answer["ResponseMetadata"]["HTTPHeaders"]["x-tunestone-model-note"]
        assert note == "qwen.qwen3-32b-v1:0 stands for Qwen/Qwen3-0.6B here."
        assert answer["modelDetails"]["providerName"] == "qwen"
        embedded = client.get_foundation_model(modelIdentifier="tunestone.smollm2-135m")
        assert "x-tunestone-model-note" not in embedded["ResponseMetadata"]["HTTPHeaders"]
        code, message = refusal(client.get_foundation_model, modelIdentifier=NOVA_ARN)
    assert code == "ResourceNotFoundException"
    assert message.endswith("Use one of: qwen.qwen3-32b, smollm2-135m.")


def evaluation(name, *, model=NOVA, **changes):
    dataset = {"name": "mine", "datasetLocation": {"s3Uri": "s3://bucket/eval.jsonl"}}
    metrics = {
        "taskType": "QuestionAndAnswer",
        "dataset": dataset,
        "metricNames": ["Builtin.Accuracy"],
    }
    return {
        "jobName": name,
        "roleArn": ROLE,
        "evaluationConfig": {"automated": {"datasetMetricConfigs": [metrics]}},
        "inferenceConfig": {"models": [{"bedrockModel": {"modelIdentifier": model}}]},
        "outputDataConfig": {"s3Uri": "s3://bucket/evaluations"},
        **changes,
    }


def set_status(services, arn, status):
    with services.store.session() as session:
        session.get(Evaluation, arn.rpartition("/")[2]).status = status


def test_an_evaluation_job_round_trip(client, services):
    request = evaluation("round", jobDescription="Base alone.", jobTags=as_tags(1))
    answer = client.create_evaluation_job(**request, clientRequestToken="token")
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 202
    arn = answer["jobArn"]
    assert client.create_evaluation_job(**request, clientRequestToken="token")["jobArn"] == arn
    assert tags_of(client, arn) == as_tags(1)
    job = client.get_evaluation_job(jobIdentifier=arn)
    assert (job["jobName"], job["status"], job["jobType"]) == ("round", "InProgress", "Automated")
    assert job["evaluationConfig"] == request["evaluationConfig"]
    assert job["inferenceConfig"] == request["inferenceConfig"]
    assert job["jobDescription"] == "Base alone."
    assert "failureMessages" not in job
    assert refusal(client.create_evaluation_job, **evaluation("round")) == (
        "ConflictException",
        "An evaluation job with the name round already exists. Use another jobName.",
    )
    client.stop_evaluation_job(jobIdentifier=arn)
    assert client.get_evaluation_job(jobIdentifier=arn)["status"] == "Stopping"
    assert refusal(client.stop_evaluation_job, jobIdentifier=arn) == (
        "ConflictException",
        "The evaluation job round is Stopping and cannot be stopped.",
    )


def test_tuned_models_and_deployments_can_be_evaluated(client):
    prefix = f"arn:aws:bedrock:{REGION}:{ACCOUNT}"
    names = [
        f"{prefix}:custom-model/{NOVA}/abcdefabcdef",
        f"{prefix}:custom-model-deployment/abcdefabcdef",
        f"{prefix}:provisioned-model/abcdefabcdef",
        NOVA_ARN,
        "smollm2-135m",
    ]
    for i, name in enumerate(names):
        client.create_evaluation_job(**evaluation(f"model-{i}", model=name))
    code, message = refusal(client.create_evaluation_job, **evaluation("model-9", model="no good"))
    assert code == "ValidationException"
    assert "inferenceConfig.models.1.member.bedrockModel.modelIdentifier" in message


def test_what_no_evaluation_does_is_refused(client):
    config = {
        "human": {
            "datasetMetricConfigs": evaluation("x")["evaluationConfig"]["automated"][
                "datasetMetricConfigs"
            ]
        }
    }
    code, message = refusal(
        client.create_evaluation_job, **evaluation("human", evaluationConfig=config)
    )
    assert code == "ValidationException"
    assert message.startswith("evaluationConfig.human is not offered here")


def test_evaluation_jobs_are_filtered_paged_and_deleted(tmp_path):
    services = services_in(tmp_path)
    with serving_bedrock(services) as url:
        client = connect(url)
        arns = [client.create_evaluation_job(**evaluation(f"job-{i}"))["jobArn"] for i in range(4)]
        set_status(services, arns[1], "Completed")

        def names(**filters):
            pages = client.get_paginator("list_evaluation_jobs").paginate(**filters)
            return [one["jobName"][-1] for one in pages.search("jobSummaries[]")]

        assert names(PaginationConfig={"PageSize": 3}) == list("3210")
        assert names(statusEquals="Completed") == ["1"]
        assert names(nameContains="job-2") == ["2"]
        assert names(applicationTypeEquals="ModelEvaluation") == list("3210")
        assert names(applicationTypeEquals="RagEvaluation") == []
        summary = client.list_evaluation_jobs(nameContains="job-2")["jobSummaries"][0]
        assert summary["evaluationTaskTypes"] == ["QuestionAndAnswer"]
        assert summary["modelIdentifiers"] == [NOVA]
        stranger = arns[0][:-12] + "a" * 12
        answer = client.batch_delete_evaluation_job(jobIdentifiers=[arns[1], arns[2], stranger])
        assert answer["evaluationJobs"] == [{"jobIdentifier": arns[1], "jobStatus": "Deleting"}]
        assert answer["errors"] == [
            {
                "jobIdentifier": arns[2],
                "code": "ConflictException",
                "message": "The evaluation job is InProgress; stop it first.",
            },
            {
                "jobIdentifier": stranger,
                "code": "ResourceNotFoundException",
                "message": f"There is no evaluation job {stranger}.",
            },
        ]
        assert names() == list("320")
