"""The tagging page in a browser, and two files to be tagged."""

import time

import audio_files
import browser
import pytest
import tagging
from serving import served
from tagging_page import LIMITS, SETTINGS, screen

from psl_jax.data.decision_table import DecisionTable


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return DecisionTable(tmp_path_factory.mktemp("table") / "corrections.csv", "ann")


@pytest.fixture(scope="module")
def service():
    pytest.importorskip("uvicorn", reason="needs the [serve] extra")
    web = pytest.importorskip("psl_jax.web.service", reason="needs the [serve] extra")

    class SlowService(web.Service):
        """Files of "slow" in their name take until they are cancelled."""

        def tag(self, job, *rest, **settings):
            job.has_begun = True
            while "slow" in job.name:
                job.check()
                time.sleep(0.02)
            return super().tag(job, *rest, **settings)

    tagger = tagging.tagger()
    return SlowService(tagger, tagger.segmentation(), SETTINGS, web.Limits(**LIMITS))


@pytest.fixture(scope="module")
def port(service, table):
    with served(service, table) as port:
        service.warm_up()
        yield port


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    return [
        audio_files.write(folder / "street & <b>.flac", tagging.recording(7.3)),
        audio_files.write(folder / "yard.wav", tagging.recording(3.1, seed=1)),
    ]


@pytest.fixture(scope="module")
def tags(clips):
    return tagging.tagger().tag(clips[0], segment_seconds=2.0)


@pytest.fixture(scope="session")
def driver(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    fake = ("use-fake-device-for-media-stream", "use-fake-ui-for-media-stream")
    with browser.opened(folder, *fake) as driver:
        driver.downloads = folder
        yield driver


@pytest.fixture
def page(request, driver, port):
    """On a desk's screen, unless its width is given."""
    driver.get_log("browser")
    screen(driver, getattr(request, "param", 1280))
    driver.get(f"http://127.0.0.1:{port}/")
    yield driver
    # What the page does wrong, or may not load, the browser tells.
    errors = [e["message"] for e in driver.get_log("browser") if e["level"] == "SEVERE"]
    assert [e for e in errors if "status of 4" not in e] == []
    driver.get("about:blank")
