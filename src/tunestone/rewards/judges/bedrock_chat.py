"""Ask a model on Amazon Bedrock through Converse, with boto3.

Bedrock's own structured output is left out, since few of its models have it: the schema is told in
the prompt. Converse has no `seed` and no `reasoning_effort`, so a spec that sets one is refused
rather than heard and forgotten.
"""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tunestone.errors import RewardError
from tunestone.rewards.judges.chat_models import (
    TRIES,
    Endpoint,
    Message,
    Refusal,
    Reply,
    SamplingParams,
    Schema,
    ServerFailure,
    cut_off,
    need_package,
    shorten,
    spent_since,
    with_schema,
)

_BEARER_TOKEN = "AWS_BEARER_TOKEN_BEDROCK"
"""Environment variable of a Bedrock API key, which boto3 takes in place of credentials."""


class BedrockChat:
    """A model behind `bedrock-runtime`'s Converse. Safe for several threads."""

    def __init__(self, model: str, endpoint: Endpoint) -> None:
        """Raises RewardError when boto3, the region or the credentials are missing."""
        try:
            import boto3
            from botocore.config import Config
            from botocore.exceptions import BotoCoreError
        except ImportError:
            need_package("boto3", extra="aws")
        config = Config(
            read_timeout=endpoint.timeout_seconds,
            connect_timeout=min(endpoint.timeout_seconds, 10),
            retries={"mode": "standard", "total_max_attempts": TRIES},
            max_pool_connections=endpoint.concurrency,
        )
        try:
            session = boto3.session.Session()
            if session.get_credentials() is None and not os.environ.get(_BEARER_TOKEN):
                raise RewardError(
                    f"There are no AWS credentials to ask the judge {model} on Bedrock with.",
                    remedy="Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
                    f"{_BEARER_TOKEN}.",
                )
            self._client = session.client(
                "bedrock-runtime",
                region_name=endpoint.region or None,
                endpoint_url=endpoint.base_url or None,
                config=config,
            )
        except (BotoCoreError, ValueError) as error:
            raise RewardError(
                f"No client for the judge on Bedrock could be made: {error}",
                remedy="Set `region` in the endpoint, or AWS_REGION, and look at `base_url`.",
            ) from error
        self._model = model
        self._takes_temperature = True

    def ask(
        self, messages: Sequence[Message], *, schema: Schema | None, params: SamplingParams
    ) -> Reply:
        """See ChatModel. A schema is asked for in the prompt."""
        from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

        started = time.perf_counter()
        if schema is not None:
            messages = with_schema(messages, schema)
        request = _bedrock_request(messages, params, temperature=self._takes_temperature)
        attempts = 0
        while True:
            try:
                body = self._client.converse(modelId=self._model, **request)
            except ClientError as error:
                attempts += 1 + error.response["ResponseMetadata"].get("RetryAttempts", 0)
                sampling = request["inferenceConfig"]
                told = error.response["Error"]
                refused = told.get("Code") == "ValidationException" and "temperature" in sampling
                if not refused or "temperature" not in told.get("Message", ""):
                    raise ServerFailure(shorten(error), spent_since(started, attempts)) from error
                self._takes_temperature = False
                del sampling["temperature"]
                continue
            except BotoCoreError as error:
                attempts += TRIES if isinstance(error, HTTPClientError) else 1
                raise ServerFailure(shorten(error), spent_since(started, attempts)) from error
            attempts += 1 + body["ResponseMetadata"].get("RetryAttempts", 0)
            return _read_converse(body, spent_since(started, attempts))

    def close(self) -> None:
        """Closes its connections."""
        self._client.close()


def _bedrock_request(
    messages: Sequence[Message], params: SamplingParams, *, temperature: bool
) -> dict[str, Any]:
    turns: list[dict[str, Any]] = []
    for message in messages:
        if message["role"] == "system":
            continue
        block = {"text": message["content"]}
        if turns and turns[-1]["role"] == message["role"]:  # Converse wants the roles to alternate
            turns[-1]["content"].append(block)
        else:
            turns.append({"role": message["role"], "content": [block]})
    system = [{"text": m["content"]} for m in messages if m["role"] == "system"]
    sampling = {
        "maxTokens": params.max_completions_tokens,
        "temperature": params.temperature if temperature else None,
        "topP": params.top_p,
    }
    sampling = {name: value for name, value in sampling.items() if value is not None}
    request: dict[str, Any] = {"messages": turns, "inferenceConfig": sampling}
    return request | ({"system": system} if system else {})


def _read_converse(body: Mapping[str, Any], spent: Reply) -> Reply:
    """The answer in a Converse response. Raises ChatFailure when there is none."""
    usage, reason = body.get("usage") or {}, body.get("stopReason")
    tokens = {
        "prompt": int(usage.get("inputTokens") or 0),
        "completion": int(usage.get("outputTokens") or 0),
        "cached": int(usage.get("cacheReadInputTokens") or 0),
    }
    spent = replace(spent, tokens=tokens)
    if reason in ("guardrail_intervened", "content_filtered"):
        raise Refusal(f"the model declined: {reason}", spent)
    if reason in ("max_tokens", "model_context_window_exceeded"):
        cut_off(spent)
    try:
        blocks = body["output"]["message"]["content"]
    except (KeyError, TypeError) as error:
        raise ServerFailure("not an answer of Converse: no output.message", spent) from error
    return replace(spent, text="".join(block.get("text", "") for block in blocks))
