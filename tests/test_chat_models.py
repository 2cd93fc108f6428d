"""The real openai and boto3 clients against a scripted server."""

import pytest
from pydantic import ValidationError

from judge_server import BROKEN, OVERLOADED, Said, in_turn, say, serve_judge
from tunestone.errors import RewardError
from tunestone.rewards.judges.bedrock_chat import BedrockChat
from tunestone.rewards.judges.chat_models import (
    Endpoint,
    Refusal,
    SamplingParams,
    ServerFailure,
    TruncatedReply,
    with_schema,
)
from tunestone.rewards.judges.openai_chat import OpenAIChat

MESSAGES = [{"role": "system", "content": "Be fair."}, {"role": "user", "content": "Is it good?"}]
SCHEMA = {"type": "object", "properties": {"score": {"type": "integer"}}, "required": ["score"]}
COLD = SamplingParams(temperature=0)


@pytest.fixture
def aws(monkeypatch):
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_BEARER_TOKEN_BEDROCK", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "dummy")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def openai_chat(served, **fields):
    return OpenAIChat("judge-1", Endpoint(base_url=f"{served.url}/v1", **fields))


def bedrock_chat(served, **fields):
    endpoint = Endpoint(api="bedrock", base_url=served.url, region="us-east-1", **fields)
    return BedrockChat("us.judge-v1:0", endpoint)


# --- OpenAI's shape -------------------------------------------------------------------------


def test_openai_sends_the_schema_and_counts_the_tokens():
    with serve_judge(in_turn(say(score=4))) as served:
        params = SamplingParams(temperature=0, max_completions_tokens=50, seed=3)
        reply = openai_chat(served).ask(MESSAGES, schema=SCHEMA, params=params)
    assert reply.text == '{"score": 4}'
    assert reply.tokens == {"prompt": 100, "completion": 7, "cached": 64}
    assert (reply.attempts, reply.seconds > 0) == (1, True)
    body = served.requests[0].json()
    assert body["messages"] == MESSAGES
    assert body["response_format"]["json_schema"]["schema"] == SCHEMA
    assert body["response_format"]["json_schema"]["strict"] is True
    assert (body["temperature"], body["max_completion_tokens"], body["seed"]) == (0, 50, 3)
    assert "max_completions_tokens" not in body


def test_openai_repeats_what_the_server_could_not_do():
    with serve_judge(in_turn(OVERLOADED, BROKEN, say(score=1))) as served:
        reply = openai_chat(served).ask(MESSAGES, schema=None, params=COLD)
    assert (reply.text, reply.attempts) == ('{"score": 1}', 3)
    assert "response_format" not in served.requests[0].json()


def test_openai_gives_up_after_four_attempts():
    with (
        serve_judge(lambda _: BROKEN) as served,
        pytest.raises(ServerFailure, match=r"500.*oh no") as caught,
    ):
        openai_chat(served).ask(MESSAGES, schema=None, params=COLD)
    assert caught.value.flag == "model_grader_server_error"
    assert (caught.value.spent.attempts, len(served.requests)) == (4, 4)


def test_openai_falls_back_to_simpler_ways_to_ask_for_json_and_remembers():
    def answer(asked):
        wanted = asked.body.get("response_format", {}).get("type")
        if wanted:
            return Said(status=400, error=f"{wanted} is not supported")
        return say(score=2)

    with serve_judge(answer) as served:
        chat = openai_chat(served)
        first = chat.ask(MESSAGES, schema=SCHEMA, params=COLD)
        second = chat.ask(MESSAGES, schema=SCHEMA, params=COLD)
    assert (first.attempts, second.attempts) == (3, 1)
    bodies = [request.json() for request in served.requests]
    kinds = [body.get("response_format", {}).get("type") for body in bodies]
    assert kinds == ["json_schema", "json_object", None, None]
    # Without a schema on the wire, the prompt tells it.
    assert bodies[0]["messages"] == MESSAGES
    assert all(body["messages"] == with_schema(MESSAGES, SCHEMA) for body in bodies[1:])
    assert '"score": {"type": "integer"}' in bodies[3]["messages"][0]["content"]


def test_openai_reports_the_first_refusal_when_nothing_helps_and_forgets_the_detour():
    def answer(asked):
        if len(asked.user) > 100:
            return Said(status=400, error="the prompt is too long")
        return say(score=2)

    with serve_judge(answer) as served:
        chat = openai_chat(served)
        long = [{"role": "user", "content": "x" * 200}]
        with pytest.raises(ServerFailure, match="the prompt is too long"):
            chat.ask(long, schema=SCHEMA, params=COLD)
        chat.ask(MESSAGES, schema=SCHEMA, params=COLD)
    assert served.requests[-1].json()["response_format"]["type"] == "json_schema"


def test_openai_leaves_out_the_temperature_for_models_that_refuse_it():
    def answer(asked):
        if "temperature" in asked.body:
            return Said(status=400, error="Unsupported value: 'temperature'", param="temperature")
        return say(score=5)

    with serve_judge(answer) as served:
        chat = openai_chat(served)
        attempts = [chat.ask(MESSAGES, schema=SCHEMA, params=COLD).attempts for _ in range(2)]
    assert attempts == [2, 1]
    assert "json_schema" in str(served.requests[-1].json())


