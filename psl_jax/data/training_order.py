"""Which segments each batch of training has: a pure function of (seed, step, process)."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator

import numpy as np

from psl_jax.data.clip_index import ClipIndex
from psl_jax.data.segment_loader import Segments
from psl_jax.data.source import SHARDS_AT_ONCE
from psl_jax.runtime.errors import UserError

SAMPLINGS = ("uniform", "balanced", "weighted")
# Of the orders below: a run that was begun with another one cannot go on with these.
VERSION = 2
_MIXING, _DRAWS = 1, 2  # what random numbers are for, besides an epoch's permutation


@dataclasses.dataclass(frozen=True)
class TrainingOrder:
    """The segments that one process trains on, batch after batch, without end.

    sampling:
      "uniform"   every segment of every clip once an epoch. Batches straddle epochs.
      "balanced"  the clips that the class queue draws, in its order, each with a random segment.
      "weighted"  clips drawn with replacement by weight (see `clip_weights`); random segments.

    Processes are dealt the segments one by one: a batch of all of them is one of a single process.
    streamed: a uniform epoch takes shard after shard, in random order, and mixes the segments of
    SHARDS_AT_ONCE; each process has a stretch of them. For `ClipStream`.
    """

    batch_size: int  # this process's share of the batch
    seed: int
    sampling: str = "uniform"
    streamed: bool = False
    process_index: int = 0
    process_count: int = 1

    def __post_init__(self) -> None:
        has_share = self.batch_size > 0 and 0 <= self.process_index < self.process_count
        if not has_share or self.sampling not in SAMPLINGS:
            raise ValueError(str(self))

    @property
    def description(self) -> str:
        """What of it must stay while a run is trained, besides its settings."""
        kind = "streamed" if self.streamed and self.sampling == "uniform" else "by number"
        return f"{kind}, version {VERSION}"

    def epoch_size(self, segments: Segments) -> int:
        """Segments that each process sees in an epoch, rounded up: all make as many steps."""
        return -(-len(segments) // self.process_count)

    def batches(self, segments: Segments, start_step: int = 0) -> Iterator[np.ndarray]:
        """The segments of each batch from `start_step` on: int64 [batch]. Raises UserError."""
        if not len(segments):
            raise UserError(f"split {segments.source.index.split!r} has no clips")
        if self.sampling != "uniform":
            yield from self._draw(segments, start_step)
        waiting = np.empty(0, np.int64)
        for numbers in self.epochs(segments, start_step):
            waiting = np.concatenate([waiting, numbers])
            full = len(waiting) // self.batch_size * self.batch_size
            yield from waiting[:full].reshape(-1, self.batch_size)
            waiting = waiting[full:]

    def epochs(self, segments: Segments, start_step: int = 0) -> Iterator[np.ndarray]:
        """The numbers of this process's segments of each uniform epoch, from `start_step` on."""
        size = self.epoch_size(segments)
        first, done = divmod(start_step * self.batch_size, size)
        epoch = self._make_streamed_epoch if self.streamed else self._make_permuted_epoch
        yield epoch(segments, first)[done:]
        yield from (epoch(segments, number) for number in itertools.count(first + 1))

    def _make_permuted_epoch(self, segments: Segments, epoch: int) -> np.ndarray:
        order = np.random.default_rng([self.seed, epoch]).permutation(len(segments))
        places = np.arange(self.epoch_size(segments)) * self.process_count + self.process_index
        return order[places % len(segments)]

    def _make_streamed_epoch(self, segments: Segments, epoch: int) -> np.ndarray:
        index, size = segments.source.index, self.epoch_size(segments)
        shards = np.random.default_rng([self.seed, epoch]).permutation(len(index.shard_sizes))
        clips = [np.arange(*index.shard_offsets[shard : shard + 2]) for shard in shards]
        row = segments.of_clips(np.concatenate(clips))
        begin = min(self.process_index * len(row) // self.process_count, len(row) - size)
        numbers = row[begin : begin + size]
        # When its clip arrives, in groups of shards that are read at once; segments of a group are
        # spread over the time of a group. For example the 3rd of 4 clips of the first shard
        # arrives at 0.5, and its segments come between 0.5 and 1.5.
        clip, _ = segments.places(numbers)
        shard = index.shard_of(clip)
        group = np.cumsum(np.diff(shard, prepend=shard[:1]) != 0) // SHARDS_AT_ONCE
        arrival = (clip - index.shard_offsets[shard]) / index.shard_sizes[shard]
        rng = np.random.default_rng([self.seed, epoch, _MIXING, self.process_index])
        return numbers[np.argsort(group + arrival + rng.random(size), kind="stable")]

    def _draw(self, segments: Segments, start_step: int) -> Iterator[np.ndarray]:
        index = segments.source.index
        counts = np.diff(segments.firsts)
        if self.sampling == "balanced":
            queue = ClassQueue(index, self.seed)
        else:
            ends = np.cumsum(clip_weights(index))
            ends /= ends[-1]
        of_all = self.batch_size * self.process_count
        for step in itertools.count(start_step):
            mine = np.arange(self.process_index, of_all, self.process_count)
            random = np.random.default_rng([self.seed, step, _DRAWS]).random((2, of_all))[:, mine]
            if self.sampling == "balanced":
                clips = queue.clips(step * of_all + mine)
            else:
                clips = np.searchsorted(ends, random[0], "right")
            yield segments.firsts[clips] + (random[1] * counts[clips]).astype(np.int64)


_TURNS, _CLIPS = 0, 1  # what random numbers are for


class ClassQueue:
    """The class queue of PANNs (Kong et al. 2020, "balanced" sampling), a function of the draw.

    In each round every class that has clips gets one draw, in an order shuffled for the round. It
    takes the next clip of the class's own shuffled queue, which is shuffled again when it is used
    up, however many epochs that takes. Clips that hold nothing are a class, too.
    """

    def __init__(self, index: ClipIndex, seed: int):
        if not len(index.label_values):
            raise UserError(f"split {index.split!r} has no labels: balanced sampling needs some")
        order = np.argsort(index.label_values, kind="stable")
        clips = np.repeat(np.arange(len(index)), np.diff(index.label_offsets))[order]
        by_class = np.split(clips, np.cumsum(index.class_counts())[:-1])
        by_class.append(np.flatnonzero(index.holds_nothing))
        self._by_class = [clips for clips in by_class if len(clips)]
        self._seed = seed
        # Of the last round, and of each class: twice as many, so that none is dropped between its
        # turns when others are shuffled again.
        self._turns = functools.lru_cache(1)(self._shuffle_classes)
        self._queue = functools.lru_cache(2 * len(self._by_class))(self._shuffle_clips)

    def clips(self, draws: np.ndarray) -> np.ndarray:
        """The clips of the draws number `draws` [n]: int64 [n]. Fast for draws that follow."""
        clips = np.empty(len(draws), np.int64)
        for row, draw in enumerate(draws.tolist()):
            round_number, turn = divmod(draw, len(self._by_class))
            number = self._turns(round_number)[turn]
            shuffle, place = divmod(round_number, len(self._by_class[number]))
            clips[row] = self._queue(number, shuffle)[place]
        return clips

    def _shuffle_classes(self, round_number: int) -> list[int]:
        rng = np.random.default_rng([self._seed, _TURNS, round_number])
        order: list[int] = rng.permutation(len(self._by_class)).tolist()
        return order

    def _shuffle_clips(self, number: int, shuffle: int) -> np.ndarray:
        rng = np.random.default_rng([self._seed, _CLIPS, number, shuffle])
        return rng.permutation(self._by_class[number])


def clip_weights(index: ClipIndex) -> np.ndarray:
    """Weight of each clip, the sum over its labels of 1000 / (n_c + 100): float64 [clips].

    n_c: clips with label c; to hold nothing is a label. Raises UserError without any other.
    """
    weights = 1000.0 / (index.class_counts() + 100.0)
    clip = np.repeat(np.arange(len(index)), np.diff(index.label_offsets))
    of_clips = np.bincount(clip, weights=weights[index.label_values], minlength=len(index))
    if not of_clips.any():
        raise UserError(f"split {index.split!r} has no labels: weighted sampling needs some")
    of_clips[index.holds_nothing] = 1000.0 / (index.holds_nothing.sum() + 100.0)
    return of_clips
