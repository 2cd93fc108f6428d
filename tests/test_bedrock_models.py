"""Custom models, their deployments and Provisioned Throughput through boto3."""

import time

import pytest

from bedrock_client import (
    ACCOUNT,
    NOVA,
    NOVA_ARN,
    REGION,
    connect,
    find_row,
    finish_job,
    job_request,
    make_model,
    refusal,
    serving_bedrock,
)
from live_server import services_in
from scripted_engine import ScriptedEngine
from tunestone.api.inference.targets import resolve_target
from tunestone.errors import ModelError, WorldError
from tunestone.jobs.tables import Deployment


class PickyEngine(ScriptedEngine):
    """Answers, unless it is told to raise; a list of errors is used up one by one."""

    def __init__(self):
        super().__init__(lambda request: "Hello")
        self.raises = []

    async def generate(self, request):
        if self.raises:
            raise self.raises.pop(0)
        async for event in super().generate(request):
            yield event


@pytest.fixture(scope="module")
def engine():
    return PickyEngine()


@pytest.fixture(scope="module")
def services(tmp_path_factory, engine):
    return services_in(tmp_path_factory.mktemp("data"), engine=engine)


@pytest.fixture(scope="module")
def client(services):
    with serving_bedrock(services) as url:
        yield connect(url)


def deploy(client, name, model_arn, **members):
    answer = client.create_custom_model_deployment(
        modelDeploymentName=name, modelArn=model_arn, **members
    )
    return answer["customModelDeploymentArn"]


def settled(client, identifier):
    """The deployment once nothing goes on in the background."""
    while True:
        found = client.get_custom_model_deployment(customModelDeploymentIdentifier=identifier)
        updating = found.get("updateDetails", {}).get("updateStatus") == "Updating"
        if found["status"] != "Creating" and not updating:
            return found
        time.sleep(0.01)


def remove(client, name):
    client.delete_custom_model_deployment(customModelDeploymentIdentifier=name)


def test_a_model_is_seen_by_name_arn_and_id(client, services):
    arn = make_model(services, client, "seen")
    job = client.get_model_customization_job(jobIdentifier="seen")
    identifiers = ("seen-model", arn, arn.rpartition("/")[2])
    for model in [client.get_custom_model(modelIdentifier=name) for name in identifiers]:
        assert model["modelArn"] == arn
        assert model["modelName"] == "seen-model"
        assert (model["jobName"], model["jobArn"]) == ("seen", job["jobArn"])
        assert model["baseModelArn"] == NOVA_ARN
        assert model["customizationType"] == "REINFORCEMENT_FINE_TUNING"
        assert model["modelStatus"] == "Active"
        assert model["trainingDataConfig"] == {"s3Uri": "s3://bucket/train.jsonl"}
        assert model["outputDataConfig"] == {"s3Uri": "s3://bucket/output"}


def test_a_stranger_is_not_found(client):
    arn = f"arn:aws:bedrock:{REGION}:{ACCOUNT}:custom-model/{NOVA}/aaaaaaaaaaaa"
    for name in ("nobody", arn):
        answer = refusal(client.get_custom_model, modelIdentifier=name)
        assert answer == ("ResourceNotFoundException", f"There is no custom model {name}.")


