"""Converse through boto3: what the engine is asked, what comes back, and what is refused."""

import json
from datetime import UTC, datetime

import pytest
from botocore.exceptions import ClientError
from botocore.loaders import Loader
from botocore.model import ServiceModel

from runtime_server import (
    ADD,
    HELLO,
    NOVA,
    Words,
    assistant,
    scripted_services,
    serving_runtime,
    user,
)
from tunestone.api.bedrock_runtime import ROUTES
from tunestone.errors import OverloadedError, RequestError, WorldError
from tunestone.jobs.tables import Deployment

CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
MODEL = "smollm2-135m"


@pytest.fixture(scope="module")
def words():
    return Words()


@pytest.fixture(scope="module")
def services(tmp_path_factory, words):
    return scripted_services(tmp_path_factory.mktemp("converse"), words)


@pytest.fixture(scope="module")
def shared_client(services):
    with serving_runtime(services) as client:
        yield client


@pytest.fixture
def client(shared_client, services, words):
    words.text = "Hello there."
    services.engine.asked.clear()
    return shared_client


def asked(services):
    (request,) = services.engine.asked
    return request


def test_a_text_comes_back_with_usage_latency_and_stop_reason(client):
    answer = client.converse(modelId=MODEL, messages=HELLO)
    assert answer["output"]["message"] == {
        "role": "assistant",
        "content": [{"text": "Hello there."}],
    }
    assert answer["stopReason"] == "end_turn"
    assert answer["usage"] == {"inputTokens": 7, "outputTokens": 2, "totalTokens": 9}
    assert answer["metrics"]["latencyMs"] >= 0
    assert "performanceConfig" not in answer
    assert answer["ResponseMetadata"]["RequestId"]


def test_the_engine_is_asked_what_the_request_says(client, services):
    client.converse(
        modelId=MODEL,
        system=[{"text": "Be short."}, {"cachePoint": {"type": "default"}}, {"text": "Be kind."}],
        messages=[
            user({"text": "One"}, {"cachePoint": {"type": "default"}}, {"text": "Two"}),
            assistant(
                {"reasoningContent": {"reasoningText": {"text": "Hm."}}}, {"text": "Three"}
            ),
            user({"text": "Four"}),
        ],
        inferenceConfig={
            "maxTokens": 9, "temperature": 0.5, "topP": 0.25, "stopSequences": ["END"]
        },
        additionalModelRequestFields={"top_k": 3, "seed": 11, "reasoning_effort": "low"},
    )  # fmt: skip
    request = asked(services)
    assert request.messages == (
        {"role": "system", "content": "Be short.\n\nBe kind."},
        {"role": "user", "content": "One\nTwo"},
        {"role": "assistant", "content": "Three", "reasoning_content": "Hm."},
        {"role": "user", "content": "Four"},
    )
    assert (request.max_tokens, request.temperature, request.top_p) == (9, 0.5, 0.25)
    assert (request.stop, request.top_k, request.seed) == (("END",), 3, 11)
    assert request.template == {"reasoning_effort": "low", "enable_thinking": True}


def test_nova_fields_say_the_same(client, services):
    reasoning = {"type": "enabled", "maxReasoningEffort": "high"}
    fields = {"inferenceConfig": {"topK": 5}, "reasoningConfig": reasoning}
    client.converse(modelId=NOVA, messages=HELLO, additionalModelRequestFields=fields)
    assert asked(services).top_k == 5
    assert asked(services).template == {"reasoning_effort": "high", "enable_thinking": True}


def test_what_was_cut_off_says_so(client):
    answer = client.converse(modelId=MODEL, messages=HELLO, inferenceConfig={"maxTokens": 1})
    assert answer["stopReason"] == "max_tokens"
    assert answer["usage"]["outputTokens"] == 1


def test_reasoning_is_a_block_of_its_own(client, words):
    words.text = "<think>\nTwo and two.\n</think>\n\nFour."
    content = client.converse(modelId=MODEL, messages=HELLO)["output"]["message"]["content"]
    assert content == [
        {"reasoningContent": {"reasoningText": {"text": "Two and two."}}},
        {"text": "Four."},
    ]


