"""The page in a headless browser, as large as a desk's and as a telephone's."""

import csv
import io
import itertools
import pathlib
import time

import audio_files
import browser
import numpy as np
import pytest
import tagging
from serving import served, wait_for

from psl_jax.data.decision_table import DecisionTable, drop_undone, read_decisions
from psl_jax.tagging import output_formats, tagging_cli
from psl_jax.tagging.events import EventSettings, find_events
from psl_jax.tagging.file_tagging import FileTags, Input

pytest.importorskip("uvicorn", reason="needs the [serve] extra")
web = pytest.importorskip("psl_jax.web.service", reason="needs the [serve] extra")

LIMITS = web.Limits(megabytes=1.0, minutes=0.5)
SETTINGS = EventSettings(threshold=tagging.thresholds(0.6, siren=0.3))
AXE = pathlib.Path(__file__).parent / "axe.min.js"


class SlowService(web.Service):
    """Files of "slow" in their name take until they are cancelled."""

    def tag(self, job, *rest, **settings):
        job.has_begun = True
        while "slow" in job.name:
            job.check()
            time.sleep(0.02)
        return super().tag(job, *rest, **settings)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return DecisionTable(tmp_path_factory.mktemp("table") / "corrections.csv", "ann")


@pytest.fixture(scope="module")
def port(table):
    service = SlowService(tagging.tagger(), tagging.tagger().segmentation(), SETTINGS, LIMITS)
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


@pytest.fixture(scope="module")
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


def screen(driver, width):
    """As `browser.resize`; a telephone is touched."""
    browser.resize(driver, width)
    driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": width < 600})


def texts(page, selector):
    return [element.text for element in page.find_elements("css selector", selector)]


def upload(page, *paths):
    page.find_element("id", "file").send_keys("\n".join(map(str, paths)))


def upload_and_wait(page, *paths):
    upload(page, *paths)
    wait_for(lambda: texts(page, "#labels li"))
    wait_for(lambda: len(page.find_elements("css selector", "#files li.done")) == len(paths))


def press(page, *ids):
    for name in ids:
        page.execute_script("document.getElementById(arguments[0]).click()", name)


def set_value(page, name, value, event="input"):
    page.execute_script(
        "const x = document.getElementById(arguments[0]); x.value = arguments[1];"
        "x.dispatchEvent(new Event(arguments[2], {bubbles: true}))",
        name,
        value,
        event,
    )
    settle(page)


def settle(page):
    """Settings take effect with the next frame of the screen."""
    page.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")


def listed(page):
    """The table's rows: (from, to, class, score)."""
    rows = page.execute_script(
        "return [...document.querySelectorAll('#events tr')].map((r) => "
        "[...r.cells].map((c) => c.firstChild.textContent))"
    )
    return [tuple(row) for row in rows if len(row) == 4]


def expected(tags, threshold, own=None, **settings):
    each = tagging.thresholds(threshold, **(own or {}))
    return find_events(
        tags.frame_scores, EventSettings(each, **settings), tags.labels, tags.seconds
    )


def as_listed(events):
    clocks = (
        (output_formats.format_clock(e.onset, 2), output_formats.format_clock(e.offset, 2))
        for e in events
    )
    return {(*clock, e.label) for clock, e in zip(clocks, events, strict=True)}


def number(page):
    return int(page.find_element("id", "events-title").text.split()[0])


# --- A file and its answer --------------------------------------------------------------------