def test_models_are_filtered_sorted_and_paged(tmp_path):
    services = services_in(tmp_path)
    with serving_bedrock(services) as url:
        client = connect(url)
        arns = [make_model(services, client, f"job-{i}") for i in range(3)]
        client.create_model_customization_job(**job_request("next", baseModelIdentifier=arns[0]))
        services.jobs.stop(find_row(services, "next").id)
        further = job_request("further", baseModelIdentifier=arns[1])
        client.create_model_customization_job(**further)
        finish_job(services, "further")

        def names(**filters):
            pages = client.get_paginator("list_custom_models").paginate(**filters)
            return [one["modelName"] for one in pages.search("modelSummaries[]")]

        first = ["job-0-model", "job-1-model", "job-2-model"]
        everything = [*first, "further-model"]
        assert names() == everything[::-1]
        assert names(sortOrder="Ascending", PaginationConfig={"PageSize": 1}) == everything
        assert names(nameContains="JOB-1") == ["job-1-model"]
        assert names(baseModelArnEquals=NOVA_ARN, sortOrder="Ascending") == first
        assert names(baseModelArnEquals=arns[1]) == ["further-model"]
        assert names(foundationModelArnEquals=NOVA_ARN) == everything[::-1]
        other = NOVA_ARN.replace("nova-2", "nova-3")
        assert names(foundationModelArnEquals=other) == []
        assert names(isOwned=True) == everything[::-1]
        assert names(isOwned=False) == []
        assert names(modelStatus="Active") == everything[::-1]
        assert names(modelStatus="Creating") == []
        time = client.get_custom_model(modelIdentifier="job-1-model")["creationTime"]
        assert names(creationTimeAfter=time, sortOrder="Ascending") == everything[2:]
        assert names(creationTimeBefore=time) == ["job-0-model"]
        summary = client.list_custom_models(nameContains="further")["modelSummaries"][0]
        assert summary["baseModelName"] == "amazon.nova-2-lite-v1"
        assert (summary["baseModelArn"], summary["ownerAccountId"]) == (arns[1], ACCOUNT)


def test_a_deleted_model_is_gone_with_its_files_and_its_name_is_free(client, services):
    arn = make_model(services, client, "gone")
    folder = resolve_target(services, arn).ref.adapter
    assert (services.folder / folder).is_dir()
    client.delete_custom_model(modelIdentifier="gone-model")
    assert not (services.folder / folder).exists()
    assert refusal(client.get_custom_model, modelIdentifier=arn)[0] == "ResourceNotFoundException"
    job = client.get_model_customization_job(jobIdentifier="gone")
    assert "outputModelArn" not in job
    client.create_model_customization_job(**job_request("gone-2", customModelName="gone-model"))


def test_a_deployment_becomes_active_once_the_engine_answered(client, services, engine):
    model = make_model(services, client, "deployed")
    answer = client.create_custom_model_deployment(
        modelDeploymentName="live", modelArn=model, description="For the shop."
    )
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 202
    arn = answer["customModelDeploymentArn"]
    assert arn.startswith(f"arn:aws:bedrock:{REGION}:{ACCOUNT}:custom-model-deployment/")
    found = settled(client, arn)
    assert (found["status"], found["modelArn"]) == ("Active", model)
    assert (found["modelDeploymentName"], found["description"]) == ("live", "For the shop.")
    assert "updateDetails" not in found
    asked = engine.asked[-1]
    assert (asked.max_tokens, asked.model) == (1, resolve_target(services, model).ref)
    assert asked.model.adapter.startswith(str(services.folder))
    assert resolve_target(services, arn).ref == asked.model
    assert settled(client, "live") | {"ResponseMetadata": 0} == found | {"ResponseMetadata": 0}
    code, message = refusal(client.delete_custom_model, modelIdentifier=model)
    assert code == "ConflictException"
    assert message == "The custom model deployed-model is in use by the deployment live."
    remove(client, arn)
    answer = refusal(client.get_custom_model_deployment, customModelDeploymentIdentifier="live")
    assert answer == ("ResourceNotFoundException", "There is no custom model deployment live.")
    client.delete_custom_model(modelIdentifier=model)


def test_a_deployment_that_cannot_be_loaded_fails_with_the_reason(client, services, engine):
    model = make_model(services, client, "bad")
    engine.raises = [ModelError("The adapter is damaged.", remedy="Train again.")]
    found = settled(client, deploy(client, "bad", model))
    assert found["status"] == "Failed"
    assert found["failureMessage"] == "The adapter is damaged. Train again."
    listed = client.list_custom_model_deployments(statusEquals="Failed")
    assert [one["customModelDeploymentName"] for one in listed["modelDeploymentSummaries"]] == [
        "bad"
    ]
    code, message = refusal(
        client.update_custom_model_deployment,
        customModelDeploymentIdentifier="bad",
        modelArn=model,
    )
    assert code == "ValidationException"  # botocore's model has no ConflictException here
    assert message == "The custom model deployment bad is Failed, not Active."


