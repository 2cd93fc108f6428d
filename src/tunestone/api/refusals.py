"""What is refused before a handler is reached, in the words of whoever asks.

One table: a kind of refusal, and its status and code in OpenAI's envelope, in AWS's JSON services
(Bedrock, Lambda) and in AWS's XML ones (S3, STS, IAM). Clients choose their exception by these.
"""

from dataclasses import dataclass
from typing import Literal
from xml.sax.saxutils import escape

from starlette.responses import JSONResponse, Response

Kind = Literal[
    "no_key", "unknown_key", "bad_signature", "bad_time", "bad_body_hash", "scope", "origin",
    "too_large", "throttled", "no_route", "no_method", "fault", "world", "stopping",
]  # fmt: skip
Surface = Literal["openai", "aws", "s3", "query"]
"""`aws`: JSON; `s3`: S3's XML; `query`: XML of STS and IAM."""


@dataclass(frozen=True, slots=True)
class _Words:
    openai: tuple[int, str, str | None]
    """Status, type, code."""
    aws: tuple[int, str]
    xml: str
    """Code in XML; the status is that of `aws`."""


_INVALID = "invalid_request_error"
_WORDS: dict[Kind, _Words] = {
    "no_key": _Words(
        (401, _INVALID, "invalid_api_key"), (403, "AccessDeniedException"), "AccessDenied"
    ),
    "unknown_key": _Words(
        (401, _INVALID, "invalid_api_key"), (403, "AccessDeniedException"), "InvalidAccessKeyId"
    ),
    "bad_signature": _Words(
        (401, _INVALID, "invalid_signature"),
        (403, "AccessDeniedException"),
        "SignatureDoesNotMatch",
    ),
    "bad_time": _Words(
        (401, _INVALID, "invalid_signature"), (403, "AccessDeniedException"), "RequestTimeTooSkewed"
    ),
    "bad_body_hash": _Words(
        (400, _INVALID, "invalid_signature"),
        (403, "AccessDeniedException"),
        "XAmzContentSHA256Mismatch",
    ),
    "scope": _Words(
        (403, _INVALID, "insufficient_permissions"), (403, "AccessDeniedException"), "AccessDenied"
    ),
    "origin": _Words(
        (403, _INVALID, "origin_not_allowed"), (403, "AccessDeniedException"), "AccessDenied"
    ),
    "too_large": _Words(
        (413, _INVALID, "request_too_large"),
        (413, "RequestEntityTooLargeException"),
        "EntityTooLarge",
    ),
    "throttled": _Words(
        (429, "rate_limit_error", "rate_limit_exceeded"), (429, "ThrottlingException"), "SlowDown"
    ),
    "no_route": _Words((404, _INVALID, None), (404, "UnknownOperationException"), "NoSuchKey"),
    "no_method": _Words(
        (405, _INVALID, "method_not_supported"),
        (405, "UnknownOperationException"),
        "MethodNotAllowed",
    ),
    "fault": _Words(
        (500, "server_error", "internal_error"), (500, "InternalServerException"), "InternalError"
    ),
    "world": _Words(
        (503, "server_error", "world_error"),
        (503, "ServiceUnavailableException"),
        "ServiceUnavailable",
    ),
    "stopping": _Words(
        (503, "server_error", "stopping"),
        (503, "ServiceUnavailableException"),
        "ServiceUnavailable",
    ),
}


class Refusal(Exception):
    """A request that is answered without asking a handler, or cut off while it is read."""

    def __init__(self, kind: Kind, message: str, *, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.kind: Kind = kind
        self.message = message
        self.headers = headers or {}


def status_of(refusal: Refusal) -> int:
    """Of HTTP, as OpenAI's clients and browsers get it."""
    return _WORDS[refusal.kind].openai[0]


def render(refusal: Refusal, surface: Surface) -> Response:
    """The refusal as this surface's clients read it."""
    words = _WORDS[refusal.kind]
    if surface == "openai":
        status, type_, code = words.openai
        error = {"message": refusal.message, "type": type_, "param": None, "code": code}
        return JSONResponse({"error": error}, status, refusal.headers)
    status, code = words.aws
    if surface == "aws":
        headers = {**refusal.headers, "x-amzn-ErrorType": code}
        return JSONResponse({"message": refusal.message}, status, headers)
    inner = f"<Code>{words.xml}</Code><Message>{escape(refusal.message)}</Message>"
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{inner}</Error>'
    if surface == "query":
        body = f"<ErrorResponse><Error><Type>Sender</Type>{inner}</Error></ErrorResponse>"
    return Response(body, status, refusal.headers, media_type="application/xml")
