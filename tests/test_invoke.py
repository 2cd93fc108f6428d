"""InvokeModel through boto3: bodies and answers of each family, whole and as a stream."""

import json

import pytest
from botocore.exceptions import ClientError

from runtime_server import NOVA, Words, scripted_services, serving_runtime

MODEL = "smollm2-135m"
CHAT = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 9, "temperature": 0}
NOVA_BODY = {
    "schemaVersion": "messages-v1",
    "system": [{"text": "Be short."}],
    "messages": [{"role": "user", "content": [{"text": "Hello"}]}],
    "inferenceConfig": {"maxTokens": 9, "temperature": 0.5, "topP": 0.5, "topK": 4},
}


@pytest.fixture(scope="module")
def words():
    return Words()


@pytest.fixture(scope="module")
def services(tmp_path_factory, words):
    return scripted_services(tmp_path_factory.mktemp("invoke"), words)


@pytest.fixture(scope="module")
def shared_client(services):
    with serving_runtime(services) as client:
        yield client


@pytest.fixture
def client(shared_client, services, words):
    words.text = "Hello there."
    services.engine.asked.clear()
    return shared_client


def invoke(client, model, body, **members):
    return client.invoke_model(modelId=model, body=json.dumps(body), **members)


def chunks_of(client, model, body, **members):
    answer = client.invoke_model_with_response_stream(
        modelId=model, body=json.dumps(body), **members
    )
    return answer, [json.loads(event["chunk"]["bytes"]) for event in answer["body"]]


@pytest.mark.parametrize("model", [MODEL, "openai.gpt-oss-20b-1:0", "qwen.qwen3-32b-v1:0"])
def test_models_of_openai_and_qwen_take_chat_completions(client, services, model):
    answer = invoke(client, model, CHAT)
    body = json.loads(answer["body"].read())
    assert body["choices"][0]["message"]["content"] == "Hello there."
    assert body["choices"][0]["finish_reason"] == "stop"
    assert (body["object"], body["model"]) == ("chat.completion", model)
    assert body["usage"]["total_tokens"] == 9
    (request,) = services.engine.asked
    assert request.messages == ({"role": "user", "content": "Hello"},)
    assert (request.max_tokens, request.temperature) == (9, 0)


def test_headers_tell_the_cost(client):
    answer = invoke(client, MODEL, CHAT, performanceConfigLatency="optimized", serviceTier="flex")
    headers = answer["ResponseMetadata"]["HTTPHeaders"]
    assert headers["x-amzn-bedrock-input-token-count"] == "7"
    assert headers["x-amzn-bedrock-output-token-count"] == "2"
    assert int(headers["x-amzn-bedrock-invocation-latency"]) >= 0
    assert answer["contentType"] == "application/json"
    assert (answer["performanceConfigLatency"], answer["serviceTier"]) == ("optimized", "flex")


def test_nova_takes_and_gives_novas_body(client, services):
    body = json.loads(invoke(client, NOVA, NOVA_BODY)["body"].read())
    assert body["output"] == {
        "message": {"role": "assistant", "content": [{"text": "Hello there."}]}
    }
    assert body["stopReason"] == "end_turn"
    assert body["usage"] == {
        "inputTokens": 7, "outputTokens": 2, "totalTokens": 9,
        "cacheReadInputTokenCount": 0, "cacheWriteInputTokenCount": 0,
    }  # fmt: skip
    (request,) = services.engine.asked
    assert request.messages[0] == {"role": "system", "content": "Be short."}
    assert (request.max_tokens, request.temperature, request.top_p) == (9, 0.5, 0.5)
    assert request.top_k == 4


def test_chunks_of_chat_completions(client):
    answer, chunks = chunks_of(client, MODEL, {**CHAT, "stream": True})
    assert answer["contentType"] == "application/json"
    deltas = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks]
    assert "".join(deltas) == "Hello there."
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    metrics = chunks[-1]["amazon-bedrock-invocationMetrics"]
    assert (metrics["inputTokenCount"], metrics["outputTokenCount"]) == (7, 2)
    assert metrics["invocationLatency"] >= metrics["firstByteLatency"] >= 0
    assert all("amazon-bedrock-invocationMetrics" not in chunk for chunk in chunks[:-1])


def test_chunks_of_nova_are_converses_events(client):
    _, chunks = chunks_of(client, NOVA, NOVA_BODY)
    assert [next(iter(chunk)) for chunk in chunks] == [
        "messageStart", "contentBlockDelta", "contentBlockDelta", "contentBlockStop",
        "messageStop", "metadata",
    ]  # fmt: skip
    assert chunks[-1]["metadata"]["usage"]["outputTokens"] == 2
    assert chunks[-1]["amazon-bedrock-invocationMetrics"]["outputTokenCount"] == 2


@pytest.mark.parametrize(
    ("model", "body", "message"),
    [
        (MODEL, [], "send a JSON object"),
        (MODEL, {"messages": [{"role": "user", "content": "\ud800"}]}, "no valid JSON"),
        (MODEL, {"prompt": "Hi", "max_gen_len": 5}, "OpenAI's chat completions"),
        (MODEL, {**CHAT, "temperature": 9}, "temperature"),
        (NOVA, CHAT, "extraneous key [max_tokens] is not permitted"),
        (NOVA, {**NOVA_BODY, "schemaVersion": "v9"}, "only messages-v1 is known"),
        (NOVA, {"messages": []}, "A conversation must start with a user message."),
        (NOVA, {**NOVA_BODY, "inferenceConfig": {"temperature": 2}}, "less than or equal to 1"),
        (NOVA, {**NOVA_BODY, "inferenceConfig": 3}, "cannot be converted"),
    ],
)
def test_bodies_of_another_shape_are_refused(client, services, model, body, message):
    for operation in (client.invoke_model, client.invoke_model_with_response_stream):
        with pytest.raises(ClientError) as caught:
            operation(modelId=model, body=json.dumps(body))
        assert message in caught.value.response["Error"]["Message"]
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    assert not services.engine.asked


def test_what_is_no_json_is_refused(client):
    with pytest.raises(client.exceptions.ValidationException, match="Malformed input request"):
        client.invoke_model(modelId=MODEL, body=b"hello")
    with pytest.raises(client.exceptions.ValidationException, match="requestMetadata is not valid"):
        invoke(client, MODEL, CHAT, requestMetadata="{")
    with pytest.raises(client.exceptions.ValidationException, match="at most 16 texts"):
        invoke(client, MODEL, CHAT, requestMetadata='{"a": 1}')


def test_guardrails_do_not_exist(client):
    with pytest.raises(client.exceptions.ResourceNotFoundException, match="no guardrails here"):
        invoke(client, MODEL, CHAT, guardrailIdentifier="abc", guardrailVersion="1")
