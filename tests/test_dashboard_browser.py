"""The server's pages in a real Chromium: a job is watched, paused and stopped, two models are
asked, a key is pasted. Nothing is complained about, nothing planted runs, all fits."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

from chromium import (
    DESK,
    PHONE,
    complaints,
    keep_screenshot,
    needs_chromium,
    open_page,
    set_view,
    wait,
)
from dashboard_server import WishingJobs, add_job, add_model, run_path, serving, set_job, state_of
from fake_run import PLANTED, trained, write_run
from tunestone.api.access.keys import KeyRing
from tunestone.api.services import Services
from tunestone.generation import Delta, Ended, GenerationEvent, GenerationRequest, Started
from tunestone.jobs.store import Store, sqlite_url
from tunestone.runlog import append_lines, read_lines

pytestmark = needs_chromium
Served = tuple[Services, str]


class TalkingEngine:
    """A base says one word after the other for ever, a tuned model PLANTED and the prompt."""

    def __init__(self) -> None:
        self.asked: list[GenerationRequest] = []
        self.ended = 0

    async def generate(self, request: GenerationRequest) -> AsyncIterator[GenerationEvent]:
        self.asked.append(request)
        yield Started(request.id, prompt_tokens=7)
        if request.model.adapter:
            text = f"{PLANTED} {request.messages[-1]['content']}"
            yield Delta(request.id, 0, text, tokens=3)
            yield Ended(request.id, 0, "stop", tokens=3)
            return
        try:
            while True:
                yield Delta(request.id, 0, "more ", tokens=1)
                await asyncio.sleep(0.05)
        finally:
            self.ended += 1


ENGINE = TalkingEngine()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("dashboard")
    jobs = WishingJobs(Store(sqlite_url(folder)))
    with serving(folder, engine=ENGINE, jobs=jobs) as (services, client):
        yield services, str(client.base_url).rstrip("/")


@pytest.fixture(scope="module")
def done(served: Served) -> str:
    services, _ = served
    job = add_job(services, state="succeeded", name="sums", age=60)
    write_run(run_path(services, job), steps=6, prompts=3, group=4)
    add_model(services, job)
    return job


def text_of(browser: webdriver.Chrome, selector: str) -> str:
    return browser.execute_script(f"return document.querySelector('{selector}').textContent")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_every_page_fits_is_quiet_and_runs_nothing_planted(
    browser: webdriver.Chrome,
    served: Served,
    done: str,
    tmp_path: Path,
    size: tuple[int, int],
    scheme: str,
) -> None:
    services, address = served
    error = {"code": "data_error", "message": f"train.jsonl, line 3: {PLANTED}"}
    failed = add_job(services, state="failed", name="broken", error=error)
    waiting = add_job(services, dialect="bedrock", name="orders")
    pages = {
        "jobs": "/ui/jobs",
        "job-done": f"/ui/runs/{done}",
        "job-failed": f"/ui/runs/{failed}",
        "job-waiting": f"/ui/runs/{waiting}",
        "job-changed": f"/ui/runs/{done}/rollouts?step=6&sort=changed",
        "playground": "/ui/playground",
        "login": "/ui/login",
    }
    for name, path in pages.items():
        set_view(browser, size, scheme)
        open_page(browser, address + path)
        keep_screenshot(browser, f"{name}-{size[0]}-{scheme}", size[0], tmp_path)
        assert complaints(browser) == [], name
        assert browser.execute_script("return window.planted") is None, name


def test_the_list_keeps_up_without_taking_the_focus(
    browser: webdriver.Chrome, served: Served
) -> None:
    services, address = served
    set_view(browser, DESK, "light")
    job = add_job(services, name="watched")
    browser.get(f"{address}/ui/jobs")
    assert text_of(browser, f"#row-{job} .state") == "queued"
    browser.execute_script(f"document.getElementById('link-{job}').focus()")
    run = write_run(run_path(services, job), steps=2, of=9, prompts=2, group=2, report=False)
    set_job(services, job, state="running")
    with trained(run):
        wait(browser, f"document.querySelector('#row-{job} .state').textContent === 'training'")
        newer = add_job(services, name="newer")
        wait(browser, f"document.getElementById('row-{newer}')")
        assert browser.switch_to.active_element.get_attribute("id") == f"link-{job}"
        browser.switch_to.active_element.send_keys(Keys.ENTER)
        wait(browser, "document.querySelector('h1')?.textContent === 'watched'")
    assert complaints(browser) == []


def test_a_job_is_waited_for_watched_and_stopped(browser: webdriver.Chrome, served: Served) -> None:
    services, address = served
    job = add_job(services, name="mine")
    browser.get(f"{address}/ui/runs/{job}")
    assert text_of(browser, "#state") == "queued"
    run = write_run(run_path(services, job), steps=2, of=9, prompts=2, group=2, report=False)
    with trained(run):
        set_job(services, job, state="running")
        wait(browser, "document.querySelector('#state')?.textContent === 'training'")
        wait(browser, "document.querySelector('[data-chart=reward] .scatterlayer .trace')")
        line = read_lines(run.metrics)[-1]
        append_lines(run.metrics, [{**line, "step": 3, "reward_mean": 0.875}])
        wait(browser, "document.querySelector('[data-latest=step]').textContent === '3 of 9'")
        browser.find_element(By.CSS_SELECTOR, ".stop summary").click()
        browser.find_element(By.CSS_SELECTOR, ".stop button").click()
        wait(browser, "document.querySelector('#state')?.textContent.startsWith('stopping after')")
        assert browser.find_elements(By.CSS_SELECTOR, ".controls button") == []
        # As the supervisor does once the trainer has left.
        set_job(services, job, state="stopped", wish="")
    wait(browser, "document.querySelector('#state')?.textContent === 'stopped'")
    assert complaints(browser) == []


def test_a_job_is_paused_and_resumed(browser: webdriver.Chrome, served: Served) -> None:
    services, address = served
    job = add_job(services, dialect="bedrock", name="mine-too", state="paused")
    browser.get(f"{address}/ui/runs/{job}")
    browser.find_element(By.XPATH, "//button[text()='Resume']").send_keys(Keys.ENTER)
    wait(browser, "document.querySelector('#state')?.textContent === 'queued'")
    assert state_of(services, job) == "queued"
    assert complaints(browser) == []


def test_two_models_answer_side_by_side(
    browser: webdriver.Chrome, served: Served, done: str
) -> None:
    _, address = served
    browser.get(f"{address}/ui/runs/{done}")
    browser.find_element(By.LINK_TEXT, "Try it beside its base").click()
    wait(browser, "document.querySelector('h1')?.textContent === 'Playground'")
    chosen = [Select(browser.find_element(By.NAME, side)) for side in ("left", "right")]
    assert chosen[0].first_selected_option.text == "smollm2-135m"
    assert chosen[1].first_selected_option.text.startswith("ft:smollm2-135m:")
    browser.find_element(By.NAME, "system").send_keys("Be brief.")
    most = browser.find_element(By.NAME, "most")
    most.clear()
    most.send_keys("40")
    prompt = browser.find_element(By.NAME, "prompt")
    prompt.send_keys("What is <b>2</b> + 2?", Keys.CONTROL, Keys.ENTER)
    wait(browser, "document.querySelector('#right .meta').textContent.includes('3 tokens')")
    wait(browser, "document.querySelector('#left .said').textContent.startsWith('more more')")
    assert text_of(browser, "#right .said") == f"{PLANTED} What is <b>2</b> + 2?"
    assert "tokens/s" in text_of(browser, "#right .meta")
    assert browser.execute_script("return window.planted") is None
    left, right = sorted(ENGINE.asked[-2:], key=lambda request: request.model.adapter)
    assert [turn["content"] for turn in left.messages] == ["Be brief.", "What is <b>2</b> + 2?"]
    assert (left.temperature, left.max_tokens, right.max_tokens) == (1.0, 40, 40)
    ended = ENGINE.ended
    browser.find_element(By.NAME, "stop").click()
    wait(browser, "document.querySelector('#left .meta').textContent.includes('stopped')")
    assert "stopped" not in text_of(browser, "#right .meta")
    for _ in range(100):  # the question is taken back once the connection is seen to be closed
        if ENGINE.ended > ended:
            break
        time.sleep(0.1)
    assert ENGINE.ended == ended + 1
    assert complaints(browser) == []


def test_trouble_of_one_side_does_not_disturb_the_other(
    browser: webdriver.Chrome, served: Served, done: str, tmp_path: Path
) -> None:
    services, address = served
    tuned = add_model(services, done, kind="checkpoint", step=6)
    browser.get(f"{address}/ui/playground?left=ft:none&right={tuned}")
    browser.find_element(By.NAME, "prompt").send_keys("Hello")
    browser.find_element(By.NAME, "send").click()
    wait(browser, "document.querySelector('#left .fault').textContent")
    assert text_of(browser, "#left .fault").startswith("There is no model 'ft:none'.")
    wait(browser, "document.querySelector('#right .meta').textContent.includes('3 tokens')")
    assert text_of(browser, "#right .said") == f"{PLANTED} Hello"
    keep_screenshot(browser, "playground-answered", DESK[0], tmp_path)
    assert complaints(browser, but="/v1/chat/completions") == []  # that it was refused


def test_a_key_is_pasted_used_and_forgotten(browser: webdriver.Chrome, tmp_path: Path) -> None:
    with serving(tmp_path / "data", require_keys=True) as (services, client):
        key = KeyRing(services.store, services.folder).create("mine", "write")
        address = str(client.base_url).rstrip("/")
        job = add_job(services, name="locked")
        browser.get(f"{address}/ui/runs/{job}")
        assert text_of(browser, "h1") == "Key"
        browser.switch_to.active_element.send_keys("ts-wrong", Keys.ENTER)
        wait(browser, "document.querySelector('.fault')")
        browser.find_element(By.NAME, "key").send_keys(key.bearer, Keys.ENTER)
        wait(browser, "document.querySelector('h1')?.textContent === 'locked'")
        assert browser.execute_script("return document.cookie") == ""
        models = "return fetch('/v1/models').then((answer) => answer.status)"
        assert browser.execute_script(models) == 200
        browser.find_element(By.CSS_SELECTOR, ".stop summary").click()
        browser.find_element(By.CSS_SELECTOR, ".stop button").click()
        wait(browser, "document.querySelector('#state')?.textContent === 'stopped'")
        browser.get(f"{address}/ui/login")
        browser.find_element(By.XPATH, "//button[text()='Forget this key']").click()
        wait(browser, "!document.body.textContent.includes('Forget this key')")
        browser.get(f"{address}/ui/jobs")
        assert text_of(browser, "h1") == "Key"
        assert complaints(browser, but="/ui/login") == []  # a 401 is one
