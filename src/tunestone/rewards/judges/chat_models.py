"""One method to ask a model something, whichever service it lives at.

`ask(messages, schema=..., params=...)` sends a conversation and gives the text of the answer.
`openai_chat` does it for any endpoint of OpenAI's chat shape (OpenAI, vLLM, llama.cpp, Ollama, our
own server), `bedrock_chat` for Amazon Bedrock's Converse. Both leave retries, backoff and
connection pools to the client libraries, which do them well.

Left out on purpose: streaming (a grade is needed whole), and images and audio.
"""

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NoReturn, Protocol, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tunestone.errors import RewardError
from tunestone.types import GradeFlag

Message = Mapping[str, str]
"""`role` (system, user or assistant) and `content`, plain text."""
Schema = Mapping[str, Any]
"""JSON Schema of an object, within what strict structured output allows."""

TRIES = 4
"""A request is sent once and repeated three times when the wire or the service fails."""
_ERROR_CHARACTERS = 1_000


class Endpoint(BaseModel):
    """Where a judge is asked, and how hard."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    api: Literal["openai", "bedrock"] = "openai"
    """`openai`: chat completions; `bedrock`: Converse, with the credentials boto3 finds."""
    base_url: str = ""
    """Root of the API, such as http://127.0.0.1:8000/v1; empty: the service's own."""
    api_key_env: str = ""
    """Environment variable that holds the key. Empty: OPENAI_API_KEY when `base_url` is empty too,
    otherwise no key is sent."""
    region: str = ""
    """AWS region; empty: the one boto3 finds."""
    timeout_seconds: float = Field(default=120.0, gt=0, allow_inf_nan=False)
    """Longest wait for one attempt."""
    patience_seconds: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """How long a place that takes no connection is asked again, such as a server that restarts.
    With `openai` only."""
    concurrency: int = Field(default=12, ge=1, le=256)
    """Most requests at the same time."""

    @property
    def address(self) -> str:
        """Where requests go, as far as it is known here; part of what an answer is cached under."""
        elsewhere = os.environ.get("OPENAI_BASE_URL", "") if self.api == "openai" else self.region
        return self.base_url or elsewhere

    @property
    def place(self) -> str:
        """Where requests go, for people."""
        return self.address or {"openai": "OpenAI", "bedrock": "Amazon Bedrock"}[self.api]

    @field_validator("base_url")
    @classmethod
    def _check_base_url(cls, value: str) -> str:
        parts = urlsplit(value)
        if value and (parts.scheme not in ("http", "https") or not parts.hostname):
            raise ValueError(f"{value!r} is not an address; write http://127.0.0.1:8000/v1")
        if parts.username is not None or parts.password is not None:
            raise ValueError("a password in the address ends up in logs; use `api_key_env`")
        return value

    @model_validator(mode="after")
    def _belongs_to_the_api(self) -> Self:
        if self.api == "openai" and self.region:
            raise ValueError("region is for api = 'bedrock'; leave it out")
        if self.api == "bedrock" and self.api_key_env:
            raise ValueError("api_key_env is for api = 'openai'; Bedrock uses AWS credentials")
        if self.api == "bedrock" and self.patience_seconds:
            raise ValueError("patience_seconds is for api = 'openai'; leave it out")
        return self


class SamplingParams(BaseModel):
    """How the judge's answer is drawn, in OpenAI's words; what is None is left to the endpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    max_completions_tokens: int | None = Field(default=None, ge=1)
    """Longest answer; one that is cut off is an error, never a score."""
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = (
        None
    )
    """For reasoning models."""
    seed: int | None = None
    """Makes the draw repeatable where the endpoint can."""
    temperature: float | None = Field(default=None, ge=0, le=2)
    """0 takes the likeliest token. Left out of the request when the model refuses it."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    """Draw only from the likeliest tokens that hold this probability together."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model answered."""

    text: str
    tokens: Mapping[str, int]
    """`prompt`, `completion`, `cached`."""
    attempts: int = 1
    seconds: float = 0.0


class ChatFailure(Exception):
    """No usable answer came; `spent` holds the attempts, seconds and tokens it took."""

    flag: ClassVar[GradeFlag] = "model_grader_server_error"

    def __init__(self, message: str, spent: Reply) -> None:
        super().__init__(message)
        self.spent = spent


class ServerFailure(ChatFailure):
    """The wire, the service or the request failed, retries included."""


class Refusal(ChatFailure):
    """The model, or a filter before or after it, declined to answer."""

    flag = "model_grader_refusal_error"


class TruncatedReply(ChatFailure):
    """The answer was cut off before its end."""

    flag = "model_grader_parse_error"


class ChatModel(Protocol):
    """The one-method seam between judges and whatever answers them."""

    def ask(
        self, messages: Sequence[Message], *, schema: Schema | None, params: SamplingParams
    ) -> Reply:
        """The answer, as JSON text when a schema is given. Raises ChatFailure."""
        ...


def with_schema(messages: Sequence[Message], schema: Schema) -> list[Message]:
    """The conversation with the schema told in words at the end of its first system message."""
    told = (
        "Answer with one JSON object and nothing else: no code fence, no text before or after it. "
        f"It has to fit this JSON Schema:\n{json.dumps(schema, ensure_ascii=False)}"
    )
    for i, message in enumerate(messages):
        if message["role"] == "system":
            joined = {"role": "system", "content": f"{message['content']}\n\n{told}"}
            return [*messages[:i], joined, *messages[i + 1 :]]
    return [{"role": "system", "content": told}, *messages]


def need_package(package: str, *, extra: str) -> NoReturn:
    """Says that a client library is missing, and how to get it."""
    raise RewardError(
        f"This judge needs the {package} package.", remedy=f"pip install 'tunestone[{extra}]'"
    )


def spent_since(started: float, attempts: int) -> Reply:
    """An empty reply that holds what was spent since `started` (of perf_counter)."""
    return Reply("", {}, attempts=attempts, seconds=time.perf_counter() - started)


def cut_off(spent: Reply) -> NoReturn:
    """Raises the failure of an answer that hit its longest length."""
    raise TruncatedReply(
        "the judge's answer was cut off; raise sampling_params.max_completions_tokens", spent
    )


def shorten(error: object) -> str:
    """The first part of a message, long enough to understand it."""
    return str(error)[:_ERROR_CHARACTERS]
