"""A record of a model invocation log -> a row of chat data.

Bedrock's logs hold each request as it was sent: Converse's own form, or, of InvokeModel, whatever
the model's provider takes. Here all become the one form that is trained on: OpenAI's `messages` and
`tools`. Read are the bodies of Converse and of Nova, Anthropic's messages, OpenAI's chat (gpt-oss,
Qwen, Mistral), and plain prompts (`prompt`, `inputText`). Whatever cannot be a prompt made of text
is refused with a reason: pictures, embeddings, a conversation that ends with the assistant.

Bedrock does not say how a logged answer becomes `reference_answer`; here it is the answer's text.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Json = dict[str, Any]

_PROMPTS = ("prompt", "inputText")


class UnusableRecordError(ValueError):
    """The record is no prompt made of text; the message says in a few words why."""


def to_row(record: Mapping[str, Any], request: Any, answer: Any, *, use_response: bool) -> Json:
    """The row of one record, given the bodies of its request and its answer.

    Raises UnusableRecordError.
    """
    if not isinstance(request, Mapping):
        raise UnusableRecordError("no request body")
    messages = _read_messages(request)
    if not messages or messages[-1]["role"] == "assistant":
        raise UnusableRecordError("the conversation ends with the assistant's turn")
    row: Json = {"messages": messages}
    if isinstance(record.get("requestId"), str):
        row["id"] = record["requestId"]
    if tools := _read_tools(request):
        row["tools"] = tools
    if isinstance(record.get("requestMetadata"), Mapping):
        row["metadata"] = dict(record["requestMetadata"])
    if use_response:
        text = answer_text(answer)
        if not text.strip():
            raise UnusableRecordError("no text in the logged answer")
        row["reference_answer"] = text
    return row


def answer_text(answer: Any) -> str:
    """The text of a logged answer, of whichever form; of a stream, its pieces put together."""
    if isinstance(answer, Sequence) and not isinstance(answer, str):
        return "".join(_piece(one) for one in answer if isinstance(one, Mapping))
    if not isinstance(answer, Mapping):
        return ""
    if isinstance(answer.get("output"), Mapping):  # Converse, Nova
        return _text_blocks(answer["output"].get("message", {}).get("content", []))
    if isinstance(answer.get("content"), list):  # Anthropic
        return _text_blocks(answer["content"])
    for key in ("choices", "outputs", "results", "generations"):
        if isinstance(answer.get(key), list) and answer[key]:
            return _choice(answer[key][0])
    return _first_text(answer, "generation", "completion", "outputText", "text")


def _choice(choice: Any) -> str:
    if not isinstance(choice, Mapping):
        return ""
    message = choice.get("message")
    if isinstance(message, Mapping):
        return _content_text(message.get("content"))
    return _first_text(choice, "text", "outputText", "generation")


def _piece(event: Mapping[str, Any]) -> str:
    """The text in one event of a stream."""
    inner = event.get("contentBlockDelta", event)
    delta = inner.get("delta") if isinstance(inner, Mapping) else None
    if isinstance(delta, Mapping):
        return _first_text(delta, "text")
    for choice in event.get("choices") or ():
        delta = choice.get("delta") if isinstance(choice, Mapping) else None
        return _first_text(delta, "content") if isinstance(delta, Mapping) else _choice(choice)
    return _first_text(event, "generation", "completion", "outputText")


def _first_text(found: Mapping[str, Any], *keys: str) -> str:
    return next((found[key] for key in keys if isinstance(found.get(key), str)), "")


def _text_blocks(blocks: Iterable[Any]) -> str:
    return "".join(_first_text(block, "text") for block in blocks if isinstance(block, Mapping))


def _content_text(content: Any) -> str:
    return content if isinstance(content, str) else _text_blocks(content or ())


def _read_messages(request: Mapping[str, Any]) -> list[Json]:
    turns = request.get("messages")
    if not isinstance(turns, list):
        text = _first_text(request, *_PROMPTS)
        if not text.strip():
            raise UnusableRecordError("neither messages nor a prompt")
        return [{"role": "user", "content": text}]
    system = _content_text(request.get("system"))
    messages: list[Json] = [{"role": "system", "content": system}] if system else []
    for turn in turns:
        if not isinstance(turn, Mapping):
            raise UnusableRecordError("a turn that is no object")
        messages += _read_turn(turn)
    return messages


def _read_turn(turn: Mapping[str, Any]) -> list[Json]:
    """One turn; the results of tools in it become turns of their own, before it."""
    role, content = str(turn.get("role")), turn.get("content")
    if isinstance(content, str) or content is None:
        kept = {"tool_calls", "tool_call_id", "name"} & turn.keys()
        return [{"role": role, "content": content, **{key: turn[key] for key in kept}}]
    texts: list[str] = []
    calls: list[Json] = []
    results: list[Json] = []
    for block in content:
        if not isinstance(block, Mapping):
            raise UnusableRecordError("a content block that is no object")
        _read_block(block, texts, calls, results)
    if calls:
        return [*results, {"role": role, "content": "\n".join(texts) or None, "tool_calls": calls}]
    return [*results, {"role": role, "content": "\n".join(texts)}] if texts else results


def _read_block(
    block: Mapping[str, Any], texts: list[str], calls: list[Json], results: list[Json]
) -> None:
    kind = str(block.get("type", ""))
    if isinstance(block.get("text"), str):
        texts.append(block["text"])
    elif "toolUse" in block or kind == "tool_use":
        use = block.get("toolUse", block)
        arguments = json.dumps(use.get("input", {}), ensure_ascii=False)
        function = {"name": str(use.get("name")), "arguments": arguments}
        key = str(use.get("toolUseId", use.get("id")))
        calls.append({"id": key, "type": "function", "function": function})
    elif "toolResult" in block or kind == "tool_result":
        result = block.get("toolResult", block)
        key = str(result.get("toolUseId", result.get("tool_use_id")))
        content = _result_text(result.get("content"))
        results.append({"role": "tool", "tool_call_id": key, "content": content})
    elif not ({"reasoningContent", "cachePoint"} & block.keys() or kind.endswith("thinking")):
        name = kind or ", ".join(map(str, block))
        raise UnusableRecordError(f"content that is not text ({name})")


def _result_text(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = []
    for block in content or ():
        if isinstance(block, Mapping) and isinstance(block.get("text"), str):
            parts.append(block["text"])
        elif isinstance(block, Mapping) and "json" in block:
            parts.append(json.dumps(block["json"], ensure_ascii=False))
        else:
            raise UnusableRecordError("the result of a tool that is not text")
    return "\n".join(parts)


def _read_tools(request: Mapping[str, Any]) -> list[Json]:
    config = request.get("toolConfig")
    given = config.get("tools") if isinstance(config, Mapping) else request.get("tools")
    tools = []
    for tool in given or ():
        if not isinstance(tool, Mapping) or "cachePoint" in tool:
            continue
        if "function" in tool:
            tools.append(dict(tool))
            continue
        spec = tool.get("toolSpec", tool)
        schema = spec.get("inputSchema", spec.get("input_schema")) or {}
        parameters = schema.get("json", schema)
        function = {"name": spec.get("name"), "parameters": parameters}
        if spec.get("description"):
            function["description"] = spec["description"]
        tools.append({"type": "function", "function": function})
    return tools
