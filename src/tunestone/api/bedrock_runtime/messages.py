"""Converse's conversations -> the chat turns of `generation.py`; tools and further fields too.

What a text model cannot take (images, documents, guardrails ...) is refused in Bedrock's words,
never dropped. Cache points are dropped: they
change the price there, not the answer.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from tunestone.api.bedrock.errors import ValidationException

Json = Mapping[str, Any]

_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_STARTS = (
    "A conversation must start with a user message. Try again with a conversation that starts "
    "with a user message."
)
_ALTERNATES = (
    "A conversation must alternate between user and assistant roles. Make sure the conversation "
    "alternates between user and assistant roles and try again."
)
_NEEDS_TOOLS = (
    "The toolConfig field must be defined when using toolUse and toolResult content blocks."
)


def read_conversation(
    system: Sequence[Json], messages: Sequence[Json], tools: object
) -> list[Json]:
    """Chat turns in the OpenAI shape; `tools` is the request's `toolConfig`, or None.

    Raises ValidationException for a conversation no model takes: one that does not alternate, a
    blank text, tool results without their calls, and kinds of content that are not text.
    """
    turns: list[Json] = []
    texts = [_system_text(block, f"system.{i}") for i, block in enumerate(system)]
    if shown := [text for text in texts if text]:
        turns.append({"role": "system", "content": "\n\n".join(shown)})
    _check_roles(messages)
    called: list[str] = []
    for i, message in enumerate(messages):
        if tools is None and any(_is_about_tools(block) for block in message["content"]):
            raise ValidationException(_NEEDS_TOOLS)
        place = f"messages.{i}.content"
        if message["role"] == "user":
            turns += _read_user(message["content"], place, called)
            called = []
        else:
            turns.append(_read_assistant(message["content"], place))
            called = [block["toolUse"]["toolUseId"] for block in _kind(message, "toolUse")]
    return turns


def _check_roles(messages: Sequence[Json]) -> None:
    roles = [message["role"] for message in messages]
    if "system" in roles:
        raise ValidationException(
            f"This model doesn't support the system role at messages.{roles.index('system')}. "
            "Write system prompts in the system field and try again."
        )
    if not roles or roles[0] != "user":
        raise ValidationException(_STARTS)
    if any(before == after for before, after in itertools.pairwise(roles)):
        raise ValidationException(_ALTERNATES)
    for i, message in enumerate(messages):
        if not message["content"]:
            raise ValidationException(
                f"The content field in the Message object at messages.{i} is empty. Add a "
                "ContentBlock object to the content field and try again."
            )


def _is_about_tools(block: Json) -> bool:
    return "toolUse" in block or "toolResult" in block


def _kind(message: Json, kind: str) -> list[Json]:
    return [block for block in message["content"] if kind in block]


def _system_text(block: Json, place: str) -> str:
    if "cachePoint" in block:
        return ""
    return _text_of(block, place)


def _text_of(block: Json, place: str) -> str:
    """A block's text. Raises ValidationException when it is blank, or no text."""
    kind = next(iter(block), "")
    if kind != "text":
        raise ValidationException(
            f"This model doesn't support the {kind} field at {place}. Remove {kind} and try again."
        )
    text: str = block["text"]
    if not text.strip():
        raise ValidationException(
            f"The text field in the ContentBlock object at {place} is blank. Add text to the text "
            "field, and try again."
        )
    return text


def _read_user(blocks: Sequence[Json], place: str, called: Sequence[str]) -> list[Json]:
    """Results of the tools that were called, then what the user says."""
    results = [block["toolResult"] for block in blocks if "toolResult" in block]
    _check_results([result["toolUseId"] for result in results], called, place)
    turns: list[Json] = [
        {
            "role": "tool",
            "tool_call_id": result["toolUseId"],
            "content": _result_text(result, f"{place}.{i}.toolResult"),
        }
        for i, result in enumerate(results)
    ]
    texts = [
        _text_of(block, f"{place}.{i}")
        for i, block in enumerate(blocks)
        if "toolResult" not in block and "cachePoint" not in block
    ]
    if texts or not turns:
        turns.append({"role": "user", "content": "\n".join(texts)})
    return turns


def _check_results(given: Sequence[str], called: Sequence[str], place: str) -> None:
    if missing := [one for one in called if one not in given]:
        raise ValidationException(
            f"Expected toolResult blocks at {place} for the following Ids: {', '.join(missing)}"
        )
    if len(given) > len(called):
        raise ValidationException(
            f"The number of toolResult blocks at {place} exceeds the number of toolUse blocks of "
            "previous turn."
        )
    if len(set(given)) < len(given):
        raise ValidationException(f"The toolResult blocks at {place} contain duplicate Ids.")


def _result_text(result: Json, place: str) -> str:
    parts = []
    for i, block in enumerate(result["content"]):
        if "json" in block:
            parts.append(json.dumps(block["json"], ensure_ascii=False))
        elif "text" in block:
            parts.append(block["text"])
        else:
            _text_of(block, f"{place}.content.{i}")
    text = "\n".join(parts)
    return f"Error: {text}" if result.get("status") == "error" else text


