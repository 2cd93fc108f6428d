"""The control plane over PostgreSQL: what depends on the database is tried there too."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from botocore.exceptions import ClientError

from bedrock_client import (
    NOVA,
    NOVA_ARN,
    connect,
    find_row,
    finish_job,
    job_request,
    make_model,
    refusal,
    serving_bedrock,
)
from live_server import services_in
from postgres import postgres_cluster, postgres_url  # noqa: F401 - fixtures


def test_names_lists_deployments_and_tags(tmp_path, postgres_url):  # noqa: F811
    services = services_in(tmp_path, database=postgres_url)
    with closing(services.store), serving_bedrock(services) as url:
        client = connect(url)
        check_that_one_creation_wins(url)
        models = [make_model(services, client, f"Job-{i}") for i in range(3)]
        client.create_model_customization_job(
            **job_request("further", baseModelIdentifier=models[0], jobTags=tags(2))
        )
        check_lists(client, models)
        check_deployments(client, models)
        arn = client.get_model_customization_job(jobIdentifier="further")["jobArn"]
        client.tag_resource(resourceARN=arn, tags=tags(3))
        assert client.list_tags_for_resource(resourceARN=arn)["tags"] == tags(3)
        assert refusal(client.delete_custom_model, modelIdentifier=models[0]) == (
            "ConflictException",
            "The custom model Job-0-model is in use by the model customization job further, which "
            "starts from it.",
        )
        services.jobs.stop(find_row(services, "further").id)
        client.delete_custom_model(modelIdentifier=models[0])
        client.create_model_customization_job(**job_request("again", customModelName="Job-0-model"))
        finish_job(services, "again")


def tags(count):
    return [{"key": f"key-{i}", "value": "v"} for i in range(count)]


def check_that_one_creation_wins(url):
    def create(_):
        try:
            return connect(url).create_model_customization_job(**job_request("race"))["jobArn"]
        except ClientError as error:
            return error.response["Error"]["Code"]

    with ThreadPoolExecutor(5) as pool:
        outcomes = sorted(pool.map(create, range(5)))
    assert outcomes[:4] == ["ConflictException"] * 4
    assert outcomes[4].startswith("arn:")


def check_lists(client, models):
    pages = client.get_paginator("list_model_customization_jobs").paginate(
        PaginationConfig={"PageSize": 2}, nameContains="job-"
    )
    names = list(pages.search("modelCustomizationJobSummaries[].jobName"))
    assert names == ["Job-2", "Job-1", "Job-0"]
    time = client.get_custom_model(modelIdentifier=models[1])["creationTime"]
    listed = client.list_custom_models(
        creationTimeAfter=time, baseModelArnEquals=NOVA_ARN, foundationModelArnEquals=NOVA_ARN
    )
    assert [model["modelArn"] for model in listed["modelSummaries"]] == [models[2]]


def check_deployments(client, models):
    arn = client.create_custom_model_deployment(modelDeploymentName="d", modelArn=models[1])[
        "customModelDeploymentArn"
    ]
    get = client.get_custom_model_deployment
    while get(customModelDeploymentIdentifier=arn)["status"] == "Creating":
        time.sleep(0.02)
    client.update_custom_model_deployment(customModelDeploymentIdentifier=arn, modelArn=models[2])
    while (found := get(customModelDeploymentIdentifier=arn))["modelArn"] != models[2]:
        time.sleep(0.02)
    assert found["updateDetails"]["updateStatus"] == "UpdateCompleted"
    create = client.create_provisioned_model_throughput
    create(provisionedModelName="p", modelId=NOVA, modelUnits=1)
    list_throughputs = client.list_provisioned_model_throughputs
    while not list_throughputs(statusEquals="InService")["provisionedModelSummaries"]:
        time.sleep(0.02)
    assert refusal(client.delete_custom_model, modelIdentifier=models[2]) == (
        "ConflictException",
        "The custom model Job-2-model is in use by the deployment d.",
    )
