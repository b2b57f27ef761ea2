"""Which clip is drawn when, in epochs that do not take every segment once. NumPy alone.

The order is that of the whole run, before it is dealt to processes.
"""

import numpy as np

from psl_jax.data.clip_index import ClipIndex
from psl_jax.runtime.errors import UserError


def class_queue(index: ClipIndex, draws: int, rng: np.random.Generator) -> np.ndarray:
    """The clips that the class queue of PANNs draws, one after the other: int64 [draws].

    The queue (Kong et al. 2020, "balanced" sampling) goes round the classes in an order that is
    shuffled for every round, and takes from each the next clip of the class's own shuffled queue,
    reshuffled when it is used up. Classes without clips are passed over.

    Raises UserError where no clip has a label.
    """
    order = np.argsort(index.label_values, kind="stable")
    clips = np.repeat(np.arange(len(index)), np.diff(index.label_offsets))[order]
    by_class = np.split(clips, np.cumsum(index.class_counts())[:-1])
    queues = [clips for clips in by_class if len(clips)]
    if not queues:
        raise UserError(f"split {index.split!r} has no labels: balanced sampling needs some")
    rounds = -(-draws // len(queues))
    turns = np.tile(np.arange(len(queues)), (rounds, 1))
    turns = rng.permuted(turns, axis=1)  # [rounds, classes]: whose turn it is
    drawn = np.stack([_shuffled_queue(queue, rounds, rng) for queue in queues])
    return drawn[turns, np.arange(rounds)[:, None]].ravel()[:draws]


def _shuffled_queue(clips: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
    """The clips in random order, again and again, each time in another one: int64 [length]."""
    times = -(-length // len(clips))
    return rng.permuted(np.tile(clips, (times, 1)), axis=1).ravel()[:length]


def by_weight(
    index: ClipIndex, draws: int, rng: np.random.Generator, wanted: np.ndarray
) -> np.ndarray:
    """Of so many clips drawn with replacement by their weight those `wanted`: int64 [wanted].

    A clip weighs the sum over its labels of 1000 / (n_c + 100), n_c being the clips with label c.
    wanted: numbers of draws, int [wanted]. The others are not looked up, which is what takes the
    time: of the full AudioSet 4 s an epoch. Raises UserError where no clip has a label.
    """
    ends = np.cumsum(clip_weights(index))
    if not ends[-1]:
        raise UserError(f"split {index.split!r} has no labels: weighted sampling needs some")
    return np.searchsorted(ends / ends[-1], rng.random(draws)[wanted], "right")


def clip_weights(index: ClipIndex) -> np.ndarray:
    """Weight of each clip, the sum over its labels of 1000 / (n_c + 100): float64 [clips]."""
    weights = 1000.0 / (index.class_counts() + 100.0)
    clip = np.repeat(np.arange(len(index)), np.diff(index.label_offsets))
    return np.bincount(clip, weights=weights[index.label_values], minlength=len(index))
