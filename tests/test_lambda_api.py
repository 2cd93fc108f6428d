"""Lambda's operations through boto3: deploy, look, change, delete, invoke; and rewards of jobs."""

import base64
import json
from contextlib import ExitStack

import pytest
from botocore.exceptions import ClientError

from live_server import running, services_in
from local_aws_server import ROLE, client_of, local_server, zipped
from tunestone.api import local_aws
from tunestone.api.local_aws.rewards import reward_for_arn
from tunestone.errors import RewardError
from tunestone.rewards.grader import parse_spec
from tunestone.rewards.spec import Context
from tunestone.types import Prompt, Sample

LENGTH = """
def lambda_handler(event, context):
    print("scoring", len(event))
    return [{"id": one["id"], "aggregate_reward_score": float(len(one["messages"][-1]["content"]))}
            for one in event]
"""
EVENT = [{"id": "a", "messages": [{"role": "assistant", "content": "four"}]}]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with local_server(tmp_path_factory.mktemp("lambda") / "data") as (url, services):
        yield url, services


@pytest.fixture(scope="module")
def functions(server):
    return client_of(server[0], "lambda")


def deploy(functions, name: str, source: str, *, handler: str = "lambda_handler", **settings):
    options = {"Runtime": "python3.11", "Role": ROLE, "Timeout": 20, **settings}
    code = {"ZipFile": zipped(reward=source)}
    return functions.create_function(
        FunctionName=name, Handler=f"reward.{handler}", Code=code, **options
    )


def invoke(functions, name: str, event=None, **options):
    answer = functions.invoke(FunctionName=name, Payload=json.dumps(event), **options)
    return answer, json.loads(answer["Payload"].read())


def refusal(call, **given) -> tuple[str, str]:
    with pytest.raises(ClientError) as refused:
        call(**given)
    error = refused.value.response["Error"]
    return error["Code"], error["Message"]


def test_a_function_is_deployed_and_invoked(functions):
    made = deploy(functions, "length", LENGTH, MemorySize=256, Description="d", Tags={"a": "b"})
    assert made["FunctionArn"] == "arn:aws:lambda:us-east-1:123456789012:function:length"
    for waiter in ("function_active_v2", "function_updated_v2", "function_exists"):
        functions.get_waiter(waiter).wait(FunctionName="length")
    shown = functions.get_function(FunctionName="length")
    shown["Configuration"].pop("ResponseMetadata", None)
    made.pop("ResponseMetadata")
    assert shown["Configuration"] == made
    assert shown["Tags"] == {"a": "b"}
    assert (made["State"], made["MemorySize"], made["Timeout"]) == ("Active", 256, 20)
    answer, scores = invoke(functions, "length", EVENT, LogType="Tail")
    assert scores == [{"id": "a", "aggregate_reward_score": 4.0}]
    assert (answer["StatusCode"], answer["ExecutedVersion"]) == (200, "$LATEST")
    assert "FunctionError" not in answer
    lines = base64.b64decode(answer["LogResult"]).decode().splitlines()
    assert [line.split()[0] for line in lines] == ["START", "scoring", "END", "REPORT"]


@pytest.mark.parametrize(
    "name",
    [
        "named",
        "function:named",
        "123456789012:function:named",
        "arn:aws:lambda:us-east-1:123456789012:function:named",
        "arn:aws:lambda:us-east-1:123456789012:function:named:$LATEST",
        "named:PROD",
    ],
)
def test_every_form_of_a_name_finds_it(functions, name):
    if not any(f["FunctionName"] == "named" for f in functions.list_functions()["Functions"]):
        deploy(functions, "named", LENGTH)
    assert invoke(functions, name, EVENT)[1][0]["aggregate_reward_score"] == 4.0


def test_regions_are_apart(server, functions):
    west = client_of(server[0], "lambda", region="us-west-2")
    deploy(functions, "apart", LENGTH)
    assert refusal(west.get_function, FunctionName="apart") == (
        "ResourceNotFoundException",
        "Function not found: arn:aws:lambda:us-west-2:123456789012:function:apart",
    )
    made = deploy(west, "apart", "def lambda_handler(event, context): return context.function_name")
    assert made["FunctionArn"].split(":")[3] == "us-west-2"
    assert invoke(west, "apart")[1] == "apart"


