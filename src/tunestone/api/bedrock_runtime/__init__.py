"""Bedrock's inference: Converse and InvokeModel, with and without streams, and what is refused.

Methods and paths of `ROUTES` are those of botocore's `bedrock-runtime` model.
"""

from collections.abc import Mapping

from tunestone.api.bedrock.shapes import load_service
from tunestone.api.bedrock_runtime.converse import converse
from tunestone.api.bedrock_runtime.converse_stream import converse_stream
from tunestone.api.bedrock_runtime.count import count_tokens
from tunestone.api.bedrock_runtime.invoke import invoke_model, invoke_model_with_response_stream
from tunestone.api.bedrock_runtime.refused import REFUSED, refuse_guardrail, refuse_operation
from tunestone.api.http import Handler, Route

__all__ = ["REFUSED", "ROUTES"]

_OFFERED: Mapping[str, Handler] = {
    "Converse": converse,
    "ConverseStream": converse_stream,
    "InvokeModel": invoke_model,
    "InvokeModelWithResponseStream": invoke_model_with_response_stream,
    "CountTokens": count_tokens,
}


def _route(operation: str, handler: Handler) -> Route:
    http = load_service("bedrock-runtime").operation_model(operation).http
    return Route("bedrock", operation, http["method"], http["requestUri"], handler, "read")


ROUTES: tuple[Route, ...] = (
    *(_route(operation, handler) for operation, handler in _OFFERED.items()),
    _route("ApplyGuardrail", refuse_guardrail),
    *(_route(name, refuse_operation) for name in REFUSED if name != "ApplyGuardrail"),
)