@pytest.mark.parametrize("page", [1280, 375], indirect=True, ids=["desk", "telephone"])
def test_two_files_are_tagged_and_the_answer_stands_on_top(page, clips, tags):
    upload_and_wait(page, *clips)
    assert texts(page, "#files .title") == [clip.name for clip in clips]
    assert page.find_element("id", "name").text == f"{clips[0].name} 0:07.3"
    label, score = tags.top(1)[0]
    assert texts(page, "#answer span")[0] == f"{label} {score:.2f}"
    best = np.argsort(-tags.frame_scores.max(axis=0), kind="stable")
    assert texts(page, "#labels button") == [tagging.LABELS[i] for i in best]
    found = listed(page)
    assert {row[:3] for row in found} == as_listed(
        expected(tags, threshold=0.6, own={"siren": 0.3})
    )
    page.find_elements("css selector", "#files .file")[1].click()
    wait_for(lambda: page.find_element("id", "name").text == "yard.wav 0:03.1")
    assert page.execute_script("return document.documentElement.scrollWidth <= innerWidth")


def test_the_cursor_moves_and_scores_follow_it(page, clips, tags):
    upload_and_wait(page, clips[0])
    wait_for(lambda: page.execute_script("return player.readyState >= 2"))
    press(page, "play")
    wait_for(lambda: page.execute_script("return player.currentTime > 0.1"))
    press(page, "play")
    page.execute_script("player.currentTime = 3.65")
    wait_for(lambda: page.find_element("id", "clock").text[:6] in ("0:03.6", "0:03.7"))
    shown = [float(text) for text in texts(page, "#labels b")]
    best = np.argsort(-tags.frame_scores.max(axis=0), kind="stable")
    wanted = [tags.frame_scores[round(3.65 / 0.32), i] for i in best]
    np.testing.assert_allclose(shown, wanted, atol=0.006)


def test_pictures_zoom_and_scroll_as_one(page, clips):
    upload_and_wait(page, clips[0])
    width = "const w = document.querySelector('#wave > div').shadowRoot;"
    scroll = f"{width} return w.querySelector('.scroll').scrollWidth"
    drawn = f"""{width} const c = w.querySelector('canvas[data-name=' + arguments[0] + ']');
        const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
        return [...new Set(new Uint32Array(d.buffer))].length"""
    picture = f"{width} return w.querySelector('canvas[data-name=mel]').toDataURL()"
    wait_for(lambda: page.execute_script(drawn, "mel") > 20)
    assert page.execute_script(drawn, "heat") > 20
    before, whole = page.execute_script(scroll), page.execute_script(picture)
    press(page, "in", "in", "in")
    wait_for(lambda: page.execute_script(scroll) > 3 * before)
    closer = wait_for(lambda: (x := page.execute_script(picture)) != whole and x)
    page.execute_script(f"{width} w.querySelector('.scroll').scrollLeft += 400")
    wait_for(lambda: page.execute_script(picture) != closer)
    press(page, "fit")
    wait_for(lambda: page.execute_script(scroll) == before)


def test_of_a_folder_the_audio_is_tagged_in_the_order_of_its_paths(page, clips, tmp_path):
    sound = clips[1].read_bytes()
    for name in ("b.WAV", "a/z.wav", "a/b/x.wav", "a-c.wav"):
        (tmp_path / "yard" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "yard" / name).write_bytes(sound)
    (tmp_path / "yard" / "._b.WAV").write_bytes(b"\0\5\x16\7")  # as macOS writes beside a file
    for name in ("0.txt", "a/1.txt", "notes.csv", "README"):
        (tmp_path / "yard" / name).write_text("no audio")
    page.find_element("id", "folder").send_keys(str(tmp_path / "yard"))
    wait_for(lambda: len(page.find_elements("css selector", "#files li.done")) == 4)
    assert texts(page, "#files .title") == [
        f"yard/{name}" for name in ("a/b/x.wav", "a/z.wav", "a-c.wav", "b.WAV")
    ]
    said = "Passed over 4 files whose names are not those of audio, such as yard/"
    assert page.find_element("id", "status").text.startswith(said)
    upload(page, tmp_path / "yard" / "._b.WAV")
    said = "There are no audio files in what was chosen."
    wait_for(lambda: page.find_element("id", "status").text == said)


# --- Thresholds -------------------------------------------------------------------------------


