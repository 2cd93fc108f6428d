"""AWS's Signature Version 4, verified: in the header, in the query, and inside a bearer token.

The canonical request is put together from botocore's own pieces, the ones that clients sign with,
over the path *as it came*. Left out: signature version 2 (old presigned S3 URLs), SigV4a, and the
signatures of single chunks of a streamed upload: the first signature covers their headers.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import parse_qsl, quote

from tunestone.api.refusals import Refusal

SERVICES = frozenset({"bedrock", "bedrock-runtime", "bedrock-mantle", "lambda", "s3", "sts", "iam"})
TOKEN_PREFIX = "bedrock-api-key-"
WINDOW = timedelta(minutes=15)
"""How far the signer's clock may be from ours, both ways; so long a request may be replayed."""
_LONGEST_PRESIGNED = timedelta(days=7)
_LONGEST_TOKEN = timedelta(hours=12)
_ALGORITHM = "AWS4-HMAC-SHA256"
_EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
_TIME = "%Y%m%dT%H%M%SZ"
UNSIGNED = "UNSIGNED-PAYLOAD"


@dataclass(frozen=True, slots=True)
class WireRequest:
    """What was signed, as it came over the wire."""

    method: str
    path: str
    """Raw: percent-encoded."""
    query: str
    headers: Sequence[tuple[str, str]]
    """Names in lower case."""

    def all(self, name: str) -> list[str]:
        """Values of a header, in their order."""
        return [value for known, value in self.headers if known == name]

    def first(self, name: str) -> str:
        """The first value of a header, or empty."""
        return next(iter(self.all(name)), "")


@dataclass(frozen=True, slots=True)
class Signature:
    """What a request says of its own signature."""

    key_id: str
    date: str
    region: str
    service: str
    signed_headers: tuple[str, ...]
    value: str
    timestamp: str
    expires: timedelta | None = None
    """Of a presigned one."""


def read_signature(request: WireRequest) -> Signature | None:
    """The signature in header or query; None when there is none. Raises Refusal."""
    header = request.first("authorization")
    if header.startswith(_ALGORITHM):
        return _from_header(request, header)
    query = dict(parse_qsl(request.query, keep_blank_values=True))
    if query.get("X-Amz-Algorithm") == _ALGORITHM:
        return _from_query(query)
    if header.startswith("AWS ") or ("AWSAccessKeyId" in query and "Signature" in query):
        raise _incomplete("Signature version 2 is not taken; use Config(signature_version='s3v4').")
    return None


def read_token(token: str) -> tuple[Signature, WireRequest]:
    """The presigned request inside a token of `aws_bedrock_token_generator`. Raises Refusal."""
    try:
        url = base64.b64decode(token.removeprefix(TOKEN_PREFIX), validate=True).decode()
    except ValueError:  # no base64, or no text in it
        raise _incomplete("The bearer token is no Bedrock API key.") from None
    host_and_path, _, query = url.partition("?")
    host, _, path = host_and_path.partition("/")
    kept = "&".join(part for part in query.split("&") if part != "Version=1")
    fields = dict(parse_qsl(kept))
    if fields.get("X-Amz-Algorithm") != _ALGORITHM or fields.get("Action") != "CallWithBearerToken":
        raise _incomplete("The bearer token is no Bedrock API key.")
    signature = _from_query(fields)
    if signature.expires is None or signature.expires > _LONGEST_TOKEN:
        raise _incomplete("The bearer token lasts longer than 12 hours.")
    return signature, WireRequest("POST", f"/{path}", kept, [("host", host)])


def check_time(signature: Signature, moment: datetime) -> None:
    """Raises Refusal when a request is signed for another time."""
    try:
        signed_at = datetime.strptime(signature.timestamp, _TIME).replace(tzinfo=UTC)
        since, until = signed_at - WINDOW, signed_at + (signature.expires or WINDOW)
    except (ValueError, OverflowError):  # the first and last years leave no room for the window
        raise _incomplete("The date of the signature cannot be read.") from None
    if signature.timestamp[:8] != signature.date:
        raise _incomplete("The signature's scope is of another day than its date.")
    if moment < since:
        raise Refusal(
            "bad_time",
            f"Signature not yet current: {signature.timestamp} is still later than "
            f"{moment:{_TIME}} (+ 15 min.).",
        )
    if moment > until:
        raise Refusal(
            "bad_time",
            f"Signature expired: {until:{_TIME}} is now earlier than {moment:{_TIME}}.",
        )


