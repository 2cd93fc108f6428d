"""Who gets to the pages of a server with keys: the login page, its cookie, and when that counts."""

import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest

from dashboard_server import HERE, PAGE, add_job, serving, state_of
from live_server import running, services_in, write_certificate
from tunestone.api.access.cookie import COOKIE
from tunestone.api.access.keys import KeyRing, NewKey
from tunestone.api.dashboard import build_dashboard
from tunestone.api.services import Services

BY_ADDRESS = {**PAGE, "sec-fetch-site": "none"}


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Services, httpx2.Client]]:
    with serving(tmp_path_factory.mktemp("locked"), require_keys=True) as served:
        yield served


@pytest.fixture(scope="module")
def ring(locked: tuple[Services, httpx2.Client]) -> KeyRing:
    services, _ = locked
    return KeyRing(services.store, services.folder)


@pytest.fixture(scope="module")
def writer(ring: KeyRing) -> NewKey:
    return ring.create("of a writer", "write")


@pytest.fixture(scope="module")
def reader(ring: KeyRing) -> NewKey:
    return ring.create("of a reader", "read")


def with_cookie(key: NewKey, headers: dict[str, str]) -> dict[str, str]:
    return {**headers, "cookie": f"{COOKIE}={key.bearer}"}


def test_who_has_no_key_is_led_to_the_login_page(locked: tuple[Services, httpx2.Client]) -> None:
    _, client = locked
    answer = client.get("/ui/compare?run=a&run=b", headers=BY_ADDRESS)
    target = urlsplit(answer.headers["location"])
    assert (answer.status_code, target.path) == (303, "/ui/login")
    assert parse_qs(target.query) == {"next": ["/ui/compare?run=a&run=b"]}
    page = client.get(answer.headers["location"], headers=BY_ADDRESS)
    assert (page.status_code, 'value="/ui/compare?run=a&amp;run=b"' in page.text) == (200, True)
    twin = client.get("/ui/jobs.json", headers=BY_ADDRESS)
    assert (twin.status_code, "needs a key" in twin.json()["error"]["message"]) == (401, True)
    live = client.get("/ui/runs/x/live", headers={"accept": "text/event-stream"})
    assert live.status_code == 401
    assert client.get("/ui/static/pages.css").status_code == 200
    assert client.get("/ui/static/../jobs.json").status_code in (401, 404)
    assert client.get("/ui/static/%2e%2e/jobs.json").status_code in (401, 404)


def test_a_key_is_pasted_once(locked: tuple[Services, httpx2.Client], writer: NewKey) -> None:
    _, client = locked
    form = {"key": f" {writer.bearer}\n", "next": "/ui/compare?run=a"}
    answer = client.post("/ui/login", data=form, headers={**PAGE, **HERE})
    assert (answer.status_code, answer.headers["location"]) == (303, "/ui/compare?run=a")
    value, *traits = answer.headers["set-cookie"].split("; ")
    assert value == f"{COOKIE}={writer.bearer}"
    assert sorted(traits) == ["HttpOnly", "Path=/", "SameSite=strict"]
    client.cookies.clear()
    page = client.get("/ui/login", headers=with_cookie(writer, BY_ADDRESS))
    assert "<strong>of a writer</strong>, which may read and change" in page.text


def test_over_https_the_cookie_stays_there(tmp_path: Path) -> None:
    certificate = write_certificate(tmp_path)
    services = services_in(tmp_path / "data")
    key = KeyRing(services.store, services.folder).create("mine", "read")
    dashboard = build_dashboard(services)
    context = ssl.create_default_context(cafile=certificate)
    with running(services, certificate=certificate, dashboard=dashboard) as url:
        answer = httpx2.post(
            f"{url}/ui/login", data={"key": key.bearer}, headers=HERE, verify=context, timeout=300
        )
    assert "; Secure" in answer.headers["set-cookie"]


@pytest.mark.parametrize("given", ["", "ts-wrong", "é\x00", "x" * 3000])
def test_a_wrong_key_is_told_so(locked: tuple[Services, httpx2.Client], given: str) -> None:
    _, client = locked
    answer = client.post("/ui/login", data={"key": given}, headers={**PAGE, **HERE})
    assert (answer.status_code, "This is no key of this server" in answer.text) == (401, True)
    assert "set-cookie" not in answer.headers
    assert given == "" or given not in answer.text


def test_pasting_keys_is_held_to_the_rate_of_requests(tmp_path: Path) -> None:
    with serving(tmp_path, require_keys=True, requests_per_minute=3) as (_, client):
        answers = [
            client.post("/ui/login", data={"key": f"ts-{i}"}, headers={**PAGE, **HERE})
            for i in range(4)
        ]
    assert [answer.status_code for answer in answers] == [401, 401, 401, 429]
    assert int(answers[3].headers["retry-after"]) <= 20


@pytest.mark.parametrize(
    "wanted",
    ["https://evil.example/", "//evil.example", "/ui/../v1", "/uix", "/v1/files", "/ui/\\evil", ""],
)
def test_nobody_is_led_to_another_site(
    locked: tuple[Services, httpx2.Client], writer: NewKey, wanted: str
) -> None:
    _, client = locked
    form = {"key": writer.bearer, "next": wanted}
    answer = client.post("/ui/login", data=form, headers=HERE)
    client.cookies.clear()
    expected = wanted if wanted == "/ui/../v1" else "/ui/jobs"  # on this server, at any rate
    assert answer.headers["location"] == expected