def test_thresholds_change_the_events_at_once(page, clips, tags):
    upload_and_wait(page, clips[0])
    before = number(page)
    note, field = page.find_element("id", "threshold-note"), page.find_element("id", "threshold")
    assert note.text.startswith("Each class its own (the server")
    assert field.get_attribute("value") == ""
    set_value(page, "threshold", 0.9, "change")
    assert 0 < number(page) < before
    wanted = expected(tags, threshold=0.9)
    assert {row[:3] for row in listed(page)} == as_listed(wanted)
    page.find_element("css selector", "#labels button[title=bell]").click()
    set_value(page, "own", 0.2, "change")
    wanted = expected(tags, threshold=0.9, own={"bell": 0.2})
    assert {row[:3] for row in listed(page)} == as_listed(wanted)
    assert page.find_element("id", "owns").text == "Set by you: bell 0.2"
    set_value(page, "median", 3, "change")
    wanted = expected(
        tags,
        threshold=0.9,
        median_filter=3,
        own={"bell": 0.2},
    )
    assert {row[:3] for row in listed(page)} == as_listed(wanted)
    page.find_element("id", "back").click()
    settle(page)
    assert note.text.startswith("Each class its own") and field.get_attribute("value") == ""
    wanted = expected(tags, threshold=0.6, own={"siren": 0.3}, median_filter=3)
    assert {row[:3] for row in listed(page)} == as_listed(wanted)


def test_a_threshold_out_of_range_is_refused_in_words(page, clips):
    from selenium.webdriver import Keys

    upload_and_wait(page, clips[0])
    set_value(page, "threshold-range", 0.7)
    before, field = listed(page), page.find_element("id", "threshold")
    wrong = page.find_element("id", field.get_attribute("aria-describedby").split()[0])
    for typed in ("15", "0", "", "e"):
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(typed or Keys.DELETE, Keys.TAB)
        wait_for(lambda: wrong.is_displayed())
        assert wrong.text.startswith("Expected more than 0 and at most 1")
        settle(page)
        assert listed(page) == before and field.get_attribute("value") == "0.7"
        set_value(page, "threshold-range", 0.7)
        assert not wrong.is_displayed()
    set_value(page, "threshold", 0.335, "change")  # finer than the slider's steps
    assert "0.335" in page.execute_script("return threshold.value") and not wrong.is_displayed()


def test_the_browser_finds_the_events_that_python_finds(driver, port):
    """For many settings, by the module itself, on scores that are exact in 16 bits."""
    driver.get(f"http://127.0.0.1:{port}/")
    rng = np.random.default_rng(5)
    scores = rng.integers(0, 65536, (40, 3)).astype(np.float64)
    scores = (scores[:-1] + scores[1:]) // 2  # runs, not single frames
    script = """const [data, settings, done] = arguments;
        import("/static/events.js").then((events) => done(settings.map((one) => events.findEvents({
            labels: ["a", "b", "c"], peaks: [1, 1, 1], frame: 0.32, frames: data.length / 3,
            seconds: 12.4, data: Uint16Array.from(data) }, one))))"""
    tried = [
        {"threshold": t, "median_filter": median, "thresholds": own}
        for t, median, own in itertools.product((0.31, 0.62, 0.83), (1, 3, 7), ({}, {"b": 0.11}))
    ]
    answers = driver.execute_async_script(script, scores.ravel().tolist(), tried)
    for one, found in zip(tried, answers, strict=True):
        settings, own = dict(one), one["thresholds"]
        settings["threshold"] = tuple(own.get(x, one["threshold"]) for x in "abc")
        del settings["thresholds"]
        events = find_events(scores / 65535, EventSettings(**settings), "abc", 12.4)
        wanted = [(e.label, e.onset, e.offset) for e in events]
        got = [(e["label"], e["onset"], e["offset"]) for e in found]
        assert [e[0] for e in got] == [e[0] for e in wanted]
        np.testing.assert_allclose([e[1:] for e in got], [e[1:] for e in wanted], atol=1e-9)
    assert sum(map(len, answers)) > 100


