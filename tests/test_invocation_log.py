"""Invocation logging: calls through boto3 become records in S3, whatever happens in between."""

import gzip
import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from live_server import FolderObjects
from runtime_server import HELLO, NOVA, Words, scripted_services, serving_runtime
from tunestone.errors import WorldError
from tunestone.jobs.inputs import fetch_rows
from tunestone.jobs.invocation_log import Invocation, InvocationLog
from tunestone.jobs.job import DataSource
from tunestone.jobs.tables import Setting

MODEL = "smollm2-135m"
CHAT = {"messages": [{"role": "user", "content": "Hello"}]}
S3 = {"s3Config": {"bucketName": "logs", "keyPrefix": "mine/"}}


class BrokenObjects(FolderObjects):
    """S3 that is down."""

    def upload(self, path, url):
        raise WorldError("S3 is down.")


def log_in(services, objects=None):
    return InvocationLog(
        store=services.store,
        objects=objects or services.objects,
        folder=services.folder,
        account=services.settings.account,
    )


def configure(services, config):
    with services.store.session() as session:
        session.merge(Setting(key="invocation_logging", value=config))


def delivered(services):
    """All records in S3, with their addresses."""
    urls = services.objects.list("s3://logs/")
    return [
        (url, json.loads(line))
        for url in urls
        for line in gzip.decompress(services.objects.path(url).read_bytes()).splitlines()
    ]


@pytest.fixture
def services(tmp_path):
    return scripted_services(tmp_path, Words())


@pytest.fixture
def log(services):
    log = log_in(services)
    log.start()
    yield log
    log.shutdown()


@pytest.fixture
def client(services, log):
    with serving_runtime(replace(services, invocation_log=log)) as client:
        yield client


def converse(client, **members):
    return client.converse(modelId=NOVA, messages=HELLO, **members)


def test_a_call_becomes_a_record_of_schema_1_0(client, services, log):
    configure(services, S3)
    answer = converse(client, requestMetadata={"team": "a"}, inferenceConfig={"maxTokens": 9})
    log.flush()
    ((url, record),) = delivered(services)
    now = datetime.now(UTC)
    place = f"s3://logs/mine/AWSLogs/123456789012/BedrockModelInvocationLogs/us-east-1/{now:%Y/}"
    assert url.startswith(place)
    assert url.endswith(".json.gz")
    assert abs(datetime.fromisoformat(record.pop("timestamp")) - now).total_seconds() < 60
    assert record.pop("requestId") == answer["ResponseMetadata"]["RequestId"]
    output = record.pop("output")
    assert output["outputBodyJson"]["output"] == answer["output"]
    assert output["outputBodyJson"]["stopReason"] == "end_turn"
    assert output["outputTokenCount"] == 2
    assert record == {
        "schemaType": "ModelInvocationLog",
        "schemaVersion": "1.0",
        "accountId": "123456789012",
        "identity": {"arn": "arn:aws:iam::123456789012:user/anonymous"},
        "region": "us-east-1",
        "operation": "Converse",
        "modelId": NOVA,
        "input": {
            "inputContentType": "application/json",
            "inputBodyJson": {
                "messages": HELLO,
                "inferenceConfig": {"maxTokens": 9},
                "requestMetadata": {"team": "a"},
            },
            "inputTokenCount": 7,
        },
        "requestMetadata": {"team": "a"},
    }


def test_each_way_to_ask_leaves_a_record(client, services, log):
    configure(services, S3)
    converse(client)
    list(client.converse_stream(modelId=MODEL, messages=HELLO)["stream"])
    body = json.dumps(CHAT)
    metadata = '{"team": "b"}'
    client.invoke_model(modelId=MODEL, body=body, requestMetadata=metadata)
    stream = client.invoke_model_with_response_stream(modelId=MODEL, body=body)["body"]
    list(stream)
    log.flush()
    records = {record["operation"]: record for _, record in delivered(services)}
    assert list(records) == [
        "Converse", "ConverseStream", "InvokeModel", "InvokeModelWithResponseStream",
    ]  # fmt: skip
    message = records["ConverseStream"]["output"]["outputBodyJson"]["output"]["message"]
    assert message == {"role": "assistant", "content": [{"text": "Hello there."}]}
    for operation in ("InvokeModel", "InvokeModelWithResponseStream"):
        record = records[operation]
        assert record["input"]["inputBodyJson"] == CHAT
        choice = record["output"]["outputBodyJson"]["choices"][0]
        assert choice["message"]["content"] == "Hello there."
        assert record["output"]["outputTokenCount"] == 2
    assert records["InvokeModel"]["requestMetadata"] == {"team": "b"}
    assert "requestMetadata" not in records["InvokeModelWithResponseStream"]