@pytest.mark.parametrize("path", ["/ui/login", "/ui/logout"])
def test_another_site_logs_nobody_in_or_out(
    locked: tuple[Services, httpx2.Client], writer: NewKey, path: str
) -> None:
    _, client = locked
    for headers in ({"sec-fetch-site": "cross-site"}, {"origin": "http://evil.example"}, {}):
        answer = client.post(path, data={"key": writer.bearer}, headers=headers)
        assert (answer.status_code, "set-cookie" in answer.headers) == (403, False)


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/ui/jobs", {"sec-fetch-site": "same-origin"}, 200),
        ("GET", "/ui/jobs", {"sec-fetch-site": "none"}, 200),
        ("GET", "/ui/jobs", {}, 200),  # over plain HTTP, to another machine
        ("GET", "/ui/jobs", {"sec-fetch-site": "same-site"}, 401),
        ("GET", "/ui/jobs", {"sec-fetch-site": "cross-site"}, 401),
        ("GET", "/v1/models", {"sec-fetch-site": "same-origin"}, 200),
        ("GET", "/v1/models", {}, 200),
        ("GET", "/v1/models", {"sec-fetch-site": "none"}, 401),
        ("GET", "/v1/models", {"sec-fetch-site": "same-site"}, 401),
        ("GET", "/v1/models", {"sec-fetch-site": "cross-site"}, 401),
        ("POST", "/ui/runs/x/stop", {"sec-fetch-site": "same-origin"}, 404),
        ("POST", "/ui/runs/x/stop", {"sec-fetch-site": "none"}, 401),
        ("POST", "/ui/runs/x/stop", {"sec-fetch-site": "same-site"}, 401),
        ("POST", "/ui/runs/x/stop", {"sec-fetch-site": "cross-site"}, 401),
        ("POST", "/ui/runs/x/stop", {}, 401),
        ("POST", "/ui/runs/x/stop", {"origin": "http://evil.example"}, 401),
        ("POST", "/ui/runs/x/stop", {"origin": "null"}, 401),
        ("POST", "/v1/chat/completions", {"sec-fetch-site": "same-origin"}, 400),
        ("POST", "/v1/chat/completions", {"sec-fetch-site": "cross-site"}, 401),
        ("POST", "/v1/chat/completions", {}, 401),
    ],
)
def test_the_cookie_counts_only_where_a_page_of_ours_asks(
    locked: tuple[Services, httpx2.Client],
    writer: NewKey,
    method: str,
    path: str,
    headers: dict[str, str],
    status: int,
) -> None:
    _, client = locked
    answer = client.request(method, path, headers=with_cookie(writer, headers))
    assert answer.status_code == status


def test_where_browsers_do_not_tell_more_the_origin_counts(
    locked: tuple[Services, httpx2.Client], writer: NewKey
) -> None:
    _, client = locked
    origin = str(client.base_url).rstrip("/")
    headers = with_cookie(writer, {"origin": origin})
    assert client.post("/ui/runs/x/stop", headers=headers).status_code == 404


def test_a_header_goes_before_the_cookie(
    locked: tuple[Services, httpx2.Client], writer: NewKey, reader: NewKey
) -> None:
    _, client = locked
    headers = with_cookie(writer, {**HERE, "authorization": f"Bearer {reader.bearer}"})
    assert client.post("/ui/runs/x/stop", headers=headers).status_code == 403
    headers = with_cookie(writer, {**HERE, "authorization": "Bearer wrong"})
    assert client.get("/v1/models", headers=headers).status_code == 401


def test_a_revoked_key_is_led_to_the_login_page(
    locked: tuple[Services, httpx2.Client], ring: KeyRing
) -> None:
    _, client = locked
    key = ring.create("short-lived", "write")
    headers = with_cookie(key, {**PAGE, **HERE})
    assert client.get("/ui/jobs", headers=headers).status_code == 200
    ring.revoke(key.id)
    answer = client.get("/ui/login?gone=1", headers=headers)
    assert "no longer in use" in answer.text and "short-lived" not in answer.text
    for _ in range(100):  # the gate reads the keys anew every second
        answer = client.get("/ui/jobs", headers=headers)
        if answer.status_code != 200:
            break
        time.sleep(0.05)
    assert answer.headers["location"] == "/ui/login?next=%2Fui%2Fjobs&gone=1"


def test_the_scope_read_looks_and_changes_nothing(
    locked: tuple[Services, httpx2.Client], reader: NewKey, writer: NewKey
) -> None:
    services, client = locked
    job = add_job(services)
    reading = with_cookie(reader, {**PAGE, **HERE})
    assert client.get(f"/ui/runs/{job}", headers=reading).status_code == 200
    refused = client.post(f"/ui/runs/{job}/stop", headers=reading)
    assert refused.status_code == 403
    assert "it has the scope read, and write is needed" in refused.text
    assert client.post(f"/ui/runs/{job}/vote", headers=reading).status_code == 403
    assert state_of(services, job) == "queued"
    writing = with_cookie(writer, {**PAGE, **HERE})
    assert client.post(f"/ui/runs/{job}/stop", headers=writing).status_code == 303
    assert state_of(services, job) == "stopped"


def test_a_key_is_forgotten(locked: tuple[Services, httpx2.Client], writer: NewKey) -> None:
    _, client = locked
    answer = client.post("/ui/logout", headers=with_cookie(writer, HERE))
    assert (answer.status_code, answer.headers["location"]) == (303, "/ui/login")
    assert f'{COOKIE}=""; ' in answer.headers["set-cookie"]
    assert "Max-Age=0" in answer.headers["set-cookie"]


def test_without_keys_nothing_is_asked(tmp_path: Path) -> None:
    with serving(tmp_path) as (_, client):
        assert client.get("/ui/login.json").json()["needed"] is False
        page = client.get("/ui/login").text
        assert "needs no key" in page and "<form" not in page
        assert client.get("/ui/jobs", headers=BY_ADDRESS).status_code == 200
