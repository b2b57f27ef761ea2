"""Procedural soundscapes: a small AudioSet with known strong labels, generated on the spot.

Ten synthetic sounds (synthetic_sounds.py) overlap over coloured noise in 10 s clips. As in
AudioSet, `balanced` is a subset of `full`, classes are unevenly frequent, and the weak labels of
the training splits are incomplete; those of `eval` are complete. True events are kept for all.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from psl_jax.audio.segments import SAMPLE_RATE
from psl_jax.corpora import synthetic_sounds
from psl_jax.corpora.clip_rows import Clip, Loaded, Loader
from psl_jax.corpora.corpus import Corpus
from psl_jax.data.clip_index import Event
from psl_jax.runtime.errors import UserError

CLIP_SECONDS = 10.0
CLASSES = tuple(sorted(synthetic_sounds.SOUNDS))

_CLIP_SAMPLES = round(CLIP_SECONDS * SAMPLE_RATE)
_TRAIN, _EVAL = 0, 1  # separate random streams, and separate background noise
_PEAK = 0.99
_BALANCED_POOL = 400


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
    key: tuple[int, int, int]  # seed, stream, number: decides all that is heard
    labels: tuple[int, ...]
    events: tuple[Event, ...]
    snr_db: tuple[float, ...]  # of each event
    level_db: tuple[float, float]  # see SceneSettings


def draw_scene(settings: SceneSettings, stream: int, number: int, clip_id: str) -> Scene:
    """Draws what happens in one clip. Labels are dropped in the training stream only."""
    rng = np.random.default_rng([settings.seed, stream, number, 0])
    low, high = settings.events_per_clip
    count = int(rng.integers(low, high + 1))
    classes = rng.choice(len(CLASSES), count, p=_class_probabilities(settings.rarity))
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
        key=(settings.seed, stream, number),
        labels=tuple(labels.tolist()),
        events=tuple((float(first[i]), float(last[i]), int(classes[i])) for i in order),
        snr_db=tuple(snr[order].tolist()),
        level_db=settings.level_db,
    )


def render(scene: Scene) -> np.ndarray:
    """The sound of a scene: int16 [160000]."""
    seed, stream, number = scene.key
    rng = np.random.default_rng([seed, stream, number, 1])
    level = np.float32(10 ** (rng.uniform(*scene.level_db) / 20))
    clip = synthetic_sounds.noise(
        synthetic_sounds.noise_beds(2 * seed + stream), rng, _CLIP_SAMPLES
    )
    for (onset, offset, label), snr in zip(scene.events, scene.snr_db, strict=True):
        start, stop = round(onset * SAMPLE_RATE), round(offset * SAMPLE_RATE)
        sound = synthetic_sounds.event(CLASSES[label], rng, stop - start)
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

    def __init__(
        self,
        *,
        full_clips: int = 4000,
        balanced_clips: int = 400,
        eval_clips: int = 600,
        scenes: SceneSettings | None = None,
    ):
        """Raises UserError for sizes that cannot be."""
        if balanced_clips > full_clips:
            raise UserError(
                "soundscapes: the split balanced is a subset of full, got "
                f"full_clips={full_clips} and balanced_clips={balanced_clips}"
            )
        self.scenes = scenes or SceneSettings()
        self._sizes = (full_clips, balanced_clips, eval_clips)
        self.classes = self.class_ids = CLASSES
        self.has_events = True
        self.problems = []
        names = ("full_clips", "balanced_clips", "eval_clips")
        self.settings = dataclasses.asdict(self.scenes) | dict(zip(names, self._sizes, strict=True))

    def rows(self) -> Mapping[str, Sequence[Scene]]:
        full_clips, balanced_clips, eval_clips = self._sizes
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
        for key in (synthetic_sounds.EVENT_NOISE, 2 * seed + _TRAIN, 2 * seed + _EVAL):
            synthetic_sounds.noise_beds(key)  # here once, not by each worker at the same time
        return load_scene


@functools.cache
def _class_probabilities(rarity: float) -> Any:
    weights = {name: (k + 1) ** -rarity for k, name in enumerate(synthetic_sounds.SOUNDS)}
    ordered = np.array([weights[name] for name in CLASSES])
    return ordered / ordered.sum()
