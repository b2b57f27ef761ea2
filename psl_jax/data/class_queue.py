"""Which clip is drawn when, where clips are drawn by their classes. NumPy alone.

Draws are numbered over the whole run, epoch after epoch, before they are dealt to processes.
"""

import numpy as np

from psl_jax.data.clip_index import ClipIndex
from psl_jax.runtime.errors import UserError

_TURNS, _CLIPS = 0, 1  # what random numbers are for


class ClassQueue:
    """The class queue of PANNs (Kong et al. 2020, "balanced" sampling), a function of the draw.

    In each round every class that has clips gets one draw, in an order shuffled for the round. It
    takes the next clip of the class's own shuffled queue, which is shuffled again when it is used
    up, however many epochs that takes. So of two clips of a class neither is drawn twice more
    often than the other.
    """

    def __init__(self, index: ClipIndex, seed: int):
        """Raises UserError where no clip has a label."""
        order = np.argsort(index.label_values, kind="stable")
        clips = np.repeat(np.arange(len(index)), np.diff(index.label_offsets))[order]
        by_class = np.split(clips, np.cumsum(index.class_counts())[:-1])
        self._by_class = [clips for clips in by_class if len(clips)]
        self._seed = seed
        if not self._by_class:
            raise UserError(f"split {index.split!r} has no labels: balanced sampling needs some")
        # The last round's order of classes, and each class's queue, with their numbers.
        self._turns: tuple[int, list[int]] = (-1, [])
        self._queues: dict[int, tuple[int, np.ndarray]] = {}

    def clips(self, draws: np.ndarray) -> np.ndarray:
        """The clips of the draws number `draws` [n]: int64 [n]. Fast for draws that follow."""
        rounds, turns = np.divmod(draws, len(self._by_class))
        places = zip(rounds.tolist(), turns.tolist(), strict=True)
        return np.array([self._clip(*place) for place in places], np.int64)

    def _clip(self, round_number: int, turn: int) -> int:
        if self._turns[0] != round_number:
            rng = np.random.default_rng([self._seed, _TURNS, round_number])
            self._turns = round_number, rng.permutation(len(self._by_class)).tolist()
        number = self._turns[1][turn]
        clips = self._by_class[number]
        shuffle, place = divmod(round_number, len(clips))
        kept, queue = self._queues.get(number, (-1, clips))
        if kept != shuffle:
            queue = np.random.default_rng([self._seed, _CLIPS, number, shuffle]).permutation(clips)
            self._queues[number] = shuffle, queue
        return int(queue[place])


def clip_weights(index: ClipIndex) -> np.ndarray:
    """Weight of each clip, the sum over its labels of 1000 / (n_c + 100): float64 [clips].

    n_c are the clips with label c. Raises UserError where no clip has a label.
    """
    weights = 1000.0 / (index.class_counts() + 100.0)
    clip = np.repeat(np.arange(len(index)), np.diff(index.label_offsets))
    of_clips = np.bincount(clip, weights=weights[index.label_values], minlength=len(index))
    if not of_clips.any():
        raise UserError(f"split {index.split!r} has no labels: weighted sampling needs some")
    return of_clips
