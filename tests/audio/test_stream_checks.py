"""Damaged mp3 and Ogg files, over which their decoders pass without a word."""

import io

import audio_files
import numpy as np
import pytest

from psl_jax.audio import decoding
from psl_jax.audio.decoding import DecodeError

KINDS = pytest.mark.parametrize(
    ("name", "rate", "channels", "options"),
    [
        ("constant.mp3", 44_100, 2, {"bitrate_mode": "CONSTANT", "compression_level": 0.5}),
        ("variable.mp3", 44_100, 1, {"bitrate_mode": "VARIABLE"}),
        ("average.mp3", 22_050, 2, {"bitrate_mode": "AVERAGE"}),
        ("low.mp3", 16_000, 1, {"bitrate_mode": "CONSTANT", "compression_level": 0.9}),
        ("vorbis.ogg", 44_100, 2, {}),
        ("low.ogg", 16_000, 1, {}),
        ("opus.opus", 48_000, 2, {"format": "OGG", "subtype": "OPUS"}),
    ],
)
SECONDS = 6.0


@pytest.fixture
def written(tmp_path):
    def write(name, rate, channels, options, seconds=SECONDS):
        return audio_files.write(
            tmp_path / name, audio_files.tone(seconds, rate, channels), rate, **options
        )

    return write


@KINDS
@pytest.mark.parametrize("seconds", [0.3, 1.0, SECONDS])
def test_whole_files_pass(written, name, rate, channels, options, seconds):
    path = written(name, rate, channels, options, seconds)
    samples = decoding.decode(path).samples
    assert len(samples) / 16_000 == pytest.approx(seconds, abs=0.1)
    np.testing.assert_array_equal(decoding.read_audio(io.BytesIO(path.read_bytes())), samples)


@KINDS
@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_half_a_file_is_found(written, name, rate, channels, options, share):
    path = audio_files.truncate(written(name, rate, channels, options), share)
    told = options.get("bitrate_mode") == "CONSTANT"  # no count of frames: what is there is whole
    if name.endswith(".mp3") and told and not _counts_frames(path):
        assert len(decoding.read_audio(path)) < 0.95 * SECONDS * 16_000
        return
    with pytest.raises(DecodeError, match="truncated"):
        decoding.decode(path)
    assert len(decoding.decode(path, 0.25 * share * SECONDS).samples) > 0  # enough is there


def _counts_frames(path):
    return any(tag in path.read_bytes()[:4000] for tag in (b"Xing", b"Info"))


@KINDS
@pytest.mark.parametrize("instead", [True, False])
def test_junk_in_the_middle_is_found(written, name, rate, channels, options, instead):
    path = written(name, rate, channels, options)
    content = path.read_bytes()
    junk = np.random.default_rng(0).bytes(len(content) // 3)
    middle = len(content) // 3
    path.write_bytes(content[:middle] + junk + content[middle + instead * len(junk) :])
    with pytest.raises(DecodeError, match=r"damaged|truncated"):
        decoding.decode(path)
    with pytest.raises(DecodeError, match=r"damaged|truncated"):
        list(decoding.decoded_blocks(path))
    if name.endswith(".ogg"):  # before the junk; the decoder of mp3 looks far ahead
        assert len(decoding.decode(path, 1.0).samples) == 16_000


@pytest.mark.parametrize("name", ["a.mp3", "a.ogg"])
def test_what_was_lost_in_the_middle_is_found(written, name):
    path = written(name, 44_100, 1, {})
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 3] + content[2 * len(content) // 3 :])
    with pytest.raises(DecodeError, match=r"damaged|truncated"):
        decoding.decode(path)


def test_tags_are_no_damage_and_a_second_file_is_not_lost_without_a_word(written):
    first = written("a.mp3", 44_100, 1, {"bitrate_mode": "CONSTANT"}).read_bytes()
    tag = b"ID3\x04\x00\x00" + bytes([0, 0, 40, 0]) + b"\xff" * (40 << 7)
    end = b"TAG" + bytes(125)
    for content in (tag + first, first + end, tag + first + end):
        decoding.read_audio(io.BytesIO(content))
    with pytest.raises(DecodeError, match=r"gives 6\.00 s, its frames say 12"):
        decoding.read_audio(io.BytesIO(tag + first + tag + first))  # the second is not played


@pytest.mark.parametrize("rate", [1, 20, 999])
def test_a_rate_that_no_recording_has_is_refused(tmp_path, rate):
    """A header of 20 Hz would make 800 times as many samples."""
    path = audio_files.write(tmp_path / "slow.wav", np.zeros(1 << 20), rate)
    with pytest.raises(DecodeError, match=f"sample rate of {rate} Hz"):
        decoding.decode(path)
    with pytest.raises(DecodeError, match="sample rate"):
        decoding.from_samples(np.zeros(1000, np.int16), rate)


def test_more_channels_than_any_recording_has_are_refused(tmp_path):
    path = audio_files.write(tmp_path / "wide.wav", np.zeros((2000, 65)), 16_000)
    with pytest.raises(DecodeError, match="65 channels"):
        decoding.decode(path)