def test_search_and_order_hold_for_heat_map_and_events(page, clips, tags):
    upload_and_wait(page, clips[0])
    page.find_element("id", "search").send_keys("HORN")
    assert texts(page, "#labels button") == ["Vehicle horn, car horn, honking"]
    assert {row[2] for row in listed(page)} == {"Vehicle horn, car horn, honking"}
    set_value(page, "search", "wolf")
    others = sum(1 for _ in expected(tags, threshold=0.6, own={"siren": 0.3}))
    said = f"No event of a class with such a name; {others} of others."
    assert texts(page, "#events tr") == [said]
    set_value(page, "search", "")
    set_value(page, "threshold", 1, "change")
    assert texts(page, "#events tr") == ["None: no score is as high."]
    page.find_element("id", "back").click()
    set_value(page, "order", "name", "change")
    assert texts(page, "#labels button") == sorted(
        tagging.LABELS, key=lambda x: x.strip('"').lower()
    )
    page.find_element("css selector", "#heads [data-key=score]").click()
    scores = [float(row[3]) for row in listed(page)]
    assert scores == sorted(scores, reverse=True)


# --- Corrections ------------------------------------------------------------------------------


def drag(page, element, by):
    """Drags by so many pixels with the mouse."""
    from selenium.webdriver import ActionChains

    held = ActionChains(page).click_and_hold(element).pause(0.3)  # a short touch would scroll
    held.move_by_offset(by, 0).release().perform()


@pytest.mark.parametrize("page", [375], indirect=True)
def test_an_events_edge_can_be_dragged(page, clips):
    upload_and_wait(page, clips[0])
    before = listed(page)
    handle = "return document.querySelector('#wave > div').shadowRoot.querySelector(arguments[0])"
    region = wait_for(lambda: page.execute_script(handle, '[data-label="rain"]'))
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", region)
    right = region.find_element("css selector", '[part*="handle-right"]')
    drag(page, right, 30)
    wait_for(lambda: texts(page, "#events .own") == ["yours"])
    (changed,) = set(listed(page)) - set(before)
    assert changed[2] == "rain" and changed[:2] not in {row[:2] for row in before}
    press(page, "undo")
    wait_for(lambda: listed(page) == before)


def test_an_event_is_corrected_by_its_fields_and_outlives_new_thresholds(page, clips):
    upload_and_wait(page, clips[0])
    before = listed(page)
    page.execute_script("document.querySelector('#events button').click()")
    assert page.find_element("id", "inspector").is_displayed()
    set_value(page, "event-offset", 2.5, "change")
    set_value(page, "event-label", "Siren", "change")
    (own,) = [row for row in listed(page) if row[2] == "siren" and row[1] == "0:02.50"]
    wrong = page.find_element("id", "event-wrong")
    for field, typed, said in [
        ("event-label", "wolf", "The model has no class “wolf”; siren stays."),
        ("event-offset", "", "The offset is no number of seconds; 2.50 stays."),
    ]:
        set_value(page, field, typed, "change")
        assert wrong.text == said and own in listed(page)
        set_value(page, "event-offset", 2.5, "change")
        assert not wrong.is_displayed()
    set_value(page, "threshold", 0.95, "change")
    assert own in listed(page)
    page.find_element("id", "back").click()
    settle(page)
    press(page, "event-delete")
    assert len(listed(page)) == len(before) - 1
    press(page, *["undo"] * 5)
    assert sorted(listed(page)) == sorted(before)
    press(page, "add")
    assert len(listed(page)) == len(before) + 1


