"""Events that are corrected and saved on the page, and what goes wrong there."""

import csv
import io
import time

import audio_files
import numpy as np
import pytest
import tagging
from serving import served, wait_for
from tagging_page import expected, listed, press, set_value, settle, texts, upload, upload_and_wait

from psl_jax.data.decision_table import drop_undone, read_decisions
from psl_jax.tagging import output_formats, tagging_cli
from psl_jax.tagging.file_tagging import FileTags, Input

# --- Corrections ------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [375], indirect=True)
def test_an_events_edge_can_be_dragged(page, clips):
    from selenium.webdriver import ActionChains

    upload_and_wait(page, clips[0])
    before = listed(page)
    handle = "return document.querySelector('#wave > div').shadowRoot.querySelector(arguments[0])"
    region = wait_for(lambda: page.execute_script(handle, '[data-label="rain"]'))
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", region)
    right = region.find_element("css selector", '[part*="handle-right"]')
    held = ActionChains(page).click_and_hold(right).pause(0.3)  # a short touch would scroll
    held.move_by_offset(30, 0).release().perform()
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
    said = "big.wav is too large: 2.5 MB, and files of up to 1 MB"
    wait_for(lambda: said in texts(page, "#problem")[0])
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


def test_a_token_can_be_given(driver, service):
    with served(service, token="secret") as port:
        driver.get(f"http://127.0.0.1:{port}/#token=secret")
        wait_for(lambda: driver.execute_script("return location.hash") == "")
        assert driver.execute_script("return sessionStorage.getItem('token')") == "secret"
        driver.execute_script("sessionStorage.clear()")
