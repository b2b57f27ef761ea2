"""A browser for pages that are files: Chromium without a window, or the test is skipped."""

import contextlib
import shutil

import pytest


@contextlib.contextmanager
def opened(folder, *flags):
    """A selenium driver that keeps what the browser's console says; `folder` is its profile's.

    Downloads go to the folder. flags: more of the browser's, without dashes.
    """
    selenium = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    from selenium.webdriver.chrome.service import Service

    programs = [shutil.which("chromium") or shutil.which("google-chrome")]
    programs.append(shutil.which("chromedriver"))
    if not all(programs):
        pytest.skip("needs chromium and chromedriver")
    options = selenium.ChromeOptions()
    options.binary_location = programs[0]
    for flag in (
        *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run"),
        *("disable-background-networking", "disable-component-update", "disable-sync"),
        *("autoplay-policy=no-user-gesture-required", f"user-data-dir={folder / 'profile'}"),
        *flags,
    ):
        options.add_argument(f"--{flag}")
    saving = {"download.default_directory": str(folder), "download.prompt_for_download": False}
    saving["profile.default_content_setting_values.automatic_downloads"] = 1
    options.add_experimental_option("prefs", saving)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = selenium.Chrome(options=options, service=Service(programs[1]))
    try:
        yield driver
    finally:
        driver.quit()


def resize(driver, width: int) -> None:
    """A screen of so many pixels: a telephone's where it is narrow."""
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
