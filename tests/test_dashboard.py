"""The pages of the server, asked as a browser asks: jobs of both doors, and what may be asked."""

import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

import live_server
from dashboard_server import (
    BASE,
    HERE,
    PAGE,
    add_deployment,
    add_job,
    add_model,
    run_path,
    serving,
    state_of,
)
from fake_run import PLANTED, trained, write_run
from live_server import running, services_in
from tunestone.api.dashboard import build_dashboard
from tunestone.api.services import Services

DOORS = ("openai", "bedrock")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Services, httpx2.Client]]:
    with serving(tmp_path_factory.mktemp("dashboard")) as served:
        yield served


@pytest.fixture(scope="module")
def done(server: tuple[Services, httpx2.Client]) -> str:
    """A job that has succeeded, with its run folder and its model."""
    services, _ = server
    job = add_job(services, state="succeeded", name="sums", age=60)
    write_run(run_path(services, job), steps=6, prompts=3, group=4)
    add_model(services, job)
    return job


def rows_of(client: httpx2.Client) -> dict[str, dict]:
    return {row["key"]: row for row in client.get("/ui/jobs.json").json()["runs"]}


def test_a_browser_is_led_from_the_root_to_the_jobs(server: tuple[Services, httpx2.Client]) -> None:
    _, client = server
    answer = client.get("/", headers=PAGE, follow_redirects=True)
    assert (answer.status_code, answer.url.path) == (200, "/ui/jobs")
    assert "<h1>Jobs</h1>" in answer.text
    other = client.get("/", headers={"accept": "application/json"})
    assert (other.status_code, "no operation GET /" in other.text) == (404, True)
    for path in ("/ui", "/ui/", "/ui/runs"):
        answer = client.get(path, follow_redirects=True)
        assert (answer.status_code, answer.url.path) == (200, "/ui/jobs"), path


def test_jobs_of_both_doors_are_listed_the_newest_first(
    server: tuple[Services, httpx2.Client], done: str
) -> None:
    services, client = server
    queued = add_job(services, dialect="bedrock", name="orders", age=3)
    failed = add_job(
        services, state="failed", age=2, error={"code": "data_error", "message": "No rows."}
    )
    rows = rows_of(client)
    places = [list(rows).index(job) for job in (failed, queued, done)]
    assert places == sorted(places)
    shown = {job: (rows[job]["name"], rows[job]["state"]["text"]) for job in (queued, failed, done)}
    assert shown == {
        queued: ("orders", "queued"),
        failed: (f"ftjob-{failed}", "failed"),
        done: ("sums", "done"),
    }
    assert [rows[job]["job"]["door"] for job in (queued, failed)] == ["bedrock", "openai"]
    assert rows[failed]["job"]["error"] == "No rows."
    assert (rows[done]["step"], len(rows[done]["rewards"]), rows[queued]["rewards"]) == (6, 6, [])
    assert rows[done]["result"]["relative_gain"] is not None
    page = client.get("/ui/jobs").text
    assert "<polyline" in page
    assert f'href="/ui/runs/{queued}"' in page and "bedrock ·" in page


@pytest.mark.parametrize(
    ("columns", "name", "text"),
    [
        ({"state": "validating"}, "waiting", "checking its files"),
        ({"state": "running"}, "waiting", "starting"),
        ({"state": "paused"}, "paused", "paused"),
        ({"state": "stopped"}, "stopped", "stopped"),
    ],
)
def test_a_job_that_nobody_trains_shows_its_own_state(
    server: tuple[Services, httpx2.Client], columns: dict, name: str, text: str
) -> None:
    services, client = server
    job = add_job(services, **columns)
    assert rows_of(client)[job]["state"] == {"name": name, "text": text}
    assert rows_of(client)[job]["job"]["state"] == columns["state"]


@pytest.mark.parametrize(
    ("wish", "text"),
    [
        ("", "training"),
        ("stop", "stopping after this step"),
        ("pause", "pausing after this step"),
    ],
)
def test_a_job_that_is_trained_shows_what_was_asked_of_it(
    server: tuple[Services, httpx2.Client], wish: str, text: str
) -> None:
    services, client = server
    job = add_job(services, state="running", wish=wish)
    run = write_run(run_path(services, job), steps=2, of=9, prompts=2, group=2, report=False)
    with trained(run):
        shown = client.get(f"/ui/runs/{job}.json").json()
    assert shown["run"]["state"] == {"name": "training", "text": text}
    # 2 seconds a step (see fake_run), 7 steps to go.
    assert shown["run"]["seconds_left"] == 14.0


