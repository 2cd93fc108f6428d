"""Customization jobs through boto3: create, get, list, stop, and all that is refused."""

import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import boto3
import pytest
from botocore.exceptions import ClientError

from bedrock_client import (
    ACCOUNT,
    LAMBDA,
    NOVA,
    NOVA_ARN,
    REGION,
    connect,
    find_row,
    finish_job,
    job_request,
    make_model,
    refusal,
    rft,
    run_job,
    serving_bedrock,
    with_parameters,
)
from live_server import services_in
from tunestone.jobs.job import Plan
from tunestone.jobs.tables import Event, Function, Job

PHASES = ("validationDetails", "dataProcessingDetails", "trainingDetails")


@pytest.fixture(scope="module")
def services(tmp_path_factory):
    return services_in(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def url(services):
    with serving_bedrock(services) as url:
        yield url


@pytest.fixture(scope="module")
def client(url):
    return connect(url)


def test_a_job_is_created_and_seen_by_name_arn_and_id(client, services):
    woken = services.jobs.woken
    arn = client.create_model_customization_job(**job_request("round"))["jobArn"]
    row = find_row(services, "round")
    assert arn == f"arn:aws:bedrock:{REGION}:{ACCOUNT}:model-customization-job/{NOVA}/{row.id}"
    assert services.jobs.woken == woken + 1
    seen = [
        client.get_model_customization_job(jobIdentifier=name) for name in ("round", arn, row.id)
    ]
    for job in seen:
        del job["ResponseMetadata"]
    assert seen[0] == seen[1] == seen[2]
    job = seen[0]
    assert job["status"] == "InProgress"
    assert job["validationDataConfig"] == {"validators": []}
    assert job["baseModelArn"] == NOVA_ARN
    assert job["creationTime"] == row.created_at
    assert {name: job["statusDetails"][name]["status"] for name in PHASES} == dict.fromkeys(
        PHASES, "NotStarted"
    )
    absent = {"outputModelArn", "endTime", "failureMessage", "trainingMetrics", "vpcConfig"}
    assert not absent & set(job)


def test_an_answer_has_status_201_and_a_request_id(client):
    answer = client.create_model_customization_job(**job_request("status-201"))["ResponseMetadata"]
    assert answer["HTTPStatusCode"] == 201
    assert len(answer["RequestId"]) == 36


def test_every_hyperparameter_reaches_the_plan(client, services):
    given = {
        "epochCount": 3,
        "batchSize": 32,
        "learningRate": 5e-5,
        "maxPromptLength": 310,
        "trainingSamplePerPrompt": 2,
        "inferenceMaxTokens": 750,
        "reasoningEffort": "high",
        "evalInterval": 10,
    }
    client.create_model_customization_job(**with_parameters("parameters", **given))
    assert find_row(services, "parameters").plan["settings"] == {
        "epochs": 3,
        "batch_size": 32,
        "learning_rate": 5e-5,
        "max_prompt_tokens": 310,
        "group_size": 2,
        "max_completion_tokens": 750,
        "reasoning_effort": "high",
        "eval_every": 10,
    }
    job = client.get_model_customization_job(jobIdentifier="parameters")
    assert job["customizationConfig"]["rftConfig"]["hyperParameters"] == given


def test_absent_hyperparameters_are_bedrocks(client, services):
    client.create_model_customization_job(**job_request("defaults"))
    assert find_row(services, "defaults").plan["settings"] == {"group_size": 4}


def test_the_plan_holds_data_reward_and_output(client, services):
    request = job_request(
        "plan",
        validationDataConfig={"validators": [{"s3Uri": "s3://b-1/v1"}, {"s3Uri": "s3://b-1/v2"}]},
    )
    client.create_model_customization_job(**request)
    plan = Plan.from_json(find_row(services, "plan").plan)
    assert (plan.training.kind, plan.training.location) == ("s3", "s3://bucket/train.jsonl")
    assert [source.location for source in plan.validation] == ["s3://b-1/v1", "s3://b-1/v2"]
    assert plan.reward == {"type": "lambda", "function": LAMBDA}
    assert (plan.output, plan.model_name) == ("s3://bucket/output", "plan-model")
    assert (plan.least_rows, plan.most_rows) == (100, 20_000)
    job = client.get_model_customization_job(jobIdentifier="plan")
    assert job["validationDataConfig"] == request["validationDataConfig"]


def test_invocation_logs_with_filters_are_a_source(client, services):
    filters = {"andAll": [{"equals": {"team": "a"}}, {"notEquals": {"stage": "test"}}]}
    logs = {
        "invocationLogSource": {"s3Uri": "s3://logs/prefix"},
        "requestMetadataFilters": filters,
        "usePromptResponse": True,
    }
    request = job_request("logs", trainingDataConfig={"invocationLogsConfig": logs})
    client.create_model_customization_job(**request)
    source = Plan.from_json(find_row(services, "logs").plan).training
    assert (source.kind, source.location) == ("logs", "s3://logs/prefix")
    assert (source.filters, source.use_response) == (filters, True)
    job = client.get_model_customization_job(jobIdentifier="logs")
    assert job["trainingDataConfig"] == {"invocationLogsConfig": logs}


def test_prompts_only_is_the_default_of_logs(client, services):
    logs = {"invocationLogSource": {"s3Uri": "s3://logs/prefix"}}
    request = job_request("logs-default", trainingDataConfig={"invocationLogsConfig": logs})
    client.create_model_customization_job(**request)
    source = Plan.from_json(find_row(services, "logs-default").plan).training
    assert (source.use_response, source.filters) == (False, None)


def test_key_and_vpc_are_echoed(client):
    vpc = {"subnetIds": ["subnet-1"], "securityGroupIds": ["sg-1"]}
    key = "12345678-1234-1234-1234-123456789012"
    request = job_request("echo", customModelKmsKeyId=key, vpcConfig=vpc)
    client.create_model_customization_job(**request)
    job = client.get_model_customization_job(jobIdentifier="echo")
    assert job["outputModelKmsKeyArn"] == f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{key}"
    assert job["vpcConfig"] == vpc


def test_an_alias_that_stands_for_another_model_says_so(client, services):
    answer = client.create_model_customization_job(**job_request("noted"))
    note = answer["ResponseMetadata"]["HTTPHeaders"]["x-tunestone-model-note"]
    assert note == (
        f"This server has no table of base models, so {NOVA} stands for the embedded model "
        "smollm2-135m: that is what is trained and what answers."
    )
    with services.store.session() as session:
        event = session.query(Event).filter_by(job_id=find_row(services, "noted").id).one()
    assert (event.message, event.level) == (note, "warn")


@pytest.mark.parametrize("identifier", [NOVA, NOVA_ARN, "qwen.qwen3-32b"])
def test_base_models_by_id_and_arn(client, services, identifier):
    name = f"base-{len(identifier)}"
    client.create_model_customization_job(**job_request(name, baseModelIdentifier=identifier))
    row = find_row(services, name)
    assert (row.model, row.base) == (identifier.rpartition("/")[2], "smollm2-135m")


def test_the_embedded_model_gets_arns_that_boto3_and_we_take_back(client, services):
    name = "embedded"
    answer = client.create_model_customization_job(
        **job_request(name, baseModelIdentifier="smollm2-135m")
    )
    assert "/tunestone.smollm2-135m/" in answer["jobArn"]
    assert "x-tunestone-model-note" not in answer["ResponseMetadata"]["HTTPHeaders"]
    job = client.get_model_customization_job(jobIdentifier=answer["jobArn"])
    client.create_model_customization_job(
        **job_request("embedded-2", baseModelIdentifier=job["baseModelArn"])
    )
    assert find_row(services, "embedded-2").model == "smollm2-135m"


def test_a_tuned_model_can_be_trained_further(client, services):
    arn = make_model(services, client, "first")
    client.create_model_customization_job(**job_request("second", baseModelIdentifier=arn))
    row = find_row(services, "second")
    assert row.start_adapter == arn.rpartition("/")[2]
    assert (row.model, row.base) == (NOVA, "smollm2-135m")
    summaries = client.list_model_customization_jobs(nameContains="second")
    assert summaries["modelCustomizationJobSummaries"][0]["baseModelArn"] == arn
    job = client.get_model_customization_job(jobIdentifier="second")
    assert job["baseModelArn"] == NOVA_ARN
    code, message = refusal(client.delete_custom_model, modelIdentifier=arn)
    assert code == "ConflictException"
    assert message == (
        "The custom model first-model is in use by the model customization job second, which "
        "starts from it."
    )


def test_an_unknown_tuned_model_is_not_found(client):
    arn = f"arn:aws:bedrock:{REGION}:{ACCOUNT}:custom-model/{NOVA}/aaaaaaaaaaaa"
    request = job_request("lost", baseModelIdentifier=arn)
    answer = refusal(client.create_model_customization_job, **request)
    assert answer == ("ResourceNotFoundException", f"There is no custom model {arn}.")


def test_a_table_of_base_models_decides(tmp_path):
    table = {NOVA: {"source": "org/model", "settings": {"lora_rank": 8, "group_size": 6}}}
    services = services_in(tmp_path, base_models=table)
    with serving_bedrock(services) as url:
        client = connect(url)
        client.create_model_customization_job(**with_parameters("table", epochCount=2))
        row = find_row(services, "table")
        assert row.base == "org/model"
        assert row.plan["settings"] == {"lora_rank": 8, "group_size": 6, "epochs": 2}
        request = job_request("other", baseModelIdentifier="meta.llama-3")
        code, message = refusal(client.create_model_customization_job, **request)
    assert code == "ValidationException"
    assert message == (
        "The provided model identifier is invalid. There is no base model 'meta.llama-3' here. "
        f"Use one of: {NOVA}, smollm2-135m."
    )


def test_a_token_makes_one_job(client, services):
    request = job_request("token", clientRequestToken="token-1")
    first = client.create_model_customization_job(**request)["jobArn"]
    assert client.create_model_customization_job(**request)["jobArn"] == first
    job = client.get_model_customization_job(jobIdentifier=first)
    assert job["clientRequestToken"] == "token-1"
    code, message = refusal(
        client.create_model_customization_job, **{**request, "jobName": "token-other"}
    )
    assert code == "ConflictException"
    assert "token-1 was used with other parameters" in message


def test_names_are_taken_once(client, services):
    client.create_model_customization_job(**job_request("taken"))
    create = client.create_model_customization_job
    with pytest.raises(client.exceptions.ConflictException) as caught:
        create(**job_request("taken", customModelName="free"))
    error = caught.value.response
    assert error["ResponseMetadata"]["HTTPStatusCode"] == 400
    assert error["Error"]["Message"] == (
        "A model customization job with the name taken already exists. Use another jobName."
    )
    again = job_request("taken-2", customModelName="taken-model")
    message = (
        "A custom model with the name taken-model already exists or is being made. Use another "
        "customModelName."
    )
    assert refusal(create, **again) == ("ConflictException", message)
    finish_job(services, "taken")
    assert refusal(create, **again) == ("ConflictException", message)


def test_a_failed_job_gives_its_models_name_back(client, services):
    client.create_model_customization_job(**job_request("unlucky"))
    run_job(services, "unlucky", to="failed")
    client.create_model_customization_job(**job_request("lucky", customModelName="unlucky-model"))
    assert find_row(services, "lucky").plan["model_name"] == "unlucky-model"


def test_of_parallel_creations_of_one_name_one_wins(url, services):
    outcomes = []

    def create():
        call = connect(url).create_model_customization_job
        try:
            outcomes.append(call(**job_request("race"))["jobArn"])
        except ClientError as error:
            outcomes.append(error.response["Error"]["Code"])

    threads = [threading.Thread(target=create) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes)[:5] == ["ConflictException"] * 5
    with services.store.session() as session:
        assert session.query(Job).filter_by(name="race").count() == 1


def test_many_creations_at_once_do_not_starve_each_other(tmp_path):
    services = services_in(tmp_path, local_aws=True)
    with serving_bedrock(services) as url, ThreadPoolExecutor(30) as pool:
        code, message = refusal(
            connect(url).create_model_customization_job, **job_request("too-early")
        )
        with services.store.session() as session:
            session.add(deployed_function())

        def create(number):
            return connect(url).create_model_customization_job(**job_request(f"job-{number}"))

        arns = {answer["jobArn"] for answer in pool.map(create, range(30))}
    assert len(arns) == 30
    assert code == "ValidationException"
    assert f"lambdaArn: there is no Lambda function {LAMBDA} here" in message


def deployed_function():
    moment = datetime.now(UTC)
    settings = {"Handler": "a.b", "Timeout": 3, "MemorySize": 128, "network": False}
    return Function(
        name=LAMBDA,
        path="a.zip",
        sha256="",
        settings=settings,
        created_at=moment,
        updated_at=moment,
    )


def test_stop(client, services):
    client.create_model_customization_job(**job_request("stop"))
    client.stop_model_customization_job(jobIdentifier="stop")
    job = client.get_model_customization_job(jobIdentifier="stop")
    assert job["status"] == "Stopped"
    assert job["endTime"] >= job["creationTime"]
    answer = refusal(client.stop_model_customization_job, jobIdentifier="stop")
    message = "The model customization job stop is Stopped and cannot be stopped."
    assert answer == ("ConflictException", message)


def test_a_job_that_is_asked_to_stop_is_stopping(client, services):
    client.create_model_customization_job(**job_request("stopping"))
    run_job(services, "stopping")
    with services.store.session() as session:
        job = session.query(Job).filter_by(name="stopping").one()
        job.wish = "stop"
        time = "2026-11-23T01:02:03+00:00"
        job.phases = {"training": {"status": "InProgress", "created_at": time, "updated_at": time}}
    job = client.get_model_customization_job(jobIdentifier="stopping")
    assert job["status"] == "Stopping"
    assert job["statusDetails"]["trainingDetails"] == {
        "status": "Stopping",
        "creationTime": datetime(2026, 11, 23, 1, 2, 3, tzinfo=UTC),
        "lastModifiedTime": datetime(2026, 11, 23, 1, 2, 3, tzinfo=UTC),
    }
    answer = refusal(client.stop_model_customization_job, jobIdentifier="stopping")
    message = "The model customization job stopping is Stopping and cannot be stopped."
    assert answer == ("ConflictException", message)
    listed = client.list_model_customization_jobs(statusEquals="Stopping")
    names = [one["jobName"] for one in listed["modelCustomizationJobSummaries"]]
    assert names == ["stopping"]


def test_a_failed_job_says_why(client, services):
    client.create_model_customization_job(**job_request("failed"))
    run_job(services, "failed", to="failed")
    with services.store.session() as session:
        job = session.query(Job).filter_by(name="failed").one()
        job.error = {"code": "data_error", "message": "x" * 5000, "param": None}
    job = client.get_model_customization_job(jobIdentifier="failed")
    assert (job["status"], job["failureMessage"]) == ("Failed", "x" * 2048)


def test_settings_bear_bedrocks_names_in_messages(client, services):
    client.create_model_customization_job(**job_request("worded"))
    run_job(services, "worded", to="failed")
    ours = "Lower max_prompt_tokens or max_completion_tokens."
    for code, shown in (
        ("model_error", "Lower maxPromptLength or inferenceMaxTokens."),
        ("reward_error", ours),  # a handler's traceback may have such names of its own
    ):
        with services.store.session() as session:
            job = session.query(Job).filter_by(name="worded").one()
            job.error = {"code": code, "message": ours, "param": None}
        job = client.get_model_customization_job(jobIdentifier="worded")
        assert job["failureMessage"] == shown


def test_metrics_of_a_running_job_can_be_watched(client, services, url):
    client.create_model_customization_job(**job_request("watched"))
    run_job(services, "watched")
    with services.store.session() as session:
        job = session.query(Job).filter_by(name="watched").one()
        job.progress = {"step": 3, "series": {"actor/entropy": 0.5}}
        key = f'job="{job.id}",metric="{{}}",name="watched"'
    with urllib.request.urlopen(f"{url}/metrics") as answer:
        text = answer.read().decode()
    for metric, value in (("step", 3.0), ("actor/entropy", 0.5)):
        assert f"tunestone_training{{{key.format(metric)}}} {value}" in text


def test_a_completed_job_has_model_and_metrics(client, services):
    arn = make_model(services, client, "complete")
    with services.store.session() as session:
        job = session.query(Job).filter_by(name="complete").one()
        job.progress = {"training_loss": 0.25, "validation_losses": [0.5, 0.75]}
    job = client.get_model_customization_job(jobIdentifier="complete")
    assert job["status"] == "Completed"
    assert job["outputModelArn"] == arn
    assert arn.startswith(f"arn:aws:bedrock:{REGION}:{ACCOUNT}:custom-model/{NOVA}/")
    assert job["outputModelName"] == "complete-model"
    assert job["trainingMetrics"] == {"trainingLoss": 0.25}
    assert job["validationMetrics"] == [{"validationLoss": 0.5}, {"validationLoss": 0.75}]


def test_a_stranger_is_not_found(client):
    with pytest.raises(client.exceptions.ResourceNotFoundException) as caught:
        client.get_model_customization_job(jobIdentifier="nobody")
    error = caught.value.response
    assert error["Error"]["Message"] == "There is no model customization job nobody."
    assert error["ResponseMetadata"]["HTTPStatusCode"] == 404
    other = f"arn:aws:bedrock:eu-west-1:{ACCOUNT}:model-customization-job/{NOVA}/aaaaaaaaaaaa"
    answer = refusal(client.get_model_customization_job, jobIdentifier=other)
    assert answer == ("ResourceNotFoundException", f"There is no model customization job {other}.")


def test_an_arn_of_another_region_is_another_thing(client):
    arn = client.create_model_customization_job(**job_request("regional"))["jobArn"]
    foreign = arn.replace(REGION, "eu-west-1")
    answer = refusal(client.get_model_customization_job, jobIdentifier=foreign)
    assert answer[0] == "ResourceNotFoundException"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"customizationType": "FINE_TUNING", "customizationConfig": None},
            "customizationType FINE_TUNING is not offered by Tunestone, which trains by "
            "reinforcement only. Set customizationType to REINFORCEMENT_FINE_TUNING.",
        ),
        (
            {"customizationType": None},
            "customizationType FINE_TUNING, as it is when absent, is not offered by Tunestone, "
            "which trains by reinforcement only. Set customizationType to "
            "REINFORCEMENT_FINE_TUNING.",
        ),
        (
            {"customizationConfig": None},
            "customizationConfig.rftConfig is required when customizationType is "
            "REINFORCEMENT_FINE_TUNING.",
        ),
        (
            {"customizationConfig": {"rftConfig": {}}},
            "customizationConfig.rftConfig.graderConfig is required: without a reward nothing can "
            "be learnt.",
        ),
        (
            {"hyperParameters": {"epochCount": "2"}},
            "hyperParameters is not used with REINFORCEMENT_FINE_TUNING. Set "
            "customizationConfig.rftConfig.hyperParameters instead.",
        ),
        (
            {"trainingDataConfig": {}},
            "trainingDataConfig must have exactly one of s3Uri and invocationLogsConfig.",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(client, changes, message):
    request = job_request("refused", **changes)
    answer = refusal(client.create_model_customization_job, **request)
    assert answer == ("ValidationException", message)


def test_a_lambda_arn_no_reward_can_have_is_refused(client):
    config = rft()
    config["graderConfig"]["lambdaGrader"]["lambdaArn"] = f"{LAMBDA}.dotted"
    request = job_request("dotted", customizationConfig={"rftConfig": config})
    code, message = refusal(client.create_model_customization_job, **request)
    assert code == "ValidationException"
    assert message.startswith("customizationConfig.rftConfig.graderConfig.lambdaGrader.lambdaArn: ")
    assert "is not the ARN of a Lambda function" in message


def test_settings_that_fight_with_the_base_models_are_refused(tmp_path):
    table = {NOVA: {"source": "org/model", "settings": {"lora_rank": 9999}}}
    with serving_bedrock(services_in(tmp_path, base_models=table)) as url:
        request = job_request("fight")
        code, message = refusal(connect(url).create_model_customization_job, **request)
    assert code == "ValidationException"
    assert message.startswith(
        "The settings of this job cannot be used. lora_rank = 9999 (this server's table of base "
        "models): "
    )


def test_lists_are_filtered_sorted_and_paged(tmp_path):
    services = services_in(tmp_path)
    with serving_bedrock(services) as url:
        client = connect(url)
        for i in range(7):
            client.create_model_customization_job(**job_request(f"Job-{i}"))
        run_job(services, "Job-3", to="failed")
        finish_job(services, "Job-4")

        def names(**filters):
            pages = client.get_paginator("list_model_customization_jobs").paginate(**filters)
            return [one["jobName"][-1] for one in pages.search("modelCustomizationJobSummaries[]")]

        assert names() == list("6543210")
        assert names(PaginationConfig={"PageSize": 2}) == list("6543210")
        assert names(sortOrder="Ascending", PaginationConfig={"PageSize": 3}) == list("0123456")
        assert names(statusEquals="Failed") == ["3"]
        assert names(statusEquals="Completed") == ["4"]
        assert names(statusEquals="InProgress", PaginationConfig={"PageSize": 1}) == list("65210")
        assert names(nameContains="job-2") == ["2"]
        third = find_row(services, "Job-3").created_at
        assert names(creationTimeAfter=third) == list("654")
        assert names(creationTimeBefore=third) == list("210")
        hour = timedelta(hours=1)
        assert names(creationTimeAfter=third - hour, creationTimeBefore=third + hour) == list(
            "6543210"
        )
        page = client.list_model_customization_jobs(maxResults=2)
        again = {"nextToken": page["nextToken"], "statusEquals": "Failed"}
        assert refusal(client.list_model_customization_jobs, **again) == (
            "ValidationException",
            "The provided nextToken is not valid: it belongs to a list with other filters.",
        )
        for token in ("nonsense", "W10=", "WzEsMiwzXQ=="):
            assert refusal(client.list_model_customization_jobs, nextToken=token) == (
                "ValidationException",
                "The provided nextToken is not valid.",
            )
        summary = client.list_model_customization_jobs(nameContains="Job-4")
        shown = summary["modelCustomizationJobSummaries"][0]
        assert shown["customModelName"] == "Job-4-model"
        assert shown["customModelArn"].startswith("arn:aws:bedrock:")
        assert shown["statusDetails"]["validationDetails"]["status"] == "NotStarted"


def test_a_page_goes_on_after_what_it_showed_though_jobs_come_between(tmp_path):
    services = services_in(tmp_path)
    with serving_bedrock(services) as url:
        client = connect(url)
        for i in range(4):
            client.create_model_customization_job(**job_request(f"job-{i}"))
        first = client.list_model_customization_jobs(maxResults=2)
        client.create_model_customization_job(**job_request("job-new"))
        second = client.list_model_customization_jobs(maxResults=2, nextToken=first["nextToken"])
    names = [
        one["jobName"] for page in (first, second) for one in page["modelCustomizationJobSummaries"]
    ]
    assert names == ["job-3", "job-2", "job-1", "job-0"]
    assert "nextToken" not in second


def test_the_environment_redirects_boto3(url, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK", url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")
    client = boto3.client("bedrock", region_name=REGION)
    assert "modelCustomizationJobSummaries" in client.list_model_customization_jobs(maxResults=1)
