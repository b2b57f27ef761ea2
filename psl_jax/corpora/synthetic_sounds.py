"""Ten synthetic sounds and beds of coloured noise: NumPy only, made for speed.

Each sound is a function of (generator, number of samples) with randomised parameters. The classes
differ in pitch movement, rhythm and spectrum, but share ranges, so that they are confusable: a
siren is a slow warble, a beep a chirp that does not rise, a knock a low and slow click.
"""

import functools
from collections.abc import Callable

import numpy as np

from psl_jax.audio.segments import SAMPLE_RATE

EVENT_NOISE = 1 << 40  # the bed that noisy events take their noise from: no scene's background

_FADE = round(0.005 * SAMPLE_RATE)
_TABLE_SIZE = 2048
_BED_SAMPLES = 1 << 20  # about 65 s, periodic
_BED_TILTS = (0.0, 0.3, 0.5, 0.7, 1.0)  # amplitude ~ frequency ** -tilt: white to brown


def event(name: str, rng: np.random.Generator, num_samples: int) -> np.ndarray:
    """One event of class `name`: float32 [num_samples], RMS 1, faded in and out over 5 ms."""
    sound = SOUNDS[name](rng, num_samples).astype(np.float32, copy=False)
    fade = min(_FADE, num_samples // 2)
    ramp = np.linspace(0, 1, fade, dtype=np.float32)
    sound[:fade] *= ramp
    sound[num_samples - fade :] *= ramp[::-1]
    return sound / np.float32(np.sqrt(np.dot(sound, sound) / num_samples) + 1e-9)


@functools.lru_cache(maxsize=4)
def noise_beds(seed: int) -> np.ndarray:
    """Background noises of different colour: float32 [beds, samples], RMS 1, periodic in time."""
    rng = np.random.default_rng([seed, 0xBED])
    frequency = np.maximum(np.fft.rfftfreq(_BED_SAMPLES, 1 / SAMPLE_RATE), 30.0)
    beds = np.empty((len(_BED_TILTS), _BED_SAMPLES), np.float32)
    for bed, tilt in zip(beds, _BED_TILTS, strict=True):
        amplitude = frequency**-tilt
        for centre in rng.uniform(np.log(100), np.log(6000), 3):  # a few broad resonances
            amplitude *= 1 + rng.uniform(0, 2) * np.exp(
                -(((np.log(frequency) - centre) / 0.4) ** 2)
            )
        phases = rng.random(len(frequency), dtype=np.float32) * np.float32(2 * np.pi)
        bed[:] = np.fft.irfft(amplitude * np.exp(1j * phases))
        bed /= np.sqrt(np.mean(np.square(bed)))
    beds.setflags(write=False)
    return beds


def noise(beds: np.ndarray, rng: np.random.Generator, num_samples: int) -> np.ndarray:
    """A random stretch of a random bed: a new float32 [num_samples]."""
    bed = beds[rng.integers(len(beds))]
    start = int(rng.integers(len(bed)))
    stretch = bed[start : start + num_samples]
    if len(stretch) < num_samples:
        return np.concatenate([stretch, bed[: num_samples - len(stretch)]])
    return np.asarray(stretch.copy())


def _cycles(frequency: np.ndarray | float, num_samples: int) -> np.ndarray:
    """Phase of an oscillator in cycles, modulo 1: float32 [num_samples]."""
    if np.ndim(frequency) == 0:
        phase = np.arange(num_samples) * (float(frequency) / SAMPLE_RATE)
    else:
        phase = np.cumsum(frequency, dtype=np.float64) / SAMPLE_RATE
    return np.asarray(phase - np.floor(phase), np.float32)


def _sine(cycles: np.ndarray) -> np.ndarray:
    return np.sin(cycles * np.float32(2 * np.pi))


def _table(rng: np.random.Generator, harmonics: int, tilt: float) -> np.ndarray:
    """One period of a tone whose harmonics fall off as k ** -tilt, unevenly: float32 [table]."""
    spectrum = np.zeros(_TABLE_SIZE // 2 + 1, np.complex128)
    gains = np.arange(1, harmonics + 1) ** -tilt * rng.uniform(0.2, 1.0, harmonics)
    spectrum[1 : harmonics + 1] = gains * np.exp(1j * rng.uniform(0, 2 * np.pi, harmonics))
    return np.fft.irfft(spectrum * (_TABLE_SIZE / 2)).astype(np.float32)


def _play(table: np.ndarray, cycles: np.ndarray) -> np.ndarray:
    return table[(cycles * np.float32(_TABLE_SIZE)).astype(np.int32) % _TABLE_SIZE]


def _since_strike(
    rng: np.random.Generator, num_samples: int, interval: float, jitter: float
) -> np.ndarray:
    """Seconds since the last strike of a rhythm: float32 [num_samples], starting with a strike."""
    count = int(num_samples / (interval * SAMPLE_RATE * (1 - jitter))) + 2
    spread = rng.uniform(1 - jitter, 1 + jitter, count)
    gaps = np.maximum(interval * SAMPLE_RATE * spread, 1).astype(np.int64)
    strikes = np.repeat(np.cumsum(gaps) - gaps, gaps)[:num_samples]
    return ((np.arange(num_samples) - strikes) * (1 / SAMPLE_RATE)).astype(np.float32)


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _hum(rng: np.random.Generator, n: int) -> np.ndarray:
    """A steady low tone rich in harmonics, swelling slowly."""
    tone = _play(_table(rng, 16, rng.uniform(0.3, 1.2)), _cycles(_log_uniform(rng, 70, 150), n))
    swell = _sine(_cycles(rng.uniform(0.3, 2.0), n))
    return tone * (1 + np.float32(rng.uniform(0.0, 0.4)) * swell)


def _engine(rng: np.random.Generator, n: int) -> np.ndarray:
    """Firing noise: low noise and a low tone, both pulsing 12 to 40 times a second."""
    rate = _log_uniform(rng, 12, 28) * (1 + rng.uniform(-0.25, 0.25) * np.linspace(0, 1, n))
    pulse = _cycles(rate, n)
    envelope = np.exp(pulse * np.float32(-rng.uniform(2, 7)))
    tone = _play(_table(rng, 12, 0.8), pulse)
    rough = noise(noise_beds(EVENT_NOISE)[2:], rng, n)
    return (rough + np.float32(rng.uniform(0.1, 0.5)) * tone) * envelope


def _beeps(rng: np.random.Generator, n: int) -> np.ndarray:
    """A steady tone switched on and off."""
    since = _since_strike(rng, n, rng.uniform(0.14, 0.6), 0.0)
    length = np.float32(rng.uniform(0.06, 0.3))
    gate = np.clip((length - since) * 200, 0, 1) * np.clip(since * 200, 0, 1)
    table = _table(rng, int(rng.integers(1, 4)), 1.0)
    return np.asarray(_play(table, _cycles(_log_uniform(rng, 1800, 3200), n)) * gate)


def _chirps(rng: np.random.Generator, n: int) -> np.ndarray:
    """Short tones that rise, one after the other."""
    since = _since_strike(rng, n, rng.uniform(0.12, 0.5), 0.2)
    length = np.float32(rng.uniform(0.05, 0.18))
    position = np.minimum(since / length, 1)
    low = _log_uniform(rng, 2400, 4000)
    cycles = _cycles(low * (1 + rng.uniform(0.25, 0.9) * position), n)
    return np.asarray(_sine(cycles) * (position * (1 - position) * 4))


def _siren(rng: np.random.Generator, n: int) -> np.ndarray:
    """A tone that sweeps slowly up and down over more than half an octave."""
    sweep = np.abs(2 * _cycles(_log_uniform(rng, 0.35, 1.6), n) - 1)
    low = _log_uniform(rng, 450, 800)
    cycles = _cycles(low * np.exp2(rng.uniform(0.6, 1.4) * sweep), n)
    return _play(_table(rng, 4, 1.2), cycles)


def _warble(rng: np.random.Generator, n: int) -> np.ndarray:
    """A tone with fast and even vibrato."""
    vibrato = _sine(_cycles(_log_uniform(rng, 4, 14), n))
    centre = _log_uniform(rng, 900, 1800)
    cycles = _cycles(centre * (1 + rng.uniform(0.06, 0.25) * vibrato), n)
    return _play(_table(rng, 3, 1.2), cycles)


def _clicks(rng: np.random.Generator, n: int) -> np.ndarray:
    """A train of short, bright clicks."""
    since = _since_strike(rng, n, 1 / _log_uniform(rng, 5, 22), rng.uniform(0, 0.3))
    decay = np.exp(since * np.float32(-1 / rng.uniform(0.002, 0.007)))
    body = _sine(since * np.float32(_log_uniform(rng, 2500, 4500)))
    hiss = rng.standard_normal(n, dtype=np.float32)
    return np.asarray((body + np.float32(rng.uniform(0.2, 1.0)) * hiss) * decay)


def _knocks(rng: np.random.Generator, n: int) -> np.ndarray:
    """Dull blows, a few a second."""
    since = _since_strike(rng, n, 1 / _log_uniform(rng, 1.8, 7), rng.uniform(0.05, 0.35))
    pitch = _log_uniform(rng, 90, 240)
    decay = rng.uniform(0.015, 0.06)
    low = _sine(since * np.float32(pitch)) * np.exp(since * np.float32(-1 / decay))
    high = _sine(since * np.float32(pitch * rng.uniform(2.2, 3.4)))
    return low + np.float32(rng.uniform(0.1, 0.5)) * high * np.exp(since * np.float32(-3 / decay))


def _bursts(rng: np.random.Generator, n: int) -> np.ndarray:
    """Hissing noise that swells and dies away, once or a few times."""
    since = _since_strike(rng, n, rng.uniform(0.5, 2.5), 0.3)
    attack, decay = rng.uniform(0.01, 0.2), rng.uniform(0.08, 0.5)
    envelope = (1 - np.exp(since * np.float32(-1 / attack))) * np.exp(
        since * np.float32(-1 / decay)
    )
    return np.asarray(noise(noise_beds(EVENT_NOISE)[:3], rng, n) * envelope)


def _bell(rng: np.random.Generator, n: int) -> np.ndarray:
    """Struck metal: inharmonic partials, the higher the sooner gone."""
    since = _since_strike(rng, n, rng.uniform(0.35, 1.6), 0.1)
    pitch, decay = _log_uniform(rng, 350, 700), rng.uniform(0.2, 0.9)
    sound = np.zeros(n, np.float32)
    for ratio in (1.0, 2.0, 2.76, 4.07, 5.4):
        partial = pitch * ratio * rng.uniform(0.985, 1.015)
        if partial < 0.45 * SAMPLE_RATE:
            fall = np.exp(since * np.float32(-(ratio**0.7) / decay))
            sound += _sine(since * np.float32(partial)) * fall * np.float32(rng.uniform(0.3, 1.0))
    return sound


# The commonest class of the corpus first.
SOUNDS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "hum": _hum,
    "beeps": _beeps,
    "clicks": _clicks,
    "engine": _engine,
    "bursts": _bursts,
    "chirps": _chirps,
    "knocks": _knocks,
    "warble": _warble,
    "siren": _siren,
    "bell": _bell,
}
