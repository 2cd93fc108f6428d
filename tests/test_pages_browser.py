"""The pages in a real Chromium: nothing is complained about, nothing planted runs, all fits."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

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
from fake_run import trained, write_run
from tunestone.pages.app import build_view
from tunestone.pages.library import FolderLibrary
from tunestone.runlog import RunFolder, append_lines, read_lines

pytestmark = needs_chromium
PAGES = {
    "runs": "/runs",
    "run": "/runs/done",
    "going": "/runs/going",
    "rollouts": "/runs/done/rollouts?step=3",
    "surprising": "/runs/done/rollouts?step=3&sort=surprising",
    "changes": "/runs/done/prompt?id=train-0&colour=changes",
    "validation": "/runs/done/validation?id=validation-1",
    "answers": "/runs/done/answers",
    "vote": "/runs/done/vote",
    "compare": "/compare",
    "missing": "/runs/missing",
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is done, and one that is trained as long as its lock is held."""
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder / "done", prompts=6)
    write_run(
        folder / "going", steps=9, of=30, prompts=3, report=False, created="2026-11-23T10:00:00"
    )
    return folder


@pytest.fixture(scope="module")
def address(runs: Path) -> Iterator[str]:
    config = uvicorn.Config(
        build_view(FolderLibrary([runs]), []), port=0, log_level="error", lifespan="off"
    )
    config.timeout_graceful_shutdown = 1
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_every_page_fits_is_quiet_and_runs_nothing_planted(
    browser: webdriver.Chrome,
    address: str,
    runs: Path,
    tmp_path: Path,
    size: tuple[int, int],
    scheme: str,
) -> None:
    with trained(RunFolder(runs / "going")):
        for name, path in PAGES.items():
            set_view(browser, size, scheme)
            open_page(browser, address + path)
            keep_screenshot(browser, f"{name}-{size[0]}-{scheme}", size[0], tmp_path)
            # A page that is not there is no complaint.
            assert complaints(browser, but="/runs/missing") == [], name
            assert browser.execute_script("return window.planted") is None, name


def test_a_run_is_watched_and_stopped(browser: webdriver.Chrome, address: str, runs: Path) -> None:
    run = RunFolder(runs / "going")
    line = read_lines(run.metrics)[-1]
    with trained(run):
        open_page(browser, f"{address}/runs/going")
        append_lines(run.metrics, [{**line, "step": 10, "reward_mean": 0.875}])
        run.event("note", "<b onclick=alert(1)>something new</b>")
        wait(browser, "document.querySelector('[data-latest=step]').textContent === '10 of 30'")
        wait(browser, "document.querySelector('#event-list li').textContent.includes('<b onclick')")
        assert browser.execute_script(
            "return charts.reward.series.training.at(-1).slice(0, 2)"
        ) == [
            10,
            0.875,
        ]
        browser.find_element(By.CSS_SELECTOR, ".stop summary").click()
        browser.find_element(By.CSS_SELECTOR, ".stop button").click()
        wait(browser, "document.querySelector('#state').textContent === 'ending after this step'")
        assert run.stop_requested()
    wait(browser, "document.querySelector('#state')?.textContent === 'unfinished'")
    (run.path / "STOP").unlink()
    assert complaints(browser) == []


def test_votes_are_cast_with_keys(browser: webdriver.Chrome, address: str, runs: Path) -> None:
    open_page(browser, f"{address}/runs/done/vote")
    for number, key in enumerate("120", start=1):
        shown = browser.find_element(By.NAME, "showing").get_attribute("value")
        browser.find_element(By.TAG_NAME, "body").send_keys(key)
        wait(browser, f"document.querySelector('[name=showing]')?.value !== '{shown}'")
        votes = read_lines(runs / "done" / "votes.jsonl")
        assert len(votes) == number
    assert [vote["choice"] for vote in votes] == ["left", "right", "equal"]
    assert votes[2]["preferred"] is None
    assert votes[0]["preferred"] == votes[0]["left"]
    assert complaints(browser) == []


def test_the_first_tab_stop_skips_to_the_content(browser: webdriver.Chrome, address: str) -> None:
    open_page(browser, f"{address}/runs")
    browser.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
    focused = browser.switch_to.active_element
    assert focused.text == "Skip to the content"
    assert focused.size["height"] > 20
    focused.send_keys(Keys.ENTER)
    assert browser.switch_to.active_element.get_attribute("id") == "content"
