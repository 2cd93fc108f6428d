"""Files through the real openai client: what goes up comes down, and what is wrong is said."""

import hashlib
import http.client
import resource
import time
import tracemalloc
from datetime import timedelta
from urllib.parse import urlsplit

import openai
import pytest

from live_server import serving as serve_process
from openai_server import serving, upload
from tunestone.api.openai import files
from tunestone.jobs.store import now
from tunestone.jobs.tables import File


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("files"), max_upload_bytes=4_000_000) as both:
        yield both


@pytest.fixture
def client(served):
    return served[1]


def refusal(kind, call):
    with pytest.raises(kind) as caught:
        call()
    return caught.value


def post_form(client, body, content_type="multipart/form-data; boundary=B"):
    """Status and error of a form that no client library would send."""
    address = urlsplit(str(client.base_url))
    connection = http.client.HTTPConnection(address.hostname, address.port)
    headers = {"Content-Type": content_type, "Authorization": "Bearer any"}
    connection.request("POST", "/v1/files", body, headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def stored(served):
    return sorted(path.name for path in served[0].folder.glob("files/*"))


def part(name, value, filename=None):
    file = f'; filename="{filename}"' if filename is not None else ""
    return f'--B\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n{value}\r\n'


def test_a_file_goes_round(client):
    content = "Grüße\n".encode() * 1000 + bytes(range(256))
    file = client.files.create(file=("train.jsonl", content), purpose="fine-tune")
    assert file.id.startswith("file-")
    assert (file.object, file.filename, file.purpose) == ("file", "train.jsonl", "fine-tune")
    assert (file.bytes, file.status) == (len(content), "processed")
    assert client.files.retrieve(file.id) == file
    assert client.files.wait_for_processing(file.id) == file
    assert client.files.content(file.id).read() == content
    deleted = client.files.delete(file.id)
    assert (deleted.id, deleted.deleted, deleted.object) == (file.id, True, "file")
    error = refusal(openai.NotFoundError, lambda: client.files.retrieve(file.id))
    assert error.message == f"Error code: 404 - No such File object: {file.id}"
    assert (error.type, error.param, error.code) == ("invalid_request_error", "id", None)
    for call in (client.files.content, client.files.delete):
        refusal(openai.NotFoundError, lambda call=call: call(file.id))


def test_what_is_stored_is_what_was_sent(served, client):
    content = b"x" * 3_999_999
    file_id = upload(client, content)
    with served[0].store.session() as session:
        row = session.get_one(File, file_id)
    assert row.sha256 == hashlib.sha256(content).hexdigest()
    assert (served[0].folder / row.path).read_bytes() == content
    assert [p.name for p in (served[0].folder / "files").iterdir() if ".partial" in p.name] == []


def test_the_list_is_walked_in_both_orders(tmp_path):
    with serving(tmp_path) as (_, client):
        made = [upload(client, purpose=p) for p in ("fine-tune", "batch") for _ in range(5)]
        assert [f.id for f in client.files.list(limit=3)] == made[::-1]
        assert [f.id for f in client.files.list(limit=3, order="asc")] == made
        assert [f.id for f in client.files.list(purpose="batch", limit=2)] == made[:4:-1]
        first = client.files.list(limit=4)
        assert (len(first.data), first.has_more) == (4, True)
        assert client.files.list(limit=10).has_more is False


def test_a_file_expires(served, client):
    lasting = {"anchor": "created_at", "seconds": 3600}
    file = client.files.create(file=b"x", purpose="fine-tune", expires_after=lasting)
    assert file.expires_at == file.created_at + 3600
    with served[0].store.session() as session:
        session.get_one(File, file.id).expires_at = now() - timedelta(seconds=1)
    refusal(openai.NotFoundError, lambda: client.files.retrieve(file.id))
    assert file.id not in [f.id for f in client.files.list()]


@pytest.mark.parametrize("seconds", [3599, 2592001])
def test_an_expiry_out_of_range_is_refused(client, seconds):
    lasting = {"anchor": "created_at", "seconds": seconds}
    error = refusal(
        openai.BadRequestError,
        lambda: client.files.create(file=b"x", purpose="batch", expires_after=lasting),
    )
    assert error.param == "expires_after"
    assert f"'{seconds}' is not an integer from 3600 to 2592000" in error.message


@pytest.mark.parametrize(
    ("query", "param", "message"),
    [
        ({"limit": 0}, "limit", "Invalid 'limit': '0' is not an integer from 1 to 10000."),
        ({"limit": 10_001}, "limit", "is not an integer from 1 to 10000"),
        ({"order": "up"}, "order", "Invalid 'order': 'up'; expected 'desc' or 'asc'."),
    ],
)
def test_a_bad_query_is_refused(client, query, param, message):
    error = refusal(openai.BadRequestError, lambda: client.files.list(**query))
    assert (error.param, error.type) == (param, "invalid_request_error")
    assert message in error.message


def test_a_purpose_is_checked(client):
    error = refusal(openai.BadRequestError, lambda: upload(client, purpose="training"))
    assert error.param == "purpose"
    assert "'training' is not one of 'assistants', 'batch', 'fine-tune'" in error.message


def test_an_empty_file_is_refused(client):
    error = refusal(
        openai.BadRequestError,
        lambda: client.files.create(file=("a.jsonl", b""), purpose="fine-tune"),
    )
    assert (error.code, error.param) == ("empty_file", "file")


def test_a_file_that_is_too_large_is_refused_and_leaves_nothing(served, client):
    before = stored(served)
    for size, code in ((4_000_001, "file_too_large"), (9_000_000, "request_too_large")):
        error = refusal(openai.APIStatusError, lambda size=size: upload(client, b"x" * size))
        assert (error.status_code, error.code) == (413, code)
        assert "larger than" in error.message

    def unannounced():  # in chunks, without a length in the headers
        yield (part("purpose", "batch") + part("file", "", "a")[:-2]).encode()
        yield from [b"x" * 1_000_000] * 9

    status, text = post_form(client, unannounced())
    assert status == 413, text
    assert stored(served) == before


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../../etc/passwd", "passwd"),
        ("C:\\secrets\\a.jsonl", "a.jsonl"),
        ("a\x00b\x1b.jsonl", "ab.jsonl"),
        ("", "upload"),
        ("ü" * 300, "ü" * 255),
    ],
)
def test_a_name_is_only_shown(name, shown):
    assert files.clean_name(name) == shown