def test_nothing_is_kept_where_it_is_not_wanted(client, services, log):
    converse(client)
    configure(services, {"cloudWatchConfig": {"logGroupName": "g", "roleArn": "r"}})
    converse(client)
    log.flush()
    assert delivered(services) == []


def test_cloudwatch_is_said_to_get_nothing(services, log, caplog):
    configure(services, {"cloudWatchConfig": {"logGroupName": "g", "roleArn": "r"}, **S3})
    log.record(an_invocation())
    log.record(an_invocation())
    assert caplog.text.count("not to CloudWatch") == 1


def test_text_can_be_left_out(client, services, log):
    configure(services, {**S3, "textDataDeliveryEnabled": False})
    converse(client)
    log.flush()
    ((_, record),) = delivered(services)
    assert "inputBodyJson" not in record["input"]
    assert "outputBodyJson" not in record["output"]
    assert record["input"]["inputTokenCount"] == 7


def test_records_can_be_training_data(client, services, log, tmp_path):
    configure(services, S3)
    converse(client, requestMetadata={"team": "a"}, system=[{"text": "Be short."}])
    converse(client, requestMetadata={"team": "b"})
    list(client.converse_stream(modelId=MODEL, messages=HELLO)["stream"])
    body = json.dumps(CHAT)
    client.invoke_model(modelId=MODEL, body=body, requestMetadata='{"team": "a"}')
    log.flush()

    def fetched(**options):
        source = DataSource("logs", "s3://logs/mine/", **options)
        to = tmp_path / "rows.jsonl"
        fetch_rows(source, to, store=services.store, objects=services.objects, data=services.folder)
        return [json.loads(line) for line in to.read_text().splitlines()]

    only_a = fetched(filters={"equals": {"team": "a"}}, use_response=True)
    hello = {"role": "user", "content": "Hello"}
    assert [row["messages"] for row in only_a] == [
        [{"role": "system", "content": "Be short."}, hello], [hello],
    ]  # fmt: skip
    assert [row["reference_answer"] for row in only_a] == ["Hello there.", "Hello there."]
    everything = fetched()
    assert len(everything) == 4
    assert all("reference_answer" not in row for row in everything)


def an_invocation(region="us-east-1", started=None):
    return Invocation(
        operation="Converse", model_id=MODEL, region=region, request_id="r", input={}, output={},
        input_tokens=1, output_tokens=1, metadata={}, caller="me",
        started=started or datetime(2026, 5, 6, 7, 59, tzinfo=UTC),
    )  # fmt: skip


def test_regions_and_hours_have_folders_of_their_own(services, log):
    configure(services, S3)
    log.record(an_invocation())
    log.record(an_invocation())
    log.record(an_invocation(region="us-west-2"))
    log.record(an_invocation(started=datetime(2026, 5, 6, 8, 0, tzinfo=UTC)))
    log.flush()
    places = [url.rpartition("/")[0].partition("Logs/us-")[2] for url, _ in delivered(services)]
    assert places == [
        "east-1/2026/05/06/07", "east-1/2026/05/06/07", "east-1/2026/05/06/08",
        "west-2/2026/05/06/07",
    ]  # fmt: skip


def test_what_was_kept_survives_a_kill_and_a_broken_s3(services, caplog):
    """The first log is never shut down, as after kill -9; its last line is cut in the middle."""
    configure(services, S3)
    killed = log_in(services)
    killed.record(an_invocation())
    killed.record(an_invocation())
    (spool,) = (services.folder / "invocation-log").iterdir()
    with spool.open("ab") as file:
        file.write(b'{"schemaType": "Mod')

    broken = log_in(services, BrokenObjects(services.folder))
    broken.start()
    broken.shutdown()
    assert "could not be delivered: S3 is down." in caplog.text
    assert delivered(services) == []

    mended = log_in(services)
    mended.start()
    mended.shutdown()
    assert [record["requestId"] for _, record in delivered(services)] == ["r", "r"]
    assert list((services.folder / "invocation-log").iterdir()) == []


def test_an_upload_that_is_repeated_writes_the_same_object(services):
    """A server killed between upload and clean-up uploads again, to the same address."""
    configure(services, S3)
    log = log_in(services)
    log.record(an_invocation())
    (spool,) = (services.folder / "invocation-log").iterdir()
    copy = spool.read_bytes()
    log.flush()
    spool.with_suffix(".jsonl").write_bytes(copy)
    log.flush()
    assert len(delivered(services)) == 1
