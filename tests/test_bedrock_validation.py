"""What is wrong with a request, in AWS's words: through boto3 without its own checks, and raw."""

import json
import urllib.request
from datetime import UTC, datetime
from urllib.error import HTTPError

import pytest
from botocore.loaders import Loader
from botocore.model import ServiceModel
from hypothesis import given, settings
from hypothesis import strategies as st

import tunestone.api.bedrock as bedrock
from bedrock_client import (
    connect,
    job_request,
    refusal,
    rft,
    serving_bedrock,
    with_parameters,
)
from live_server import services_in
from tunestone.api.bedrock.errors import BedrockError
from tunestone.api.bedrock.shapes import load_service, read_input, write_output

PARAMETERS = "customizationConfig.rftConfig.hyperParameters"
JOB_NAME = r"[a-zA-Z0-9](-*[a-zA-Z0-9\+\-\.])*"


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with serving_bedrock(services_in(tmp_path_factory.mktemp("data"))) as url:
        yield url


@pytest.fixture(scope="module")
def client(url):
    return connect(url, validate=False)


def post(url: str, path: str, body: bytes, method: str = "POST"):
    """(status, code, message) of a raw request."""
    request = urllib.request.Request(f"{url}{path}", data=body or None, method=method)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, "", answer.read().decode()
    except HTTPError as error:
        assert len(error.headers["x-amzn-RequestId"]) == 36
        message = json.loads(error.read())["message"]
        return error.code, error.headers["x-amzn-ErrorType"], message


@pytest.mark.parametrize(
    ("parameter", "value", "rule"),
    [
        ("epochCount", 0, "Member must have value greater than or equal to 1"),
        ("epochCount", 99, "Member must have value less than or equal to 50"),
        ("batchSize", 15, "Member must have value greater than or equal to 16"),
        ("batchSize", 513, "Member must have value less than or equal to 512"),
        ("learningRate", 1.0, "Member must have value less than or equal to 0.001"),
        ("learningRate", 1e-08, "Member must have value greater than or equal to 1e-07"),
        ("maxPromptLength", 0, "Member must have value greater than or equal to 1"),
        ("inferenceMaxTokens", -1, "Member must have value greater than or equal to 1"),
        ("trainingSamplePerPrompt", 1, "Member must have value greater than or equal to 2"),
        ("trainingSamplePerPrompt", 17, "Member must have value less than or equal to 16"),
        ("evalInterval", 101, "Member must have value less than or equal to 100"),
        ("reasoningEffort", "none", "Member must satisfy enum value set: [low, medium, high]"),
    ],
)
def test_hyperparameters_out_of_range(client, parameter, value, rule):
    request = with_parameters("range", **{parameter: value})
    assert refusal(client.create_model_customization_job, **request) == (
        "ValidationException",
        f"1 validation error detected: Value '{value}' at '{PARAMETERS}.{parameter}' failed to "
        f"satisfy constraint: {rule}",
    )


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"jobName": "bad name!"},
            "Value 'bad name!' at 'jobName' failed to satisfy constraint: Member must satisfy "
            f"regular expression pattern: {JOB_NAME}",
        ),
        (
            {"jobName": "x" * 64},
            f"Value '{'x' * 64}' at 'jobName' failed to satisfy constraint: Member must have "
            "length less than or equal to 63",
        ),
        (
            {"jobName": None},
            "Value null at 'jobName' failed to satisfy constraint: Member must not be null",
        ),
        (
            {"trainingDataConfig": {"s3Uri": "file:///x"}},
            "Value 'file:///x' at 'trainingDataConfig.s3Uri' failed to satisfy constraint: Member "
            "must satisfy regular expression pattern: s3://[a-z0-9][-.a-z0-9]{1,61}[a-z0-9](?:/"
            "[-!_*'().a-z0-9A-Z]+(?:/[-!_*'().a-z0-9A-Z]+)*)?/?",
        ),
        (
            {"roleArn": "nope"},
            "Value 'nope' at 'roleArn' failed to satisfy constraint: Member must satisfy regular "
            "expression pattern: arn:aws(-[^:]+)?:iam::([0-9]{12})?:role/.+",
        ),
        (
            {"validationDataConfig": {"validators": [{"s3Uri": "s3://bucket/a"}] * 11}},
            "Member must have length less than or equal to 10",
        ),
        (
            {"validationDataConfig": {"validators": [{"s3Uri": "s3://bucket/a"}, {}]}},
            "Value null at 'validationDataConfig.validators.2.member.s3Uri' failed to satisfy "
            "constraint: Member must not be null",
        ),
        (
            {"vpcConfig": {"subnetIds": [], "securityGroupIds": ["sg-1"]}},
            "Value '[]' at 'vpcConfig.subnetIds' failed to satisfy constraint: Member must have "
            "length greater than or equal to 1",
        ),
        (
            {"customizationConfig": {}},
            "Value at 'customizationConfig' failed to satisfy constraint: Exactly one of these "
            "members must be set: [distillationConfig, rftConfig]",
        ),
        (
            {"customizationConfig": {"rftConfig": rft(learningrate=1e-4)}},
            f"Value at '{PARAMETERS}.learningrate' failed to satisfy constraint: Member is not "
            "known",
        ),
        (
            {"jobNames": "x"},
            "Value at 'jobNames' failed to satisfy constraint: Member is not known",
        ),
    ],
)
def test_members_that_break_a_rule(url, changes, problem):
    body = json.dumps(job_request("rule", **changes)).encode()
    status, code, message = post(url, "/model-customization-jobs", body)
    assert (status, code) == (400, "ValidationException")
    assert message.startswith("1 validation error detected: ")
    assert message.endswith(problem)


