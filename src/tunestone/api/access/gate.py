"""The gate: who asks, may they, and how much. Every request but `/healthz` passes it.

On a loopback address, with no key made and none required, anyone on this machine may do anything;
then only pages of other sites in the user's browser must be kept out, so `Host` has to be this
machine's and `Origin`, if there is one, the server's own. Otherwise a bearer key is needed (pages
of ours send it as a cookie), a token of AWS's generator or a signature, and what it may do follows
from its key.
"""

import hashlib
import ipaddress
import re
from collections.abc import Callable
from typing import final
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from tunestone.api.access.cookie import authorization_of
from tunestone.api.access.keys import SCOPES, KeyRing, scopes_of
from tunestone.api.access.limits import RateLimit, limited, too_large
from tunestone.api.access.sigv4 import (
    TOKEN_PREFIX,
    UNSIGNED,
    Signature,
    WireRequest,
    body_hash_of,
    check_signature,
    check_time,
    read_signature,
    read_token,
    token_body_hash,
)
from tunestone.api.http import Caller, Route, Scope
from tunestone.api.refusals import Refusal
from tunestone.jobs.settings import ServerSettings
from tunestone.jobs.store import now
from tunestone.jobs.tables import Key
from tunestone.pages.guard import is_from_here

_EVERYTHING: frozenset[Scope] = frozenset(SCOPES["admin"])
_FORM_BYTES = 2**20
"""What a multipart form may hold around an uploaded file."""
_SCOPE_REGION = re.compile(r"Credential=[^/,\s]+/\d{8}/([a-z0-9-]{1,32})/")