def test_a_fault_of_ours_fails_the_deployment_and_is_in_the_log(client, services, engine, caplog):
    model = make_model(services, client, "fault")
    engine.raises = [RuntimeError("a bug")]
    found = settled(client, deploy(client, "fault", model))
    assert found["status"] == "Failed"
    assert found["failureMessage"] == (
        "Encountered an internal error; the server's log says what went wrong."
    )
    assert "a bug" in caplog.text


def test_an_engine_that_starts_anew_is_waited_for(client, services, engine):
    model = make_model(services, client, "patient")
    engine.raises = [WorldError("The engine died.")]
    assert settled(client, deploy(client, "patient", model))["status"] == "Active"


def test_an_update_swaps_the_model_behind_the_arn(client, services, engine):
    old, new = (make_model(services, client, name) for name in ("old", "new"))
    arn = deploy(client, "swap", old)
    settled(client, arn)
    answer = client.update_custom_model_deployment(
        customModelDeploymentIdentifier="swap", modelArn=new
    )
    assert answer["customModelDeploymentArn"] == arn
    found = settled(client, arn)
    assert found["updateDetails"] == {"modelArn": new, "updateStatus": "UpdateCompleted"}
    assert (found["modelArn"], found["status"]) == (new, "Active")
    assert found["lastUpdatedAt"] > found["createdAt"]
    assert resolve_target(services, arn).ref == resolve_target(services, new).ref
    client.delete_custom_model(modelIdentifier=old)


def test_an_update_that_fails_leaves_the_old_model(client, services, engine):
    old, new = (make_model(services, client, name) for name in ("stays", "breaks"))
    arn = deploy(client, "stays", old)
    settled(client, arn)
    engine.raises = [ModelError("The adapter is damaged.")]
    client.update_custom_model_deployment(customModelDeploymentIdentifier=arn, modelArn=new)
    found = settled(client, arn)
    assert found["updateDetails"] == {"modelArn": new, "updateStatus": "UpdateFailed"}
    assert (found["modelArn"], found["status"]) == (old, "Active")
    assert found["failureMessage"] == "The adapter is damaged."


def test_a_deployments_name_is_taken_once_and_its_token_too(client, services):
    model = make_model(services, client, "named")
    arn = deploy(client, "named", model, clientRequestToken="token")
    assert deploy(client, "named", model, clientRequestToken="token") == arn
    request = {"modelDeploymentName": "named", "modelArn": model}
    assert refusal(client.create_custom_model_deployment, **request) == (
        "ValidationException",
        "A custom model deployment with the name named already exists.",
    )
    missing = model[:-12] + "a" * 12
    request = {"modelDeploymentName": "other", "modelArn": missing}
    assert refusal(client.create_custom_model_deployment, **request) == (
        "ResourceNotFoundException",
        f"There is no custom model {missing}.",
    )


def test_deployments_are_filtered_sorted_and_paged(tmp_path):
    services = services_in(tmp_path)
    with serving_bedrock(services) as url:
        client = connect(url)
        models = [make_model(services, client, name) for name in ("one", "two")]
        arns = [deploy(client, f"d-{i}", models[i % 2]) for i in range(4)]
        created = [settled(client, arn)["createdAt"] for arn in arns]

        def names(**filters):
            pages = client.get_paginator("list_custom_model_deployments").paginate(**filters)
            found = pages.search("modelDeploymentSummaries[]")
            return [one["customModelDeploymentName"][-1] for one in found]

        assert names(PaginationConfig={"PageSize": 1}) == list("3210")
        assert names(sortOrder="Ascending") == list("0123")
        assert names(modelArnEquals=models[1]) == list("31")
        assert names(nameContains="d-2") == ["2"]
        assert names(statusEquals="Active") == list("3210")
        assert names(statusEquals="Creating") == []
        assert names(createdAfter=created[1], createdBefore=created[3]) == ["2"]