def logs(filters):
    source = {"invocationLogSource": {"s3Uri": "s3://logs/a"}, "requestMetadataFilters": filters}
    return job_request("logs", trainingDataConfig={"invocationLogsConfig": source})


FILTERS = "trainingDataConfig.invocationLogsConfig.requestMetadataFilters"


@pytest.mark.parametrize(
    ("filters", "place", "rule"),
    [
        (
            {"equals": {"a": "1"}, "notEquals": {"b": "2"}},
            "",
            "Exactly one of these members must be set: [equals, notEquals, andAll, orAll]",
        ),
        (
            {"equals": {"a": "1", "b": "2"}},
            ".equals",
            "Member must have length less than or equal to 1",
        ),
        ({"andAll": []}, ".andAll", "Member must have length greater than or equal to 1"),
        (
            {"orAll": [{"equals": {"a": "1"}}] * 17},
            ".orAll",
            "Member must have length less than or equal to 16",
        ),
        (
            {"equals": {"a!": "1"}},
            ".equals",
            "Map keys must satisfy constraint: [Member must satisfy regular expression pattern: "
            r"[a-zA-Z0-9\s._:/=+$@-]{1,256}]",
        ),
    ],
)
def test_filters_of_logs(client, filters, place, rule):
    code, message = refusal(client.create_model_customization_job, **logs(filters))
    assert code == "ValidationException"
    assert message.startswith("1 validation error detected: Value ")
    assert message.endswith(f"at '{FILTERS}{place}' failed to satisfy constraint: {rule}")


def test_a_secret_value_is_not_repeated(client):
    message = refusal(client.create_model_customization_job, **logs({"equals": {"a": "bad!"}}))[1]
    assert message == (
        f"1 validation error detected: Value at '{FILTERS}.equals' failed to satisfy constraint: "
        "Map value must satisfy constraint: [Member must satisfy regular expression pattern: "
        r"[a-zA-Z0-9\s._:/=+$@-]{0,256}]"
    )