def test_new_code_and_new_settings_hold_at_once(functions):
    deploy(functions, "changed", "def lambda_handler(event, context): return 1")
    assert invoke(functions, "changed")[1] == 1
    source = "import os\ndef lambda_handler(event, context): return os.environ.get('WHO', 'nobody')"
    before = functions.get_function_configuration(FunctionName="changed")
    after = functions.update_function_code(FunctionName="changed", ZipFile=zipped(reward=source))
    assert after["CodeSha256"] != before["CodeSha256"]
    assert after["RevisionId"] != before["RevisionId"]
    assert invoke(functions, "changed")[1] == "nobody"
    functions.update_function_configuration(
        FunctionName="changed", Environment={"Variables": {"WHO": "me"}}, Timeout=9
    )
    assert invoke(functions, "changed")[1] == "me"
    assert functions.get_function_configuration(FunctionName="changed")["Timeout"] == 9
    old = before["RevisionId"]
    code, message = refusal(
        functions.update_function_code,
        FunctionName="changed",
        ZipFile=zipped(reward=source),
        RevisionId=old,
    )
    assert code == "PreconditionFailedException"
    assert "does not match the latest RevisionId" in message


def test_code_may_lie_in_s3(server, functions):
    s3 = client_of(server[0], "s3")
    s3.put_object(Bucket="packages", Key="length.zip", Body=zipped(reward=LENGTH))
    functions.create_function(
        FunctionName="from-s3",
        Runtime="python3.12",
        Role=ROLE,
        Handler="reward.lambda_handler",
        Code={"S3Bucket": "packages", "S3Key": "length.zip"},
    )
    assert invoke(functions, "from-s3", EVENT)[1][0]["aggregate_reward_score"] == 4.0


def test_a_deleted_function_is_gone(functions):
    deploy(functions, "deleted", LENGTH)
    functions.delete_function(FunctionName="deleted")
    for call in (functions.get_function, functions.invoke, functions.delete_function):
        code, message = refusal(call, FunctionName="deleted")
        assert code == "ResourceNotFoundException"
        assert message.startswith("Function not found: arn:aws:lambda:us-east-1:")


def test_the_paginator_walks_all(server, functions):
    far = client_of(server[0], "lambda", region="eu-west-1")
    for number in range(5):
        deploy(far, f"page-{number}", LENGTH)
    pages = far.get_paginator("list_functions").paginate(PaginationConfig={"PageSize": 2})
    names = [[f["FunctionName"] for f in page["Functions"]] for page in pages]
    assert names == [["page-0", "page-1"], ["page-2", "page-3"], ["page-4"]]


def test_exceptions_come_back_as_lambda_reports_them(functions):
    deploy(functions, "raises", "def lambda_handler(event, context):\n    raise KeyError('answer')")
    answer, report = invoke(functions, "raises", EVENT)
    assert answer["FunctionError"] == "Unhandled"
    assert report["errorType"] == "KeyError"
    assert report["errorMessage"] == "'answer'"
    assert report["stackTrace"] == [
        "  File \"/var/task/reward.py\", line 2, in lambda_handler\n    raise KeyError('answer')\n"
    ]


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        ("import nothing_of_that_name", "Runtime.ImportModuleError", "Unable to import module"),
        ("def f(:", "Runtime.UserCodeSyntaxError", "Syntax error in module 'reward'"),
        ("x = 1", "Runtime.HandlerNotFound", "Handler 'lambda_handler' missing on module"),
        ("x = 1 / 0", "ZeroDivisionError", "division by zero"),
        (
            "import os\ndef lambda_handler(event, context): os._exit(3)",
            "Runtime.ExitError",
            "Runtime exited",
        ),
        (
            "def lambda_handler(event, context): return 'x' * 7_000_000",
            "Function.ResponseSizeTooLarge",
            "exceeded maximum allowed payload size",
        ),
        (
            "def lambda_handler(event, context): return {1, 2}",
            "TypeError",
            "the handler's result cannot be sent as JSON",
        ),
        (
            "import time\ndef lambda_handler(event, context): time.sleep(30)",
            "Sandbox.Timedout",
            "Task timed out after 1.00 seconds",
        ),
    ],
)
def test_a_handler_that_cannot_answer_says_why(functions, source, kind, message):
    name = f"bad-{kind.replace('.', '-')}"
    deploy(functions, name, source, Timeout=1)
    answer, report = invoke(functions, name)
    assert (answer["StatusCode"], answer["FunctionError"]) == (200, "Unhandled")
    assert report["errorType"] == kind
    assert message in report["errorMessage"]


