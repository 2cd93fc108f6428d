"""`method.reinforcement.response_format`: what every sampled answer must be while training."""

from collections.abc import Mapping
from typing import Any

import jsonschema

from tunestone.api.openai.errors import OpenAIError

_PARAM = "method.reinforcement.response_format"


def check_response_format(given: Mapping[str, Any] | None) -> None:
    """Raise OpenAIError unless it is one that answers can be held to."""
    if given is None or given == {"type": "text"} or given == {"type": "json_object"}:
        return
    if given.get("type") != "json_schema":
        raise _refusal("its type must be 'json_schema', 'json_object' or 'text'")
    described = given.get("json_schema")
    if not isinstance(described, dict) or not isinstance(described.get("schema"), dict):
        raise _refusal("'json_schema.schema' must be a JSON Schema", "json_schema.schema")
    if not isinstance(described.get("name"), str) or not described["name"]:
        raise _refusal("'json_schema.name' is missing", "json_schema.name")
    schema = described["schema"]
    try:
        jsonschema.validators.validator_for(schema).check_schema(schema)
    except jsonschema.SchemaError as error:
        raise _refusal(f"the schema is none: {error.message}", "json_schema.schema") from None


def _refusal(reason: str, member: str = "") -> OpenAIError:
    param = f"{_PARAM}.{member}" if member else _PARAM
    return OpenAIError(
        400, f"Invalid '{_PARAM}': {reason}.", param=param, code="invalid_response_format"
    )