def test_all_that_is_wrong_is_said_at_once(client):
    request = with_parameters("many", epochCount=99, batchSize=4) | {"roleArn": "nope"}
    message = refusal(client.create_model_customization_job, **request)[1]
    assert message.startswith("3 validation errors detected: Value 'nope' at 'roleArn' failed")
    assert message.count("; Value ") == 2


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "The body is no valid JSON: Expecting property name enclosed in double quotes"),
        (b'{"a": NaN}', "The body is no valid JSON: NaN is no JSON"),
        (b"[1]", "The body must be a JSON object."),
        (b"[" * 100_000, "The body is no valid JSON: "),
        (b"\xff\xfe\x00", "The body is no valid JSON: "),
        (b'{"jobName": 3}', "NUMBER_VALUE '3' cannot be converted to String at 'jobName'"),
        (b'{"jobName": true}', "BOOLEAN_VALUE 'true' cannot be converted to String at 'jobName'"),
        (b'{"jobName": "a\\u0000"}', "STRING_VALUE"),
        (b'{"jobName": "\\ud800"}', "STRING_VALUE"),
        (b'{"jobTags": {}}', "START_OBJECT '{}' cannot be converted to List at 'jobTags'"),
        (
            b'{"customizationConfig": {"rftConfig": {"hyperParameters": {"epochCount": 1.5}}}}',
            f"DECIMAL_VALUE '1.5' cannot be converted to Integer at '{PARAMETERS}.epochCount'",
        ),
        (
            b'{"customizationConfig": {"rftConfig": {"hyperParameters": {"maxPromptLength": '
            b"9999999999}}}}",
            "NUMBER_VALUE '9999999999' cannot be converted to Integer",
        ),
        (
            b'{"customizationConfig": {"rftConfig": {"hyperParameters": {"learningRate": 1'
            + b"0" * 400
            + b"}}}}",
            "NUMBER_VALUE '1000",
        ),
    ],
)
def test_what_cannot_be_read(url, body, message):
    status, code, said = post(url, "/model-customization-jobs", body)
    assert (status, code) == (400, "SerializationException")
    assert said.startswith(message)


@pytest.mark.parametrize(
    ("query", "code", "message"),
    [
        (
            "maxResults=0",
            "ValidationException",
            "Value '0' at 'maxResults' failed to satisfy constraint: Member must have value "
            "greater than or equal to 1",
        ),
        (
            "maxResults=1001",
            "ValidationException",
            "Value '1001' at 'maxResults' failed to satisfy constraint: Member must have value "
            "less than or equal to 1000",
        ),
        (
            "sortBy=Name",
            "ValidationException",
            "Value 'Name' at 'sortBy' failed to satisfy constraint: Member must satisfy enum "
            "value set: [CreationTime]",
        ),
        (
            "statusEquals=Done",
            "ValidationException",
            "Member must satisfy enum value set: [InProgress, Completed, Failed, Stopping, "
            "Stopped]",
        ),
        ("status=Failed", "ValidationException", "Value at 'status' failed to satisfy constraint"),
        (
            "maxResults=ten",
            "SerializationException",
            "STRING_VALUE 'ten' cannot be converted to Integer at 'maxResults'",
        ),
        (
            "creationTimeAfter=yesterday",
            "SerializationException",
            "STRING_VALUE 'yesterday' cannot be converted to Timestamp at 'creationTimeAfter'",
        ),
        (
            "creationTimeAfter=0001-01-01T00:00:00%2B23:00",
            "SerializationException",
            "cannot be converted to Timestamp at 'creationTimeAfter'",
        ),
    ],
)
def test_query_members(url, query, code, message):
    status, said_code, said = post(url, f"/model-customization-jobs?{query}", b"", method="GET")
    assert (status, said_code) == (400, code)
    assert message in said


def test_a_member_in_the_path(client):
    code, message = refusal(client.get_model_customization_job, jobIdentifier="no such!")
    assert code == "ValidationException"
    assert (
        "Value 'no such!' at 'jobIdentifier' failed to satisfy constraint: Member must" in message
    )


def test_patterns_take_no_longer_than_their_text_is_long(client):
    """The model's own pattern for names takes Python 2 ** 60 steps for this one."""
    name = "a" + "-" * 61 + "!"
    code, _ = refusal(client.create_model_customization_job, **job_request(name))
    assert code == "ValidationException"


