"""The web page: its answers over HTTP, and the page itself in a headless browser."""

import base64
import contextlib
import csv
import http.client
import json
import shutil
import threading
import time
import wave

import audio_files
import numpy as np
import pytest
import tagging

from psl_jax import serve
from psl_jax.runtime.errors import UserError
from psl_jax.tagging.events import EventSettings

uvicorn = pytest.importorskip("uvicorn", reason="needs the [serve] extra")
web = pytest.importorskip("psl_jax.web.application", reason="needs the [serve] extra")

LIMITS = web.Limits(megabytes=1.0, minutes=0.5)
SETTINGS = EventSettings(threshold=0.6)


@pytest.fixture(scope="module")
def port():
    service = web.Service(tagging.tagger(), tagging.tagger().segmentation(), SETTINGS, LIMITS)
    with contextlib.closing(serve.listen("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(web.application(service), log_level="error", lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        service.warm_up()
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join(10)


def ask(port, method, path, body=None, host="127.0.0.1"):
    """(status, headers, body) of a request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.request(method, path, body, headers={"Host": f"{host}:{port}"})
        response = connection.getresponse()
        return response.status, response.headers, response.read()


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    return audio_files.write(folder / "street & <b>.flac", tagging.recording(7.3))


# --- Requests ---------------------------------------------------------------------------------


def test_an_upload_is_answered_with_what_the_tagger_finds(port, clip):
    status, _, body = ask(port, "POST", "/tag?name=street%20%26%20%3Cb%3E.flac", clip.read_bytes())
    answer = json.loads(body)
    tags = tagging.tagger().tag(clip, segment_seconds=2.0)
    assert (status, answer["name"], answer["seconds"]) == (200, clip.name, 7.3)
    assert answer["labels"] == list(tagging.LABELS)
    np.testing.assert_allclose(answer["scores"], tags.scores, atol=1e-3)
    heat = np.frombuffer(base64.b64decode(answer["heat"]["data"]), "<u2").reshape(-1, 6) / 65535
    np.testing.assert_allclose(heat, tags.frame_scores, atol=1e-4)
    events = tags.events(SETTINGS.threshold)
    assert [tuple(e.values())[:3] for e in answer["events"]] == [event[:3] for event in events]
    assert len(list(csv.DictReader(answer["csv"].splitlines()))) == len(events) > 0
    assert len(base64.b64decode(answer["mel"]["data"])) % 64 == 0


def test_page_and_its_parts_load_nothing_from_elsewhere(port):
    for path in ("/", "/serve.js", "/serve.css"):
        status, headers, body = ask(port, "GET", path)
        assert status == 200 and headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert b"http://" not in body and b"https://" not in body
    for path in ("/web.py", "/..%2fweb.py", "/report.js"):
        assert ask(port, "GET", path)[0] == 404


def test_a_name_made_to_point_here_is_refused(port):
    assert ask(port, "GET", "/", host="evil.example")[0] == 400
    assert ask(port, "GET", "/", host="localhost")[0] == 200


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        (b"", 415, "x.wav is empty."),
        (b"no audio at all", 415, "x.wav cannot be tagged: undecodable"),
        (bytes(1_000_001), 413, "x.wav is too large. Files of up to 1 MB are tagged here"),
    ],
)
def test_what_cannot_be_tagged_is_said_in_words(port, content, status, words):
    found, _, body = ask(port, "POST", "/tag?name=x.wav", content)
    assert found == status and words in json.loads(body)["error"]


def test_too_large_is_found_without_an_announced_length(port):
    found, _, body = ask(port, "POST", "/tag?name=../x.wav", iter([bytes(600_000)] * 2))
    assert found == 413 and json.loads(body)["error"].startswith("x.wav is too large")


def test_too_long_is_refused(port, tmp_path):
    long = audio_files.write(tmp_path / "x.flac", np.zeros(31 * 16_000))
    found, _, body = ask(port, "POST", "/tag?name=x.flac", long.read_bytes())
    assert found == 413 and "too long. Files of up to 0.5 minutes" in json.loads(body)["error"]


def test_decoded_audio_for_what_the_browser_cannot_play(port, tmp_path):
    sound = audio_files.tone(1.0, 44_100, 2)
    path = audio_files.write(tmp_path / "x.aiff", sound, 44_100)
    status, _, body = ask(port, "POST", "/wav?name=x.aiff", path.read_bytes())
    (tmp_path / "x.wav").write_bytes(body)
    with wave.open(str(tmp_path / "x.wav")) as file:
        assert (status, file.getframerate(), file.getnframes()) == (200, 16_000, 16_000)
    assert ask(port, "POST", "/wav?name=x.aiff", b"nothing")[0] == 415


def test_a_port_in_use_is_a_user_error(port):
    with pytest.raises(UserError, match=f"port {port}.*--port"):
        serve.listen("127.0.0.1", port)
    with pytest.raises(UserError, match="cannot listen"):
        serve.listen("no.such.host.invalid", 0)


def test_loopback_is_the_default():
    assert serve.parse(["serve", "model"]).host == "127.0.0.1"


# --- In a browser -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    selenium = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    from selenium.webdriver.chrome.service import Service

    programs = [shutil.which("chromium") or shutil.which("google-chrome")]
    programs.append(shutil.which("chromedriver"))
    if not all(programs):
        pytest.skip("needs chromium and chromedriver")
    folder = tmp_path_factory.mktemp("browser")
    options = selenium.ChromeOptions()
    options.binary_location = programs[0]
    for flag in (
        *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run"),
        *("disable-background-networking", "disable-component-update", "disable-sync"),
        *("autoplay-policy=no-user-gesture-required", "window-size=1100,1000"),
        *("use-fake-device-for-media-stream", "use-fake-ui-for-media-stream"),
        f"user-data-dir={folder / 'profile'}",
    ):
        options.add_argument(f"--{flag}")
    options.add_experimental_option(
        "prefs", {"download.default_directory": str(folder), "download.prompt_for_download": False}
    )
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = selenium.Chrome(options=options, service=Service(programs[1]))
    driver.downloads = folder
    yield driver
    driver.quit()


@pytest.fixture
def page(browser, port):
    browser.get_log("browser")
    browser.get(f"http://127.0.0.1:{port}/")
    yield browser
    # What the page does wrong, or may not load, the browser tells.
    errors = [e["message"] for e in browser.get_log("browser") if e["level"] == "SEVERE"]
    assert [e for e in errors if "status of 4" not in e] == []


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.1)
    return found


def upload(page, path):
    page.find_element("id", "file").send_keys(str(path))


def texts(page, selector):
    return [element.text for element in page.find_elements("css selector", selector)]


def test_upload_shows_tags_and_the_cursor_moves(page, clip):
    upload(page, clip)
    wait_for(lambda: texts(page, "#labels li"))
    assert page.find_element("id", "name").text == f"{clip.name} 0:07.3"
    tags = tagging.tagger().tag(clip, segment_seconds=2.0)
    best = np.argsort(-tags.frame_scores.max(axis=0), kind="stable")
    assert texts(page, "#labels span") == [tagging.LABELS[i] for i in best]
    assert len(texts(page, "#events tr")) == len(tags.events(SETTINGS.threshold))

    def left():
        style = page.execute_script("return document.getElementById('cursor').style.left")
        return float(style.removesuffix("%"))

    wait_for(lambda: page.execute_script("return player.readyState >= 2"))
    page.execute_script("return player.play()")
    first = wait_for(left)
    assert wait_for(lambda: left() > first)
    page.execute_script("player.pause(); player.currentTime = 3.65")
    wait_for(lambda: abs(left() - 50) < 1)
    page.find_element("id", "plot").click()  # in its middle
    wait_for(lambda: abs(left() - 50) < 1)
    now = [float(text) for text in texts(page, "#labels b")]
    expected = [tags.frame_scores[round(3.65 / 0.32), i] for i in best]
    np.testing.assert_allclose(now, expected, atol=0.006)


def test_pictures_are_drawn_and_labels_can_be_searched(page, clip):
    upload(page, clip)
    wait_for(lambda: texts(page, "#labels li"))
    drawn = """const c = document.getElementById(arguments[0]);
        const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
        return new Set(new Uint32Array(d.buffer)).size"""
    for canvas in ("mel", "heat"):
        assert page.execute_script(drawn, canvas) > 20
    page.find_element("id", "filter").send_keys("HORN")
    assert texts(page, "#labels span") == ["Vehicle horn, car horn, honking"]


def test_csv_files_download(page, browser, clip):
    upload(page, clip)
    wait_for(lambda: texts(page, "#labels li"))
    page.find_element("id", "events-csv").click()
    page.find_element("id", "scores-csv").click()
    tags = tagging.tagger().tag(clip, segment_seconds=2.0)

    def rows(what):
        found = [path for path in browser.downloads.glob(f"*.{what}.csv") if path.stat().st_size]
        return found and list(csv.reader(found[0].read_text().splitlines()))

    events = wait_for(lambda: rows("events"))
    assert events[0] == ["file", "onset", "offset", "label", "score"]
    assert len(events) == 1 + len(tags.events(SETTINGS.threshold))
    scores = wait_for(lambda: rows("scores"))
    assert scores[0] == ["time", *tagging.LABELS]
    values = np.array(scores[1:], float)
    np.testing.assert_allclose(values[:, 0], tags.frame_times, atol=0.005)
    np.testing.assert_allclose(values[:, 1:], tags.frame_scores, atol=2e-4)


def test_too_large_a_file_is_refused_in_words(page, tmp_path):
    path = tmp_path / "big.wav"
    path.write_bytes(bytes(2_500_000))
    upload(page, path)
    said = wait_for(lambda: page.find_element("css selector", "#status.error").text)
    assert said.startswith("big.wav is too large: 2.5 MB, and files of up to 1 MB are tagged here.")
    assert not page.find_element("id", "result").is_displayed()


def test_what_is_no_audio_is_refused_in_words(page, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("no audio")
    upload(page, path)
    wait_for(lambda: "notes.txt cannot be tagged: undecodable" in texts(page, "#status")[0])


def test_a_format_that_the_browser_cannot_play_is_played_all_the_same(page, tmp_path):
    upload(page, audio_files.write(tmp_path / "x.aiff", tagging.recording(4.0)))
    wait_for(lambda: page.execute_script("return player.readyState >= 2"))
    assert page.execute_script("return player.duration") == pytest.approx(4.0)


def test_a_recording_is_tagged(page):
    record = page.find_element("id", "record")
    record.click()
    wait_for(lambda: record.text.startswith("Stop (0:01"))
    record.click()
    wait_for(lambda: texts(page, "#labels li"))
    assert page.find_element("id", "name").text.startswith("recording 0:0")
