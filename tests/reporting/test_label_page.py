"""The page to judge soft labels by ear: which clips, what it shows, and in a browser."""

import base64
import dataclasses
import io
import re
import time

import browser
import label_data
import numpy as np
import pytest
import soundfile
import synthetic_data
from label_data import run

from psl_jax.audio.segments import Segmentation
from psl_jax.reporting import label_page
from psl_jax.runtime.errors import UserError

SEGMENTATION = Segmentation(1.0)


@pytest.fixture(scope="module")
def index():
    """With events: of clip 0 one of its class, and one of a class that nobody named."""
    made = label_data.index()
    return dataclasses.replace(
        made,
        event_offsets=np.array([0, 2, 2, 2, 3, 3, 3, 3]),
        event_times=np.array([[0.5, 1.5], [1, 2], [0, 3]], np.float32),
        event_values=np.array([0, 2, 1], np.int32),
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory, index):
    folder = tmp_path_factory.mktemp("label_page")
    label_data.write_data(folder / "data", index)
    label_data.write_labels(folder / "labels", index, SEGMENTATION)
    options = ("--split=train", "--samples=4", f"--out={folder / 'page.html'}")
    run("page", folder / "labels", folder / "data", *options, "--choose=even")
    return folder / "page.html"


# --- Which clips ----------------------------------------------------------------------------------


def test_classes_take_turns():
    """One class of 97 clips in a hundred, and three rare ones, one of them without any clip."""
    labels = [[0]] * 94 + [[0, 1], [0, 2], [0, 1], [], [], []]
    index = synthetic_data.make_index([100], 16_000, labels, num_classes=4)
    chosen = label_page.choose(index, 8, seed=1, how="classes").tolist()
    assert chosen == sorted(set(chosen)) and len(chosen) == 8
    assert {94, 95, 96} <= set(chosen)
    assert chosen == label_page.choose(index, 8, seed=1, how="classes").tolist()
    assert chosen != label_page.choose(index, 8, seed=2, how="classes").tolist()
    assert len(label_page.choose(index, 200, 0, "classes")) == 100  # also those without labels
    even = label_page.choose(index, 5, 0, "even")
    assert even.tolist() == [0, 24, 49, 74, 99]


# --- What it shows --------------------------------------------------------------------------------


def test_a_clip_is_drawn_as_its_labels_are(index):
    audio = synthetic_data.make_audio(index)[0]
    values = np.array([[0.9, 0.2, 0.0], [0.4, 0.3, 0.1]], np.float16)
    one = label_page.view(index, 0, audio, values, SEGMENTATION)
    assert [(row.name, row.weak) for row in one.rows] == [
        ("Speech", True),
        ("Vehicle horn, car horn, honking", False),
        ("Dog", False),
    ]
    assert one.annotated  # nobody wrote down the events of clip 1
    assert not label_page.view(index, 1, audio, values, SEGMENTATION).annotated
    first = one.rows[0]
    assert [(c.left, c.width) for c in first.cells] == [(0, 50), (50, 50)]
    np.testing.assert_allclose([c.value for c in first.cells], [0.9, 0.4], atol=1e-3)
    assert [event[:2] for event in first.events] == [(25, 50)]
    assert [event[:2] for event in one.rows[2].events] == [(50, 50)]
    overlapping = Segmentation(1.0, 0.5)
    row = label_page.view(index, 0, audio, np.zeros((3, 3)), overlapping).rows[0]
    assert [(c.left, c.width) for c in row.cells] == [(0, 37.5), (37.5, 25), (62.5, 37.5)]


def test_many_classes_leave_room_for_those_that_count():
    values = np.linspace(0, 1, 40)[None, :]
    shown = label_page._shown(values, {0, 39})
    assert shown == [39, 38, 37, 36, 35, 34, 33, 0]
    assert label_page._shown(values, set(range(12))) == list(range(11, -1, -1))


