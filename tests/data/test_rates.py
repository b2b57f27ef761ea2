"""Audio at 32 kHz: decoded, prepared, cut, heard by networks of either rate, and tagged."""

import audio_files
import jax
import numpy as np
import pytest
import small_mn
import soundfile
import soxr
from prepared_data import config, read_split

from psl_jax.audio import decoding
from psl_jax.audio.segments import Segmentation, by_ticks, flatten
from psl_jax.data import batches, split_index_files
from psl_jax.data.label_manifest import LabelRule
from psl_jax.data.segment_loader import Segments
from psl_jax.data.source import Source
from psl_jax.networks import mn as module
from psl_jax.networks.frontend import LogMel, halve_rate
from psl_jax.networks.mn_frontend import MnFrontEnd
from psl_jax.networks.trained_model import Model, ModelInfo
from psl_jax.preparing.prepare_corpus import prepare
from psl_jax.tagging.tagger import Tagger
from psl_jax.teachers.teacher import HostScorer
from psl_jax.weights import pytorch_file

RATE = 32_000


def noise(seconds: float, rate: int, highest: float, seed: int = 0) -> np.ndarray:
    """float32 [samples] with nothing above `highest` Hz, and silence at both ends."""
    samples = round(seconds * rate)
    spectrum = np.fft.rfft(np.random.default_rng(seed).normal(size=samples))
    spectrum[int(len(spectrum) * highest / (rate / 2)) :] = 0
    sound = np.fft.irfft(spectrum, samples) * np.hanning(samples)
    return np.asarray(0.5 * sound / np.abs(sound).max(), np.float32)


@pytest.mark.parametrize("rate", [16_000, 32_000, 44_100])
def test_files_are_decoded_at_32_khz(tmp_path, rate):
    path = audio_files.write(tmp_path / "a.wav", noise(1.3, rate, 7000), rate, subtype="PCM_16")
    whole = decoding.decode(path, rate=RATE).samples
    assert whole.shape == (20_800, 2) and whole.dtype == np.int16
    blocks = list(decoding.decode_blocks(path, rate=RATE))
    np.testing.assert_array_equal(np.concatenate(blocks), whole)
    samples, found_rate = flatten(whole)
    assert found_rate == RATE
    given = soundfile.read(path, dtype="float32")[0]
    expected = given if rate == RATE else soxr.resample(given, rate, RATE, quality="HQ")
    np.testing.assert_allclose(samples / 32768, expected[: len(samples)], atol=2e-5)
    shorter = decoding.decode(path, 0.5, RATE)
    assert shorter.cut and len(shorter.samples) == 8_000


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """(data set of clips at 32 kHz, their waveforms int16 [samples] by id)."""
    root = tmp_path_factory.mktemp("rates")
    audio, rows = {}, []
    for number in range(4):
        samples = np.int16(32767 * noise(1.0 + 0.3 * number, RATE, 15_000, number))
        audio_files.write(root / f"{number}.wav", samples, RATE)
        audio[f"{number}"] = samples
        rows.append((f"{number}.wav", "dog" if number % 2 else "cat"))
    audio_files.write_table(root / "train.csv", "filename,labels", rows)
    data = config(source_dir=str(root), sample_rate=RATE)
    return prepare(data, tmp_path_factory.mktemp("work"), quiet=True), audio


def test_prepared_clips_keep_their_rate(prepared):
    folder, audio = prepared
    source = Source.open(folder, "train")
    assert source.index.sample_rate == RATE
    assert sorted(source.index.num_samples) == [16_000, 20_800, 25_600, 30_400]  # ticks
    whole = source.read_whole(np.arange(4))
    for clip_id, samples in zip(source.index.ids.tolist(), whole, strict=True):
        np.testing.assert_array_equal(flatten(samples)[0], audio[clip_id])
    for clip_id, record in read_split(folder, "train").items():  # as anyone reads them
        np.testing.assert_array_equal(record["audio"], audio[clip_id])
    path = split_index_files.index_path(folder, "train")
    saved = path.read_bytes()
    path.unlink()
    again = split_index_files.load_index(folder, "train")
    path.write_bytes(saved)
    np.testing.assert_array_equal(again.num_samples, source.index.num_samples)
    assert again.sample_rate == RATE