@final
class Gate:
    """Lets requests through, or raises Refusal."""

    def __init__(self, settings: ServerSettings, keys: KeyRing, count: Callable[[int], None]):
        """`count` is told of each piece of a body that comes in, in bytes."""
        self._settings = settings
        self._keys = keys
        self._count = count
        self._rate = RateLimit(settings.requests_per_minute)
        self._needs_keys = settings.require_keys or not is_loopback(settings.host)

    async def admit(self, request: Request, route: Route) -> tuple[Caller, Request]:
        """The caller, and the request with its body limited (and held to the signed hash)."""
        most = self._settings.max_body_bytes
        if route.streams_upload:
            most = self._settings.max_upload_bytes + _FORM_BYTES
        length = request.headers.get("content-length", "")
        if length.isascii() and length.isdigit() and int(length) > most:
            raise too_large(most)
        limit = limited(request.receive, most, count=self._count)
        request = Request(request.scope, limit)
        if await self._is_open():
            self.count_unnamed(request)
            _check_origin(request)
            return Caller("anonymous", _EVERYTHING, self._region_claimed(request)), request
        try:
            key, region, body_sha256 = await self._authenticate(request, route)
        except Refusal:
            self.count_unnamed(request)  # guessing is as slow as asking
            raise
        self._rate.take(key.id)
        if route.scope not in key.scopes:
            raise Refusal(
                "scope",
                f"The key '{key.name}' is not authorized to perform {route.operation}: it has the "
                f"scope {key.scopes[-1]}, and {route.scope} is needed.",
            )
        await run_in_threadpool(self._keys.touch, key.id)
        if body_sha256 and not hasattr(request, "_body"):
            held = limited(request.receive, most, sha256=body_sha256, count=lambda size: None)
            request = Request(request.scope, held)
        return Caller(key.name, scopes_of(key), region), request

    def count_unnamed(self, request: Request) -> None:
        """A request of nobody in particular. Raises Refusal when its address sent too many."""
        self._rate.take(f"address {request.client.host if request.client else ''}")

    async def _is_open(self) -> bool:
        if self._keys.is_stale():
            await run_in_threadpool(self._keys.refresh)
        return not self._needs_keys and not self._keys.any()

    async def _authenticate(self, request: Request, route: Route) -> tuple[Key, str, str]:
        """Key, region, and the hash the body is still to be held to, or empty."""
        scheme, _, token = authorization_of(request).partition(" ")
        if scheme.lower() == "bearer":
            key, region = await self._by_token(token.strip())
            return key, region, ""
        wire = wire_request(request)
        signature = read_signature(wire)
        if signature is None:
            raise Refusal(
                "no_key",
                "Missing Authentication Token: this server needs a key. Give a bearer key as "
                "OPENAI_API_KEY or AWS_BEARER_TOKEN_BEDROCK, or sign with a pair of "
                "`tunestone keys create`.",
            )
        check_time(signature, now())
        key = await self._by_id(signature.key_id)
        named = body_hash_of(signature, wire)
        if not named:
            if route.streams_upload:  # not read into memory before it is known who sends it
                raise Refusal("bad_signature", "A signed upload needs x-amz-content-sha256.")
            named = hashlib.sha256(await request.body()).hexdigest()
        secret = self._keys.secret_of(key.id)
        check_signature(signature, wire, secret, body_sha256=named)
        return key, signature.region, "" if named.startswith((UNSIGNED, "STREAMING-")) else named

    async def _by_token(self, token: str) -> tuple[Key, str]:
        if token.startswith(TOKEN_PREFIX):
            signature, wire = read_token(token)
            check_time(signature, now())
            key = await self._by_id(signature.key_id)
            secret = self._keys.secret_of(key.id)
            check_signature(signature, wire, secret, body_sha256=token_body_hash())
            return key, signature.region
        found = await self._find(
            lambda: self._keys.by_bearer(token),
            "Incorrect API key provided. `tunestone keys create` makes one; "
            "a revoked one is refused.",
        )
        return found, self._settings.region

    async def _by_id(self, key_id: str) -> Key:
        return await self._find(
            lambda: self._keys.by_id(key_id),
            "UnrecognizedClientException: The security token included in the request is "
            "invalid: no key in use has this access key id.",
        )

    async def _find(self, look: Callable[[], Key | None], refusal: str) -> Key:
        """The key, looked for once more among those that were made meanwhile."""
        found = look()
        if found is None:
            await run_in_threadpool(self._keys.refresh)
            found = look()
        if found is None:
            raise Refusal("unknown_key", refusal)
        return found

    def _region_claimed(self, request: Request) -> str:
        """Of a signature that nobody verifies: where any key is good, it still names the region."""
        given = request.headers.get("authorization", "")
        bearer = given.partition(" ")[2].strip()
        if bearer.startswith(TOKEN_PREFIX):
            try:
                return read_token(bearer)[0].region
            except Refusal:
                return self._settings.region
        found = _SCOPE_REGION.search(given)
        return found[1] if found else self._settings.region


def wire_request(request: Request) -> WireRequest:
    """The request as it came."""
    scope = request.scope
    raw = scope.get("raw_path") or scope["path"].encode()
    headers = [(name.decode("latin-1"), _text(value)) for name, value in scope["headers"]]
    path = raw.decode("ascii", "replace").partition("?")[0]
    return WireRequest(request.method, path, scope["query_string"].decode("latin-1"), headers)


def signing_service(request: Request) -> str:
    """Service that a request says it is signed for; empty where it says none."""
    try:
        signature: Signature | None = read_signature(wire_request(request))
    except Refusal:
        return ""
    return signature.service if signature else ""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _check_origin(request: Request) -> None:
    host = request.headers.get("host", "")
    if not is_loopback(_name_of(host)):
        raise Refusal(
            "origin",
            "The server has no keys, so it answers only under a name of this machine, not "
            f"'{host}'. Make a key with `tunestone keys create` to reach it by other names.",
        )
    # Forms of ours come with the origin `null`, for our pages tell nobody where they stand.
    if "origin" in request.headers and not is_from_here(request):
        raise Refusal(
            "origin", "A page of another site may not use this server, which asks for no key."
        )


def _name_of(host: str) -> str:
    """A `Host` without its port; empty when it is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:  # a bracket that is not closed
        return ""


def _text(value: bytes) -> str:
    """As the signer saw it: UTF-8, else byte by byte."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
