"""Items of the Responses API, as turns for a model's chat template."""

from collections.abc import Mapping, Sequence
from typing import Any

from tunestone.api.openai.asking import new_name
from tunestone.api.openai.turns import call_turn, read_content
from tunestone.api.openai.wording import invalid, missing, unsupported, unsupported_value

Item = dict[str, Any]
_ROLES = ("assistant", "system", "developer", "user")
_KINDS = ("message", "function_call", "function_call_output", "reasoning")


def read_items(value: Any) -> list[Item]:
    """The input as items with ids, in the shape it is given back in. Raises OpenAIError."""
    if isinstance(value, str):
        content = [{"type": "input_text", "text": value}]
        return [{"id": new_name("msg_"), "type": "message", "role": "user", "content": content}]
    if not isinstance(value, list):
        message = "Invalid type for 'input': expected a string or an array of items."
        raise invalid(message, "input", "invalid_type")
    if not value:
        raise invalid("Invalid 'input': empty array.", "input", "empty_array")
    return [_read_item(item, f"input[{i}]") for i, item in enumerate(value)]


def _read_item(item: Any, param: str) -> Item:
    if not isinstance(item, dict):
        message = f"Invalid type for '{param}': expected an object."
        raise invalid(message, param, "invalid_type")
    kind = item.get("type", "message")
    if kind == "item_reference":
        raise unsupported(f"{param}.type", "Send the item itself, or 'previous_response_id'.")
    if kind not in _KINDS:
        raise unsupported_value(kind, f"{param}.type", _KINDS)
    if kind == "message":
        return _read_message(item, param)
    needed = {
        "function_call": ("call_id", "name", "arguments"),
        "function_call_output": ("call_id",),
        "reasoning": (),
    }
    for key in needed[kind]:
        if not isinstance(item.get(key), str):
            raise missing(f"{param}.{key}")
    if kind == "function_call_output" and item.get("output") is None:
        raise missing(f"{param}.output")
    prefix = {"function_call": "fc_", "function_call_output": "fco_", "reasoning": "rs_"}[kind]
    return {"id": new_name(prefix), **_without_nulls(item)}


def _read_message(item: Item, param: str) -> Item:
    role = item.get("role")
    if role is None:
        raise missing(f"{param}.role")
    if role not in _ROLES:
        raise unsupported_value(role, f"{param}.role", _ROLES)
    content = item.get("content")
    if content is None:
        raise missing(f"{param}.content")
    kind = "output_text" if role == "assistant" else "input_text"
    parts = [{"type": kind, "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        message = f"Invalid type for '{param}.content': expected a string or an array of parts."
        raise invalid(message, f"{param}.content", "invalid_type")
    read_content(parts, f"{param}.content")
    return {"id": new_name("msg_"), **_without_nulls(item), "type": "message", "content": parts}


def item_turns(items: Sequence[Item], instructions: str | None) -> list[dict[str, Any]]:
    """Turns for the chat template; what a model thought before is left out.

    Raises OpenAIError for the result of a call that was not made.
    """
    turns: list[dict[str, Any]] = []
    if instructions:
        turns.append({"role": "system", "content": instructions})
    called: set[str] = set()
    for item in items:
        match item["type"]:
            case "message":
                turns.append(_message_turn(item))
            case "function_call":
                called.add(item["call_id"])
                _add_call(turns, item)
            case "function_call_output":
                turns.append(_result_turn(item, called))
    if all(turn["role"] == "system" for turn in turns):
        raise invalid("Invalid 'input': there is nothing to answer.", "input", "invalid_value")
    return turns


def _message_turn(item: Mapping[str, Any]) -> dict[str, Any]:
    # Few chat templates know OpenAI's newer name for the same thing.
    role = "system" if item["role"] == "developer" else item["role"]
    return {"role": role, "content": read_content(item["content"], "input") or ""}


def _add_call(turns: list[dict[str, Any]], item: Mapping[str, Any]) -> None:
    """Into the assistant's turn before it, if there is one: a template expects them together."""
    if not turns or turns[-1]["role"] != "assistant":
        turns.append({"role": "assistant", "content": ""})
    call = call_turn(item["call_id"], item["name"], item["arguments"])
    turns[-1].setdefault("tool_calls", []).append(call)


def _result_turn(item: Mapping[str, Any], called: set[str]) -> dict[str, Any]:
    if item["call_id"] not in called:
        message = f"No tool call found for function call output with call_id {item['call_id']}."
        raise invalid(message, "input", None)
    output = item["output"]
    if not isinstance(output, str | list):
        message = "Invalid type for 'input': a function's output is a string or an array of parts."
        raise invalid(message, "input", "invalid_type")
    text = read_content(output, "input.output") or ""
    return {"role": "tool", "tool_call_id": item["call_id"], "content": text}


def _without_nulls(item: Mapping[str, Any]) -> Item:
    return {key: value for key, value in item.items() if value is not None}
