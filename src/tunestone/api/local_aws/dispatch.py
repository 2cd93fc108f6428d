"""Which requests are meant for S3, STS and IAM, when one port answers everything.

A signed request names its service in the scope of its credential; that, and nothing in its path,
decides. Lambda and Bedrock go on to the server's own routes. An S3 client that signs the old way
(version 2) names no service, but only S3 is signed so.
"""

import contextlib
import re
from dataclasses import dataclass
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Scope

from tunestone.api.access.gate import wire_request
from tunestone.api.access.sigv4 import read_signature
from tunestone.api.refusals import Refusal

MOTO_SERVICES = frozenset({"s3", "sts", "iam"})

_HEADER = re.compile(r"AWS4-HMAC-SHA256 +Credential=([^/,\s]+)/(\d{8})/([\w-]+)/([\w-]+)/")
_QUERY = re.compile(r"([^/]+)/(\d{8})/([\w-]+)/([\w-]+)/aws4_request")
_VERSION_2 = re.compile(r"AWS ([^:\s]+):")


@dataclass(frozen=True, slots=True)
class Signer:
    """What a signature says about a request; nothing here is verified."""

    access_key: str
    date: str
    region: str
    service: str

    @property
    def authorization(self) -> str:
        """A header that names the same, without a signature: what moto needs to know."""
        scope = f"{self.access_key}/{self.date}/{self.region}/{self.service}/aws4_request"
        return f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0"


def read_signer(scope: Scope) -> Signer | None:
    """Who signed a request for what, by its header or its query; None when nobody did.

    Where the gate can read the signature, its reading counts: a request that two readers took for
    two services would be let in for the one and answered by the other.
    """
    with contextlib.suppress(Refusal):  # refused by the gate, where keys are needed
        if signed := read_signature(wire_request(Request(scope))):
            return Signer(signed.key_id, signed.date, signed.region, signed.service)
    header = Headers(scope=scope).get("authorization", "")
    if found := _HEADER.match(header):
        return Signer(*found.groups())
    if found := _VERSION_2.match(header):
        return Signer(found[1], "20260101", "us-east-1", "s3")
    query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
    if found := _QUERY.fullmatch(query.get("X-Amz-Credential", [""])[0]):
        return Signer(*found.groups())
    if "AWSAccessKeyId" in query and "Signature" in query:
        return Signer(query["AWSAccessKeyId"][0], "20260101", "us-east-1", "s3")
    return None