def _read_assistant(blocks: Sequence[Json], place: str) -> Json:
    texts, thoughts, calls = list[str](), list[str](), list[Json]()
    for i, block in enumerate(blocks):
        if "toolUse" in block:
            calls.append(_call_of(block["toolUse"]))
        elif "reasoningContent" in block:
            if "reasoningText" not in block["reasoningContent"]:
                raise ValidationException(
                    f"This model doesn't support the redactedContent field at {place}.{i}. Remove "
                    "redactedContent and try again."
                )
            thoughts.append(block["reasoningContent"]["reasoningText"]["text"])
        elif "cachePoint" not in block:
            texts.append(_text_of(block, f"{place}.{i}"))
    turn: dict[str, Any] = {"role": "assistant", "content": "\n".join(texts)}
    if thoughts:
        turn["reasoning_content"] = "\n".join(thoughts)
    if calls:
        turn["tool_calls"] = calls
    return turn


def _call_of(use: Json) -> Json:
    """Its arguments as an object: that is what chat templates expect."""
    function = {"name": use["name"], "arguments": use["input"]}
    return {"id": use["toolUseId"], "type": "function", "function": function}


def read_tools(config: Json) -> list[Json]:
    """Tool definitions in the OpenAI shape. Raises ValidationException."""
    tools = []
    for i, tool in enumerate(config["tools"]):
        if "systemTool" in tool:
            raise ValidationException(
                f"This model doesn't support the systemTool field at toolConfig.tools.{i}. Remove "
                "systemTool and try again."
            )
        if "toolSpec" in tool:
            tools.append(_tool_of(tool["toolSpec"], f"toolConfig.tools.{i}.toolSpec"))
    names = [tool["function"]["name"] for tool in tools]
    if len(set(names)) < len(names):
        raise ValidationException("The toolConfig field contains two tools with the same name.")
    if not tools:
        raise ValidationException("The toolConfig field needs at least one toolSpec.")
    wanted = config.get("toolChoice", {}).get("tool", {}).get("name")
    if wanted is not None and wanted not in names:
        raise ValidationException(
            f"The tool {wanted} in toolChoice is not among the tools of toolConfig."
        )
    return tools


def _tool_of(spec: Json, place: str) -> Json:
    schema = spec["inputSchema"].get("json")
    if not isinstance(schema, Mapping) or schema.get("type") != "object":
        raise ValidationException(
            f'The value at {place}.inputSchema.json.type must be one of the following: "object".'
        )
    function = {"name": spec["name"], "parameters": schema}
    if "description" in spec:
        function["description"] = spec["description"]
    return {"type": "function", "function": function}


def read_further(fields: object) -> tuple[dict[str, Any], str | None]:
    """`additionalModelRequestFields` -> (top_k and seed, the effort to reason with).

    OpenAI's names are known (`top_k`, `seed`, `reasoning_effort`), and Nova's (`topK` within
    `inferenceConfig`, `reasoningConfig`). Raises ValidationException for any other.
    """
    place = "additionalModelRequestFields"
    if not isinstance(fields, Mapping):
        raise ValidationException(f"The value at {place} must be an object.")
    sampling, effort = dict[str, Any](), None
    for name, value in fields.items():
        if name in ("top_k", "topK"):
            sampling["top_k"] = _whole(value, f"{place}.{name}")
        elif name == "seed":
            sampling["seed"] = _whole(value, f"{place}.seed")
        elif name == "reasoning_effort":
            effort = read_effort(value, f"{place}.{name}")
        elif name == "inferenceConfig" and isinstance(value, Mapping) and set(value) == {"topK"}:
            sampling["top_k"] = _whole(value["topK"], f"{place}.inferenceConfig.topK")
        elif name == "reasoningConfig" and isinstance(value, Mapping):
            effort = read_reasoning(value, f"{place}.reasoningConfig")
        else:
            raise ValidationException(
                f"The model returned the following errors: extraneous key [{name}] is not "
                "permitted. Known here: top_k, seed, reasoning_effort, reasoningConfig, "
                "inferenceConfig.topK."
            )
    return sampling, effort


def read_reasoning(config: Json, place: str) -> str:
    """The effort in Nova's `reasoningConfig`: `none` where it is disabled."""
    if unknown := set(config) - {"type", "maxReasoningEffort"}:
        raise ValidationException(f"extraneous key [{min(unknown)}] is not permitted at {place}.")
    if config.get("type") not in ("enabled", "disabled"):
        raise ValidationException(f"The value at {place}.type must be enabled or disabled.")
    effort = read_effort(config.get("maxReasoningEffort", "medium"), f"{place}.maxReasoningEffort")
    return effort if config["type"] == "enabled" else "none"


def _whole(value: object, place: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise ValidationException(f"The value at {place} must be a whole number of 0 or more.")
    return value


def read_effort(value: object, place: str) -> str:
    """How hard to reason. Raises ValidationException for a word that means nothing."""
    if value not in _EFFORTS:
        raise ValidationException(f"The value at {place} must be one of: {', '.join(_EFFORTS)}.")
    return str(value)
