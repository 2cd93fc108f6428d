"""Who may do what, through the real clients: keys, signatures, tokens, scopes and limits.

The routes here only say who was let in; what is tried is the way to them.
"""

import base64
import hashlib
import io
import logging
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta

import boto3
import openai
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from live_server import running, services_in, write_certificate
from tunestone.api import logs
from tunestone.api.access.gate import is_loopback
from tunestone.api.access.keys import KeyRing
from tunestone.api.access.limits import RateLimit
from tunestone.api.access.sigv4 import WireRequest, check_time, read_signature, read_token
from tunestone.api.app import build_app
from tunestone.api.http import Call, Route
from tunestone.api.refusals import Refusal
from tunestone.errors import ConfigError

ARN = "arn:aws:bedrock:us-west-2:123456789012:model-customization-job/a.b:0:256k/abcdefabcdef"


async def show_job(call: Call) -> Response:
    told = f"{call.caller.name} {call.caller.region} {call.path['id']}"
    return JSONResponse({"jobName": told, "jobArn": ARN})


async def stop_job(call: Call) -> Response:
    return JSONResponse({})


async def take(call: Call) -> Response:
    body = await call.request.body()
    return JSONResponse({"object": "list", "data": [], "bytes": len(body)})


async def take_upload(call: Call) -> Response:
    form = await call.request.form()
    size = len(await form["file"].read())
    return JSONResponse({"id": "file-1", "object": "file", "bytes": size, "filename": "x"})


async def invoke(call: Call) -> Response:
    return Response(await call.request.body())


async def fail(call: Call) -> Response:
    raise ValueError(f"it came with {call.request.headers['authorization']}")


ROUTES = (
    Route("bedrock", "GetModelCustomizationJob", "GET", "/model-customization-jobs/{id}", show_job),
    Route(
        "bedrock",
        "StopModelCustomizationJob",
        "POST",
        "/model-customization-jobs/{id}/stop",
        stop_job,
        "write",
    ),
    Route("openai", "models.list", "GET", "/v1/models", take),
    Route("openai", "chat.completions.create", "POST", "/v1/chat/completions", take),
    Route("openai", "files.create", "POST", "/v1/files", take_upload, "write", streams_upload=True),
    Route("openai", "fail", "GET", "/v1/fail", fail),
    Route("lambda", "Invoke", "POST", "/2015-03-31/functions/{name}/invocations", invoke, "write"),
)
STORED: dict[str, bytes] = {}


def elsewhere(scope):
    """A tiny S3 and STS, for what is signed for these."""
    header = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
    is_s3 = "/s3/" in header or b"X-Amz-Credential" in scope["query_string"]
    if not is_s3 and "/sts/" not in header:
        return None

    async def answer(scope, receive, send):
        request = Request(scope, receive)
        body = b"".join([piece async for piece in request.stream()])
        text = b""
        if scope["method"] == "PUT":
            STORED[scope["path"]] = body
        elif is_s3:
            text = STORED.get(scope["path"], b"")
        elif b"GetCallerIdentity" in body:
            account = b"<Account>123456789012</Account>"
            text = b"<R><GetCallerIdentityResult>" + account + b"</GetCallerIdentityResult></R>"
        await Response(text)(scope, receive, send)

    return answer


@pytest.fixture(scope="module")
def locked(tmp_path_factory):
    """(url, keys by scope) of a server with keys."""
    folder = tmp_path_factory.mktemp("locked")
    services = services_in(folder, max_body_bytes=20_000, max_upload_bytes=100_000)
    ring = KeyRing(services.store, folder)
    made = {scope: ring.create(f"of {scope}", scope) for scope in ("read", "write", "admin")}
    with running(services, ROUTES, elsewhere=elsewhere) as url:
        yield url, made


@pytest.fixture(scope="module")
def over_tls(tmp_path_factory):
    """(url, keys, certificate): boto3 sends a bearer key over HTTPS only."""
    folder = tmp_path_factory.mktemp("tls")
    certificate = write_certificate(folder)
    services = services_in(folder / "data")
    ring = KeyRing(services.store, folder / "data")
    made = {"read": ring.create("of read", "read")}
    with running(services, ROUTES, certificate=certificate) as url:
        yield url, made, certificate


def aws(url, service, key, region="us-west-2", **options):
    return boto3.client(
        service,
        endpoint_url=url,
        region_name=region,
        aws_access_key_id=key.id,
        aws_secret_access_key=key.secret,
        config=Config(retries={"max_attempts": 0}, **options),
    )


