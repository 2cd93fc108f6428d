"""A dialog in chat's shape, as turns for a model's chat template."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from tunestone.api.openai.asking import Part
from tunestone.api.openai.errors import OpenAIError
from tunestone.api.openai.wording import invalid, missing, unsupported_value

_TEXTS = ("text", "refusal", "input_text", "output_text")
_OTHER_MEDIA = ("image_url", "input_image", "input_audio", "file", "input_file")


class FunctionCall(Part):
    """What an earlier answer wanted called."""

    name: str = Field(min_length=1)
    arguments: str
    parsed_arguments: Any = None
    """Put there by the client's `parse`; not read."""


class CallPart(Part):
    """A tool call in the history."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall
    index: int | None = None


class Message(Part):
    """One turn. Members that only answers have are taken, so that an answer can be sent back."""

    role: Literal["developer", "system", "user", "assistant", "tool"]
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    tool_calls: list[CallPart] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None
    parsed: Any = None
    audio: None = None
    function_call: None = None


def chat_turns(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Turns for the chat template. Raises OpenAIError for one that cannot be read."""
    turns: list[dict[str, Any]] = []
    called: set[str] = set()
    for i, message in enumerate(messages):
        if message.role == "tool":
            _check_tool_turn(message, called, i)
        text = read_content(message.content, f"messages[{i}].content")
        if text is None and not (message.role == "assistant" and message.tool_calls):
            text = message.refusal
        if text is None and not message.tool_calls:
            param = f"messages[{i}].content"
            raise invalid("Invalid value for 'content': expected a string, got null.", param, None)
        turns.append(_turn(message, text or ""))
        called |= {call.id for call in message.tool_calls or []}
    return turns


def _turn(message: Message, text: str) -> dict[str, Any]:
    # Few chat templates know OpenAI's newer name for the same thing.
    role = "system" if message.role == "developer" else message.role
    turn: dict[str, Any] = {"role": role, "content": text}
    for key in ("name", "tool_call_id", "reasoning_content"):
        value = getattr(message, key)
        if value is not None:
            turn[key] = value
    if message.tool_calls:
        turn["tool_calls"] = [
            call_turn(call.id, call.function.name, call.function.arguments)
            for call in message.tool_calls
        ]
    return turn


def call_turn(id: str, name: str, arguments: str) -> dict[str, Any]:
    """A call in the history."""
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _check_tool_turn(message: Message, called: set[str], i: int) -> None:
    if message.tool_call_id is None:
        param = f"messages[{i}].tool_call_id"
        raise missing(param)
    if message.tool_call_id not in called:
        raise invalid(
            "Invalid parameter: messages with role 'tool' must be a response to a preceeding "
            "message with 'tool_calls'.",
            f"messages[{i}].role",
            None,
        )


def read_content(content: str | list[Any] | None, param: str) -> str | None:
    """A turn's text; parts are put together. Raises OpenAIError for a picture or a sound."""
    if content is None or isinstance(content, str):
        return content
    return "".join(_read_part(part, f"{param}[{i}]") for i, part in enumerate(content))


def _read_part(part: Any, param: str) -> str:
    if not isinstance(part, dict):
        raise invalid(f"Invalid type for '{param}': expected an object.", param, "invalid_type")
    kind = part.get("type")
    if kind not in _TEXTS:
        raise _wrong_part(kind, f"{param}.type")
    key = "refusal" if kind == "refusal" else "text"
    text = part.get(key)
    if not isinstance(text, str):
        raise missing(f"{param}.{key}")
    return text


def _wrong_part(kind: Any, param: str) -> OpenAIError:
    if kind in _OTHER_MEDIA:
        message = f"Invalid content type. {kind} is only supported by certain models; here all "
        message += "read text."
        return invalid(message, param, "invalid_value")
    return unsupported_value(kind, param, _TEXTS)