def test_the_rewritten_pattern_of_names_means_the_same():
    operation = load_service("bedrock").operation_model("StopModelCustomizationJob")
    for name in ("a", "a-b", "a--", "A+.-9", "0-.+"):
        assert read_input(operation, {"jobIdentifier": name}, {}, b"") == {"jobIdentifier": name}
    for name in ("-a", "a_b", ".a", "a b"):
        with pytest.raises(BedrockError):
            read_input(operation, {"jobIdentifier": name}, {}, b"")


def test_every_operation_of_botocore_is_answered(url):
    model = ServiceModel(Loader().load_service_model("bedrock", "service-2"))
    offered = {route.operation for route in bedrock.ROUTES}
    assert offered == set(model.operation_names)
    assert len(bedrock.ROUTES) == len(offered)
    for route in bedrock.ROUTES:
        http = model.operation_model(route.operation).http
        assert (route.method, route.path) == (http["method"], http["requestUri"])
        assert route.scope != "read" or route.operation.startswith(("Get", "List"))
    assert bedrock.REFUSED.keys() <= offered


@pytest.mark.parametrize(
    ("method", "members", "message"),
    [
        (
            "create_custom_model",
            {"modelName": "m"},
            "CreateCustomModel is not offered by Tunestone: custom models come from model "
            "customization jobs here.",
        ),
        (
            "list_guardrails",
            {},
            "ListGuardrails is not offered by Tunestone: there are no guardrails here; filter in "
            "front of the server.",
        ),
        (
            "create_model_copy_job",
            {"sourceModelArn": "arn", "targetModelName": "m"},
            "CreateModelCopyJob is not offered by Tunestone: there is one region; copy the adapter "
            "from the job's output instead.",
        ),
    ],
)
def test_what_is_not_offered_says_why(client, method, members, message):
    assert refusal(getattr(client, method), **members) == ("ValidationException", message)


def test_our_own_fault_is_a_500_and_in_the_log(tmp_path, caplog):
    services = services_in(tmp_path)
    services.jobs.wake = None
    with serving_bedrock(services) as url:
        code, message = refusal(
            connect(url).create_model_customization_job, **job_request("broken")
        )
    assert code == "InternalServerException"
    assert message == (
        "Encountered an internal error when processing the request. The server's log says what "
        "went wrong."
    )
    assert "TypeError" in caplog.text


def test_an_output_that_breaks_the_model_is_our_fault():
    operation = load_service("bedrock").operation_model("CreateModelCustomizationJob")
    with pytest.raises(LookupError, match="has no members \\['arn'\\]"):
        write_output(operation, {"jobArn": "x", "arn": "y"})
    with pytest.raises(LookupError, match="lacks \\['jobArn'\\]"):
        write_output(operation, {"jobArn": None})


def test_times_are_written_with_their_microseconds_and_z():
    operation = load_service("bedrock").operation_model("GetCustomModel")
    time = datetime(2026, 11, 23, 1, 2, 3, 456789, tzinfo=UTC)
    written = write_output(
        operation, {"modelArn": "a", "modelName": "b", "creationTime": time, "jobName": None}
    )
    assert written == {
        "modelArn": "a",
        "modelName": "b",
        "creationTime": "2026-11-23T01:02:03.456789Z",
    }


OFFERED = sorted({route.operation for route in bedrock.ROUTES} - set(bedrock.REFUSED))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=9,
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(OFFERED), st.data())
def test_whatever_is_sent_is_read_or_refused(name, data):
    operation = load_service("bedrock").operation_model(name)
    members = list(operation.input_shape.members) if operation.input_shape else []
    body = data.draw(st.dictionaries(st.sampled_from(members), JSON)) if members else {}
    path = dict.fromkeys(members, "x") if "{" in operation.http["requestUri"] else {}
    try:
        result = read_input(operation, path, {}, json.dumps(body).encode())
    except BedrockError as error:
        assert error.status == 400
    else:
        assert isinstance(result, dict)