def test_corrections_are_stored_and_an_undo_takes_them_back(page, clips, table):
    def stored(count):
        rows = drop_undone(read_decisions(table.path))[before:]
        return len(rows) == count and [(d.label, d.onset, d.offset, d.decision) for d in rows]

    before = len(drop_undone(table.decisions))
    upload_and_wait(page, clips[0])
    page.execute_script("document.querySelector('#events button').click()")
    onset, offset = (
        round(float(page.find_element("id", f"event-{name}").get_attribute("value")), 2)
        for name in ("onset", "offset")
    )
    label = page.find_element("id", "event-label").get_attribute("value")
    middle = round((onset + offset) / 2, 2)
    set_value(page, "event-offset", middle, "change")
    yes, no = wait_for(lambda: stored(2))
    assert yes == (label, onset, middle, "yes")
    assert no == (label, middle, offset, "no")
    set_value(page, "event-label", "siren", "change")
    assert sorted(wait_for(lambda: stored(2))) == [
        (label, onset, offset, "no"),
        ("siren", onset, middle, "yes"),
    ]
    press(page, "undo")
    wait_for(lambda: (rows := stored(2)) and rows[0] == yes)
    press(page, "undo")
    wait_for(lambda: read_decisions(table.path)[-1].decision == "undo" and stored(0) == [])


def test_keys_choose_correct_and_delete(page, clips):
    from selenium.webdriver import ActionChains, Keys

    upload_and_wait(page, clips[0])
    before = len(listed(page))
    script = "return document.querySelector('#wave > div').shadowRoot.querySelector('.scroll')"
    scroller = page.execute_script(script)
    page.execute_script("arguments[0].focus()", scroller)
    ActionChains(page).send_keys(Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.DELETE).perform()
    wait_for(lambda: len(listed(page)) == before - 1)
    ActionChains(page).send_keys("z", "+", "+").perform()
    wait_for(lambda: len(listed(page)) == before)
    wait_for(lambda: page.execute_script("return Number(zoom.value) > 0"))


# --- To save ----------------------------------------------------------------------------------


def saved(page, pattern):
    def found():
        paths = [p for p in page.downloads.glob(pattern) if p.stat().st_size]
        return paths and paths[0].read_bytes()

    return wait_for(found)


def test_each_format_is_that_of_the_command(page, clips, tags):
    upload_and_wait(page, clips[0])
    for button in page.find_elements("css selector", "#saves [data-format]"):
        page.execute_script("arguments[0].click()", button)
        time.sleep(0.1)
    events = expected(tags, threshold=0.6, own={"siren": 0.3})
    source = Input(clips[0].name, clips[0].name)
    whole = FileTags(**vars(tags), input=source, found_events=events)
    name = "street & _b_"  # as the browser saves it
    for style, between in [("csv", ","), ("audacity", "\t"), ("raven", "\t")]:
        text = saved(page, name + output_formats.ENDINGS[style]).decode()
        wanted = "".join(output_formats.render(whole, style, max_tags=5))
        found, rows = (list(csv.reader(io.StringIO(x), delimiter=between)) for x in (text, wanted))
        assert len(found) > 5 and [row[:-1] for row in found] == [row[:-1] for row in rows]
        scores = [[float(row[-1].split()[-1]) for row in x[1:]] for x in (found, rows)]
        np.testing.assert_allclose(*scores, atol=0.011 if style == "audacity" else 2e-4)


def test_thresholds_are_saved_for_the_command(page, clips):
    upload_and_wait(page, clips[0])
    page.find_element("css selector", "#labels button[title=bell]").click()
    set_value(page, "own", 0.2, "change")
    press(page, "thresholds")
    saved(page, "thresholds.csv")
    own = tagging_cli.read_thresholds(page.downloads / "thresholds.csv", tagging.LABELS)
    each = tagging.thresholds(0.6, siren=0.3, bell=0.2)
    assert own == dict(zip(tagging.LABELS, each, strict=True))


# --- What goes wrong --------------------------------------------------------------------------


