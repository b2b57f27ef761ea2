"""Clips to listen to: what is kept of them, and the page in a headless browser."""

import base64
import dataclasses
import io
import shutil

import browser
import matplotlib.image
import numpy as np
import pytest
import soundfile
import synthetic_data
import tagging
from selenium.webdriver.support.wait import WebDriverWait

from psl_jax.audio.segments import Segmentation, by_ticks
from psl_jax.reporting import audio_examples, suite_page
from psl_jax.runtime import files

NASTY = 'a "quoted" label'
EVENTS = {0: [(0.5, 1.5, 0)], 3: [(0.0, 9.0, 4), (1.0, 2.0, 4)]}  # of the other clips none is known


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """(folder of clips, index, soft labels by name, audio) of eight clips of 1 to 4 s."""
    folder = tmp_path_factory.mktemp("clips")
    lengths = np.array([4.0, 1.0, 2.5, 3.0, 1.5, 2.0, 3.5, 4.0]) * 16_000
    weak = [[0], [], [1, 2], [4], [], [5], [0, 1, 2, 3, 4, 5], [3]]
    index = synthetic_data.make_index([3, 5], lengths.astype(int), weak, 6)
    index = synthetic_data.with_events(index, [EVENTS.get(clip, []) for clip in range(8)])
    classes = tagging.LABELS[::-1]  # in another order than the student's
    index = dataclasses.replace(index, classes=classes)
    audio = [tagging.recording(n / 16_000, seed) for seed, n in enumerate(index.num_samples)]
    labels = {
        name: synthetic_data.write_soft_labels(folder / name, index, Segmentation(seconds))
        for name, seconds in (("psl2s", 2.0), ("psl1s", 1.0))
    }
    source = synthetic_data.MemorySource(index, audio)
    audio_examples.write(folder / "clips", source, labels, "psl2s", tagging.tagger())
    return folder / "clips", index, labels, audio


def test_clips_are_evenly_spread():
    for count, chosen in ((80, [0, 19, 39, 59, 79]), (3, [0, 1, 2]), (1, [0])):
        assert audio_examples.choose_evenly(count).tolist() == chosen


def _decode(url):
    content = base64.b64decode(url.partition(",")[2])
    return soundfile.read(io.BytesIO(content), dtype="int16")


def test_what_is_heard_is_the_clip(kept):
    folder, index, _, audio = kept
    about = audio_examples.read(folder)
    assert [clip["id"] for clip in about["clips"]] == [index.ids[c] for c in (0, 1, 3, 5, 7)]
    for clip, number in zip(about["clips"], (0, 1, 3, 5, 7), strict=True):
        sound, rate = _decode(clip["flac"])
        assert rate == 16_000
        np.testing.assert_array_equal(sound, audio[number])
        assert clip["seconds"] == len(audio[number]) / 16_000


def test_lanes_are_truth_labels_and_output_over_time(kept):
    folder, index, labels, audio = kept
    for clip, number in zip(audio_examples.read(folder)["clips"], (0, 1, 3, 5, 7), strict=True):
        tags = tagging.tagger().tag(audio[number], 16_000)
        names = [entry["name"] for entry in clip["classes"]]
        own = index.label_values[slice(*index.label_offsets[number : number + 2])]
        assert {index.classes[c] for c in own} <= set(names)
        assert len(names) <= audio_examples.MOST_CLASSES == len(set(names)) or len(names) < 5
        for entry in clip["classes"]:
            c = index.classes.index(entry["name"])
            lanes = {lane["name"]: lane["spans"] for lane in entry["lanes"]}
            expected = ["weak label", "soft 2 s", "soft 1 s", "psl2s"]
            # Clip 1 holds nothing. Nobody wrote the events of the others down.
            assert list(lanes) == ["truth"] * (number in {1, *EVENTS}) + expected
            true = [
                [on, min(off, clip["seconds"]), 1.0]
                for on, off, k in EVENTS.get(number, [])
                if k == c
            ]
            assert lanes.get("truth", []) == true
            assert lanes["weak label"] == [[0.0, clip["seconds"], 1.0]] * (c in own)
            for name, one in (("soft 2 s", labels["psl2s"]), ("soft 1 s", labels["psl1s"])):
                count = one.segmentation.count_segments(index.num_samples[number])
                expected = one.gather(np.array([number]))[0, :count, c]
                assert [v for _, _, v in lanes[name]] == pytest.approx(expected, abs=1e-3)
                length = one.segmentation.seconds
                assert [on for on, _, _ in lanes[name]] == [length * k for k in range(count)]
                assert lanes[name][-1][1] == min(length * count, clip["seconds"])
            scores = tags.frame_scores[:, tags.labels.index(entry["name"])]
            for on, off, value in lanes["psl2s"]:
                assert value == pytest.approx(scores[round((on + off) / 0.64)], abs=0.01) or on == 0


