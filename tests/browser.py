"""A real browser without a window, for pages on disk and those of a server on this machine."""

from __future__ import annotations

import shutil
from contextlib import contextmanager

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1200,900",
)
# Text that would do harm where a page took it for more.
HOSTILE = "<img src=x onerror=window.hurt=1></script><script>window.hurt=1</script>{{7*7}}%{x}"


@contextmanager
def started(profile, offline=True):
    """A driver of the browser with an empty profile. The test is skipped where there is no browser."""
    webdriver = pytest.importorskip("selenium.webdriver")
    if not (BROWSER and DRIVER):
        pytest.skip("no Chromium with its driver here: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    try:
        driver.execute_cdp_cmd("Network.enable", {})
        if offline:
            driver.execute_cdp_cmd("Network.emulateNetworkConditions", _OFFLINE)
        yield driver
    finally:
        driver.quit()


_OFFLINE = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}


def until(driver, script, seconds=60):
    """What `script` gives as soon as it is true."""
    wait = pytest.importorskip("selenium.webdriver.support.ui").WebDriverWait(driver, seconds, poll_frequency=0.05)
    return wait.until(lambda driver: driver.execute_script(f"return {script}"), f"not within {seconds} s: {script}")


def opened(driver, page, width=1200, dark=False):
    """Show `page`, a file, in a window of that width, and wait until all is drawn; what the console says is lost."""
    driver.shows = None
    resized(driver, width)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    driver.get_log("browser")
    driver.get(page.resolve().as_uri())
    until(driver, "document.documentElement.dataset.drawn === '' || !document.getElementById('failure').hidden")
    return driver


def shown(driver, page, width=1200, dark=False):
    """As `opened`, but a page that is shown so already is left as it is."""
    if getattr(driver, "shows", None) != (page, width, dark):
        opened(driver, page, width, dark)
        driver.shows = page, width, dark
    return driver


def resized(driver, width):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def complaints(driver):
    """What the console says, and the page itself."""
    said = [entry["message"] for entry in driver.get_log("browser")]
    failure = driver.execute_script("return document.getElementById('failure').textContent")
    return said + ([failure] if failure else [])