@pytest.mark.parametrize(
    ("said", "kind", "message"),
    [
        (Said(refusal="I cannot judge this."), Refusal, "I cannot judge this"),
        (Said(finish="content_filter"), Refusal, "content filter"),
        (Said('{"sco', finish="length"), TruncatedReply, "raise sampling_params.max_completions"),
        (Said(raw=b'{"choices": ['), ServerFailure, "not a chat completion"),
        (Said(raw=b'{"choices": []}'), ServerFailure, "not a chat completion"),
        (Said(raw=b"[]"), ServerFailure, "not a chat completion"),
        (Said(status=401, error="wrong key"), ServerFailure, "wrong key"),
    ],
)
def test_openai_tells_the_failures_apart(said, kind, message):
    with serve_judge(in_turn(said)) as served, pytest.raises(kind, match=message):
        openai_chat(served).ask(MESSAGES, schema=None, params=COLD)


def test_a_refusal_costs_tokens_too():
    with serve_judge(in_turn(Said(refusal="no"))) as served, pytest.raises(Refusal) as caught:
        openai_chat(served).ask(MESSAGES, schema=None, params=COLD)
    assert caught.value.spent.tokens["prompt"] == 100


def test_openai_gives_up_on_a_slow_attempt_and_repeats_it():
    script = in_turn(Said("late", wait_seconds=0.4), Said("in time"))
    with serve_judge(script) as served:
        chat = openai_chat(served, timeout_seconds=0.2)
        reply = chat.ask(MESSAGES, schema=None, params=COLD)
    assert (reply.text, reply.attempts) == ("in time", 2)


def test_a_key_goes_only_where_the_endpoint_says(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("JUDGE_KEY", "for-the-judge")
    with serve_judge(lambda _: say(score=1)) as served:
        openai_chat(served).ask(MESSAGES, schema=None, params=COLD)
        openai_chat(served, api_key_env="JUDGE_KEY").ask(MESSAGES, schema=None, params=COLD)
    sent = [request.headers["Authorization"] for request in served.requests]
    assert sent == ["Bearer none", "Bearer for-the-judge"]


def test_a_missing_key_is_said_when_the_judge_is_opened(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(RewardError, match="environment variable OPENAI_API_KEY is not set"):
        OpenAIChat("gpt-4.1", Endpoint())


# --- Bedrock --------------------------------------------------------------------------------


def test_bedrock_gets_system_turns_and_sampling_in_its_own_words(aws):
    with serve_judge(in_turn(say(score=4))) as served:
        params = SamplingParams(temperature=0, top_p=0.5, max_completions_tokens=50)
        twice = [*MESSAGES, {"role": "user", "content": "Well?"}]
        reply = bedrock_chat(served).ask(twice, schema=SCHEMA, params=params)
    assert reply.text == '{"score": 4}'
    assert reply.tokens == {"prompt": 100, "completion": 7, "cached": 0}
    request = served.requests[0]
    assert request.path == "/model/us.judge-v1%3A0/converse"
    body = request.json()
    # Converse wants the roles to alternate: two user messages become one with two blocks.
    content = [{"text": "Is it good?"}, {"text": "Well?"}]
    assert body["messages"] == [{"role": "user", "content": content}]
    assert body["system"][0]["text"].startswith("Be fair.\n\nAnswer with one JSON object")
    assert body["inferenceConfig"] == {"maxTokens": 50, "temperature": 0, "topP": 0.5}


def test_bedrock_leaves_out_the_temperature_for_models_that_refuse_it(aws):
    def answer(asked):
        if "temperature" in asked.body["inferenceConfig"]:
            return Said(status=400, error="This model does not support temperature.")
        return say(score=5)

    with serve_judge(answer) as served:
        chat = bedrock_chat(served)
        attempts = [chat.ask(MESSAGES, schema=None, params=COLD).attempts for _ in range(2)]
    assert attempts == [2, 1]


@pytest.mark.parametrize(
    ("said", "kind", "message"),
    [
        (Said(finish="content_filter"), Refusal, "content_filtered"),
        (Said('{"sco', finish="length"), TruncatedReply, "cut off"),
        (Said(status=400, error="no such model"), ServerFailure, "no such model"),
        (Said(raw=b'{"usage": {}}'), ServerFailure, "not an answer of Converse"),
    ],
)
def test_bedrock_tells_the_failures_apart(aws, said, kind, message):
    with serve_judge(in_turn(said)) as served, pytest.raises(kind, match=message):
        bedrock_chat(served).ask(MESSAGES, schema=None, params=COLD)


def test_bedrock_repeats_what_the_server_could_not_do(aws):
    with serve_judge(in_turn(Said(status=500, error="oh no"), say(score=1))) as served:
        reply = bedrock_chat(served).ask(MESSAGES, schema=None, params=COLD)
    assert (reply.text, reply.attempts) == ('{"score": 1}', 2)


def test_bedrock_without_a_region_is_said_when_the_judge_is_opened(aws):
    with pytest.raises(RewardError, match="Set `region` in the endpoint"):
        BedrockChat("judge", Endpoint(api="bedrock"))


def test_bedrock_without_credentials_is_said_when_the_judge_is_opened(aws, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    endpoint = Endpoint(api="bedrock", region="us-east-1")
    with pytest.raises(RewardError, match="no AWS credentials to ask the judge m on Bedrock"):
        BedrockChat("m", endpoint)
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "dummy")
    BedrockChat("m", endpoint).close()


# --- Endpoints ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"region": "us-east-1"}, "region is for api = 'bedrock'"),
        ({"api": "bedrock", "api_key_env": "KEY"}, "api_key_env is for api = 'openai'"),
        ({"base_url": "localhost:8000"}, "not an address; write http://127.0.0.1:8000/v1"),
        ({"concurrency": 0}, "concurrency"),
        ({"timeout": 3}, "timeout"),
    ],
)
def test_endpoints_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        Endpoint(**fields)