def test_what_was_under_way_goes_on_after_a_restart(tmp_path):
    services = services_in(tmp_path)
    with serving_bedrock(services) as url:
        client = connect(url)
        old, new = (make_model(services, client, name) for name in ("old", "new"))
        first, second = (deploy(client, name, old) for name in ("first", "second"))
        for arn in (first, second):
            settled(client, arn)
    with services.store.session() as session:  # as a server that was killed leaves them
        session.get(Deployment, first.rpartition("/")[2]).status = "Creating"
        pending = {"model_arn": new, "status": "Updating"}
        session.get(Deployment, second.rpartition("/")[2]).update = pending
    with serving_bedrock(services) as url:
        client = connect(url)
        found = settled(client, "first")
        assert (found["status"], found["modelArn"]) == ("Active", old)
        found = settled(client, "second")
        assert found["updateDetails"] == {"modelArn": new, "updateStatus": "UpdateCompleted"}
        assert found["modelArn"] == new


def provision(client, name, model, **members):
    return client.create_provisioned_model_throughput(
        provisionedModelName=name, modelId=model, modelUnits=2, **members
    )


def in_service(client, identifier):
    while True:
        found = client.get_provisioned_model_throughput(provisionedModelId=identifier)
        if found["status"] not in ("Creating", "Updating"):
            return found
        time.sleep(0.01)


def test_provisioned_throughput_answers_and_says_that_it_reserves_nothing(client, services):
    model = make_model(services, client, "provisioned")
    answer = provision(client, "throughput", model, commitmentDuration="OneMonth")
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 201
    assert answer["ResponseMetadata"]["HTTPHeaders"]["x-tunestone-note"] == (
        "Provisioned Throughput reserves nothing here: the model answers like any other, whatever "
        "modelUnits and commitmentDuration say."
    )
    arn = answer["provisionedModelArn"]
    found = in_service(client, arn)
    assert (found["status"], found["modelUnits"], found["desiredModelUnits"]) == ("InService", 2, 2)
    assert (found["modelArn"], found["foundationModelArn"]) == (model, NOVA_ARN)
    assert found["commitmentDuration"] == "OneMonth"
    assert resolve_target(services, arn).ref == resolve_target(services, model).ref
    base = provision(client, "of-a-base", NOVA)["provisionedModelArn"]
    assert in_service(client, "of-a-base")["modelArn"] == NOVA_ARN
    client.update_provisioned_model_throughput(
        provisionedModelId=base, desiredProvisionedModelName="renamed", desiredModelId=model
    )
    found = in_service(client, "renamed")
    assert (found["modelArn"], found["status"]) == (model, "InService")
    listed = client.list_provisioned_model_throughputs(
        nameContains="named", statusEquals="InService", modelArnEquals=model
    )["provisionedModelSummaries"]
    assert [one["provisionedModelName"] for one in listed] == ["renamed"]
    for status, count in (("Updating", 0), ("Creating", 0), ("Failed", 0), ("InService", 2)):
        listed = client.list_provisioned_model_throughputs(statusEquals=status)
        assert len(listed["provisionedModelSummaries"]) == count
    assert refusal(provision, client=client, name="renamed", model=NOVA) == (
        "ValidationException",
        "A provisioned model with the name renamed already exists.",
    )
    code, _ = refusal(client.delete_custom_model, modelIdentifier=model)
    assert code == "ConflictException"
    for name in ("renamed", "throughput"):
        client.delete_provisioned_model_throughput(provisionedModelId=name)
    assert refusal(client.get_provisioned_model_throughput, provisionedModelId="renamed") == (
        "ResourceNotFoundException",
        "There is no provisioned model renamed.",
    )
