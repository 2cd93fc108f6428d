"""`s3://` addresses through the real boto3, against S3 of a live server with local AWS."""

import os
import socket
import sys

import pytest
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Mount

from live_server import serving_app
from local_aws_server import client_of, local_server
from tunestone.errors import ConfigError, DataError, StorageError, WorldError
from tunestone.jobs.objects import Objects
from tunestone.jobs.settings import ServerSettings


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    with local_server(tmp_path_factory.mktemp("objects") / "data") as (url, services):
        client_of(url, "s3").create_bucket(Bucket="bucket")
        yield url, services


@pytest.fixture
def objects(local) -> Objects:
    return local[1].objects


@pytest.fixture
def s3(local):
    return client_of(local[0], "s3")


def test_a_file_goes_up_and_comes_back(objects, tmp_path):
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(os.urandom(20 * 2**20))  # beyond 8 MiB boto3 sends parts
    objects.upload(source, "s3://bucket/some/key.bin")
    copy.write_bytes(b"what was there before")
    objects.download("s3://bucket/some/key.bin", copy)
    assert copy.read_bytes() == source.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "source"]


def test_list_gives_the_object_and_what_is_below_it_but_no_neighbours(objects, s3):
    for key in ("logs/b.json", "logs/a.json", "logs-old/1.json", "logs", "other"):
        s3.put_object(Bucket="many", Key=key, Body=b"")
    below = ["s3://many/logs/a.json", "s3://many/logs/b.json"]
    assert objects.list("s3://many/logs") == ["s3://many/logs", *below]
    assert objects.list("s3://many/logs/") == below
    assert len(objects.list("s3://many")) == 5


def test_readable_is_an_object_or_a_folder_with_something_in_it(objects, s3):
    s3.put_object(Bucket="bucket", Key="readable/one", Body=b"")
    objects.check_readable("s3://bucket/readable/one")
    objects.check_readable("s3://bucket/readable/")
    with pytest.raises(DataError, match=r"^s3://bucket/readable/two: There is no such object"):
        objects.check_readable("s3://bucket/readable/two")
    with pytest.raises(DataError, match=r"^s3://bucket/none/: There is nothing below this address"):
        objects.check_readable("s3://bucket/none/")


def test_writable_leaves_bedrocks_empty_object(objects, s3):
    objects.check_writable("s3://bucket/output")
    head = s3.head_object(Bucket="bucket", Key="output/.write_access_check_file.temp")
    assert head["ContentLength"] == 0


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://bucket/none", "There is no such object (NoSuchKey). Check the bucket and the key."),
        ("s3://no-such-bucket/k", "There is no such"),
        ("s3://bucket", "This is no address of an object in S3. Write s3://bucket/key."),
        ("s3://BUCKET/key", "This is no address of an object in S3. Write s3://bucket/key."),
        ("https://bucket/key", "This is no address of an object in S3. Write s3://bucket/key."),
    ],
)
def test_what_cannot_be_downloaded_leaves_what_was_there(objects, tmp_path, url, message):
    copy = tmp_path / "copy"
    copy.write_bytes(b"before")
    with pytest.raises(DataError) as refused:
        objects.download(url, copy)
    assert str(refused.value).startswith(f"{url}: {message}")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"before"]


def test_a_bucket_that_is_not_there_is_named(objects):
    with pytest.raises(DataError) as refused:
        objects.list("s3://no-such-bucket/logs/")
    assert str(refused.value) == (
        "s3://no-such-bucket/logs/: There is no such bucket (NoSuchBucket). "
        "Check the bucket and the key."
    )


def test_a_folder_that_cannot_be_written_is_ours_to_mend(objects, s3, tmp_path):
    s3.put_object(Bucket="bucket", Key="k", Body=b"x")
    with pytest.raises(StorageError, match="what s3://bucket/k holds cannot be written"):
        objects.download("s3://bucket/k", tmp_path / "none" / "copy")


def at(url: str) -> Objects:
    return Objects(ServerSettings(s3_endpoint=url))


@pytest.fixture
def credentials(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")


@pytest.mark.parametrize(
    ("status", "code", "kind", "message"),
    [
        (403, "AccessDenied", DataError, "S3 does not let the server list it (AccessDenied). Allow "
         "s3:ListBucket to the server's credentials."),
        (403, "SignatureDoesNotMatch", DataError, "S3 does not accept the server's credentials "
         "(SignatureDoesNotMatch). Renew or correct the AWS credentials of the server."),
        (400, "Odd", DataError, "S3 refused to list it (Odd): said."),
        (503, "SlowDown", WorldError, "S3 refused to list it (SlowDown): said. Try again later."),
    ],
)  # fmt: skip
def test_refusals_of_another_server_are_explained(credentials, status, code, kind, message):
    text = f"<Error><Code>{code}</Code><Message>said</Message></Error>"
    seen = []

    async def app(scope, receive, send):
        seen.append(scope["path"])
        await Response(text, status, media_type="application/xml")(scope, receive, send)

    with serving_app(routed(app)) as url, pytest.raises(kind) as refused:
        at(url).list("s3://bucket/logs")
    assert str(refused.value) == f"s3://bucket/logs: {message}"
    assert seen[0] == "/bucket"  # path style, as other servers than Amazon's want it


def test_lists_of_several_pages_are_walked_to_the_end(credentials):
    async def app(scope, receive, send):
        is_first = b"continuation-token" not in scope["query_string"]
        key = "logs/a" if is_first else "logs/b"
        more = "<NextContinuationToken>t</NextContinuationToken>" if is_first else ""
        text = (
            f"<ListBucketResult><IsTruncated>{str(is_first).lower()}</IsTruncated>{more}"
            f"<Contents><Key>{key}</Key></Contents></ListBucketResult>"
        )
        await Response(text, media_type="application/xml")(scope, receive, send)

    with serving_app(routed(app)) as url:
        assert at(url).list("s3://bucket/logs") == ["s3://bucket/logs/a", "s3://bucket/logs/b"]


def routed(app) -> Starlette:
    return Starlette(routes=[Mount("", app=app)])


def test_no_connection_is_the_worlds_fault(credentials, tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    with pytest.raises(WorldError, match=r"^s3://bucket/k: S3 could not be asked: "):
        at(f"http://127.0.0.1:{port}").check_readable("s3://bucket/k")


def test_without_credentials_it_says_where_to_put_them(monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    with pytest.raises(DataError, match="There are no AWS credentials to ask S3 with"):
        at("http://127.0.0.1:9").check_readable("s3://bucket/k")


def test_without_boto3_it_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(ConfigError) as refused:
        at("http://127.0.0.1:9").download("s3://bucket/k", tmp_path / "copy")
    assert str(refused.value) == (
        "s3:// addresses need the boto3 package. pip install 'tunestone[aws]'"
    )


def test_a_child_process_is_told_of_this_server_only_with_local_aws(local, objects):
    told = objects.environment()
    assert told["AWS_ENDPOINT_URL"] == local[0]
    assert set(told) == {"AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    assert Objects(ServerSettings()).environment() == {}
