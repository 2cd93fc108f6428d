"""Bedrock's inference: Converse and InvokeModel, with and without streams, and what is refused."""

from tunestone.api.bedrock_runtime.converse import converse
from tunestone.api.bedrock_runtime.converse_stream import converse_stream
from tunestone.api.bedrock_runtime.count import count_tokens
from tunestone.api.bedrock_runtime.invoke import invoke_model, invoke_model_with_response_stream
from tunestone.api.bedrock_runtime.refused import REFUSED, refuse_guardrail, refuse_operation
from tunestone.api.http import Handler, Route, Scope

__all__ = ["REFUSED", "ROUTES"]


def _route(operation: str, path: str, handler: Handler, *, method: str = "POST") -> Route:
    scope: Scope = "read"
    return Route("bedrock", operation, method, path, handler, scope)


ROUTES: tuple[Route, ...] = (
    _route("Converse", "/model/{modelId}/converse", converse),
    _route("ConverseStream", "/model/{modelId}/converse-stream", converse_stream),
    _route("InvokeModel", "/model/{modelId}/invoke", invoke_model),
    _route(
        "InvokeModelWithResponseStream",
        "/model/{modelId}/invoke-with-response-stream",
        invoke_model_with_response_stream,
    ),
    _route("CountTokens", "/model/{modelId}/count-tokens", count_tokens),
    _route(
        "ApplyGuardrail",
        "/guardrail/{guardrailIdentifier}/version/{guardrailVersion}/apply",
        refuse_guardrail,
    ),
    _route("InvokeGuardrailChecks", "/guardrail-checks/invoke", refuse_operation),
    _route("StartAsyncInvoke", "/async-invoke", refuse_operation),
    _route("ListAsyncInvokes", "/async-invoke", refuse_operation, method="GET"),
    _route("GetAsyncInvoke", "/async-invoke/{invocationArn}", refuse_operation, method="GET"),
    _route(
        "InvokeModelWithBidirectionalStream",
        "/model/{modelId}/invoke-with-bidirectional-stream",
        refuse_operation,
    ),
)