def test_a_tool_is_called_and_its_result_sent_back(client, services, words):
    words.text = f"I add. {CALL}"
    tools = {"tools": [ADD]}
    answer = client.converse(modelId=MODEL, messages=HELLO, toolConfig=tools)
    assert answer["stopReason"] == "tool_use"
    text, call = answer["output"]["message"]["content"]
    assert text == {"text": "I add."}
    assert (call["toolUse"]["name"], call["toolUse"]["input"]) == ("add", {"a": 1})
    name = call["toolUse"]["toolUseId"]
    assert name.startswith("tooluse_")
    assert asked(services).grammar is None
    assert asked(services).tools[0]["function"]["name"] == "add"

    words.text = "It is 3."
    services.engine.asked.clear()
    result = {"toolUseId": name, "content": [{"json": {"sum": 3}}, {"text": "done"}]}
    client.converse(
        modelId=MODEL,
        messages=[
            *HELLO,
            answer["output"]["message"],
            user({"toolResult": result}, {"text": "So?"}),
        ],
        toolConfig=tools,
    )
    function = {"name": "add", "arguments": {"a": 1}}
    assert asked(services).messages[1:] == (
        {
            "role": "assistant",
            "content": "I add.",
            "tool_calls": [{"id": name, "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": name, "content": '{"sum": 3}\ndone'},
        {"role": "user", "content": "So?"},
    )


def test_a_failed_tool_is_told_as_an_error(client, services):
    use = {"toolUseId": "t1", "name": "add", "input": {}}
    result = {"toolUseId": "t1", "content": [{"text": "no net"}], "status": "error"}
    messages = [*HELLO, assistant({"toolUse": use}), user({"toolResult": result})]
    client.converse(modelId=MODEL, messages=messages, toolConfig={"tools": [ADD]})
    assert asked(services).messages[-1]["content"] == "Error: no net"


@pytest.mark.parametrize("choice", [{"any": {}}, {"tool": {"name": "add"}}])
def test_a_call_that_must_come_is_enforced_by_a_grammar(client, services, words, choice):
    words.text = CALL
    config = {"tools": [ADD], "toolChoice": choice}
    answer = client.converse(modelId=MODEL, messages=HELLO, toolConfig=config)
    assert answer["stopReason"] == "tool_use"
    assert asked(services).grammar["type"] == "lark"
    assert '"add"' in asked(services).grammar["lark"].replace('\\"', '"')


def test_a_json_schema_is_enforced(client, services):
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    text_format = {
        "type": "json_schema", "structure": {"jsonSchema": {"schema": json.dumps(schema)}}
    }  # fmt: skip
    client.converse(modelId=MODEL, messages=HELLO, outputConfig={"textFormat": text_format})
    assert asked(services).grammar == {"type": "json_schema", "schema": schema}


def test_echoes_and_further_response_fields(client):
    answer = client.converse(
        modelId=MODEL,
        messages=HELLO,
        performanceConfig={"latency": "optimized"},
        serviceTier={"type": "flex"},
        additionalModelResponseFieldPaths=["/stop_sequence", "/nothing"],
    )
    assert answer["performanceConfig"] == {"latency": "optimized"}
    assert answer["serviceTier"] == {"type": "flex"}
    assert answer["additionalModelResponseFields"] == {"stop_sequence": None}


def test_an_alias_says_what_answers(client):
    for name in (NOVA, f"{NOVA}:256k", f"arn:aws:bedrock:us-east-1::foundation-model/{NOVA}"):
        headers = client.converse(modelId=name, messages=HELLO)["ResponseMetadata"]["HTTPHeaders"]
        assert "stands for the embedded model" in headers["x-tunestone-model-note"]


def test_a_turn_of_the_assistant_is_continued(client, services):
    client.converse(modelId=MODEL, messages=[*HELLO, assistant({"text": "It is"})])
    assert asked(services).messages[-1] == {"role": "assistant", "content": "It is"}


def test_tokens_of_a_prompt_are_counted(client):
    body = json.dumps({"messages": [{"role": "user", "content": "Hello"}]}).encode()
    assert (
        client.count_tokens(modelId=MODEL, input={"converse": {"messages": HELLO}})["inputTokens"]
        == 7
    )
    assert (
        client.count_tokens(modelId=MODEL, input={"invokeModel": {"body": body}})["inputTokens"]
        == 7
    )


TEXT = {"text": "Hi"}
USE = {"toolUse": {"toolUseId": "t1", "name": "add", "input": {}}}
RESULT = {"toolResult": {"toolUseId": "t1", "content": [TEXT]}}
IMAGE = {"image": {"format": "png", "source": {"bytes": b"x"}}}
DOCUMENT = {"document": {"format": "txt", "name": "d", "source": {"bytes": b"x"}}}
START = "A conversation must start with a user message."
ALTERNATE = "A conversation must alternate between user and assistant roles."
REFUSED = [
    ({"messages": []}, START),
    ({"messages": [assistant(TEXT)]}, START),
    ({"messages": [user(TEXT), user(TEXT)]}, ALTERNATE),
    ({"messages": [{"role": "system", "content": [TEXT]}]}, "the system role at messages.0"),
    ({"messages": [user({"text": "  "})]}, "at messages.0.content.0 is blank. Add text"),
    ({"messages": [user()]}, "The content field in the Message object at messages.0 is empty"),
    ({"messages": [user(TEXT, IMAGE)]}, "doesn't support the image field at messages.0.content.1"),
    ({"messages": [user(DOCUMENT)]}, "This model doesn't support the document field"),
    ({"messages": [user({"guardContent": {"text": {"text": "x"}}})]}, "the guardContent field"),
    ({"messages": [user(TEXT), assistant(USE), user(RESULT)]}, "toolConfig field must be defined"),
    ({"messages": [user(TEXT), assistant(USE), user(TEXT)], "toolConfig": {"tools": [ADD]}},
     "Expected toolResult blocks at messages.2.content for the following Ids: t1"),
    ({"messages": [user(RESULT)], "toolConfig": {"tools": [ADD]}},
     "The number of toolResult blocks at messages.0.content exceeds the number of toolUse blocks"),
    ({"toolConfig": {"tools": [ADD, ADD]}}, "two tools with the same name"),
    ({"toolConfig": {"tools": [ADD], "toolChoice": {"tool": {"name": "sub"}}}}, "The tool sub in"),
    ({"toolConfig": {"tools": [{"systemTool": {"name": "search"}}]}}, "the systemTool field"),
    ({"inferenceConfig": {"temperature": 1.5}},
     "Value '1.5' at 'inferenceConfig.temperature' failed to satisfy constraint: Member must have "
     "value less than or equal to 1"),
    ({"inferenceConfig": {"maxTokens": 0}}, "Member must have value greater than or equal to 1"),
    ({"additionalModelRequestFields": {"beams": 3}}, "extraneous key [beams] is not permitted"),
    ({"additionalModelRequestFields": {"top_k": -1}}, "must be a whole number of 0 or more"),
    ({"additionalModelRequestFields": {"reasoning_effort": "big"}}, "must be one of: none,"),
    ({"requestMetadata": {f"k{i}": "v" for i in range(17)}}, "length less than or equal to 16"),
    ({"requestMetadata": {"k": "ü!"}}, "Map value must satisfy constraint"),
    ({"promptVariables": {"x": {"text": "y"}}}, "The promptVariables field can only be used"),
    ({"outputConfig": {"textFormat": {"type": "json_schema",
                                      "structure": {"jsonSchema": {"schema": "{"}}}}},
     "jsonSchema.schema is not valid JSON"),
]  # fmt: skip


@pytest.mark.parametrize(("members", "message"), REFUSED)
def test_bad_requests_are_refused(client, services, members, message):
    with pytest.raises(client.exceptions.ValidationException) as caught:
        client.converse(**{"modelId": MODEL, "messages": HELLO, **members})
    assert message in caught.value.response["Error"]["Message"]
    assert not services.engine.asked


def test_guardrails_do_not_exist(client):
    guardrail = {"guardrailIdentifier": "abc", "guardrailVersion": "1"}
    with pytest.raises(client.exceptions.ResourceNotFoundException, match="guardrail identifier"):
        client.converse(modelId=MODEL, messages=HELLO, guardrailConfig=guardrail)
    with pytest.raises(client.exceptions.ResourceNotFoundException, match="no guardrails here"):
        client.apply_guardrail(
            guardrailIdentifier="abc", guardrailVersion="1", source="INPUT", content=[]
        )


def test_background_calls_are_not_offered(client):
    with pytest.raises(
        client.exceptions.ValidationException, match="ListAsyncInvokes is not offered here"
    ):
        client.list_async_invokes()


def test_unknown_models(client):
    with pytest.raises(client.exceptions.ValidationException) as caught:
        client.converse(modelId="no good name!", messages=HELLO)
    told = caught.value.response["Error"]["Message"]
    assert told.startswith("The provided model identifier is invalid.")
    gone = "arn:aws:bedrock:us-east-1:123456789012:custom-model-deployment/abcdefabcdef"
    with pytest.raises(client.exceptions.ResourceNotFoundException, match="Model not found"):
        client.converse(modelId=gone, messages=HELLO)


def test_a_deployment_answers_once_it_is_active(client, services):
    moment = datetime.now(UTC)
    row = Deployment(
        id="dep000000001", kind="deployment", name="mine", status="Creating", region="us-east-1",
        model_arn=f"arn:aws:bedrock:us-east-1::foundation-model/{NOVA}",
        request={}, created_at=moment, updated_at=moment,
    )  # fmt: skip
    with services.store.session() as session:
        session.add(row)
    arn = f"arn:aws:bedrock:us-east-1:123456789012:custom-model-deployment/{row.id}"
    with pytest.raises(
        client.exceptions.ModelNotReadyException, match="still being made"
    ) as caught:
        client.converse(modelId=arn, messages=HELLO)
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 429
    with services.store.session() as session:
        session.get_one(Deployment, row.id).status = "Active"
    assert client.converse(modelId=arn, messages=HELLO)["stopReason"] == "end_turn"


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (RequestError("The prompt has 9000 tokens."), "ValidationException", 400),
        (WorldError("The engine died."), "ServiceUnavailableException", 503),
        (OverloadedError("512 wait already."), "ThrottlingException", 429),
        (ZeroDivisionError(), "InternalServerException", 500),
    ],
)
def test_what_the_engine_refuses_is_an_error_of_bedrock(client, words, error, code, status):
    words.error = error
    try:
        with pytest.raises(ClientError) as caught:
            client.converse(modelId=MODEL, messages=HELLO)
    finally:
        words.error = None
    assert caught.value.response["Error"]["Code"] == code
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
    if isinstance(error, RequestError):
        assert caught.value.response["Error"]["Message"] == "The prompt has 9000 tokens."


def test_each_operation_of_the_runtime_is_answered():
    operations = ServiceModel(Loader().load_service_model("bedrock-runtime", "service-2"))
    assert {route.operation for route in ROUTES} == set(operations.operation_names)