def test_segments_of_both_rates_are_the_same_times(prepared):
    folder, audio = prepared
    source = Source.open(folder, "train")
    segments = Segments(source, Segmentation(0.5))
    batch = segments.load(np.arange(len(segments)), size=len(segments) + 1)
    assert batch["audio"].shape == (len(segments) + 1, 8_000, 2)
    places = zip(*segments.places(np.arange(len(segments))), strict=True)
    for number, (clip, segment) in enumerate(places):
        length, start = batch["num_samples"][number], 16_000 * segment
        samples = audio[source.index.ids[clip]][start : start + 2 * length]
        np.testing.assert_array_equal(flatten(batch["audio"][number, :length])[0], samples)
    rolled = batch["audio"].copy()
    batches.roll_rows(rolled, batch["num_samples"], np.full(len(rolled), 100))
    plain, shifted = (flatten(rows[0])[0] for rows in (batch["audio"], rolled))
    np.testing.assert_array_equal(shifted, np.roll(plain, 200))


def test_networks_of_both_rates_hear_audio_of_both_rates():
    high = np.stack([noise(0.5, RATE, 7000, seed) for seed in (0, 1)])
    low = soxr.resample(high.T, RATE, 16_000, quality="VHQ").T
    ticks = np.stack([by_ticks(row, RATE) for row in high])
    np.testing.assert_allclose(jax.jit(halve_rate)(ticks), low, atol=5e-4)
    inside = slice(10, -10)  # frames
    by_halves, expected = (jax.jit(LogMel(60.0))(x)[:, inside] for x in (ticks, low))
    np.testing.assert_allclose(by_halves, expected, atol=0.05)
    native, doubled = (jax.jit(MnFrontEnd())(x)[:, inside, :80] for x in (ticks, low))
    np.testing.assert_allclose(native, doubled, atol=0.02)
    np.testing.assert_array_equal(native, jax.jit(MnFrontEnd(RATE))(high)[:, inside, :80])
    bright = noise(0.5, RATE, 15_000)[None]  # mn hears what lies above 8 kHz
    dull = soxr.resample(bright[0], RATE, 16_000)[None]
    native, doubled = (
        jax.jit(MnFrontEnd())(x)[0, 20, -20:] for x in (bright.reshape(1, -1, 2), dull)
    )
    assert np.min(np.asarray(native) - np.asarray(doubled)) > 0.5


def test_teachers_of_other_runtimes_hear_them_at_their_rate():
    samples = noise(0.5, RATE, 7000)
    heard = []
    scorer = HostScorer(lambda x: heard.append(x) or np.zeros((len(x), 1)), 16_000, LabelRule())
    audio = np.int16(32768 * by_ticks(samples, RATE))[None]
    batch = {"audio": audio, "num_samples": np.array([8_000]), "weight": np.ones(1)}
    list(scorer([batch]))
    expected = soxr.resample(samples, RATE, 16_000, quality="HQ")
    np.testing.assert_allclose(heard[0][0], expected, atol=1e-4)


def test_a_model_of_32_khz_tags_files_and_streams_at_its_rate(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "TABLE", small_mn.SHALLOW)
    variables = pytorch_file.convert_from_state(small_mn.random_state(3, 0.4), "random").variables
    info = ModelInfo(("a", "b", "c"), 0.4, 0.5, network="mn", sample_rate=RATE)
    assert ModelInfo.from_json(info.as_json(), "model.json") == info
    tagger = Tagger(Model(info.create()[0], variables, info))
    samples = noise(1.7, RATE, 15_000)
    path = audio_files.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
    tags = tagger.tag(samples, RATE)
    assert tags.seconds == pytest.approx(1.7)
    np.testing.assert_allclose(tagger.tag(path).frame_scores, tags.frame_scores, atol=1e-4)
    stream = tagger.stream(RATE)
    parts = [stream.feed(samples[i : i + 3_333]) for i in range(0, len(samples), 3_333)]
    scores = np.concatenate([part.scores for part in (*parts, stream.finish())])
    np.testing.assert_allclose(scores, tags.frame_scores, atol=1e-5)
