"""Streams, lists, and embeddings beside tags: what `tag` gives of each waveform by itself."""

import dataclasses
import io

import audio_files
import numpy as np
import pytest
import tagging

from psl_jax.runtime.errors import UserError
from psl_jax.tagging.tagger import Tagger

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def model():
    return tagging.tagger()


def fed(stream, audio, sizes):
    """All rows of a stream that is given chunks of these sizes in turn: (times, scores).

    In a buffer that is filled again, as sounddevice and PortAudio do.
    """
    parts, start, turn, buffer = [], 0, 0, np.empty_like(audio)
    while start < len(audio):
        chunk = audio[start : start + sizes[turn % len(sizes)]]
        buffer[: len(chunk)] = chunk
        parts.append(stream.feed(buffer[: len(chunk)]))
        start, turn = start + len(chunk), turn + 1
    parts.append(stream.finish())
    return (np.concatenate([part[i] for part in parts]) for i in (0, 1))


CHUNKS = [(7.3, (1_600,)), (7.3, (1, 0, 50_000, 333)), (7.3, (400_000,))]
SHORT = [(0.3, (1_000,)), (2.0, (1_000,)), (2.2, (1_000,))]


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
@pytest.mark.parametrize(("seconds", "sizes"), CHUNKS + SHORT)
def test_a_stream_gives_the_rows_of_the_whole(model, seconds, sizes, dtype):
    audio = tagging.recording(seconds, seed=3)
    if dtype is np.float32:
        audio = audio / np.float32(32_768)
    expected = model.tag(audio, 16_000)
    stream = model.stream()
    times, scores = fed(stream, audio, sizes)
    np.testing.assert_allclose(scores, expected.frame_scores, atol=TOLERANCE)
    np.testing.assert_allclose(times, expected.frame_times)
    np.testing.assert_allclose(stream.scores, expected.scores, atol=TOLERANCE)
    assert stream.seconds == expected.seconds


def test_rows_come_as_soon_as_no_segment_hears_them(model):
    audio = tagging.recording(8.0, seed=7)
    stream, settled = model.stream(), 0
    for start in range(0, len(audio), 1_600):
        settled += len(stream.feed(audio[start : start + 1_600]).times)
        heard = (start + 1_600) / 16_000
        # Segments of 2 s, half a second apart: complete 2.5 s behind.
        assert settled >= (heard - 2.5) // 0.32
    assert settled > 15


def test_a_stream_of_another_rate_and_two_channels(model):
    audio = audio_files.tone(4.0, 44_100, 2)
    stream = model.stream(sample_rate=44_100)
    _, scores = fed(stream, audio, (4_410,))
    expected = model.tag(audio, 44_100).frame_scores
    np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_what_is_no_stream(model):
    with pytest.raises(UserError, match="segment_seconds is 0"):
        model.stream(segment_seconds=0)
    with pytest.raises(UserError, match="10 Hz"):
        model.stream(sample_rate=10)
    stream = model.stream()
    with pytest.raises(UserError, match="NaN"):
        stream.feed(np.full(100, np.nan))
    with pytest.raises(UserError, match=r"a bytearray of samples.*numpy\.frombuffer"):
        stream.feed(bytearray(200))  # 16 bits or 8?
    with pytest.raises(UserError, match="too short"):
        stream.finish()
    with pytest.raises(UserError, match="finished"):
        stream.feed(np.zeros(100))
    stream = model.stream()
    stream.feed(np.full(4_000, 32_767, np.int32))
    with pytest.raises(UserError, match="in an int32 waveform"):
        stream.finish()


def test_a_list_is_each_of_its_elements(model, tmp_path):
    audio = [tagging.recording(seconds, seed=i) for i, seconds in enumerate((0.4, 5.2, 2.0))]
    path = audio_files.write(tmp_path / "x.flac", audio[1])
    data = path.read_bytes()
    stereo = np.stack([audio[1], audio[1]], axis=1) / 32768
    mixed = [path, str(path), data, io.BytesIO(data), stereo, audio[0], audio[2]]
    found = model.tag(mixed, 16_000)
    expected = [model.tag(x, 16_000) for x in (audio[1], audio[0], audio[2])]
    for tags, other in zip(found, [expected[0]] * 5 + expected[1:], strict=True):
        np.testing.assert_allclose(tags.frame_scores, other.frame_scores, atol=TOLERANCE)
        np.testing.assert_allclose(tags.scores, other.scores, atol=TOLERANCE)
    assert model.tag([]) == []
    numbers = (audio[0] / 32768).tolist()
    np.testing.assert_allclose(
        model.tag(numbers, 16_000).scores, expected[1].scores, atol=TOLERANCE
    )


def test_bad_elements_are_named(model, tmp_path):
    with pytest.raises(UserError, match=r"^.*missing.wav: missing"):
        model.tag([tagging.recording(1.0), tmp_path / "missing.wav"], 16_000)
    with pytest.raises(UserError, match=r"number 1 of the list: .*16-bit samples"):
        model.tag([np.zeros(4_000), np.full(4_000, 3e4)], 16_000)
    with pytest.raises(UserError, match="number 0 of the list: empty"):
        model.tag([b""])


def test_embeddings_beside_the_probabilities_of_a_softmax():
    small = tagging.model()
    info = dataclasses.replace(small.info, output="softmax")
    model = Tagger(dataclasses.replace(small, info=info))
    audio = tagging.recording(2.0, seed=9)
    plain, both = (model.tag(audio, 16_000, embeddings=x) for x in (False, True))
    np.testing.assert_allclose(plain.frame_scores.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(both.frame_scores, plain.frame_scores, atol=TOLERANCE)
