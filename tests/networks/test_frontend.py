from functools import lru_cache

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest
import soundfile
from jax.sharding import PartitionSpec
from shared_tables import RECORDINGS, needs_recordings

from psl_jax.networks import frontend
from psl_jax.networks.frontend import LogMel, num_frames
from psl_jax.runtime import parallel

RATE = 16_000
TOLERANCE_DB = 0.01
# The rounding of a float32 FFT, as on a TPU, shows in bands that are further than this under the
# loudest one of a clip of pure tones: up to 0.03 dB at 100 dB, 0.3 dB at 120 dB.
TONAL_RANGE_DB = 90.0


def reference(audio, top_db=120.0):
    """The front end by librosa, in float64: [samples] -> [frames, 64] in dB."""
    audio = audio / 32768 if audio.dtype == np.int16 else audio.astype(np.float64)
    frames = {"sr": RATE, "n_fft": 512, "hop_length": 160, "pad_mode": "reflect"}
    bands = {"n_mels": 64, "htk": True, "norm": None, "dtype": np.float64}
    power = librosa.feature.melspectrogram(y=audio, **frames, **bands)
    return librosa.power_to_db(power, ref=1.0, amin=1e-10, top_db=top_db).T


def quantised(audio):
    return np.round(np.clip(audio * 32768, -32768, 32767)).astype(np.int16)


@lru_cache
def compiled(front_end, platform):
    return jax.jit(lambda audio, lengths: front_end(audio, lengths, platform=platform))


def logmel(audio, lengths=None, platform="cpu", **settings):
    return np.asarray(compiled(LogMel(**settings), platform)(audio, lengths))


def seconds(duration):
    return np.arange(round(duration * RATE)) / RATE


def noise(duration=2.0, level=0.1):
    return level * np.random.default_rng(0).standard_normal(round(duration * RATE))


def speech_like(duration=2.0):
    """Pulses of a gliding pitch through two formants, in syllables, over faint noise."""
    t = seconds(duration)
    phase = np.cumsum(120 + 30 * np.sin(2 * np.pi * 0.7 * t)) / RATE
    voice = sum(
        np.exp(-((k * 120 - 700) ** 2) / 2e5) * np.sin(2 * np.pi * k * phase)
        + 0.3 * np.exp(-((k * 120 - 2300) ** 2) / 4e5) * np.sin(2 * np.pi * k * phase)
        for k in range(1, 50)
    )
    syllables = np.clip(np.sin(2 * np.pi * 3 * t), 0, None)
    return 0.1 * voice * syllables + noise(duration, 1e-3)


def tones():
    t = seconds(2.0)
    return {
        "sine 100 Hz": 0.99 * np.sin(2 * np.pi * 100 * t),
        "sine 440 Hz": 0.9 * np.sin(2 * np.pi * 440 * t),
        "sine 1 kHz, a whole number of periods": 0.9 * np.sin(2 * np.pi * 1000 * t),
        "sine on a bin": 0.9 * np.sin(2 * np.pi * 625 * t),
        "sine 3999.3 Hz, full scale": np.sin(2 * np.pi * 3999.3 * t),
        "sine 7.9 kHz": 0.99 * np.sin(2 * np.pi * 7900 * t),
        "quiet sine": 1e-3 * np.sin(2 * np.pi * 440 * t),
        "chirp": 0.9 * np.sin(2 * np.pi * (50 * t + 7850 / 4 * t**2)),
        "chord": 0.3 * sum(np.sin(2 * np.pi * 261.6 * r * t) for r in (1, 1.25, 1.5)),
        "swelling sine": np.exp(-(((t - 1) / 0.1) ** 2)) * np.sin(2 * np.pi * 440 * t),
        "sine, then silence": np.where(t < 1, 0.9, 0.0) * np.sin(2 * np.pi * 440 * t),
    }


@pytest.mark.parametrize("make", [noise, speech_like])
@pytest.mark.parametrize("duration", [2.0, 10.0])
def test_noise_and_speech_like_audio_match_librosa(make, duration):
    audio = quantised(make(duration))
    ours = logmel(audio[None])
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours[0], reference(audio), rtol=0, atol=TOLERANCE_DB)


@pytest.mark.parametrize("name", tones())
def test_tonal_audio_matches_librosa_in_all_bands(name):
    for audio in (quantised(tones()[name]), tones()[name].astype(np.float32)):
        ours = logmel(audio[None])
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours[0], reference(audio), rtol=0, atol=TOLERANCE_DB)


@pytest.mark.parametrize("name", tones())
def test_with_an_fft_in_float32_tonal_audio_matches_librosa_in_the_louder_bands(name):
    audio = tones()[name].astype(np.float32)
    ours, theirs = logmel(audio[None], platform="gpu")[0], reference(audio)
    counts = theirs > theirs.max() - TONAL_RANGE_DB
    assert counts.mean() > 0.05
    np.testing.assert_allclose(ours[counts], theirs[counts], rtol=0, atol=TOLERANCE_DB)


def test_the_batch_is_transformed_in_parts():
    audio = np.random.default_rng(0).standard_normal((9, 80_000)).astype(np.float32)
    assert "while" in compiled(LogMel(), "cpu").lower(audio, None).as_text()
    np.testing.assert_array_equal(logmel(audio), np.stack([logmel(x[None])[0] for x in audio]))