def test_a_job_that_has_not_begun_has_a_page(server: tuple[Services, httpx2.Client]) -> None:
    services, client = server
    error = {"code": "data_error", "message": f"train.jsonl, line 3: {PLANTED}"}
    failed = add_job(services, state="failed", name="<b>bold</b>", error=error)
    page = client.get(f"/ui/runs/{failed}").text
    assert "train.jsonl, line 3: &lt;script&gt;" in page
    assert "<script>window" not in page and "<b>bold" not in page
    twin = client.get(f"/ui/runs/{failed}.json").json()
    assert twin["run"]["job"]["error"] == error["message"]
    assert "charts" not in twin
    for below in ("rollouts", "answers", "vote", "prompt?id=x", "validation?id=x", "live"):
        answer = client.get(f"/ui/runs/{failed}/{below}")
        assert (answer.status_code, "has not begun" in answer.text) == (404, True), below
    assert client.get("/ui/runs/nothing").status_code == 404


def test_a_job_has_all_the_pages_of_its_run(
    server: tuple[Services, httpx2.Client], done: str
) -> None:
    services, client = server
    waiting = add_job(services)
    for below in ("", "/rollouts?step=3", "/answers", "/vote", "/prompt?id=train-0"):
        assert client.get(f"/ui/runs/{done}{below}").status_code == 200, below
    assert client.get(f"/ui/runs/ftjob-{done}.json").json()["run"]["key"] == done
    compared = client.get(f"/ui/compare.json?run={done}&run={waiting}").json()
    assert [run["key"] for run in compared["results"]] == [done]
    assert waiting not in [run["key"] for run in compared["runs"]]
    page = client.get(f"/ui/runs/{done}").text
    assert f"/ui/playground?left={BASE}&amp;right=ft%3A{BASE}%3Atunestone%3A%3A{done}" in page


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("state", "actions"),
    [
        ("validating", ["stop"]),
        ("queued", ["pause", "stop"]),
        ("running", ["pause", "stop"]),
        ("paused", ["resume", "stop"]),
        ("succeeded", []),
        ("failed", []),
        ("stopped", []),
    ],
)
def test_only_what_the_state_allows_can_be_asked(
    server: tuple[Services, httpx2.Client], door: str, state: str, actions: list[str]
) -> None:
    services, client = server
    leads_to = {"stop": "stopped", "pause": "paused", "resume": "queued"}
    for action, then in leads_to.items():
        job = add_job(services, dialect=door, state=state)
        offered = client.get(f"/ui/runs/{job}.json").json()["run"]["job"]["actions"]
        assert offered == actions
        page = client.get(f"/ui/runs/{job}").text
        assert (f'action="/ui/runs/{job}/{action}"' in page) == (action in actions)
        answer = client.post(f"/ui/runs/{job}/{action}", headers=HERE)
        if action in actions:
            assert (answer.status_code, answer.headers["location"]) == (303, f"/ui/runs/{job}")
            assert state_of(services, job) == then
        else:
            assert (answer.status_code, f"The job is {state}" in answer.text) == (400, True)
            assert state_of(services, job) == state


def test_a_job_that_is_stopping_can_be_asked_nothing_more(
    server: tuple[Services, httpx2.Client],
) -> None:
    services, client = server
    stopping = add_job(services, state="running", wish="stop")
    pausing = add_job(services, state="running", wish="pause")
    rows = rows_of(client)
    assert [rows[job]["job"]["actions"] for job in (stopping, pausing)] == [[], ["stop"]]


@pytest.mark.parametrize(
    "headers",
    [{}, {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}],
)
def test_only_a_page_of_ours_asks_something_of_a_job(
    server: tuple[Services, httpx2.Client], headers: dict[str, str]
) -> None:
    services, client = server
    job = add_job(services)
    assert client.post(f"/ui/runs/{job}/stop", headers=headers).status_code == 403
    assert state_of(services, job) == "queued"
    assert client.post("/ui/runs/nothing/stop", headers=HERE).status_code == 404
    assert client.get(f"/ui/runs/{job}/stop").status_code == 405


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "null", "sec-fetch-site": "same-origin"}, 303),  # as a form of ours is sent
        ({"origin": "null", "sec-fetch-site": "cross-site"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://evil.example", "sec-fetch-site": "cross-site"}, 403),
    ],
)
def test_a_form_of_ours_passes_the_gate_of_a_server_without_keys(
    server: tuple[Services, httpx2.Client], headers: dict[str, str], status: int
) -> None:
    services, client = server
    job = add_job(services)
    assert client.post(f"/ui/runs/{job}/pause", headers=headers).status_code == status
    assert state_of(services, job) == ("paused" if status == 303 else "queued")


