"""Procedural soundscapes: a small AudioSet with known strong labels, generated on the spot.

Ten synthetic sounds overlap over coloured noise in 10 s clips. As in AudioSet, `balanced` is a
subset of `full`, classes are unevenly frequent, and the weak labels of the training splits are
incomplete; those of `eval` are complete. True events are kept for all.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from psl_jax.audio.segments import SAMPLE_RATE
from psl_jax.corpora.corpus import Clip, Corpus, Loaded, Loader
from psl_jax.data.clip_index import Event
from psl_jax.data.settings import DataSettings
from psl_jax.runtime.errors import UserError

CLIP_SECONDS = 10.0
EVENT_NOISE = 1 << 40  # the bed that noisy events take their noise from: no scene's background

_CLIP_SAMPLES = round(CLIP_SECONDS * SAMPLE_RATE)
_TRAIN, _EVAL = 0, 1  # separate random streams, and separate background noise
_PEAK = 0.99
_BALANCED_POOL = 400

_FADE = round(0.005 * SAMPLE_RATE)
_TABLE_SIZE = 2048
_BED_SAMPLES = 1 << 20  # about 65 s, periodic
_BED_TILTS = (0.0, 0.3, 0.5, 0.7, 1.0)  # amplitude ~ frequency ** -tilt: white to brown


# --- Sounds and noise: NumPy only, made for speed ------------------------------------------------
#
# Each sound is a function of (generator, number of samples) with randomised parameters. The classes
# differ in pitch movement, rhythm and spectrum, but share ranges, so that they are confusable: a
# siren is a slow warble, a beep a chirp that does not rise, a knock a low and slow click.


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

CLASSES = tuple(sorted(SOUNDS))


# --- Scenes ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class SceneSettings:
    """How scenes are drawn."""

    seed: int = 0
    missing_labels: float = 0.3  # probability that a training clip lacks one of its labels
    events_per_clip: tuple[int, int] = (1, 3)  # fewest and most
    event_seconds: tuple[float, float] = (2.0, 8.0)  # log-uniform
    level_db: tuple[float, float] = (-36.0, -32.0)  # of the background, uniform; full scale is 0
    snr_db: tuple[float, float] = (15.0, 30.0)  # of an event against the background, uniform
    rarity: float = 0.7  # classes are drawn as rank ** -rarity (Zipf)


@dataclasses.dataclass(frozen=True)
class Scene:
    """One clip before it is rendered."""

    id: str
    settings: SceneSettings
    key: tuple[int, int]  # stream and number: decide with the seed all that is heard
    labels: tuple[int, ...]
    events: tuple[Event, ...]
    snr_db: tuple[float, ...]  # of each event


def draw_scene(settings: SceneSettings, stream: int, number: int, clip_id: str) -> Scene:
    """Draws what happens in one clip. In the training stream labels are dropped, never all."""
    rng = np.random.default_rng([settings.seed, stream, number, 0])
    low, high = settings.events_per_clip
    count = int(rng.integers(low, high + 1))
    ranks = [list(SOUNDS).index(name) + 1 for name in CLASSES]
    weights = np.array([rank**-settings.rarity for rank in ranks])
    classes = rng.choice(len(CLASSES), count, p=weights / weights.sum())
    shortest, longest = np.log(settings.event_seconds)
    durations = np.exp(rng.uniform(shortest, longest, count))
    onsets = rng.uniform(0, CLIP_SECONDS - durations)
    # Whole samples: the events are true to the sample.
    first = np.round(onsets * SAMPLE_RATE) / SAMPLE_RATE
    last = np.minimum(np.round((onsets + durations) * SAMPLE_RATE) / SAMPLE_RATE, CLIP_SECONDS)
    snr = rng.uniform(*settings.snr_db, count)
    order = np.argsort(first, kind="stable")
    labels = np.unique(classes)
    if stream == _TRAIN:
        kept = labels[rng.random(len(labels)) >= settings.missing_labels]
        labels = kept if len(kept) else labels[[rng.integers(len(labels))]]
    return Scene(
        id=clip_id,
        settings=settings,
        key=(stream, number),
        labels=tuple(labels.tolist()),
        events=tuple((float(first[i]), float(last[i]), int(classes[i])) for i in order),
        snr_db=tuple(snr[order].tolist()),
    )


def render(scene: Scene) -> np.ndarray:
    """The sound of a scene: int16 [160000]."""
    settings, (stream, number) = scene.settings, scene.key
    rng = np.random.default_rng([settings.seed, stream, number, 1])
    level = np.float32(10 ** (rng.uniform(*settings.level_db) / 20))
    beds = noise_beds(2 * settings.seed + stream)
    clip = noise(beds, rng, _CLIP_SAMPLES)
    for (onset, offset, label), snr in zip(scene.events, scene.snr_db, strict=True):
        start, stop = round(onset * SAMPLE_RATE), round(offset * SAMPLE_RATE)
        sound = event(CLASSES[label], rng, stop - start)
        sound *= np.float32(10 ** (snr / 20))
        clip[start:stop] += sound
    peak = float(np.abs(clip).max())
    clip *= 32767 * min(level, np.float32(_PEAK / peak))
    return np.asarray(np.rint(clip, out=clip), np.int16)


def load_scene(scene: Scene) -> Loaded:
    """The rendered clip; never a problem."""
    return Loaded(Clip(scene.id, render(scene), scene.labels, scene.events))


def choose_balanced(labels: Sequence[Sequence[int]], count: int, seed: int) -> list[int]:
    """Numbers of `count` clips, sorted: each time one whose labels are rarest so far."""
    rng = np.random.default_rng([seed, 0xBA1])
    hot = np.zeros((len(labels), len(CLASSES)), np.float32)
    for row, clip_labels in enumerate(labels):
        hot[row, list(clip_labels)] = 1 / max(len(clip_labels), 1)
    left = rng.permutation(len(labels))
    chosen: list[int] = []
    so_far = np.zeros(len(CLASSES), np.float32)
    while len(chosen) < count:
        best = int(np.argmin(hot[left[:_BALANCED_POOL]] @ so_far))
        chosen.append(int(left[best]))
        so_far += hot[left[best]] > 0
        left = np.delete(left, best)
    return sorted(chosen)


class Soundscapes(Corpus):
    """The splits full, balanced (a subset of full) and eval. See the module."""

    name = "soundscapes"

    def __init__(self, data: DataSettings):
        """Raises UserError for sizes of splits that cannot be."""
        if data.balanced_clips > data.full_clips:
            raise UserError(
                "soundscapes: the split balanced is a subset of full, got "
                f"full_clips={data.full_clips} and balanced_clips={data.balanced_clips}"
            )
        self.scenes = SceneSettings(seed=data.seed, missing_labels=data.missing_labels)
        names = ("full_clips", "balanced_clips", "eval_clips")
        self._sizes = {name: getattr(data, name) for name in names}
        self.classes = self.class_ids = CLASSES
        self.has_events = True
        self.problems = []
        self.settings = dataclasses.asdict(self.scenes) | self._sizes

    def rows(self) -> Mapping[str, Sequence[Scene]]:
        full_clips, balanced_clips, eval_clips = self._sizes.values()
        full, evaluation = (
            [
                draw_scene(self.scenes, stream, number, f"{split}-{number:06d}")
                for number in range(count)
            ]
            for split, stream, count in (("full", _TRAIN, full_clips), ("eval", _EVAL, eval_clips))
        )
        chosen = choose_balanced([scene.labels for scene in full], balanced_clips, self.scenes.seed)
        return {"full": full, "balanced": [full[i] for i in chosen], "eval": evaluation}

    def loader(self) -> Loader:
        seed = self.scenes.seed
        for key in (EVENT_NOISE, 2 * seed + _TRAIN, 2 * seed + _EVAL):
            noise_beds(key)  # here once, not by each worker at the same time
        return load_scene
