"""Which segments each batch of training has: a pure function of (seed, step, process).

No state needs saving: a resumed run computes where it was.
"""

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np

from psl_jax.data.class_queue import ClassQueue, clip_weights
from psl_jax.data.clip_stream import SHARDS_AT_ONCE
from psl_jax.data.segment_loader import Segments
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
    batch_size: this process's share of the batch.
    """

    batch_size: int
    seed: int
    sampling: str = "uniform"
    streamed: bool = False
    process_index: int = 0
    process_count: int = 1

    def __post_init__(self) -> None:
        if self.sampling not in SAMPLINGS:
            expected = ", ".join(SAMPLINGS)
            raise UserError(f"sampling is {self.sampling!r}, expected one of {expected}")
        if self.batch_size < 1 or not 0 <= self.process_index < self.process_count:
            raise ValueError(str(self))

    @property
    def description(self) -> str:
        """What of it must stay while a run is trained, besides its settings."""
        kind = "streamed" if self.streamed and self.sampling == "uniform" else "by number"
        return f"{kind}, version {VERSION}"

    def epoch_size(self, segments: Segments) -> int:
        """Segments that each process sees in an epoch, whatever the sampling.

        It is the number of segments over the processes, rounded up: then neighbouring processes
        share one, so that all make the same number of steps.
        """
        return -(-len(segments) // self.process_count)

    def batches(self, segments: Segments, start_step: int = 0) -> Iterator[np.ndarray]:
        """The numbers of the segments of each batch from `start_step` on: int64 [batch].

        Raises UserError if there is nothing to draw.
        """
        if not len(segments):
            raise UserError(f"split {segments.source.index.split!r} has no clips")
        if self.sampling != "uniform":
            yield from self._drawn(segments, start_step)
        waiting = np.empty(0, np.int64)
        for numbers in self.epochs(segments, start_step):
            waiting = np.concatenate([waiting, numbers])
            full = len(waiting) // self.batch_size * self.batch_size
            yield from waiting[:full].reshape(-1, self.batch_size)
            waiting = waiting[full:]

    def epochs(self, segments: Segments, start_step: int = 0) -> Iterator[np.ndarray]:
        """The numbers of this process's segments of each uniform epoch: int64 [n].

        Of the first one those from `start_step` on.
        """
        size = self.epoch_size(segments)
        first, done = divmod(start_step * self.batch_size, size)
        epoch = self._streamed_epoch if self.streamed else self._permuted_epoch
        yield epoch(segments, first)[done:]
        yield from (epoch(segments, number) for number in itertools.count(first + 1))

    def _permuted_epoch(self, segments: Segments, epoch: int) -> np.ndarray:
        order = np.random.default_rng([self.seed, epoch]).permutation(len(segments))
        places = np.arange(self.epoch_size(segments)) * self.process_count + self.process_index
        return order[places % len(segments)]

    def _streamed_epoch(self, segments: Segments, epoch: int) -> np.ndarray:
        index, size = segments.source.index, self.epoch_size(segments)
        shards = np.random.default_rng([self.seed, epoch]).permutation(len(index.shard_sizes))
        clips = [np.arange(*index.shard_offsets[shard : shard + 2]) for shard in shards]
        row = segments.of_clips(np.concatenate(clips))
        begin = min(self.process_index * len(row) // self.process_count, len(row) - size)
        own = row[begin : begin + size]
        # When its clip arrives, in groups of shards that are read at once; segments of a group are
        # spread over the time of a group. For example the 3rd of 4 clips of the first shard
        # arrives at 0.5, and its segments come between 0.5 and 1.5.
        clip, _ = segments.places(own)
        shard = index.shard_of(clip)
        group = np.cumsum(np.diff(shard, prepend=shard[:1]) != 0) // SHARDS_AT_ONCE
        arrival = (clip - index.shard_offsets[shard]) / index.shard_sizes[shard]
        rng = np.random.default_rng([self.seed, epoch, _MIXING, self.process_index])
        return own[np.argsort(group + arrival + rng.random(size), kind="stable")]

    def _drawn(self, segments: Segments, start_step: int) -> Iterator[np.ndarray]:
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