def test_an_error_replaces_the_old_result(page, clips, tmp_path):
    upload_and_wait(page, clips[0])
    notes, big = tmp_path / "notes.txt", tmp_path / "big.wav"
    notes.write_text("no audio")
    big.write_bytes(bytes(2_500_000))
    upload(page, notes)
    said = wait_for(lambda: page.find_element("id", "problem").text)
    assert said.startswith("notes.txt cannot be tagged: undecodable")
    assert not page.find_element("id", "view").is_displayed()
    upload(page, big, clips[1])
    wait_for(
        lambda: (
            "big.wav is too large: 2.5 MB, and files of up to 1 MB" in texts(page, "#problem")[0]
        )
    )
    wait_for(lambda: len(page.find_elements("css selector", "#files li.done")) == 2)  # it went on
    page.find_elements("css selector", "#files .file")[3].click()
    wait_for(lambda: page.find_element("id", "view").is_displayed())
    assert not page.find_element("id", "problem").is_displayed()


def test_a_file_can_be_cancelled_and_the_next_goes_on(page, clips, tmp_path):
    slow = tmp_path / "slow.wav"
    slow.write_bytes(clips[1].read_bytes())
    upload(page, slow, clips[1])
    wait_for(lambda: page.find_elements("css selector", "#files li.tagging"))
    assert texts(page, "#files .about")[1] == "waits"
    page.find_element("css selector", "#files li.tagging .small").click()
    wait_for(lambda: page.find_elements("css selector", "#files li.done"))
    assert texts(page, "#files .about")[0] == "cancelled"
    assert page.find_element("id", "again").is_displayed()


def test_a_format_that_the_browser_cannot_play_is_played_all_the_same(page, tmp_path):
    upload_and_wait(page, audio_files.write(tmp_path / "x.aiff", tagging.recording(4.0)))
    wait_for(lambda: page.execute_script("return player.readyState >= 2"))
    assert page.execute_script("return player.duration") == pytest.approx(4.0)


@pytest.mark.parametrize("page", [375], indirect=True)
def test_a_recording_is_tagged(page):
    record = page.find_element("id", "record")
    record.click()
    wait_for(lambda: "Stop (0:01" <= record.text < "Stop (0:59")  # shown for a second each
    record.click()
    wait_for(lambda: texts(page, "#labels li"))
    assert page.find_element("id", "name").text.startswith("recording")


def test_a_token_can_be_given(driver):
    service = web.Service(tagging.tagger(), tagging.tagger().segmentation(), SETTINGS, LIMITS)
    with served(service, token="secret") as port:
        driver.get(f"http://127.0.0.1:{port}/#token=secret")
        wait_for(lambda: driver.execute_script("return location.hash") == "")
        assert driver.execute_script("return sessionStorage.getItem('token')") == "secret"
        driver.execute_script("sessionStorage.clear()")


# --- For all ----------------------------------------------------------------------------------


@pytest.mark.skipif(not AXE.exists(), reason="needs axe-core")
@pytest.mark.parametrize(("width", "scheme"), [(375, "light"), (1280, "dark")])
def test_nothing_stands_in_the_way_of_anybody(driver, port, clips, width, scheme):
    """axe-core finds nothing against WCAG 2.2 AA, or its own good practice."""
    screen(driver, width)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    driver.get(f"http://127.0.0.1:{port}/")
    upload_and_wait(driver, clips[0])
    press(driver, "in", "in")
    driver.execute_script("document.querySelector('#events button').click()")
    assert violations(driver) == []
    small = """return [...document.querySelectorAll('button, .button, select, summary')]
        .filter((x) => x.checkVisibility() && x.offsetHeight < arguments[0])
        .map((x) => x.outerHTML)"""
    assert driver.execute_script(small, 40 if width < 600 else 24) == []


def violations(driver):
    driver.execute_script(AXE.read_text())
    return driver.execute_async_script(
        "axe.run().then((found) => arguments[0](found.violations.map((one) => "
        "[one.id, one.nodes.map((node) => node.html.slice(0, 200))])))"
    )