def test_a_page_of_another_site_cannot_look_by_another_name(
    server: tuple[Services, httpx2.Client],
) -> None:
    _, client = server
    refused = client.get("/ui/jobs.json", headers={"host": "evil.example"})
    assert (refused.status_code, "a name of this machine" in refused.text) == (403, True)
    page = client.get("/ui/jobs", headers={"host": "evil.example", **PAGE})
    assert (page.status_code, "<h1>That did not work</h1>" in page.text) == (403, True)
    assert "script-src 'self'" in page.headers["content-security-policy"]


def test_the_list_is_told_in_pages(tmp_path: Path) -> None:
    with serving(tmp_path) as (services, client):
        jobs = [add_job(services, age=age) for age in range(52)]
        first = client.get("/ui/jobs.json").json()
        second = client.get("/ui/jobs.json?page=2").json()
        assert [row["key"] for row in first["runs"] + second["runs"]] == jobs
        assert (len(first["runs"]), first["pages"], second["page"]) == (50, 2, 2)
        assert 'href="/ui/jobs?&amp;page=2" rel="next"' in client.get("/ui/jobs").text


def test_the_playground_offers_all_that_answers(tmp_path: Path) -> None:
    with serving(tmp_path) as (services, client):
        alone = client.get("/ui/playground.json").json()
        assert [group["title"] for group in alone["groups"]] == ["Base models"]
        job = add_job(services, dialect="bedrock", state="succeeded")
        tuned = add_model(services, job, name="orders-1", dialect="bedrock")
        checkpoint = add_model(services, job, kind="checkpoint", step=10)
        add_model(services, job, kind="checkpoint", step=20, status="failed")
        deployed = add_deployment(services, tuned, name="live")
        add_deployment(services, tuned, name="not-yet", status="Creating")
        shown = client.get("/ui/playground.json").json()
        names = {g["title"]: [m["name"] for m in g["models"]] for g in shown["groups"]}
        assert BASE in names.pop("Base models")
        assert names == {
            "Tuned models": [tuned],
            "Checkpoints": [checkpoint],
            "Deployments": [deployed],
        }
        assert shown["groups"][1]["models"][0]["label"] == f"{tuned} (orders-1)"
        assert (shown["left"], shown["right"]) == (BASE, tuned)
        asked = client.get(f"/ui/playground?left={tuned}&right=<script>x").text
        assert f'<option value="{tuned}" selected>' in asked
        assert '<option value="&lt;script&gt;x" selected>' in asked


def test_a_page_that_follows_a_run_does_not_keep_the_server_from_ending(tmp_path: Path) -> None:
    services = services_in(tmp_path)
    job = add_job(services, state="running")
    run = write_run(run_path(services, job), steps=2, of=9, prompts=2, group=2, report=False)
    ending: list[bool] = []
    dashboard = build_dashboard(services, is_closing=lambda: bool(ending))
    with (
        running(services, dashboard=dashboard) as url,
        trained(run),
        httpx2.stream("GET", f"{url}/ui/runs/{job}/live", timeout=300) as answer,
    ):
        lines = answer.iter_lines()
        assert next(lines) == "retry: 2000"
        ending.append(True)
        before = time.monotonic()
        told = list(lines)
        assert "event: over" not in told  # the run goes on; the browser asks again
        assert time.monotonic() - before < 60


def test_the_program_serves_its_pages(tmp_path: Path) -> None:
    with live_server.serving(tmp_path / "data") as program:
        answer = httpx2.get(program.url, headers=PAGE, follow_redirects=True, timeout=300)
        assert (answer.status_code, answer.url.path) == (200, "/ui/jobs")
        for path in ("/ui/jobs/new", "/ui/playground", "/ui/compare", "/ui/login"):
            assert httpx2.get(program.url + path, timeout=300).status_code == 200, path
        twin = httpx2.get(f"{program.url}/ui/jobs.json", timeout=300).json()
        assert (twin["runs"], "links" in twin) == ([], False)
