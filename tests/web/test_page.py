"""The page in a headless browser, as large as a desk's and as a telephone's."""

import itertools
import pathlib

import numpy as np
import pytest
import tagging
from serving import wait_for
from tagging_page import (
    as_listed,
    expected,
    listed,
    number,
    press,
    screen,
    set_value,
    settle,
    texts,
    upload,
    upload_and_wait,
)

from psl_jax.tagging.events import EventSettings, find_events

AXE = pathlib.Path(__file__).parent / "axe.min.js"


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
    wanted = expected(tags, threshold=0.9, own={"bell": 0.2}, median_filter=3)
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
    driver.execute_script(AXE.read_text())
    violations = driver.execute_async_script(
        "axe.run().then((found) => arguments[0](found.violations.map((one) => "
        "[one.id, one.nodes.map((node) => node.html.slice(0, 200))])))"
    )
    assert violations == []
    small = """return [...document.querySelectorAll('button, .button, select, summary')]
        .filter((x) => x.checkVisibility() && x.offsetHeight < arguments[0])
        .map((x) => x.outerHTML)"""
    assert driver.execute_script(small, 40 if width < 600 else 24) == []
