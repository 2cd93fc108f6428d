"""The body of `POST /v1/responses`, and what of it goes to the engine."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from tunestone.api.inference.reasoning import effort_variables
from tunestone.api.inference.targets import Target
from tunestone.api.openai.asking import Effort, Part, Question, Share, Temperature, Tokens
from tunestone.api.openai.forms import ToolName, read_choice, tools_and_grammar
from tunestone.api.openai.wording import missing, refuse_given, unsupported
from tunestone.generation import GenerationRequest

_LOGPROBS = "message.output_text.logprobs"
_INCLUDES = frozenset({_LOGPROBS, "reasoning.encrypted_content"})


class FlatTool(Part):
    """A function on offer."""

    type: Literal["function"]
    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class TextFormat(Part):
    """The form of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    name: ToolName | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class TextOptions(Part):
    """How the answer is to be written."""

    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class Reasoning(Part):
    """How much is to be thought."""

    effort: Effort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None
    context: Literal["auto", "current_turn", "all_turns"] | None = None
    mode: Literal["standard"] | None = None


class ResponseStreamOptions(Part):
    """How to stream."""

    include_obfuscation: bool | None = None


class ResponseBody(Question):
    """`POST /v1/responses`."""

    input: Any = None
    """A text, or a list of items."""
    instructions: str | None = None
    max_output_tokens: Tokens | None = None
    temperature: Temperature | None = None
    top_p: Share | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: Annotated[list[dict[str, Any]], Field(max_length=128)] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    store: bool | None = None
    previous_response_id: str | None = None
    include: list[str] | None = None
    stream_options: ResponseStreamOptions | None = None
    truncation: Literal["auto", "disabled"] | None = None
    background: bool | None = None
    conversation: Any = None
    prompt: Any = None
    max_tool_calls: int | None = None
    context_management: Any = None
    moderation: Any = None


def check_response(body: ResponseBody) -> None:
    """What is missing, and what this server does not do. Raises OpenAIError."""
    if body.input is None:
        raise missing("input")
    reasons = {
        "conversation": "Use 'previous_response_id'.",
        "prompt": "It keeps no prompt templates: send the text.",
        "context_management": "It leaves the input as it is.",
        "moderation": "It has no moderation model.",
    }
    refuse_given(body, reasons)
    if body.background:
        raise unsupported("background", "Answers are given at once or streamed.")
    if body.truncation == "auto":
        raise unsupported("truncation", "It drops nothing of the input: use 'disabled'.")
    for name in body.include or []:
        if name not in _INCLUDES:
            raise unsupported("include", f"It has nothing to tell as '{name}'.")
    for i, tool in enumerate(body.tools or []):
        if tool.get("type") != "function":
            why = f"The tool type {tool.get('type')!r} is none it has: only 'function' is."
            raise unsupported(f"tools[{i}].type", why)


def response_request(
    body: ResponseBody,
    tools: Sequence[FlatTool],
    turns: Sequence[Mapping[str, Any]],
    target: Target,
    name: str,
) -> GenerationRequest:
    """What the engine is asked. Raises OpenAIError."""
    shown, grammar = tools_and_grammar(
        [_chat_tool(tool) for tool in tools],
        read_choice(body.tool_choice),
        _answer_schema(body.text.format if body.text else None),
        several=body.parallel_tool_calls is not False,
    )
    effort = body.reasoning.effort if body.reasoning else None
    template = effort_variables(effort, enforced=grammar is not None)
    if body.text and body.text.verbosity:
        template["verbosity"] = body.text.verbosity
    wants_logprobs = body.top_logprobs is not None or _LOGPROBS in (body.include or [])
    return GenerationRequest(
        id=name,
        model=target.ref,
        messages=tuple(turns),
        tools=tuple(shown),
        template=template,
        max_tokens=body.max_output_tokens,
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        logprobs=(body.top_logprobs or 0) if wants_logprobs else None,
        grammar=grammar,
    )


def _chat_tool(tool: FlatTool) -> dict[str, Any]:
    function = tool.model_dump(exclude_none=True, exclude={"type"})
    return {"type": "function", "function": function}


def _answer_schema(form: TextFormat | None) -> dict[str, Any] | None:
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return {"type": "object"}
    if form.schema_ is None:
        raise missing("text.format.schema")
    if form.name is None:
        raise missing("text.format.name")
    return form.schema_