def test_a_long_clip_is_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(audio_examples, "MOST_SECONDS", 1.0)
    index = synthetic_data.make_index([1], 48_000, [[0]], 6)
    index = dataclasses.replace(index, classes=tagging.LABELS)
    source = synthetic_data.MemorySource(index, [tagging.recording(3.0)])
    audio_examples.write(tmp_path, source, {}, "weak", tagging.tagger())
    (clip,) = audio_examples.read(tmp_path)["clips"]
    assert (clip["seconds"], clip["whole_seconds"]) == (1.0, 3.0)
    assert [lane["name"] for lane in clip["classes"][0]["lanes"]] == ["weak label", "weak"]
    lanes = [lane for entry in clip["classes"] for lane in entry["lanes"]]
    assert max(off for lane in lanes for _, off, _ in lane["spans"]) <= 1
    assert audio_examples.read(tmp_path / "nowhere") is None
    shown = {entry["name"] for entry in clip["classes"]}
    later = np.repeat(np.array([[0], [1], [1]], np.float16), 6, axis=1)  # only of what is left out
    labels = synthetic_data.write_soft_labels(tmp_path / "later", index, Segmentation(1.0), [later])
    audio_examples.write(tmp_path, source, {"psl1s": labels}, "weak", tagging.tagger())
    (clip,) = audio_examples.read(tmp_path)["clips"]
    assert {entry["name"] for entry in clip["classes"]} == shown


def test_clips_at_32_khz_sound_as_long_as_they_are(tmp_path):
    index = synthetic_data.make_index([1], 32_000, [[0]], 6)
    index = dataclasses.replace(index, classes=tagging.LABELS, sample_rate=32_000)
    samples = tagging.recording(4.0)
    source = synthetic_data.MemorySource(index, [by_ticks(samples, 32_000)])
    audio_examples.write(tmp_path, source, {}, "weak", tagging.tagger())
    (clip,) = audio_examples.read(tmp_path)["clips"]
    sound, rate = _decode(clip["flac"])
    assert rate == 32_000 and clip["seconds"] == len(sound) / rate == 2.0
    np.testing.assert_array_equal(sound, samples)


def test_many_classes_leave_room_for_those_that_count():
    labels = [[0, 39], list(range(12)), []]
    index = synthetic_data.make_index([3], 16_000, labels, num_classes=40)
    scores = np.linspace(0, 1, 40)[None]
    output = audio_examples.Output("soft", "soft", scores, np.array([0, 1]))
    audio = np.zeros(16_000, np.int16)
    described = [audio_examples.describe_clip(clip, index, audio, [output]) for clip in range(3)]
    shown = [[int(c["name"].split()[1]) for c in clip["classes"]] for clip in described]
    assert shown == [[39, 0, 38, 37, 36], list(range(11, -1, -1)), [39, 38, 37, 36, 35]]
    assert [clip["classes_left_out"] for clip in described] == [16, 20, 15]


# --- In a browser ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    with browser.opened(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