def raw(url, method="GET", data=None, **headers):
    """(status, headers, body) as they are."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, data, named, method=method)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read().decode()


def tampered(key, **changes):
    import dataclasses

    return dataclasses.replace(key, **changes)


def test_a_signed_call_is_let_in_with_its_owner_and_region(locked):
    url, keys = locked
    job = aws(url, "bedrock", keys["read"]).get_model_customization_job(jobIdentifier=ARN)
    assert job["jobName"] == f"of read us-west-2 {ARN}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"secret": "x" * 40}, "signature we calculated does not match the signature you provided"),
        ({"id": "AKTSAAAAAAAAAAAAAAAA"}, "security token included in the request is invalid"),
    ],
)
def test_a_wrong_pair_is_refused_as_bedrock_does(locked, change, message):
    url, keys = locked
    client = aws(url, "bedrock", tampered(keys["read"], **change))
    with pytest.raises(client.exceptions.AccessDeniedException) as refused:
        client.get_model_customization_job(jobIdentifier=ARN)
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    assert message in refused.value.response["Error"]["Message"]


def test_the_wrong_pair_on_lambda_s3_and_sts_in_their_own_words(locked):
    url, keys = locked
    wrong = tampered(keys["write"], secret="x" * 40)
    with pytest.raises(ClientError, match=r"AccessDeniedException.*signature we calculated"):
        aws(url, "lambda", wrong).invoke(FunctionName="f", Payload=b"{}")
    with pytest.raises(ClientError, match=r"SignatureDoesNotMatch.*signature we calculated"):
        aws(url, "s3", wrong).get_object(Bucket="b", Key="k")
    with pytest.raises(ClientError, match=r"SignatureDoesNotMatch.*signature we calculated"):
        aws(url, "sts", wrong).get_caller_identity()


def test_each_service_is_verified_by_its_own_rules(locked):
    url, keys = locked
    key = keys["write"]
    answer = aws(url, "lambda", key).invoke(FunctionName="f", Payload=b'{"a": 1}')
    assert answer["Payload"].read() == b'{"a": 1}'
    assert aws(url, "sts", key).get_caller_identity()["Account"] == "123456789012"
    s3 = aws(url, "s3", key)
    for name in ("a/b.jsonl", "a b+c(1)~ü/%41", "x//y/../z"):  # S3 signs its path as it is
        s3.put_object(Bucket="bucket", Key=name, Body=name.encode())
        assert s3.get_object(Bucket="bucket", Key=name)["Body"].read() == name.encode()
    big = io.BytesIO(b"x" * 90_000)
    s3.upload_fileobj(big, "bucket", "big")
    assert s3.get_object(Bucket="bucket", Key="big")["Body"].read() == b"x" * 90_000


def test_a_presigned_address_is_good_until_it_expires_and_for_its_own_path(locked):
    url, keys = locked
    s3 = aws(url, "s3", keys["write"], signature_version="s3v4")
    s3.put_object(Bucket="bucket", Key="signed", Body=b"here")
    address = s3.generate_presigned_url("get_object", {"Bucket": "bucket", "Key": "signed"})
    assert raw(address)[::2] == (200, "here")
    status, _, body = raw(address.replace("/signed", "/other"))
    assert status == 403 and "<Code>SignatureDoesNotMatch</Code>" in body
    gone = s3.generate_presigned_url(
        "get_object", {"Bucket": "bucket", "Key": "signed"}, ExpiresIn=-1
    ).replace("X-Amz-Expires=-1", "X-Amz-Expires=0")
    assert raw(gone)[0] == 403


def test_a_signed_body_must_be_the_one_that_comes(locked):
    url, keys = locked
    target = f"{url}/2015-03-31/functions/f/invocations"
    assert raw(target, "POST", b'{"a":1}', **signed(keys["write"], "lambda", target))[0] == 200
    status, headers, body = raw(
        target, "POST", b'{"a":2}', **signed(keys["write"], "lambda", target)
    )
    assert (status, headers["x-amzn-ErrorType"]) == (403, "AccessDeniedException")
    assert "does not match" in body
    target = f"{url}/bucket/replaced"
    given = signed(keys["write"], "s3", target, method="PUT", hashed=True)
    status, _, body = raw(target, "PUT", b'{"a":2}', **given)
    assert (status, "<Code>XAmzContentSHA256Mismatch</Code>" in body) == (403, True)
    assert "/bucket/replaced" not in STORED


def test_what_is_not_signed_is_not_taken(locked):
    url, keys = locked
    target = f"{url}/bucket/x"
    given = signed(keys["write"], "s3", target, method="PUT", hashed=True)
    status, _, body = raw(target, "PUT", b'{"a":1}', x_amz_acl="public-read", **given)
    assert status == 403 and "These headers are not signed: x-amz-acl." in body
    for name, answer in [
        ("AWS4-HMAC-SHA256 Credential=x", "IncompleteSignature"),
        ("AWS AKIA:abc", "Signature version 2 is not taken"),
        ("Basic abc", "Missing Authentication Token"),
        ("", "Missing Authentication Token"),
    ]:
        status, headers, body = raw(f"{url}/model-customization-jobs/x", Authorization=name)
        assert (status, headers["x-amzn-ErrorType"]) == (403, "AccessDeniedException")
        assert answer in body


def test_a_signature_that_cannot_be_read_is_refused_and_is_no_fault_of_ours(locked):
    url, keys = locked
    day = f"{datetime.now(UTC):%Y%m%d}"
    parts = "AWS4-HMAC-SHA256 Credential={}/{}/us-east-1/bedrock/aws4_request, {}"
    rest = "SignedHeaders=host;x-amz-date, Signature={}"
    dated = {"x_amz_date": f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"}
    early = {"x_amz_date": "00010101T000000Z"}
    http_date = {"Date": "Mon, 01 Jan 0001 00:00:00 +2300"}
    for header, more, message in [
        (parts.format(keys["read"].id, day, rest.format("\xe9")), dated, "SignatureDoesNotMatch"),
        (parts.format("x", "00010101", rest.format("a")), early, "date of the signature cannot"),
        (parts.format("x", "00010101", rest.format("a")), http_date, "another day than its date"),
        ("Bearer bedrock-api-key-\xe9", {}, "The bearer token is no Bedrock API key"),
        ("Bearer ts-own-\xe9", {}, "Incorrect API key"),
    ]:
        given = {"Authorization": header, **more}
        status, _, body = raw(f"{url}/model-customization-jobs/x", **given)
        assert (status, message in body) == (403, True), body


def signed(key, service, target, *, method="POST", hashed=False, body=b'{"a":1}', at=None):
    request = AWSRequest(method, target, data=body)
    if hashed:
        request.headers["X-Amz-Content-SHA256"] = hashlib.sha256(body).hexdigest()
    auth = SigV4Auth(Credentials(key.id, key.secret), service, "us-east-1")
    auth.add_auth(request)
    return {name: str(value) for name, value in request.headers.items()}


@pytest.mark.parametrize(
    ("minutes", "message"),
    [(-16, "Signature expired"), (16, "Signature not yet current"), (-14, ""), (14, "")],
)
def test_a_signature_holds_fifteen_minutes_both_ways(minutes, message):
    moment = datetime.now(UTC)
    stamp = f"{moment + timedelta(minutes=minutes):%Y%m%dT%H%M%SZ}"
    header = (
        f"AWS4-HMAC-SHA256 Credential=AK/{stamp[:8]}/us-east-1/bedrock/aws4_request, "
        "SignedHeaders=host;x-amz-date, Signature=abc"
    )
    wire = WireRequest("GET", "/", "", [("authorization", header), ("x-amz-date", stamp)])
    signature = read_signature(wire)
    assert signature is not None
    if message:
        with pytest.raises(Refusal, match=message):
            check_time(signature, moment)
    else:
        check_time(signature, moment)


def by_bearer(url, certificate, token, monkeypatch):
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", token)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
    return boto3.client("bedrock", endpoint_url=url, region_name="us-east-1")


def test_a_bearer_key_opens_both_doors(over_tls, locked, monkeypatch):
    url, keys, certificate = over_tls
    client = by_bearer(url, certificate, keys["read"].bearer, monkeypatch)
    assert client.get_model_customization_job(jobIdentifier="x")["jobName"] == "of read us-east-1 x"
    url, keys = locked
    listed = openai.OpenAI(base_url=f"{url}/v1", api_key=keys["read"].bearer).models.list()
    assert list(listed) == []


def test_a_wrong_bearer_key_is_refused_in_the_words_of_each_door(over_tls, locked, monkeypatch):
    url, _ = locked
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="ts-" + "x" * 43, max_retries=0)
    with pytest.raises(openai.AuthenticationError) as refused:
        client.models.list()
    assert (refused.value.status_code, refused.value.code) == (401, "invalid_api_key")
    assert "Incorrect API key provided" in refused.value.message
    url, _, certificate = over_tls
    bedrock = by_bearer(url, certificate, "ts-wrong", monkeypatch)
    with pytest.raises(bedrock.exceptions.AccessDeniedException, match="Incorrect API key"):
        bedrock.get_model_customization_job(jobIdentifier="x")


def test_a_token_of_awss_generator_is_verified(over_tls, monkeypatch):
    from aws_bedrock_token_generator import provide_token

    url, keys, certificate = over_tls
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys["read"].id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys["read"].secret)
    bedrock = by_bearer(url, certificate, provide_token(region="eu-west-1"), monkeypatch)
    job = bedrock.get_model_customization_job(jobIdentifier="x")
    assert job["jobName"] == "of read eu-west-1 x"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y" * 40)
    bedrock = by_bearer(url, certificate, provide_token(region="eu-west-1"), monkeypatch)
    with pytest.raises(bedrock.exceptions.AccessDeniedException, match="does not match"):
        bedrock.get_model_customization_job(jobIdentifier="x")


def test_a_token_ends_and_may_not_last_longer_than_twelve_hours(monkeypatch):
    from aws_bedrock_token_generator import provide_token

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AK")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    signature, _ = read_token(provide_token(region="us-east-1", expiry=timedelta(hours=1)))
    check_time(signature, datetime.now(UTC) + timedelta(minutes=59))
    with pytest.raises(Refusal, match="Signature expired"):
        check_time(signature, datetime.now(UTC) + timedelta(minutes=61))
    longer = base64.b64decode(provide_token(region="us-east-1")[16:]).replace(b"=43200", b"=86400")
    with pytest.raises(Refusal, match="longer than 12 hours"):
        read_token("bedrock-api-key-" + base64.b64encode(longer).decode())
    with pytest.raises(Refusal, match="no Bedrock API key"):
        read_token("bedrock-api-key-hello")


def test_scopes(locked):
    url, keys = locked
    reader = aws(url, "bedrock", keys["read"])
    with pytest.raises(reader.exceptions.AccessDeniedException) as refused:
        reader.stop_model_customization_job(jobIdentifier="x")
    assert refused.value.response["Error"]["Message"] == (
        "The key 'of read' is not authorized to perform StopModelCustomizationJob: it has the "
        "scope read, and write is needed."
    )
    aws(url, "bedrock", keys["write"]).stop_model_customization_job(jobIdentifier="x")
    aws(url, "bedrock", keys["admin"]).stop_model_customization_job(jobIdentifier="x")
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=keys["read"].bearer)
    with pytest.raises(openai.PermissionDeniedError) as no:
        client.files.create(file=b"x", purpose="fine-tune")
    assert (no.value.status_code, no.value.code) == (403, "insufficient_permissions")
    with pytest.raises(ClientError, match="AccessDenied"):
        aws(url, "s3", keys["read"]).put_object(Bucket="b", Key="k", Body=b"")


def test_the_servers_own_key_may_only_look(tmp_path):
    services = services_in(tmp_path, require_keys=True)
    own = KeyRing(services.store, tmp_path).own_bearer()
    with running(services, ROUTES) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key=own, max_retries=0)
        client.models.list()
        with pytest.raises(openai.PermissionDeniedError, match="scope read, and write is needed"):
            client.files.create(file=b"x", purpose="fine-tune")
        with pytest.raises(openai.AuthenticationError, match="Incorrect API key"):
            client.with_options(api_key=own[:-1] + "x").models.list()


def test_health_needs_no_key_and_metrics_do(locked):
    url, keys = locked
    assert raw(f"{url}/healthz")[::2] == (200, '{"status":"ok"}')
    assert raw(f"{url}/metrics")[0] == 403
    status, _, text = raw(f"{url}/metrics", Authorization=f"Bearer {keys['read'].bearer}")
    assert status == 200 and "tunestone_requests_total" in text


def test_bodies_are_limited_declared_or_not(locked):
    url, keys = locked
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=keys["write"].bearer, max_retries=0)
    with pytest.raises(openai.APIStatusError) as refused:
        client.post("/chat/completions", body={"x": "y" * 20_000}, cast_to=object)
    assert (refused.value.status_code, refused.value.code) == (413, "request_too_large")
    assert "larger than 20000 bytes" in refused.value.message
    assert client.files.create(file=b"x" * 90_000, purpose="fine-tune").bytes == 90_000
    with pytest.raises(openai.APIStatusError, match="larger than"):
        client.files.create(file=b"x" * 1_200_000, purpose="fine-tune")
    pieces = iter([b"z" * 8_000] * 4)  # chunked: no Content-Length says how much there will be
    with pytest.raises(openai.APIStatusError) as refused:
        client.post("/chat/completions", content=pieces, cast_to=object)
    assert refused.value.status_code == 413


def test_a_revoked_key_and_a_new_one_hold_at_once(tmp_path):
    services = services_in(tmp_path)
    with running(services, ROUTES) as url:
        assert raw(f"{url}/v1/models")[0] == 200  # no key was ever made
        ring = KeyRing(services.store, tmp_path)
        key = ring.create("me", "read")
        client = openai.OpenAI(base_url=f"{url}/v1", api_key=key.bearer, max_retries=0)
        while raw(f"{url}/v1/models")[0] == 200:  # until the table is read anew
            pass
        client.models.list()
        ring.revoke(key.id)
        with pytest.raises(openai.AuthenticationError):
            while True:
                client.models.list()
        assert raw(f"{url}/v1/models")[0] == 401  # a key was made once
        assert ring.listed()[0].last_used_at is not None


def test_revoking_by_name_and_what_cannot_be_revoked(tmp_path):
    ring = KeyRing(services_in(tmp_path).store, tmp_path)
    ring.create("a", "read")
    ring.create("b", "read"), ring.create("b", "write")
    ring.revoke("a")
    with pytest.raises(ConfigError, match="'a' was revoked before"):
        ring.revoke("a")
    with pytest.raises(ConfigError, match="'b' is the name of several keys"):
        ring.revoke("b")
    with pytest.raises(ConfigError, match="There is no key 'c'"):
        ring.revoke("c")


def test_secrets_are_not_at_rest(tmp_path):
    services = services_in(tmp_path)
    key = KeyRing(services.store, tmp_path).create("me", "write")
    services.store.close()
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert key.bearer.encode() not in kept and key.secret.encode() not in kept
    assert key.id.encode() in kept  # so the search finds what there is
    secret = tmp_path / "secret"
    assert secret.stat().st_mode & 0o777 == 0o600
    secret.chmod(0o640)
    with pytest.raises(ConfigError, match="can be read by others"):
        KeyRing(services.store, tmp_path).secret_of(key.id)


def test_secrets_are_not_in_the_log(locked):
    url, keys = locked
    key = keys["admin"]
    stream = io.StringIO()
    root = logging.getLogger()
    before = root.handlers[:], root.level
    logs.configure("json", stream)
    try:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key=key.bearer, max_retries=0)
        with pytest.raises(openai.InternalServerError):
            client.get("/fail", cast_to=object)
        s3 = aws(url, "s3", key, signature_version="s3v4")
        address = s3.generate_presigned_url("get_object", {"Bucket": "b", "Key": "k"})
        raw(address)
        aws(url, "bedrock", key).get_model_customization_job(jobIdentifier="x")
        while "GetModelCustomizationJob" not in stream.getvalue():  # written after the answer
            time.sleep(0.01)
    finally:
        root.handlers[:], root.level = before
    text = stream.getvalue()
    signature = address.partition("X-Amz-Signature=")[2]
    assert "it came with Bearer ***" in text and "Traceback" in text
    for secret in (key.bearer, key.secret, signature):
        assert secret not in text


def test_requests_are_limited_per_key_and_per_address(tmp_path):
    services = services_in(tmp_path, requests_per_minute=2)
    ring = KeyRing(services.store, tmp_path)
    one, two = ring.create("one", "read"), ring.create("two", "read")
    with running(services, ROUTES) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key=one.bearer, max_retries=0)
        client.models.list(), client.models.list()
        with pytest.raises(openai.RateLimitError) as refused:
            client.models.list()
        assert refused.value.code == "rate_limit_exceeded"
        assert 0 < int(refused.value.response.headers["retry-after"]) <= 30
        with pytest.raises(ClientError, match=r"ThrottlingException.*Rate limit of 2 requests"):
            bedrock = aws(url, "bedrock", one)
            bedrock.get_model_customization_job(jobIdentifier="x")
        aws(url, "bedrock", two).get_model_customization_job(jobIdentifier="x")
        guesses = [raw(f"{url}/v1/models", Authorization="Bearer ts-guess")[0] for _ in range(3)]
        assert guesses == [401, 401, 429]
        assert raw(f"{url}/healthz")[0] == 200


def test_the_bucket_refills_evenly():
    moment = 0.0
    limit = RateLimit(60, clock=lambda: moment)
    for _ in range(60):
        limit.take("a")
    with pytest.raises(Refusal) as refused:
        limit.take("a")
    assert refused.value.headers == {"Retry-After": "1"}
    limit.take("b")
    moment = 2.0  # two seconds at 60 a minute are two requests
    limit.take("a"), limit.take("a")
    with pytest.raises(Refusal):
        limit.take("a")


def test_without_keys_pages_of_other_sites_are_kept_out(tmp_path):
    with running(services_in(tmp_path), ROUTES) as url:
        host = url.removeprefix("http://")
        assert raw(f"{url}/v1/models", Host="localhost:99")[0] == 200
        assert raw(f"{url}/v1/models", Origin=url)[0] == 200
        status, _, body = raw(f"{url}/v1/models", Host="evil.example")
        assert status == 403 and "not 'evil.example'" in body
        assert raw(f"{url}/v1/models", Host="[")[0] == 403
        status, headers, body = raw(f"{url}/v1/models", Host=host, Origin="http://evil.example")
        assert status == 403 and "A page of another site" in body
        assert headers["access-control-allow-origin"] is None
        status, headers, _ = raw(f"{url}/v1/models", "OPTIONS", Origin=url)
        assert status == 405 and headers["access-control-allow-origin"] is None


def test_without_keys_any_credential_is_good_and_still_names_the_region(tmp_path, monkeypatch):
    from aws_bedrock_token_generator import provide_token

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")
    with running(services_in(tmp_path), ROUTES) as url:
        client = boto3.client("bedrock", endpoint_url=url, region_name="eu-west-1")
        job = client.get_model_customization_job(jobIdentifier="x")
        assert job["jobName"] == "anonymous eu-west-1 x"
        token = provide_token(region="us-west-2")
        _, _, body = raw(f"{url}/model-customization-jobs/x", Authorization=f"Bearer {token}")
        assert '"jobName":"anonymous us-west-2 x"' in body


def test_keys_can_be_required_on_a_loopback_address(tmp_path):
    with running(services_in(tmp_path, require_keys=True), ROUTES) as url:
        assert raw(f"{url}/v1/models")[0] == 401
        assert raw(f"{url}/healthz")[0] == 200


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("[::1]", True),
        ("localhost", True), ("bucket.localhost", True), ("0.0.0.0", False), ("::", False),
        ("10.0.0.1", False), ("example.com", False), ("localhost.example.com", False), ("", False),
    ],
)  # fmt: skip
def test_loopback_addresses(host, expected):
    assert is_loopback(host) is expected


def test_answers_carry_ids_and_do_not_say_what_serves(locked):
    url, keys = locked
    _, headers, _ = raw(f"{url}/v1/models", Authorization=f"Bearer {keys['read'].bearer}")
    assert headers["x-request-id"].startswith("req_") and headers["x-amzn-requestid"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"


def test_unknown_paths_and_methods_in_the_words_of_each_door(tmp_path):
    with running(services_in(tmp_path), ROUTES) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)
        with pytest.raises(openai.NotFoundError) as missing:
            client.get("/nothing", cast_to=object)
        assert missing.value.body["message"] == "Invalid URL (GET /v1/nothing)"
        with pytest.raises(openai.APIStatusError) as wrong:
            client.delete("/models", cast_to=object)
        assert (wrong.value.status_code, wrong.value.code) == (405, "method_not_supported")
        assert wrong.value.response.headers["allow"] == "GET"
        bedrock = boto3.client(
            "bedrock", endpoint_url=url, region_name="us-east-1",
            aws_access_key_id="a", aws_secret_access_key="b",
        )  # fmt: skip
        with pytest.raises(ClientError) as unknown:
            bedrock.list_guardrails()
        assert unknown.value.response["Error"] == {
            "Code": "UnknownOperationException",
            "Message": "There is no operation GET /guardrails here.",
        }


def test_the_app_is_built_without_a_running_server(tmp_path):
    assert build_app(services_in(tmp_path), ROUTES, {}).routes