@needs_recordings
def test_real_recordings_match_librosa():
    """On all audio files of the folder, or on 50 of them if there are more."""
    kinds = (".wav", ".ogg", ".flac")
    paths = sorted(p for p in RECORDINGS.rglob("*") if p.suffix in kinds)
    assert paths, f"no wav, ogg or flac in {RECORDINGS}"
    worst = {}
    for path in paths[:: max(1, len(paths) // 50)]:
        audio, rate = soundfile.read(path, always_2d=True)
        audio = librosa.resample(audio.mean(axis=1), orig_sr=rate, target_sr=RATE)[: 5 * RATE]
        audio = quantised(np.pad(audio, (0, 5 * RATE - len(audio))))
        worst[path.name] = np.abs(logmel(audio[None])[0] - reference(audio)).max()
    assert max(worst.values()) < TOLERANCE_DB, sorted(worst.items(), key=lambda x: -x[1])[:5]


def test_int16_and_float_audio_give_the_same():
    audio = quantised(speech_like())
    audio[:2] = -32768, 32767
    as_float = (audio / 32768).astype(np.float32)
    np.testing.assert_array_equal(logmel(audio[None]), logmel(as_float[None]))


def test_digital_silence_is_the_floor():
    np.testing.assert_array_equal(logmel(np.zeros((1, 32_000), np.int16)), -100.0)


def loud_and_quiet():
    """Two clips that end in silence, of very different loudness: [2, samples]."""
    ends = seconds(2.0) > 1.0
    return np.stack([np.where(ends, 0, noise()), np.where(ends, 0, noise() * 1e-2)]).astype(
        np.float32
    )


@pytest.mark.parametrize("top_db", [40.0, 60.0])
def test_top_db_of_a_clip_does_not_see_its_neighbours(top_db):
    audio = loud_and_quiet()
    together = logmel(audio, top_db=top_db)
    for clip, ours in zip(audio, together, strict=True):
        np.testing.assert_allclose(ours, reference(clip, top_db), rtol=0, atol=TOLERANCE_DB)
        np.testing.assert_array_equal(ours, logmel(clip[None], top_db=top_db)[0])
        assert ours.min() == pytest.approx(ours.max() - top_db, abs=1e-4)


def test_top_db_over_the_batch_is_measured_from_its_loudest_clip_or_left_out():
    audio = loud_and_quiet()
    theirs = np.stack([reference(clip, None) for clip in audio])
    for over, floor in (("batch", theirs.max() - 60.0), ("none", -100.0)):
        ours = logmel(audio, top_db=60.0, top_db_over=over)
        expected = np.maximum(theirs, floor)
        np.testing.assert_allclose(ours, expected, rtol=0, atol=TOLERANCE_DB)
        assert ours[1].min() == ours[0].min()


@pytest.mark.parametrize("over", ["clip", "batch"])
def test_no_maximum_sees_the_padding(over):
    audio = loud_and_quiet() * 0.1
    valid = 12_800
    padded = audio.copy()
    padded[:, valid + 512 :] = 0.9 * np.random.default_rng(1).standard_normal(
        (2, audio.shape[1] - valid - 512)
    )
    settings = {"top_db": 30.0, "top_db_over": over}
    inside = num_frames(valid)
    lengths = jnp.full(2, valid)
    clean, disturbed = (logmel(x, lengths, **settings)[:, :inside] for x in (audio, padded))
    np.testing.assert_array_equal(disturbed, clean)
    assert logmel(padded, **settings)[:, :inside].min() > clean.min() + 10


def test_a_maximum_over_the_batch_reaches_over_the_mesh_axis():
    mesh = parallel.data_mesh()
    front_end = LogMel(top_db=60.0, top_db_over="batch")
    spec = PartitionSpec(parallel.AXIS)

    def on_device(audio):
        return front_end(audio, axis_name=parallel.AXIS)

    audio = loud_and_quiet()
    mapped = jax.jit(jax.shard_map(on_device, mesh=mesh, in_specs=spec, out_specs=spec))(audio)
    np.testing.assert_array_equal(mapped, jax.jit(front_end)(audio))


# --- by products, as on a TPU -----------------------------------------------------------------


def in_decibel(power):
    mel = np.einsum("btf,fm->btm", power.astype(np.float64), frontend.mel_filters())
    decibel = 10 * np.log10(np.maximum(mel, 1e-10))
    return np.maximum(decibel, decibel.max() - 120)


@pytest.mark.parametrize("name", tones())
def test_products_follow_float64_on_tones(name):
    audio = tones()[name].astype(np.float32)[None]
    power = jax.jit(lambda x: frontend._power_by_products(frontend.reflected(x)))(audio)
    difference = np.abs(in_decibel(np.asarray(power))[0] - reference(audio[0]))
    assert difference.max() < 0.1  # a CPU rounds more than a TPU's products


@pytest.mark.parametrize("length", [257, 1600, 1759, 16_000, 32_001])
def test_products_are_the_transform_of_the_same_frames(length):
    audio = np.random.default_rng(length).standard_normal((2, length)).astype(np.float32)
    ours, theirs = logmel(audio, platform="tpu"), logmel(audio)
    assert ours.shape == theirs.shape == (2, 1 + length // 160, 64)
    assert num_frames(length) == 1 + length // 160
    np.testing.assert_allclose(ours, theirs, atol=1e-2)


@pytest.mark.parametrize(
    ("platform", "operation", "kind"),
    [("cpu", "fft", "c128"), ("gpu", "fft", "c64"), ("tpu", "conv_general_dilated", "")],
)
def test_the_transform_is_that_of_the_platform(platform, operation, kind):
    audio = np.zeros((1, 1600), np.float32)
    program = jax.jit(lambda x: LogMel()(x, platform=platform)).trace(audio)
    text = str(program.jaxpr)
    assert [name for name in ("fft", "conv_general_dilated") if f" {name}[" in text] == [operation]
    assert kind in text