def test_a_table_of_all_columns_fits_a_screen(driver, tmp_path):
    row = {"label": "weak", "segment_seconds": 10, "mAP": 0.3412, "mAP_spread": 0.0123}
    row |= {"gain_spread": 0.0101, "over_reference": {"low": -0.0112, "high": 0.0213}}
    row |= {"d_prime": 2.34, "AUC": 0.912, "lwlrap": 0.512, "mAP_at_3": 0.612, "num_clips": 18_229}
    row |= {"clip_ids_sha256": "ab" * 32}
    row |= {"train_clips": 1_912_024, "train_segments": 9_560_120, "steps": 150_000}
    names = ("teacher", "weak", "psl2s")
    results = {"experiments": [row | {"name": name, "seconds": 112_320.0} for name in names]}
    results |= {"paper": dict.fromkeys(names, 0.27), "paper_d_prime": dict.fromkeys(names, 2.19)}
    browser.resize(driver, 1440)
    driver.get(suite_page.write(tmp_path, results).as_uri())
    header = driver.find_elements("css selector", ".wide th")
    assert len(header) == 17 and header[-1].text == "time"
    table = driver.find_element("css selector", ".wide .scroll")
    run = driver.execute_script
    assert run("return arguments[0].scrollWidth - arguments[0].clientWidth", table) == 0
    assert run("return document.documentElement.scrollWidth") <= 1440


def test_the_page_on_a_phone(kept, driver, tmp_path):
    """Nothing scrolls sideways, sounds play, classes sort and filter by the keyboard alone."""
    shutil.copytree(kept[0], tmp_path / "clips")
    header = ("class", "AP", "AUC", "num_positives")
    aps = {"weak": (0.2, 0.5, 0.4), "psl2s": (0.9, 0.6, 0.3)}
    for name, values in aps.items():
        labels = (NASTY, "bell <b>", "z" * 60)
        rows = [(label, ap, 0.5, 3) for label, ap in zip(labels, values, strict=True)]
        files.write_csv(tmp_path / name / "per_class.csv", header, rows)
    results = {"experiments": [{"name": n, "mAP": v[0]} for n, v in aps.items()]}
    path = suite_page.write(tmp_path, results)
    assert path.stat().st_size < 20e6
    browser.resize(driver, 375)
    driver.get(path.as_uri())
    run = driver.execute_script
    assert run("return document.documentElement.scrollWidth") == 375
    lengths = driver.execute_async_script(
        "const done = arguments[0], audios = [...document.querySelectorAll('audio')];"
        "Promise.all(audios.map((a) => new Promise((ok, no) => {"
        " a.onloadedmetadata = () => ok(a.duration); a.onerror = no; a.load(); })))"
        ".then(done, () => done('error'))"
    )
    seconds = [clip["seconds"] for clip in audio_examples.read(kept[0])["clips"]]
    assert lengths == pytest.approx(seconds, abs=0.01)

    def shown():
        return run(
            "return [...document.querySelectorAll('#classes tbody tr:not([hidden])')]"
            ".map((row) => row.cells[0].textContent)"
        )

    assert shown() == [NASTY, "bell <b>", "z" * 60]
    header = driver.find_element("css selector", "#classes th:nth-child(4) button")
    run("arguments[0].focus()", header)
    driver.switch_to.active_element.send_keys("\ue007")
    assert shown() == ["bell <b>", "z" * 60, NASTY]  # by the weak AP, falling
    driver.find_element("css selector", "input[data-table=classes]").send_keys("BELL")
    assert shown() == ["bell <b>"]
    run("document.querySelector('.mel').click()")  # in its middle, which plays from there
    position = "return document.querySelector('audio').currentTime"
    WebDriverWait(driver, 60).until(lambda _: run(position) > seconds[0] / 2)
    assert driver.get_log("browser") == []


# --- pictures and times below them -------------------------------------------------------------


def test_a_tone_stands_in_its_time_in_the_picture():
    audio = np.zeros(32_000, np.int16)
    audio[16_000:] = 8000 * np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000)
    picture = io.BytesIO(audio_examples.draw_png(audio))
    pixels = matplotlib.image.imread(picture, format="png")[..., :3].sum(axis=2)
    column = pixels.max(axis=0)
    middle = len(column) // 2
    assert column[: middle - 3].max() < 1 < 2 < column[middle + 3 :].min()
    rows = pixels[:, middle + 10 :].argmax(axis=0)
    assert np.ptp(rows) <= 2  # one frequency


@pytest.mark.parametrize(
    ("seconds", "last"), [(0.4, 0.4), (1.0, 1.0), (10.0, 10), (29.9, 25), (1800.0, 1800)]
)
def test_ticks_are_few_and_inside(seconds, last):
    ticks = audio_examples.ticks(seconds)
    assert ticks[0] == 0 and ticks[-1] == pytest.approx(last) and len(ticks) <= 7
