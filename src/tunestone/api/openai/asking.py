"""What chat, legacy completions and Responses share: the way from a request to weights."""

import secrets
import time
from collections.abc import Sequence
from pathlib import PurePath
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from tunestone.api.http import Call
from tunestone.api.inference.targets import Target, resolve_target
from tunestone.api.openai.bodies import Body, read_object
from tunestone.api.openai.errors import OpenAIError
from tunestone.api.openai.wording import Unknown, parse_question
from tunestone.errors import UnknownModelError
from tunestone.generation import TokenChance, TokenLogprob

T = TypeVar("T", bound="Question")

Metadata = dict[
    Annotated[str, Field(max_length=64)],
    Annotated[str, Field(max_length=512)],
]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Tokens = Annotated[int, Field(ge=1)]
Temperature = Annotated[float, Field(ge=0, le=2)]
Share = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Seed = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else [] if value is None else value


Stops = Annotated[
    list[Annotated[str, Field(min_length=1)]], BeforeValidator(_as_list), Field(max_length=4)
]
"""One string or up to four."""


def _check_bias(value: dict[str, float]) -> dict[str, float]:
    for token, bias in value.items():
        if not (token.isascii() and token.isdigit() and len(token) < 10):
            raise ValueError(f"Invalid key in 'logit_bias': {token}. It must be a token id.")
        if not -100 <= bias <= 100:
            raise ValueError(
                f"Invalid value for 'logit_bias': {token} has {bias}; a bias is from -100 to 100."
            )
    return value


Bias = Annotated[dict[str, float], Field(max_length=1024), AfterValidator(_check_bias)]


class Part(Body):
    """A part of a body: what is known is checked strictly."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)


class Question(Part):
    """What every question has."""

    model: str = Field(min_length=1)
    stream: bool | None = None
    metadata: Annotated[Metadata, Field(max_length=16)] | None = None
    user: str | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast"] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prompt_cache_retention: str | None = None


async def read_question(call: Call, model: type[T], *, unknown: Unknown) -> tuple[T, Target]:
    """The checked body and the weights that are to answer. Raises OpenAIError."""
    value = await read_object(call.request)
    question = parse_question(value, model, unknown=unknown)
    return question, await find_target(call, question.model)


async def find_target(call: Call, name: str) -> Target:
    """The weights of that name. Raises OpenAIError 404, or ModelNotReadyError."""
    try:
        return await run_in_threadpool(resolve_target, call.services, name)
    except UnknownModelError as error:
        raise OpenAIError(404, str(error), param="model", code=error.code) from error


def new_name(prefix: str) -> str:
    """An id such as `chatcmpl-...`."""
    return prefix + secrets.token_hex(16)


def unix_now() -> int:
    """The time as OpenAI gives it."""
    return int(time.time())


def headers_of(target: Target) -> dict[str, str]:
    """Says plainly when another model answers than was named."""
    note = target.note.encode("ascii", "replace").decode()
    return {"x-tunestone-model-note": note} if note else {}


def fingerprint(target: Target) -> str:
    """`system_fingerprint`: what really answers. Of a folder only its name is told."""
    source = PurePath(target.ref.source)
    base = source.name if source.is_absolute() else str(source)
    return f"fp_{base}+{target.model_id}" if target.model_id else f"fp_{base}"


def render_chance(chance: TokenChance) -> dict[str, Any]:
    """A token with its log-probability, in the shape of chat and Responses."""
    return {
        "token": chance.text,
        "logprob": chance.logprob,
        "bytes": list(chance.bytes) or list(chance.text.encode()),
    }


def render_logprobs(logprobs: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    """Tokens, each with the likeliest in its place."""
    return [
        {
            **render_chance(logprob.token),
            "top_logprobs": [render_chance(chance) for chance in logprob.top],
        }
        for logprob in logprobs
    ]
