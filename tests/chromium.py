"""What tests that drive a real Chromium share; the `browser` fixture is in conftest.py.

    from chromium import complaints, needs_chromium, wait

    pytestmark = needs_chromium

    def test_x(browser, address):
        browser.get(address)
        wait(browser, "document.title === 'Runs'")
        assert complaints(browser) == []

Screenshots are kept in the folder that TUNESTONE_SCREENSHOTS names.
"""

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from selenium import webdriver

DRIVER = shutil.which("chromedriver")
PHONE, DESK = (380, 800), (1280, 900)
needs_chromium = pytest.mark.skipif(DRIVER is None, reason="there is no chromedriver")


def start_chromium(profile: Path) -> "webdriver.Chrome":
    """A headless Chromium with an own, empty profile."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={profile}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    driver.set_page_load_timeout(300)  # a busy machine is no fault of the pages
    driver.set_script_timeout(300)
    return driver


def wait(browser: "webdriver.Chrome", condition: str) -> None:
    """Until a condition in the page's JavaScript holds."""
    from selenium.webdriver.support.wait import WebDriverWait

    WebDriverWait(browser, 120).until(lambda b: b.execute_script(f"return {condition}"))


def open_page(browser: "webdriver.Chrome", address: str) -> None:
    """Until what is drawn is drawn: every chart that is shown holds a line."""
    browser.get(address)
    wait(
        browser,
        "[...document.querySelectorAll('.chart:not([hidden])')]"
        ".every((chart) => chart.querySelector('.scatterlayer .trace'))",
    )


def complaints(browser: "webdriver.Chrome", *, but: str = "\0") -> list[str]:
    """What the console holds since it was asked last, without lines that hold `but`."""
    lines = [entry["message"] for entry in browser.get_log("browser")]
    return [line for line in lines if but not in line]


def set_view(browser: "webdriver.Chrome", size: tuple[int, int], scheme: str) -> None:
    """The window's width and height, and `light` or `dark`."""
    media = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
    _set_size(browser, *size)


def keep_screenshot(browser: "webdriver.Chrome", name: str, width: int, folder: Path) -> None:
    """The whole page as a file in TUNESTONE_SCREENSHOTS, else in `folder`. Asserts that it fits."""
    shots = Path(os.environ.get("TUNESTONE_SCREENSHOTS", folder))
    shots.mkdir(parents=True, exist_ok=True)
    wide, tall = (
        browser.execute_script(f"return document.documentElement.scroll{side}")
        for side in ("Width", "Height")
    )
    assert wide <= width, f"{name} is {wide} wide"
    _set_size(browser, width, min(tall, 6000))
    browser.save_screenshot(str(shots / f"{name}.png"))


def _set_size(browser: "webdriver.Chrome", width: int, height: int) -> None:
    view = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", view)
