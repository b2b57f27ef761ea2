"""Decoding: bit-exact, resampled as soxr and librosa do, bounded in memory, and never silent."""

import io
import math
import pickle
import tracemalloc

import audio_files
import librosa
import numpy as np
import pytest
import soundfile
import soxr

from psl_jax.audio import decoding
from psl_jax.audio.decoding import decode_blocks


@pytest.mark.parametrize("suffix", ["wav", "flac", "aiff"])
def test_16khz_mono_int16_is_bit_exact(tmp_path, suffix):
    samples = audio_files.int16_noise(40_000)
    path = audio_files.write(tmp_path / f"x.{suffix}", samples)
    decoded = decoding.decode(path).samples
    assert decoded.dtype == np.int16
    np.testing.assert_array_equal(decoded, samples)
    np.testing.assert_array_equal(decoding.decode(str(path), 1.0).samples, samples[:16_000])


def test_a_short_ogg_ends_with_at_most_its_encoders_padding():
    file = audio_files.encoded(audio_files.tone(1.0), file_format="OGG")
    assert 16_000 <= len(decoding.decode(file).samples) <= 16_128


@pytest.mark.parametrize(("rate", "channels"), [(8_000, 1), (44_100, 2), (96_000, 6)])
def test_resamples_like_soxr_and_librosa(tmp_path, rate, channels):
    sound = audio_files.tone(7.3, rate, channels)
    path = audio_files.write(tmp_path / "x.wav", sound, rate, subtype="FLOAT")
    mono = sound.astype(np.float32).reshape(len(sound), -1).mean(axis=1)
    decoded = decoding.decode(path).samples
    for reference in (
        soxr.resample(mono, rate, 16_000, quality="HQ"),
        librosa.resample(mono, orig_sr=rate, target_sr=16_000, res_type="soxr_hq"),
    ):
        assert abs(len(decoded) - len(reference)) <= 1
        length = min(len(decoded), len(reference))
        error = decoded[:length] / 32768 - reference[:length]
        # Nothing but the rounding to int16: half a step at most, -101 dB of full scale.
        assert np.abs(error).max() < 0.51 / 32768
        assert 10 * np.log10(np.mean(error**2)) < -100


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_cut_is_the_beginning_of_the_whole(tmp_path, rate):
    path = audio_files.write(tmp_path / "x.flac", audio_files.tone(23.0, rate, 2), rate)
    whole = decoding.decode(path)
    cut = decoding.decode(path, 10.0)
    assert (whole.cut, cut.cut) == (False, True)
    assert len(cut.samples) == 160_000
    assert cut.source_seconds == pytest.approx(23.0)
    np.testing.assert_array_equal(cut.samples, whole.samples[:160_000])
    assert not decoding.decode(path, 22.95).cut  # a few hundredths of a second are no cut


def test_memory_is_bounded_by_what_is_asked_for(tmp_path):
    path = tmp_path / "long.wav"
    with soundfile.SoundFile(path, "w", 8_000, 2, "PCM_16") as file:
        for minute in range(30):
            file.write(audio_files.tone(60.0, 8_000, 2, seed=minute))
    for max_seconds, limit in ((10.0, 8e6), (math.inf, 3 * 30 * 60 * 32_000)):
        tracemalloc.start()
        audio = decoding.decode(path, max_seconds)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(audio.samples) == 16_000 * min(max_seconds, 1800)
        assert peak < limit


def test_overshoot_saturates(tmp_path):
    square = np.sign(np.sin(2 * np.pi * 97 * np.arange(96_000) / 48_000)) * 0.999
    path = audio_files.write(tmp_path / "x.wav", square, 48_000)
    decoded = decoding.decode(path).samples
    assert decoded.max() == 32767 and decoded.min() == -32768
    reference = soxr.resample(square, 48_000, 16_000)
    loud = np.abs(reference) > 0.5
    np.testing.assert_array_equal(np.sign(decoded[loud]), np.sign(reference[loud]))


def test_every_bad_kind(tmp_path):
    files = {tmp_path / name: kind for name, kind in audio_files.bad_files(tmp_path).items()}
    for file, kind in {**files, io.BytesIO(): "empty"}.items():
        for read in (lambda path: decoding.decode(path, 10.0), lambda p: [*decode_blocks(p)]):
            with pytest.raises(decoding.DecodeError) as caught:
                read(file)
            assert caught.value.kind == kind, file
            assert caught.value.detail and "\n" not in caught.value.detail
            assert pickle.loads(pickle.dumps(caught.value)).kind == kind


@pytest.mark.parametrize("share", [0.02, 0.999])
@pytest.mark.parametrize("suffix", ["flac", "wav", "aiff"])
def test_truncation_is_found_wherever_it_is(tmp_path, suffix, share):
    path = audio_files.write(tmp_path / f"x.{suffix}", audio_files.int16_noise(160_000))
    with pytest.raises(decoding.DecodeError, match="truncated"):
        decoding.decode(audio_files.truncate(path, share), 10.0)


def test_a_whole_beginning_of_a_truncated_file_is_enough(tmp_path):
    samples = audio_files.int16_noise(60 * 16_000)
    path = audio_files.truncate(audio_files.write(tmp_path / "x.flac", samples))
    audio = decoding.decode(path, 5.0)
    assert audio.cut
    np.testing.assert_array_equal(audio.samples, samples[:80_000])


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_a_streamed_file_without_a_length_is_whole(tmp_path, suffix):
    samples = audio_files.int16_noise(32_000)
    path = audio_files.write(tmp_path / f"x.{suffix}", samples)
    content = bytearray(path.read_bytes())
    if suffix == "wav":
        content[4:8] = content[40:44] = b"\xff\xff\xff\xff"  # as ffmpeg writes to a pipe
    else:
        content[21] &= 0xF0  # the 36 bits of STREAMINFO that count the samples
        content[22:26] = bytes(4)
    path.write_bytes(content)
    np.testing.assert_array_equal(decoding.decode(path).samples, samples)