def test_fields_may_come_in_any_order(client):
    body = part("file", "abc", "../a.jsonl") + part("purpose", "fine-tune") + "--B--\r\n"
    status, text = post_form(client, body.encode())
    assert status == 200, text
    assert '"filename":"a.jsonl"' in text


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (part("purpose", "batch") + "--B--\r\n", "Missing required parameter: 'file'."),
        (part("file", "abc", "a") + "--B--\r\n", "Missing required parameter: 'purpose'."),
        (part("file", "abc", "a"), "The multipart form ends in the middle."),
        (part("file", "a", "a") * 2 + "--B--\r\n", "Only one file can be uploaded at a time."),
        (part("purpos", "batch") + part("file", "a", "a") + "--B--\r\n", "'purpos'"),
        (part("purpose", "b" * 70_000), "The fields of the multipart form hold more than 65,536"),
        (
            "".join(part(f"expires_after[{i}]", "b" * 60_000) for i in range(19)),
            "The fields of the multipart form hold more than 1,048,576 bytes",
        ),
        ("no form at all", "The multipart form is malformed"),
    ],
)
def test_a_malformed_form_is_refused(served, client, body, message):
    before = stored(served)
    status, text = post_form(client, body.encode())
    assert status == 400
    assert message in text
    assert stored(served) == before


def test_a_body_that_is_no_form_is_refused(client):
    status, text = post_form(client, b"{}", "application/json")
    assert status == 400
    assert "uploaded as multipart/form-data" in text
    long = f"multipart/form-data; boundary={'B' * 300}"
    status, text = post_form(client, b"{}", long)
    assert status == 400
    assert "The multipart form is malformed: Boundary length 300" in text


def test_an_upload_is_never_whole_in_memory(tmp_path):
    """24 MB go through; at the peak less than a third of that is held (the client's copy aside)."""
    size = 24_000_000

    def body():
        yield part("purpose", "batch").encode() + part("file", "", "a").encode()[:-2]
        for _ in range(size // 100_000):
            yield b"x" * 100_000
        yield b"\r\n--B--\r\n"

    with serving(tmp_path) as (services, client):
        upload(client)  # imports and caches
        tracemalloc.start()
        status, text = post_form(client, body())
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert status == 200, text
        assert f'"bytes":{size}' in text
        assert peak < size / 3
        assert services.settings.max_upload_bytes == 512 * 2**20


def test_files_survive_a_restart_and_leftovers_do_not(tmp_path):
    with serving(tmp_path) as (services, client):
        kept = upload(client)
        folder = services.folder / "files"
        (folder / "file-abandoned.partial").write_bytes(b"half an upload")
        lasting = {"anchor": "created_at", "seconds": 3600}
        expired = client.files.create(file=b"x", purpose="batch", expires_after=lasting).id
        with services.store.session() as session:
            session.get_one(File, expired).expires_at = now() - timedelta(seconds=1)
        assert (folder / expired).is_file()
    with serving(tmp_path) as (services, client):
        files.sweep(services)
        assert [path.name for path in folder.iterdir()] == [kept]
        assert client.files.retrieve(kept).id == kept


def test_a_server_killed_in_the_middle_of_an_upload_loses_nothing_acknowledged(tmp_path):
    with serve_process(tmp_path / "data") as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0)
        kept = client.files.create(file=b"acknowledged", purpose="batch").id
        address = urlsplit(server.url)
        connection = http.client.HTTPConnection(address.hostname, address.port)
        connection.putrequest("POST", "/v1/files")
        connection.putheader("Content-Type", "multipart/form-data; boundary=B")
        connection.putheader("Content-Length", "4000000")
        connection.endheaders()
        connection.send((part("purpose", "batch") + part("file", "x" * 2_000_000, "a")).encode())
        wait_until(lambda: list(tmp_path.glob("data/files/*.partial")))
        server.process.kill()
        server.process.wait()
    with serve_process(tmp_path / "data") as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0)
        assert client.files.content(kept).read() == b"acknowledged"
        assert [file.id for file in client.files.list()] == [kept]
        assert [path.name for path in tmp_path.glob("data/files/*")] == [kept]


def wait_until(done):
    deadline = time.monotonic() + 30
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_same_is_answered_under_bedrocks_prefix(client):
    file_id = upload(client)
    other = client.with_options(base_url=str(client.base_url).replace("/v1", "/openai/v1"))
    assert other.files.retrieve(file_id).id == file_id


def test_a_file_that_does_not_fit_on_the_disk_is_refused_and_leaves_nothing(served):
    services, client = served
    before = sorted(path.name for path in (services.folder / "files").iterdir())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4, hard))
    try:
        for content in (b"0123456789", b"x" * 3_000_000):  # the first one stays in a buffer
            error = refusal(openai.InternalServerError, lambda sent=content: upload(client, sent))
            assert (error.status_code, error.code) == (503, "storage_error")
            assert "Could not write" in error.message
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(path.name for path in (services.folder / "files").iterdir()) == before
