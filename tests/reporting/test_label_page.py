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
from psl_jax.reporting import audio_examples
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
    options = ("--split=train", "--clips=4", f"--out={folder / 'page.html'}")
    run("page", folder / "labels", folder / "data", *options, "--choose=even")
    return folder / "page.html"


# --- Which clips ----------------------------------------------------------------------------------


def test_classes_take_turns():
    """One class of 97 clips in a hundred, and three rare ones, one of them without any clip."""
    labels = [[0]] * 94 + [[0, 1], [0, 2], [0, 1], [], [], []]
    index = synthetic_data.make_index([100], 16_000, labels, num_classes=4)
    chosen = audio_examples.choose_clips(index, 8, seed=1, how="classes").tolist()
    assert chosen == sorted(set(chosen)) and len(chosen) == 8
    assert {94, 95, 96} <= set(chosen)
    assert chosen == audio_examples.choose_clips(index, 8, seed=1, how="classes").tolist()
    assert chosen != audio_examples.choose_clips(index, 8, seed=2, how="classes").tolist()
    assert (
        len(audio_examples.choose_clips(index, 200, 0, "classes")) == 100
    )  # also those without labels
    even = audio_examples.choose_clips(index, 5, 0, "even")
    assert even.tolist() == [0, 24, 49, 74, 99]


# --- What it shows --------------------------------------------------------------------------------


def test_a_clip_is_described_as_its_labels_are(index):
    audio = synthetic_data.make_audio(index)
    values = np.array([[0.9, 0.2, 0.0], [0.4, 0.3, 0.1]])

    def describe(clip, edges=(0, 1, 2), values=values):
        output = audio_examples.Output("soft label", "soft", values, np.array(edges))
        return audio_examples.describe_clip(clip, index, audio[clip], [output], least_value=0.25)

    speech, dog, horn = describe(0)["classes"]
    assert [speech["name"], dog["name"]] == ["Speech", "Dog"]  # what is certain comes first
    assert horn["name"] == "Vehicle horn, car horn, honking"
    lanes = {lane["name"]: lane["spans"] for lane in speech["lanes"]}
    assert lanes["truth"] == [(0.5, 1.5, 1.0)] and lanes["weak label"] == [(0.0, 2.0, 1.0)]
    assert lanes["soft label"] == [(0, 1, 0.9), (1, 2, 0.4)]
    assert [lane["spans"] for lane in dog["lanes"][:2]] == [[(1.0, 2.0, 1.0)], []]
    # Nobody wrote down the events of clip 1.
    assert "truth" not in {lane["name"] for c in describe(1)["classes"] for lane in c["lanes"]}


def test_many_classes_leave_room_for_those_that_count():
    labels = [[0, 39], list(range(12)), []]
    index = synthetic_data.make_index([3], 16_000, labels, num_classes=40)
    output = audio_examples.Output("soft", "soft", np.linspace(0, 1, 40)[None], np.array([0, 1]))

    def list_names(clip):
        described = audio_examples.describe_clip(
            clip, index, np.zeros(16_000, np.int16), [output], most_classes=8, least_value=0.0
        )
        return [int(c["name"].split()[1]) for c in described["classes"]]

    assert list_names(0) == [39, 0, 38, 37, 36, 35, 34, 33]
    assert list_names(1) == list(range(11, -1, -1))
    assert list_names(2) == [39, 38, 37, 36, 35, 34, 33, 32]


def test_the_page_holds_the_audio_itself(page, index):
    html = page.read_text()
    assert not re.search(r'(src|href)="(?!data:)', html) and "@import" not in html
    sounds = re.findall(r'src="data:audio/flac;base64,([^"]+)"', html)
    originals = synthetic_data.make_audio(index)
    for sound, clip in zip(sounds, (0, 2, 4, 6), strict=True):
        samples, rate = soundfile.read(io.BytesIO(base64.b64decode(sound)), dtype="int16")
        assert rate == 16_000
        np.testing.assert_array_equal(samples, originals[clip])


@pytest.mark.parametrize("option", ["--seed=-1", "--clips=0"])
def test_numbers_that_are_none(tmp_path, option):
    with pytest.raises(UserError, match=f"{option}: expected"):
        run("page", tmp_path, tmp_path, f"--out={tmp_path / 'p.html'}", option)


# --- In a browser ---------------------------------------------------------------------------------


# Names of the rows, pictures and words of the key that something else lies upon.
COVERED = """
    const kinds = ".keys li, .clip h3, .times h4, .lane-name, .track";
    const all = [...document.querySelectorAll(kinds)];
    const boxes = all.map((e) => e.getBoundingClientRect());
    const meet = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
        && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1;
    return all.filter((e, i) => boxes.some((box, k) => k !== i && meet(box, boxes[i])))
        .map((e) => e.outerHTML.slice(0, 60));
"""


def test_in_a_browser(page, tmp_path):
    with browser.opened(tmp_path) as driver:
        for width in (1280, 375):
            browser.resize(driver, width)
            driver.get(page.as_uri())
            assert driver.execute_script("return document.documentElement.scrollWidth") <= width
            assert driver.execute_script(COVERED) == []
        assert len(driver.find_elements("css selector", "article.clip")) == 4
        assert driver.execute_script(
            "return [...document.images].every(i => i.complete && i.naturalHeight == 128)"
        )

        def at(number):
            script = """const clip = document.querySelectorAll("article.clip")[arguments[0]];
                return [clip.querySelector("audio").currentTime,
                        Number(clip.style.getPropertyValue("--at")),
                        clip.querySelector("audio").paused]"""
            return driver.execute_script(script, number)

        driver.find_element("css selector", "article.clip .mel").click()  # in its middle: 1 s
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
