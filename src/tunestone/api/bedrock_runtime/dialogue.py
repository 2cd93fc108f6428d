"""A dialogue in Converse's shape -> a question to the engine.

Shared by Converse, ConverseStream, CountTokens, and InvokeModel with Nova's body, which is nearly
the same.
"""

import json
from collections.abc import Mapping
from typing import Any

from botocore.model import OperationModel

from tunestone.api.bedrock.errors import (
    ResourceNotFoundException,
    SerializationException,
    ValidationException,
)
from tunestone.api.bedrock.shapes import load_service, read_input
from tunestone.api.bedrock_runtime.asking import Asking
from tunestone.api.bedrock_runtime.messages import (
    read_conversation,
    read_effort,
    read_further,
    read_tools,
)
from tunestone.api.bedrock_runtime.refused import NO_GUARDRAIL
from tunestone.api.inference.calls import call_grammar
from tunestone.api.inference.reasoning import effort_variables
from tunestone.generation import GenerationRequest

Json = dict[str, Any]


def read_body(operation: str, body: bytes) -> Json:
    """The checked members of a request. Raises ValidationException or SerializationException.

    The model's name is not held against AWS's pattern: any name that a model has here will do, hub
    ids among them.
    """
    refuse_half_letters(body)
    model: OperationModel = load_service("bedrock-runtime").operation_model(operation)
    members = read_input(model, {"modelId": "any"}, {}, body)
    del members["modelId"]
    return members


def check_members(operation: str, members: Json) -> Json:
    """The same for members that were read already."""
    return read_body(operation, json.dumps(members).encode())


def refuse_half_letters(body: bytes) -> None:
    """JSON can escape half of a surrogate pair; no text has such a letter, and no tokenizer.

    Raises SerializationException.
    """
    if b"\\ud" not in body.lower():
        return
    try:
        json.dumps(json.loads(body), ensure_ascii=False).encode()
    except ValueError as error:
        raise SerializationException(f"The body is no valid JSON: {error}") from None


def to_request(asking: Asking, asked: Json) -> GenerationRequest:
    """The question of a checked body. Raises ValidationException for what no model here takes."""
    _refuse_extras(asked)
    further, effort = read_further(asked.get("additionalModelRequestFields", {}))
    config = asked.get("inferenceConfig", {})
    if named := asked.get("outputConfig", {}).get("effort"):
        effort = read_effort(named, "outputConfig.effort")
    tools = read_tools(asked["toolConfig"]) if "toolConfig" in asked else []
    turns = read_conversation(asked.get("system", []), asked.get("messages", []), tools or None)
    grammar = _grammar(asked, tools)
    return GenerationRequest(
        id=asking.request_id,
        model=asking.target.ref,
        messages=tuple(turns),
        tools=tuple(tools),
        template=effort_variables(effort, enforced=grammar is not None),
        max_tokens=config.get("maxTokens"),
        temperature=config.get("temperature", 1.0),
        top_p=config.get("topP", 1.0),
        stop=tuple(config.get("stopSequences", ())),
        grammar=grammar,
        **further,
    )


def _refuse_extras(asked: Json) -> None:
    if asked.get("guardrailConfig", {}).get("guardrailIdentifier"):
        raise ResourceNotFoundException(f"{NO_GUARDRAIL} There are no guardrails here.")
    if "promptVariables" in asked:
        raise ValidationException(
            "The promptVariables field can only be used with a prompt resource as the modelId, and "
            "there are none here. Remove promptVariables and try again."
        )


def _grammar(asked: Json, tools: list[Mapping[str, Any]]) -> Json | None:
    """What the answer is held to: a call where the request wants one, else its JSON schema."""
    choice = asked.get("toolConfig", {}).get("toolChoice", {})
    if "any" in choice or "tool" in choice:
        return call_grammar(tools, name=choice.get("tool", {}).get("name", ""))
    text_format = asked.get("outputConfig", {}).get("textFormat")
    if text_format is None:
        return None
    schema = _read_schema(text_format["structure"]["jsonSchema"]["schema"])
    if tools:
        return call_grammar(tools, answer=schema)
    return {"type": "json_schema", "schema": schema}


def _read_schema(text: str) -> Json:
    place = "outputConfig.textFormat.structure.jsonSchema.schema"
    try:
        schema = json.loads(text)
    except ValueError as error:
        raise ValidationException(f"The value at {place} is not valid JSON: {error}.") from None
    if not isinstance(schema, dict):
        raise ValidationException(f"The value at {place} must be a JSON object.")
    return schema
