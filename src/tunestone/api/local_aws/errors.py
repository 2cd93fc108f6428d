"""Lambda's errors: the code in `x-amzn-ErrorType`, `Type` and `message` in the body."""

import uuid

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tunestone.api.bedrock.errors import BedrockError, classify


class InvalidParameterValueException(BedrockError):
    """A value that Lambda, or this server, cannot work with."""


class InvalidRequestContentException(BedrockError):
    """The event is no JSON."""


class UnknownOperationException(BedrockError):
    """The server was started without local AWS."""

    status = 404


class ResourceConflictException(BedrockError):
    """The name is taken."""

    status = 409


class PreconditionFailedException(BedrockError):
    """The function was changed meanwhile: its RevisionId is another."""

    status = 412


class RequestTooLargeException(BedrockError):
    """The event is longer than Lambda takes."""

    status = 413


def render_error(error: Exception, request: Request) -> Response:
    """The answer to a request that raised."""
    known = classify(error)
    is_ours = known.status >= 500
    return JSONResponse(
        {"Type": "Service" if is_ours else "User", "message": known.message},
        status_code=known.status,
        headers={
            "x-amzn-ErrorType": "ServiceException" if is_ours else known.code,
            "x-amzn-RequestId": str(uuid.uuid4()),
        },
    )
