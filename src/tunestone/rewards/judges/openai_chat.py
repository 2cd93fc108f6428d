"""Ask a model behind any endpoint of OpenAI's chat shape, through OpenAI's own client.

What differs between endpoints is found out by asking, and remembered once it has worked: whether
they take a JSON schema, only "some JSON", or neither (the schema is then told in the prompt), and
whether the model takes a temperature (reasoning models refuse it).

A key of the environment is never sent to a `base_url` unless `api_key_env` says so: OPENAI_API_KEY
belongs to OpenAI.
"""

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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

_FORMATS = ("json_schema", "json_object", "text")
"""Ways to ask for JSON, the surest first."""
_PATIENCE_PAUSE_SECONDS = 1.0


class OpenAIChat:
    """A model behind `POST {base_url}/chat/completions`. Safe for several threads."""

    def __init__(self, model: str, endpoint: Endpoint) -> None:
        """Raises RewardError when the openai package or the key is missing."""
        try:
            import openai
        except ImportError:
            need_package("openai", extra="openai")
        self._client = openai.OpenAI(
            api_key=_api_key(endpoint),
            base_url=endpoint.base_url or None,
            timeout=endpoint.timeout_seconds,
            max_retries=TRIES - 1,
        )
        self._create = self._client.chat.completions.with_raw_response.create
        self._model = model
        self._patience_seconds = endpoint.patience_seconds
        self._habits = _Habits()

    def ask(
        self, messages: Sequence[Message], *, schema: Schema | None, params: SamplingParams
    ) -> Reply:
        """See ChatModel. A schema the endpoint refuses is asked for in simpler ways."""
        import openai

        started = time.perf_counter()
        habits, attempts, refusals = self._habits, 0, list[str]()
        while True:
            request = _openai_request(messages, schema, params, habits=habits)
            try:
                raw = self._create(model=self._model, **request)
            except openai.APIError as error:
                if self._may_come_back(error, started):
                    attempts += TRIES
                    time.sleep(_PATIENCE_PAUSE_SECONDS)
                    continue
                attempts += 1 + int(error.request.headers.get("x-stainless-retry-count", 0))
                spent = spent_since(started, attempts)
                if getattr(error, "status_code", None) not in (400, 422):
                    raise ServerFailure(shorten(error), spent) from error
                refusals.append(shorten(error))
                simpler = habits.after(_message_of(error), request)
                if simpler is None:  # then the form of the answer was not what it minded
                    raise ServerFailure(refusals[0], spent) from error
                habits = simpler
                continue
            self._habits = habits
            return _read_chat(raw.text, spent_since(started, attempts + 1 + raw.retries_taken))

    def close(self) -> None:
        """Closes its connections."""
        self._client.close()

    def _may_come_back(self, error: Exception, started: float) -> bool:
        """Whether nobody took the connection, and patience is left."""
        import openai

        refused = isinstance(error, openai.APIConnectionError)
        away = refused and not isinstance(error, openai.APITimeoutError)
        return away and time.perf_counter() - started < self._patience_seconds


@dataclass(frozen=True, slots=True)
class _Habits:
    """What an endpoint is taken to understand."""

    format: int = 0
    """Position in `_FORMATS`."""
    temperature: bool = True

    def after(self, refusal: str, request: Mapping[str, Any]) -> "_Habits | None":
        """What to try next when a request was refused; None when there is nothing simpler."""
        if "temperature" in request and "temperature" in refusal:
            return replace(self, temperature=False)
        if "response_format" in request:
            return replace(self, format=self.format + 1)
        return None


def _openai_request(
    messages: Sequence[Message], schema: Schema | None, params: SamplingParams, *, habits: _Habits
) -> dict[str, Any]:
    request = params.model_dump(exclude_none=True)
    if "max_completions_tokens" in request:  # the grader's word; the chat API has no s in it
        request["max_completion_tokens"] = request.pop("max_completions_tokens")
    if not habits.temperature:
        request.pop("temperature", None)
    asked_as = _FORMATS[habits.format]
    if schema is not None and asked_as != "json_schema":
        messages = with_schema(messages, schema)
    if schema is not None and asked_as == "json_schema":
        wrapped = {"name": "reply", "strict": True, "schema": dict(schema)}
        request["response_format"] = {"type": "json_schema", "json_schema": wrapped}
    elif schema is not None and asked_as == "json_object":
        request["response_format"] = {"type": "json_object"}
    return {"messages": [dict(message) for message in messages], **request}


def _read_chat(body: str, spent: Reply) -> Reply:
    """The answer in a chat completion. Raises ChatFailure when there is none."""
    try:
        completion = json.loads(body)
        choice = completion["choices"][0]
        message, reason = choice["message"], choice.get("finish_reason")
        text, declined = message.get("content") or "", message.get("refusal")
        usage = completion.get("usage") or {}
        details = usage.get("prompt_tokens_details") or {}
        spent = replace(
            spent,
            tokens={
                "prompt": int(usage.get("prompt_tokens") or 0),
                "completion": int(usage.get("completion_tokens") or 0),
                "cached": int(details.get("cached_tokens") or 0),
            },
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise ServerFailure(f"not a chat completion: {body[:200]!r}", spent) from error
    if declined or reason == "content_filter":
        raise Refusal(f"the model declined: {shorten(declined or 'content filter')}", spent)
    if reason == "length":
        cut_off(spent)
    return replace(spent, text=_as_text(text))


def _api_key(endpoint: Endpoint) -> str:
    name = endpoint.api_key_env or ("" if endpoint.base_url else "OPENAI_API_KEY")
    if not name:
        return "none"  # the client insists on some key
    if not os.environ.get(name):
        raise RewardError(
            f"The judge's key is missing: the environment variable {name} is not set.",
            remedy=f"Set {name}, or give the endpoint a `base_url` that needs no key.",
        )
    return os.environ[name]


def _message_of(error: Any) -> str:
    """The endpoint's own words; never the whole body, which may echo the prompt."""
    body = error.body
    return str(body.get("message") or "") if isinstance(body, dict) else str(body or "")


def _as_text(content: Any) -> str:
    """Content as text; some endpoints answer in blocks."""
    if isinstance(content, list):
        return "".join(str(block.get("text", "")) for block in content if isinstance(block, dict))
    return str(content)