def check_signature(
    signature: Signature, request: WireRequest, secret: str, *, body_sha256: str
) -> None:
    """Raises Refusal when `secret` signs the request otherwise.

    `body_sha256` is that of the body, or what `x-amz-content-sha256` says in its place.
    """
    unsigned = {name for name, _ in request.headers if name.startswith("x-amz-")}
    missing = ({"host"} | unsigned) - set(signature.signed_headers)
    if missing:
        raise Refusal(
            "bad_signature", f"These headers are not signed: {', '.join(sorted(missing))}."
        )
    expected = _sign(signature, request, secret, body_sha256=body_sha256)
    if not hmac.compare_digest(expected.encode(), signature.value.encode()):
        raise Refusal(
            "bad_signature",
            "SignatureDoesNotMatch: The request signature we calculated does not match the "
            "signature you provided. Check your AWS Secret Access Key and signing method.",
        )


def body_hash_of(signature: Signature, request: WireRequest) -> str:
    """What stands for the body's hash without reading it; empty when the body must be read."""
    named = request.first("x-amz-content-sha256")
    if named.startswith(("STREAMING-", UNSIGNED)) and signature.service != "s3":
        raise Refusal("bad_body_hash", "Only S3 takes a body that is not signed.")
    if named and not re.fullmatch(r"[0-9a-f]{64}|UNSIGNED-PAYLOAD|STREAMING-[A-Z0-9-]+", named):
        raise Refusal("bad_body_hash", "x-amz-content-sha256 is no hash of a body.")
    if not named and signature.expires is not None:
        return UNSIGNED if signature.service == "s3" else ""
    return named


def token_body_hash() -> str:
    """Hash of the empty body that a bearer token signs."""
    return _EMPTY_SHA256


def _sign(signature: Signature, request: WireRequest, secret: str, *, body_sha256: str) -> str:
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.compat import HTTPHeaders
    from botocore.credentials import Credentials
    from botocore.utils import normalize_url_path

    auth = SigV4Auth(Credentials(signature.key_id, secret), signature.service, signature.region)
    query = "&".join(
        part for part in request.query.split("&") if not part.startswith("X-Amz-Signature=")
    )
    signed = AWSRequest(request.method, f"http://host{request.path}?{query}")
    signed.context["timestamp"] = signature.timestamp
    headers: Any = HTTPHeaders()
    for name in signature.signed_headers:
        for value in request.all(name):
            headers[name] = value
    is_s3 = signature.service == "s3"  # S3 signs its path as it is, the others encode it once more
    canonical = [
        request.method,
        request.path if is_s3 else quote(normalize_url_path(request.path), safe="/~"),
        auth.canonical_query_string(signed),
        auth.canonical_headers(headers) + "\n",
        ";".join(signature.signed_headers),
        body_sha256,
    ]
    text = auth.string_to_sign(signed, "\n".join(canonical))
    return str(auth.signature(text, signed))


def _from_header(request: WireRequest, header: str) -> Signature:
    parts = [part.strip().partition("=") for part in header[len(_ALGORITHM) :].split(",")]
    fields = {name: value for name, _, value in parts}
    timestamp = request.first("x-amz-date")
    if not timestamp and (date := request.first("date")):
        timestamp = _from_http_date(date)
    return _signature(
        fields.get("Credential", ""), fields.get("SignedHeaders", ""), fields.get("Signature", ""),
        timestamp, None,
    )  # fmt: skip


def _from_query(query: Mapping[str, str]) -> Signature:
    seconds = query.get("X-Amz-Expires", "")
    if not re.fullmatch(r"[0-9]{1,6}", seconds):
        raise _incomplete("X-Amz-Expires is no number of seconds.")
    expires = timedelta(seconds=int(seconds))
    if expires > _LONGEST_PRESIGNED:
        raise _incomplete("X-Amz-Expires is more than seven days.")
    return _signature(
        query.get("X-Amz-Credential", ""), query.get("X-Amz-SignedHeaders", ""),
        query.get("X-Amz-Signature", ""), query.get("X-Amz-Date", ""), expires,
    )  # fmt: skip


def _signature(
    credential: str, headers: str, value: str, timestamp: str, expires: timedelta | None
) -> Signature:
    parts = credential.split("/")
    if len(parts) != 5 or parts[4] != "aws4_request" or not (headers and value and timestamp):
        raise _incomplete("The signature lacks a credential, signed headers, a date or its value.")
    key_id, date, region, service, _ = parts
    if service not in SERVICES:
        raise _incomplete(f"Nothing here is signed for the service '{service}'.")
    names = tuple(headers.split(";"))
    return Signature(key_id, date, region, service, names, value, timestamp, expires)


def _from_http_date(text: str) -> str:
    try:
        return parsedate_to_datetime(text).astimezone(UTC).strftime(_TIME)
    except (ValueError, OverflowError):
        raise _incomplete("The date of the signature cannot be read.") from None


def _incomplete(message: str) -> Refusal:
    return Refusal("bad_signature", f"IncompleteSignature: {message}")
