"""Damage, cuts and what surrounds audio, over which decoders pass without a word."""

import io

import audio_files
import numpy as np
import pytest
import soundfile

from psl_jax.audio import decoding
from psl_jax.audio.decoding import DecodeError

KINDS = pytest.mark.parametrize(
    ("name", "rate", "channels", "options"),
    [
        ("constant.mp3", 44_100, 2, {"bitrate_mode": "CONSTANT", "compression_level": 0.5}),
        ("variable.mp3", 44_100, 1, {"bitrate_mode": "VARIABLE"}),
        ("average.mp3", 22_050, 2, {"bitrate_mode": "AVERAGE"}),
        ("vorbis.ogg", 44_100, 2, {}),
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
@pytest.mark.parametrize("seconds", [0.3, SECONDS])
def test_whole_files_pass(written, name, rate, channels, options, seconds):
    path = written(name, rate, channels, options, seconds)
    samples = decoding.decode(path).samples
    assert len(samples) / 16_000 == pytest.approx(seconds, abs=0.1)
    assert decoding.measure_seconds(path) == pytest.approx(seconds, abs=0.2)
    np.testing.assert_array_equal(decoding.decode(io.BytesIO(path.read_bytes())).samples, samples)


def states_no_length(path):
    """An mp3 without a table of its frames: what is left of it is whole."""
    start = path.read_bytes()[:4000]
    return path.suffix == ".mp3" and not any(tag in start for tag in (b"Xing", b"Info"))


@KINDS
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_half_a_file_is_found(written, name, rate, channels, options, share):
    path = audio_files.truncate(written(name, rate, channels, options), share)
    if states_no_length(path):
        assert len(decoding.decode(path).samples) < 0.95 * SECONDS * 16_000
        return
    with pytest.raises(DecodeError, match="truncated"):
        decoding.decode(path)
    assert len(decoding.decode(path, 0.25 * share * SECONDS).samples) > 0  # enough is there


@KINDS
@pytest.mark.parametrize("damage", ["junk instead", "junk between", "lost"])
def test_damage_in_the_middle_is_found(written, name, rate, channels, options, damage):
    path = written(name, rate, channels, options)
    content = path.read_bytes()
    third = len(content) // 3
    junk = b"" if damage == "lost" else np.random.default_rng(0).bytes(third)
    path.write_bytes(
        content[:third] + junk + content[third * (1 if damage == "junk between" else 2) :]
    )
    with pytest.raises(DecodeError, match="damaged"):
        decoding.decode(path)
    with pytest.raises(DecodeError, match="damaged"):
        list(decoding.decode_blocks(path))
    assert len(decoding.decode(path, 0.7).samples) == 11_200  # what comes before is whole


@KINDS
def test_tags_are_no_damage_and_files_in_one_are_all_read(written, name, rate, channels, options):
    content = written(name, rate, channels, options).read_bytes()
    start_tag = b"ID3\x04\x00\x00" + bytes([0, 0, 40, 0]) + b"\xff" * (40 << 7)
    end_tag = b"TAG" + bytes(125)
    for count, joined in (
        (1, start_tag + content + end_tag),
        (1, content + bytes(4096)),
        (2, content + content),
        (2, start_tag + content + end_tag + start_tag + content),
    ):
        samples = decoding.decode(io.BytesIO(joined)).samples
        assert len(samples) / 16_000 == pytest.approx(count * SECONDS, abs=0.2)


def test_an_mp3_of_average_bit_rate_that_states_no_length_is_whole(written):
    content = written("a.mp3", 44_100, 1, {"bitrate_mode": "AVERAGE"}, 30.0).read_bytes()
    assert b"Xing" in content[:400]
    samples = decoding.decode(io.BytesIO(content.replace(b"Xing", bytes(4)))).samples
    assert len(samples) / 16_000 == pytest.approx(30.0, abs=0.1)


@pytest.mark.parametrize("tail", [b"TAG" + bytes(125), bytes(4096)])
def test_what_follows_a_flac_is_no_audio(written, tail):
    path = written("a.flac", 16_000, 1, {})
    whole = decoding.decode(path).samples
    path.write_bytes(path.read_bytes() + tail)
    np.testing.assert_array_equal(decoding.decode(path).samples, whole)


@pytest.mark.parametrize("file_format", ["W64", "NIST", "CAF", "RF64", "AU", "SVX", "VOC"])
@pytest.mark.parametrize("subtype", [None, "FLOAT"])
def test_a_cut_is_found_in_every_container_that_states_a_length(tmp_path, file_format, subtype):
    if subtype and not soundfile.check_format(file_format, subtype):
        pytest.skip("no such file")
    sound = audio_files.int16_noise(64_000) / 32768
    path = audio_files.write(tmp_path / "x", sound, format=file_format, subtype=subtype)
    assert abs(len(decoding.decode(path).samples) - 64_000) < 16
    with pytest.raises(DecodeError, match="truncated"):
        decoding.decode(audio_files.truncate(path, 0.75))


def test_a_resource_fork_beside_a_file_is_left_alone(written, tmp_path):
    path = written("x.mp3", 16_000, 1, {})
    whole = decoding.decode(path).samples
    (tmp_path / "._x.mp3").write_bytes(b"\0\x05\x16\x07\0\x02\0\0Mac OS X" + bytes(4000))
    np.testing.assert_array_equal(decoding.decode(path).samples, whole)


@pytest.mark.parametrize("rate", [1, 20, 999])
def test_a_rate_that_no_recording_has_is_refused(tmp_path, rate):
    """A header of 20 Hz would make 800 times as many samples."""
    path = audio_files.write(tmp_path / "slow.wav", np.zeros(1 << 20), rate)
    with pytest.raises(DecodeError, match=f"sample rate of {rate} Hz"):
        decoding.decode(path)
    with pytest.raises(DecodeError, match="sample rate"):
        decoding.make_audio(np.zeros(1000, np.int16), rate, 1.0, 16_000)


def test_more_channels_than_any_recording_has_are_refused(tmp_path):
    path = audio_files.write(tmp_path / "wide.wav", np.zeros((2000, 65)), 16_000)
    with pytest.raises(DecodeError, match="65 channels"):
        decoding.decode(path)
