"""Audio for the tagger: the same samples as the data sets get, and waveforms of every kind."""

import array
import io
import os
import threading
from unittest import mock

import audio_files
import numpy as np
import pytest
import soxr

from psl_jax.audio import decoding
from psl_jax.audio.audio_input import limit_blocks, open_blocks, resample, to_mono
from psl_jax.audio.decoding import DecodeError, decode_blocks
from psl_jax.runtime.errors import UserError


@pytest.mark.parametrize(
    ("suffix", "rate", "channels", "seconds"),
    [
        ("wav", 16_000, 1, 40),
        ("flac", 44_100, 2, 10),
        ("mp3", 22_050, 1, 5),
        ("ogg", 8_000, 1, 0.3),
    ],
)
def test_blocks_are_the_decoded_file(tmp_path, suffix, rate, channels, seconds):
    sound = audio_files.tone(seconds, rate, channels)
    path = audio_files.write(tmp_path / f"x.{suffix}", sound, rate)
    blocks = list(decode_blocks(path))
    np.testing.assert_array_equal(np.concatenate(blocks), decoding.decode(path).samples)
    assert max(map(len, blocks)) <= 1 << 20
    if seconds * rate * channels > 1 << 19:
        assert len(blocks) > 1


def test_a_file_object_can_be_read_twice():
    blocks = open_blocks(audio_files.encoded(audio_files.tone(1.0)))
    first, second = (np.concatenate(list(blocks())) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert len(first) == 16_000


def test_too_long_is_found_on_the_way(tmp_path):
    path = audio_files.write(tmp_path / "x.wav", audio_files.tone(3.0))
    assert sum(map(len, limit_blocks(open_blocks(path), 3.0)())) == 48_000
    with pytest.raises(DecodeError, match=r"too long: more than 0\.04 minutes"):
        list(limit_blocks(open_blocks(path), 2.4)())


SCALES = {np.int16: 32768, np.int32: 2**31, np.uint8: 128, np.float64: 1, np.float16: 1}


@pytest.mark.parametrize("dtype", SCALES)
def test_waveforms_of_every_type(dtype):
    sound = audio_files.tone(0.2)
    mono = to_mono((sound * SCALES[dtype] + 128 * (dtype is np.uint8)).astype(dtype))
    assert mono.dtype == np.float32
    np.testing.assert_allclose(mono, sound, atol=0.01)


def test_waveforms_in_any_layout():
    sound = np.round(audio_files.tone(0.2) * 32_768).astype(np.int16)
    expected = sound / np.float32(32_768)
    both = np.stack([sound, sound], axis=1)
    for waveform in (sound.astype(">i2"), both[:, 1], both[::-1][::-1], array.array("h", sound)):
        np.testing.assert_array_equal(to_mono(waveform), expected)


def test_channels_first_or_last():
    stereo = audio_files.tone(0.2, channels=2)
    expected = stereo.mean(axis=1).astype(np.float32)
    for waveform in (stereo, stereo.T, list(stereo.tolist())):
        np.testing.assert_allclose(to_mono(waveform), expected, atol=1e-6)


def test_resamples_as_soxr_does():
    sound = audio_files.tone(0.5, 44_100).astype(np.float32)
    np.testing.assert_array_equal(resample(sound, 44_100), soxr.resample(sound, 44_100, 16_000))
    assert resample(sound, 16_000) is sound


class NoArray:
    """As a PyTorch tensor that requires gradients."""

    def __array__(self, *_, **__):
        raise RuntimeError("Can't call numpy() on Tensor that requires grad.")


class Int32Tensor:
    """As a PyTorch tensor, whose dtype is not one of NumPy's."""

    dtype = "torch.int32"

    def __array__(self, *_, **__):
        return np.full(16_000, 32_767, np.int32)


class Once(io.RawIOBase):
    """A file that cannot seek, as urllib.request.urlopen gives."""

    def __init__(self, content):
        self._content = io.BytesIO(content)

    def readable(self):
        return True

    def readinto(self, buffer):
        return self._content.readinto(buffer)


def test_what_can_be_read_once_is_read_as_any_file(tmp_path):
    path = audio_files.write(tmp_path / "x.flac", audio_files.tone(1.0))
    expected = decoding.decode(path).samples
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = threading.Thread(target=lambda: fifo.write_bytes(path.read_bytes()))
    writer.start()
    for source in (fifo, Once(path.read_bytes())):
        blocks = open_blocks(source)
        for _ in range(2):
            np.testing.assert_array_equal(np.concatenate(list(blocks())), expected)
    writer.join()


class Failing(io.RawIOBase):
    """A file of which nothing can be read, on a disk that can seek or not."""

    def __init__(self, error, seekable):
        self.read = mock.Mock(side_effect=[error] * 99)
        self.seekable = lambda: seekable

    def seek(self, offset, whence=0):
        return 100_000

    def tell(self):
        return 0


@pytest.mark.parametrize("seekable", [True, False])
@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), EOFError("ended"), "a text"])
def test_what_fails_in_reading_is_a_decode_error(error, seekable):
    with pytest.raises(DecodeError, match=r"unreadable|undecodable"):
        list(open_blocks(Failing(error, seekable))())