def test_the_page_holds_the_audio_itself(page, index):
    html = page.read_text()
    assert not re.search(r'(src|href)="(?!data:)', html) and "@import" not in html
    sounds = re.findall(r'src="data:audio/flac;base64,([^"]+)"', html)
    originals = synthetic_data.make_audio(index)
    for sound, clip in zip(sounds, (0, 2, 4, 6), strict=True):
        samples, rate = soundfile.read(io.BytesIO(base64.b64decode(sound)), dtype="int16")
        assert rate == 16_000
        np.testing.assert_array_equal(samples, originals[clip])


@pytest.mark.parametrize("option", ["--seed=-1", "--samples=0"])
def test_numbers_that_are_none(tmp_path, option):
    with pytest.raises(UserError, match=f"{option}: expected"):
        run("page", tmp_path, tmp_path, f"--out={tmp_path / 'p.html'}", option)


# --- In a browser ---------------------------------------------------------------------------------


# Names of the rows, pictures and words of the key that something else lies upon.
COVERED = """
    const kinds = ".key li, .labelled h3, .what, .plot:not(.sample), .ticks";
    const all = [...document.querySelectorAll(kinds)];
    const boxes = all.map((e) => e.getBoundingClientRect());
    const meet = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
        && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1;
    return all.filter((e, i) => boxes.some((box, k) => k !== i && meet(box, boxes[i])))
        .map((e) => e.outerHTML.slice(0, 60));
"""
# The least contrast of a value that is written in a cell (WCAG 2).
CONTRAST = """
    const light = (colour) => {
      const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).slice(0, 3)
          .map((v) => colour.startsWith("rgb") ? v / 255 : v)
          .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
      return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
    };
    const cell = document.querySelector(".labelled .plot b");
    return Math.min(...[...Array(96)].map((_, k) => {
      const value = (k + 5) / 100;
      cell.style.setProperty("--p", value);
      cell.className = value > 0.85 ? "high full" : value > 0.6 ? "high" : "";
      const style = getComputedStyle(cell);
      const [a, b] = [light(style.color), light(style.backgroundColor)];
      return Math.max(a, b) / Math.min(a, b);
    }));
"""


def test_values_stand_out_from_their_cells(page, tmp_path):
    with browser.opened(tmp_path) as driver:
        for scheme in ("light", "dark"):
            media = [{"name": "prefers-color-scheme", "value": scheme}]
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
            driver.get(page.as_uri())
            assert driver.execute_script(CONTRAST) > 3.7, scheme


def test_in_a_browser(page, tmp_path):
    with browser.opened(tmp_path) as driver:
        for width in (1280, 375):
            browser.resize(driver, width)
            driver.get(page.as_uri())
            assert driver.execute_script("return document.documentElement.scrollWidth") <= width
            assert driver.execute_script(COVERED) == []
        assert len(driver.find_elements("css selector", "article.labelled")) == 4
        assert driver.execute_script(
            "return [...document.images].every(i => i.complete && i.naturalHeight == 128)"
        )

        def at(number):
            script = """const clip = document.querySelectorAll("article.labelled")[arguments[0]];
                return [clip.querySelector("audio").currentTime,
                        Number(clip.style.getPropertyValue("--at")),
                        clip.querySelector("audio").paused]"""
            return driver.execute_script(script, number)

        plots = driver.find_elements("css selector", "article.labelled")[0].find_elements(
            "class name", "plot"
        )
        plots[1].click()  # in its middle: of a clip of 2 s
        end = time.monotonic() + 60
        while not (now := at(0))[0] > 1.05:
            assert time.monotonic() < end, now
            time.sleep(0.05)
        assert now[1] == pytest.approx(now[0] / 2, abs=0.1)
        driver.execute_script("document.querySelectorAll('audio')[2].play()")
        end = time.monotonic() + 60
        while not at(0)[2]:  # one at a time
            assert time.monotonic() < end
            time.sleep(0.05)
        errors = [e["message"] for e in driver.get_log("browser") if e["level"] == "SEVERE"]
        assert errors == []
