"""Bedrock's errors: the code in the header `x-amzn-ErrorType`, the message in the body.

boto3 takes the class of its exception from that header. The classes here bear AWS's own names, and
the statuses are those of botocore's service models: a conflict is a 400 there, not a 409.
"""

import logging

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tunestone.errors import (
    ModelNotReadyError,
    OverloadedError,
    RequestError,
    TunestoneError,
    UnknownModelError,
    WorldError,
)
from tunestone.jobs.job import StateError

_log = logging.getLogger(__name__)


class BedrockError(Exception):
    """An error in Bedrock's words; the name of its class is AWS's code."""

    status = 400

    def __init__(self, message: str, **members: str) -> None:
        """`members` are further members of the body, such as `resourceName`."""
        super().__init__(message)
        self.message = message
        self.members = members

    @property
    def code(self) -> str:
        """As AWS calls it."""
        return type(self).__name__


class ValidationException(BedrockError):
    """The request breaks a rule."""


class SerializationException(BedrockError):
    """The request cannot be read: no JSON, or a number where a string belongs."""


class ConflictException(BedrockError):
    """The request is at odds with what there is, such as a name that is taken."""


class TooManyTagsException(BedrockError):
    """More than 50 tags on one thing."""


class AccessDeniedException(BedrockError):
    """The caller may not do this."""

    status = 403


class ResourceNotFoundException(BedrockError):
    """There is no such thing."""

    status = 404


class ThrottlingException(BedrockError):
    """Too many requests."""

    status = 429


class ModelNotReadyException(BedrockError):
    """The model cannot answer yet; boto3 asks again by itself."""

    status = 429


class InternalServerException(BedrockError):
    """Our own fault."""

    status = 500


class ServiceUnavailableException(BedrockError):
    """The world failed; asking again makes sense."""

    status = 503


def classify(error: Exception) -> BedrockError:
    """Any exception in Bedrock's words; our own faults are logged with their traceback."""
    if isinstance(error, BedrockError):
        return error
    if isinstance(error, UnknownModelError):
        return ResourceNotFoundException(str(error))
    if isinstance(error, ModelNotReadyError):
        return ModelNotReadyException(str(error))
    if isinstance(error, OverloadedError):
        return ThrottlingException(str(error))
    if isinstance(error, StateError):
        return ConflictException(str(error))
    if isinstance(error, RequestError):
        return ValidationException(str(error))
    if isinstance(error, WorldError):
        return ServiceUnavailableException(str(error))
    _log.error("A request failed by our own fault.", exc_info=error)
    what = f" ({error.code})" if isinstance(error, TunestoneError) else ""
    return InternalServerException(
        f"Encountered an internal error when processing the request{what}. The server's log says "
        "what went wrong."
    )


def render_error(error: Exception, request: Request) -> Response:
    """The answer to a request that raised."""
    known = classify(error)
    headers = {"x-amzn-ErrorType": known.code}
    body = {"message": known.message, **known.members}
    return JSONResponse(body, status_code=known.status, headers=headers)