def test_a_disk_that_fails_is_a_decode_error(tmp_path, monkeypatch):
    path = audio_files.write(tmp_path / "x.flac", audio_files.tone(1.0))
    error = OSError(5, "Input/output error")
    monkeypatch.setattr(decoding.LibsndfileReader, "blocks", mock.Mock(side_effect=error))
    with pytest.raises(DecodeError, match="unreadable: Input/output error"):
        decoding.decode(path)


def test_a_name_that_no_disk_has_is_a_decode_error():
    with pytest.raises(DecodeError, match="null byte"):
        list(open_blocks("a\0b.wav")())


@pytest.mark.parametrize(
    ("waveform", "rate", "message"),
    [
        (np.zeros((200, 200)), 16_000, "shape"),
        (np.full(16_000, np.nan), 16_000, "NaN"),
        (np.full(16_000, 3e4), 16_000, "divide by 32768"),
        (np.zeros(16_000, complex), 16_000, "complex"),
        (np.zeros(16_000), None, "needs its sample rate"),
        (np.zeros(16_000), 16, "sample rate of 16 Hz"),
        (np.zeros(1_000), 16_000, "0.062 s, at least 0.1 s"),
        (np.ones(16_000, np.int64), 16_000, "int64.*'int16'"),
        ([1, -2] * 8_000, 16_000, "int64.*'int16'"),
        (np.full(16_000, 32_767, np.int32), 16_000, "up to 32767 in an int32 waveform"),
        (np.full(16_000, -(1 << 23), np.int32), 16_000, "24 bits by 8388608"),
        (np.full(16_000, 32_767, ">i4"), 16_000, "up to 32767 in an int32 waveform"),
        (Int32Tensor(), 16_000, "up to 32767 in an int32 waveform"),
        (np.ones(16_000, np.uint16), 16_000, "type uint16"),
        ([array.array("h", [1] * 16_000)] * 2, 16_000, "a list of arrays: .*list of NumPy arrays"),
        ([[0.1] * 16_000, [0.2] * 16_000], 16_000, "list of NumPy arrays"),
        ((16_000, np.zeros(16_000)), None, "samples, sample_rate=rate"),
        (np.zeros(16_000), "16000", "rate of '16000'"),
        (NoArray(), 16_000, "NoArray that is no array of numbers.*requires grad"),
        (io.StringIO("RIFF"), None, "mode 'rb'"),
    ],
)
def test_what_is_no_waveform_is_refused(waveform, rate, message):
    with pytest.raises(UserError, match=message):
        open_blocks(waveform, rate)
