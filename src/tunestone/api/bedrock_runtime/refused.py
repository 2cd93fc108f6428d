"""Operations that are not offered here, refused in plain words."""

from starlette.responses import Response

from tunestone.api.bedrock.errors import ResourceNotFoundException, ValidationException
from tunestone.api.http import Call

NO_GUARDRAIL = "The guardrail identifier or version provided in the request does not exist."
"""In AWS's words; here there are no guardrails at all."""
REFUSED = {
    "ApplyGuardrail": "There are no guardrails here.",
    "InvokeGuardrailChecks": "There are no guardrails here.",
    "StartAsyncInvoke": "No model here makes videos or embeddings in the background.",
    "ListAsyncInvokes": "No model here makes videos or embeddings in the background.",
    "GetAsyncInvoke": "No model here makes videos or embeddings in the background.",
    "InvokeModelWithBidirectionalStream": "No model here speaks or listens.",
}
"""Operation -> why it is not offered."""


async def refuse_guardrail(call: Call) -> Response:
    """ApplyGuardrail: as for a guardrail that does not exist."""
    raise ResourceNotFoundException(f"{NO_GUARDRAIL} {REFUSED[call.route.operation]}")


async def refuse_operation(call: Call) -> Response:
    """Says that the operation is not offered, and why."""
    operation = call.route.operation
    raise ValidationException(f"{operation} is not offered here. {REFUSED[operation]}")
