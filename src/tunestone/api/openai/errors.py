"""OpenAI's error envelope: `{"error": {"message", "type", "param", "code"}}`.

Handlers raise `OpenAIError` where they know param and code; whatever else they raise is classified
here, at one boundary. The openai client reads the status for the class of its exception, and
`message`, `type`, `param` and `code` from the envelope.
"""

import logging
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tunestone.errors import RequestError, TunestoneError, UnknownModelError, WorldError

_log = logging.getLogger(__name__)


class OpenAIError(Exception):
    """A refusal in OpenAI's words."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        """`status` is that of HTTP; `param` names the field, such as `training_file`."""
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type
        self.param = param
        self.code = code

    @property
    def envelope(self) -> dict[str, Any]:
        """The body of the answer; inside a stream it is one event's data."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": error}


def classify(error: Exception) -> OpenAIError:
    """Any exception in OpenAI's words; our own faults are logged and become a 500."""
    if isinstance(error, OpenAIError):
        return error
    if isinstance(error, UnknownModelError):
        return OpenAIError(404, str(error), param="model", code="model_not_found")
    if isinstance(error, RequestError):
        return OpenAIError(400, str(error), code=error.code)
    if isinstance(error, WorldError):
        return OpenAIError(503, str(error), type="server_error", code=error.code)
    code = error.code if isinstance(error, TunestoneError) else "internal_error"
    _log.error("A request failed by our own fault.", exc_info=error)
    message = "The server had an error while processing your request. Its log says what went wrong."
    return OpenAIError(500, message, type="server_error", code=code)


def render_error(error: Exception, request: Request) -> Response:
    """The answer to a request that raised."""
    known = classify(error)
    return JSONResponse(known.envelope, status_code=known.status)
