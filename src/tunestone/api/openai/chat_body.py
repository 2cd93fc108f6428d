"""The body of a chat completion, and what of it goes to the engine."""

from typing import Annotated, Any, Literal

from pydantic import Field

from tunestone.api.inference.reasoning import effort_variables
from tunestone.api.inference.targets import Target
from tunestone.api.openai.asking import (
    Bias,
    Effort,
    Part,
    Penalty,
    Question,
    Seed,
    Share,
    Stops,
    Temperature,
    Tokens,
)
from tunestone.api.openai.forms import (
    ResponseFormat,
    Tool,
    answer_schema,
    read_choice,
    tools_and_grammar,
)
from tunestone.api.openai.turns import Message, chat_turns
from tunestone.api.openai.wording import invalid, refuse_given, unsupported
from tunestone.generation import GenerationRequest

_MOST_MESSAGES = 20_000
"""More than any model's context holds; to check half a million takes seconds."""


class StreamOptions(Part):
    """How to stream."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ChatBody(Question):
    """`POST /v1/chat/completions`."""

    messages: list[Message] = Field(min_length=1, max_length=_MOST_MESSAGES)
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    temperature: Temperature | None = None
    top_p: Share | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    stop: Stops = Field(default_factory=list)
    seed: Seed | None = None
    stream_options: StreamOptions | None = None
    tools: Annotated[list[Tool], Field(min_length=1, max_length=128)] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: Effort | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: Bias | None = None
    store: bool | None = None
    modalities: list[str] | None = None
    prediction: dict[str, Any] | None = None
    audio: dict[str, Any] | None = None
    web_search_options: dict[str, Any] | None = None
    moderation: dict[str, Any] | None = None
    functions: list[Any] | None = None
    function_call: Any = None


def check_chat(body: ChatBody) -> None:
    """What one member says about another, and what this server does not do. Raises OpenAIError."""
    _refuse_unsupported(body)
    if body.max_tokens is not None and body.max_completion_tokens is not None:
        raise invalid(
            "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.",
            "max_tokens",
            "invalid_parameter_combination",
        )
    only_with = [
        ("stream_options", body.stream_options, "'stream' is enabled", body.stream),
        ("top_logprobs", body.top_logprobs, "'logprobs' is enabled", body.logprobs),
        ("parallel_tool_calls", body.parallel_tool_calls, "'tools' are specified", body.tools),
        ("tool_choice", body.tool_choice, "'tools' are specified", body.tools),
    ]
    for param, given, what, there in only_with:
        if given is not None and not there:
            message = f"The '{param}' parameter is only allowed when {what}."
            raise invalid(message, param, "invalid_parameter_combination")


def _refuse_unsupported(body: ChatBody) -> None:
    reasons = {
        "audio": "It answers in text.",
        "web_search_options": "It reaches no search engine.",
        "moderation": "It has no moderation model.",
        "functions": "Use 'tools'.",
        "function_call": "Use 'tool_choice'.",
    }
    refuse_given(body, reasons)
    if body.modalities not in (None, ["text"]):
        raise unsupported("modalities", "It answers in text: use ['text'].")
    if body.store:
        raise unsupported("store", "It keeps no chat completions; Responses are kept.")


def chat_request(body: ChatBody, target: Target, name: str) -> GenerationRequest:
    """What the engine is asked. Raises OpenAIError."""
    check_chat(body)
    turns = chat_turns(body.messages)
    tools, grammar = tools_and_grammar(
        [tool.model_dump(exclude_none=True) for tool in body.tools or []],
        read_choice(body.tool_choice),
        answer_schema(body.response_format),
        several=body.parallel_tool_calls is not False,
    )
    template = effort_variables(body.reasoning_effort, enforced=grammar is not None)
    if body.verbosity:
        template["verbosity"] = body.verbosity
    return GenerationRequest(
        id=name,
        model=target.ref,
        messages=tuple(turns),
        tools=tuple(tools),
        template=template,
        n=body.n or 1,
        max_tokens=body.max_completion_tokens or body.max_tokens,
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        stop=tuple(body.stop),
        seed=body.seed,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        frequency_penalty=body.frequency_penalty or 0.0,
        presence_penalty=body.presence_penalty or 0.0,
        logit_bias=body.logit_bias or {},
        grammar=grammar,
    )