def test_a_module_that_is_not_there_is_an_import_error(functions):
    functions.create_function(
        FunctionName="elsewhere",
        Runtime="python3.11",
        Role=ROLE,
        Handler="elsewhere.lambda_handler",
        Code={"ZipFile": zipped(reward=LENGTH)},
    )
    _, report = invoke(functions, "elsewhere")
    assert report["errorType"] == "Runtime.ImportModuleError"
    assert "has no module elsewhere; at its top there is reward.py" in report["errorMessage"]


def test_invocations_of_other_types(functions):
    deploy(functions, "typed", LENGTH)
    assert functions.invoke(FunctionName="typed", InvocationType="DryRun")["StatusCode"] == 204
    event = functions.invoke(FunctionName="typed", InvocationType="Event", Payload=b"[]")
    assert (event["StatusCode"], event["Payload"].read()) == (202, b"")
    code, message = refusal(functions.invoke, FunctionName="typed", Payload=b"{")
    assert code == "InvalidRequestContentException"
    assert message.startswith("Could not parse request body into json")
    code, message = refusal(functions.invoke, FunctionName="typed", Payload=b"1" * 6_291_557)
    assert code == "RequestTooLargeException"
    assert message == "Request must be smaller than 6291556 bytes for the InvokeFunction operation"


def test_wrong_deployments_are_refused(functions):
    good = {
        "FunctionName": "refused",
        "Runtime": "python3.11",
        "Role": ROLE,
        "Handler": "reward.lambda_handler",
        "Code": {"ZipFile": zipped(reward=LENGTH)},
    }
    bad: list[tuple[dict, str, str]] = [
        ({"Runtime": "nodejs20.x"}, "InvalidParameterValueException", "runs Python handlers"),
        ({"Runtime": "cobol"}, "ValidationException", "'cobol' at 'Runtime' failed to satisfy"),
        ({"Handler": "reward"}, "InvalidParameterValueException", "of the form module.function"),
        ({"Code": {"ZipFile": b"no zip"}}, "InvalidParameterValueException", "Could not unzip"),
        ({"Code": {}}, "InvalidParameterValueException", "Please provide a source"),
        ({"Role": "me"}, "ValidationException", "'me' at 'Role' failed to satisfy constraint"),
        ({"Timeout": 901}, "InvalidParameterValueException", "Timeout 901 is more than the limit"),
        ({"Timeout": 0}, "ValidationException", "greater than or equal to 1"),
        ({"FunctionName": "a b"}, "ValidationException", "'a b' at 'FunctionName' failed"),
        ({"Layers": ["arn:aws:lambda:us-east-1:123456789012:layer:l:1"]}, *_not_offered("Layers")),
    ]
    for change, code, part in bad:
        found = refusal(functions.create_function, **{**good, **change})
        assert found[0] == code, found
        assert part in found[1], found
    functions.create_function(**good)
    assert refusal(functions.create_function, **good) == (
        "ResourceConflictException",
        "Function already exist: refused",
    )


def _not_offered(name: str) -> tuple[str, str]:
    return "InvalidParameterValueException", f"{name} is not offered"


@pytest.mark.parametrize("source", ["a" + ".a" * 300_000, "-" * 300_000 + "1", "a = 1\n" * 900_000])
def test_a_module_that_python_can_hardly_read_is_deployed_without_reading_it(functions, source):
    made = deploy(functions, f"deep-{len(source)}", source)
    assert (made["State"], made["CodeSize"]) == ("Active", len(zipped(reward=source)))


def test_a_zip_that_leads_outside_is_refused(functions):
    evil = zipped(**{"../../evil": "x = 1"})
    code, message = refusal(
        functions.create_function,
        FunctionName="evil",
        Runtime="python3.11",
        Role=ROLE,
        Handler="evil.f",
        Code={"ZipFile": evil},
    )
    assert code == "InvalidParameterValueException"
    assert "(the Lambda package has an entry that could lead outside of it" in message


