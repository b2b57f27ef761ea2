"""m4a, mp4, webm and others, as AudioSet's downloads come: read by FFmpeg."""

import audio_files
import av
import numpy as np
import pytest
import soxr
from scipy.signal import correlate

from psl_jax.audio import decoding
from psl_jax.audio.decoding import DecodeError

KINDS = {
    "aac.m4a": ("ipod", "aac", 44_100, 2),
    "aac.mp4": ("mp4", "aac", 48_000, 1),
    "opus.webm": ("webm", "libopus", 48_000, 2),
    "opus.mkv": ("matroska", "libopus", 48_000, 1),
    "plain.aac": ("adts", "aac", 32_000, 1),
    "pcm.avi": ("avi", "pcm_s16le", 48_000, 2),
    "film.avi": ("avi", "libmp3lame", 44_100, 1),
    "stream.ts": ("mpegts", "aac", 48_000, 1),
    "film.flv": ("flv", "aac", 44_100, 1),
    "mp3.wav": ("wav", "libmp3lame", 44_100, 1),
    "pack.wv": ("wv", "wavpack", 16_000, 1),
    "sound.ac3": ("ac3", "ac3", 48_000, 2),
}


def write(path, seconds=3.0):
    """A tone in the container and codec of the path's name; returns the tone as heard."""
    container_format, codec, rate, channels = KINDS[path.name]
    sound = audio_files.tone(seconds, rate, channels).reshape(-1, channels)
    layout = "mono" if channels == 1 else "stereo"
    with av.open(str(path), "w", format=container_format) as container:
        stream = container.add_stream(codec, rate=rate, layout=layout, bit_rate=128_000)
        for first in range(0, len(sound), 960):
            part = np.ascontiguousarray(sound[first : first + 960].T, np.float32)
            frame = av.AudioFrame.from_ndarray(part, format="fltp", layout=layout)
            frame.sample_rate, frame.pts = rate, first
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return sound.mean(axis=1)


@pytest.mark.parametrize("name", KINDS)
def test_the_sound_is_heard(tmp_path, name):
    path = tmp_path / name
    sound = write(path)
    decoded = decoding.decode(path).samples / 32768
    assert len(decoded) / 16_000 == pytest.approx(3.0, abs=0.15)
    with path.open("rb") as file:
        np.testing.assert_array_equal(
            decoding.decode(file).samples, (decoded * 32768).astype(np.int16)
        )
    cut = decoding.decode(path, 1.0)
    assert cut.cut and len(cut.samples) == 16_000
    expected = soxr.resample(sound, KINDS[name][2], 16_000)[8000:40_000]
    best = correlate(decoded, expected, mode="valid").max()  # encoders shift it by some samples
    assert best == pytest.approx(np.square(expected).sum(), rel=0.1)


@pytest.mark.parametrize("name", ["opus.webm", "opus.mkv", "film.avi", "aac.mp4"])
def test_half_a_file_is_found(tmp_path, name):
    path = tmp_path / name
    write(path, 8.0)
    kind = None if name == "aac.mp4" else "truncated"  # whose index, at the end, is gone
    with pytest.raises(DecodeError, match=kind):
        decoding.decode(audio_files.truncate(path))


def test_a_damaged_block_of_wavpack_is_no_noise(tmp_path):
    path = tmp_path / "pack.wv"
    write(path)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 2000] = bytes(2000)
    path.write_bytes(content)
    with pytest.raises(DecodeError):
        decoding.decode(path)


@pytest.mark.parametrize("name", ["pack.wv", "sound.ac3"])
def test_a_tag_behind_the_audio_is_none(tmp_path, name):
    path = tmp_path / name
    write(path)
    whole = len(decoding.decode(path).samples)
    with path.open("ab") as file:
        file.write(b"TAG" + b"x" * 125)
    assert len(decoding.decode(path).samples) == pytest.approx(whole, abs=600)


@pytest.mark.parametrize("file_format", ["WAV", "AIFF", "FLAC", "RF64", "CAF", "AU", "VOC"])
def test_another_file_behind_the_first_is_found(tmp_path, file_format):
    path = audio_files.write(tmp_path / "x", audio_files.tone(1.0), format=file_format)
    path.write_bytes(path.read_bytes() * 2)
    with pytest.raises(DecodeError, match=r"another file begins after 1\.00 s"):
        decoding.decode(path)


@pytest.mark.parametrize("name", ["aac.mp4", "film.flv"])
def test_another_file_behind_one_of_ffmpeg_is_found(tmp_path, name):
    write(tmp_path / name)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes() * 2)
    with pytest.raises(DecodeError, match="another file begins after"):
        decoding.decode(tmp_path / name)


def test_a_long_avi_goes_on_in_a_second_part(tmp_path):
    path = tmp_path / "film.avi"
    write(path)
    whole = len(decoding.decode(path).samples)
    path.write_bytes(path.read_bytes() + b"RIFF\4\0\0\0AVIX")
    assert len(decoding.decode(path).samples) == whole


def test_a_flac_may_have_one_block_before_its_sound(tmp_path):
    path = audio_files.write(tmp_path / "x.flac", audio_files.tone(1.0))
    content = path.read_bytes()
    start, block = 42, content[42:46]  # behind fLaC and STREAMINFO: comments, the last block
    assert block[0] == 0x84
    sound = content[start + 4 + int.from_bytes(block[1:], "big") :]
    path.write_bytes(b"fLaC\x80" + content[5:start] + sound)
    assert len(decoding.decode(path).samples) == 16_000


def test_a_film_without_sound_and_a_broken_one(tmp_path):
    silent, broken = tmp_path / "silent.mp4", tmp_path / "broken.m4a"
    with av.open(str(silent), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for _ in range(5):
            picture = np.zeros((32, 32, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode(None))
    with pytest.raises(DecodeError, match="no audio stream"):
        decoding.decode(silent)
    broken.write_bytes(b"\0\0\0\x18ftypM4A " + b"junk" * 1000)
    with pytest.raises(DecodeError, match="undecodable"):
        decoding.decode(broken)


def test_a_playlist_opens_nothing(tmp_path):
    audio_files.write(tmp_path / "private.mp3", audio_files.tone(1.0))
    path = tmp_path / "list.wav"
    path.write_text(f"ffconcat version 1.0\nfile '{tmp_path / 'private.mp3'}'\n")
    with pytest.raises(DecodeError, match="undecodable"):
        decoding.decode(path)