def test_permissions_are_kept_and_echoed(functions):
    deploy(functions, "allowed", LENGTH)
    given = {
        "FunctionName": "allowed",
        "StatementId": "bedrock",
        "Action": "lambda:InvokeFunction",
        "Principal": "bedrock.amazonaws.com",
    }
    assert refusal(functions.get_policy, FunctionName="allowed") == (
        "ResourceNotFoundException",
        "The resource you requested does not exist.",
    )
    functions.add_permission(**given)
    policy = json.loads(functions.get_policy(FunctionName="allowed")["Policy"])
    assert policy["Statement"][0]["Principal"] == {"Service": "bedrock.amazonaws.com"}
    assert refusal(functions.add_permission, **given)[0] == "ResourceConflictException"
    functions.remove_permission(FunctionName="allowed", StatementId="bedrock")
    assert refusal(functions.get_policy, FunctionName="allowed")[0] == "ResourceNotFoundException"


def test_a_handler_that_imports_boto3_reaches_this_server_and_others_reach_nothing(functions):
    asks = (
        "import boto3\n"
        "def lambda_handler(event, context):\n"
        "    return boto3.client('sts').get_caller_identity()['Account']\n"
    )
    deploy(functions, "asks", asks, MemorySize=512)
    assert invoke(functions, "asks")[1] == "123456789012"
    hidden = (
        "import importlib\n"
        "def lambda_handler(event, context):\n"
        "    return importlib.import_module('so' + 'cket').create_connection(('127.0.0.1', 80))\n"
    )
    deploy(functions, "hidden", hidden)
    _, report = invoke(functions, "hidden")
    assert report["errorType"] in ("PermissionError", "OSError")


def test_functions_survive_a_restart(tmp_path):
    folder = tmp_path / "data"
    with local_server(folder) as (url, _):
        deploy(client_of(url, "lambda"), "kept", LENGTH)
    with local_server(folder) as (url, _):
        assert invoke(client_of(url, "lambda"), "kept", EVENT)[1][0]["id"] == "a"


def test_without_local_aws_lambda_is_not_answered(tmp_path):
    errors = {"lambda": local_aws.render_error}
    with running(services_in(tmp_path), local_aws.ROUTES, errors) as url:
        code, message = refusal(client_of(url, "lambda").list_functions)
    assert code == "UnknownOperationException"
    assert "--local-aws" in message


def test_the_reward_of_a_job_keeps_the_code_it_started_with(server, functions, tmp_path):
    _, services = server
    settings = {"Timeout": 33, "MemorySize": 512, "Environment": {"Variables": {"WHO": "me"}}}
    arn = deploy(functions, "job", LENGTH, **settings)["FunctionArn"]
    reward = reward_for_arn(services, f"{arn}:$LATEST")
    constant = LENGTH.replace('float(len(one["messages"][-1]["content"]))', "9")
    functions.update_function_code(FunctionName="job", ZipFile=zipped(reward=constant))
    spec = parse_spec(reward)
    assert (spec.timeout_seconds, spec.memory_mib, spec.network) == (33, 512, False)
    assert spec.variables == {"WHO": "me", "AWS_REGION": "us-east-1"}
    sample = Sample(Prompt("p", ({"role": "user", "content": "?"},), {}), "four")
    for table, expected in ((reward, 4.0), (reward_for_arn(services, arn), 9.0)):
        with ExitStack() as stack:
            grader = parse_spec(table).open(Context(tmp_path), stack)
            assert [grade.reward for grade in grader.grade([sample])] == [expected]


def test_without_local_aws_an_arn_is_of_a_function_on_aws(server, tmp_path):
    arn = "arn:aws:lambda:us-east-1:123456789012:function:on-aws"
    services = services_in(tmp_path)
    assert reward_for_arn(services, arn) == {"type": "lambda", "function": arn}
    wrapped = reward_for_arn(services, arn, wrap_reference_answer=True)
    assert wrapped["wrap_reference_answer"] is True
    with pytest.raises(RewardError, match=f"no Lambda function {arn} here"):
        reward_for_arn(server[1], arn)  # a trainer would ask this server for it
