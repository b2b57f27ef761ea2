"""Clips streamed from whole shards by tf.data, for orders that take neighbours about together.

Files are read from their beginning to their end, several at a time: what a bucket does best, and a
disk that seeks. The order of segments is decided elsewhere; here clips wait until it wants them.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from psl_jax.data.source import Source
from psl_jax.runtime.quiet_tensorflow import tensorflow_quietly

SHARDS_AT_ONCE = 8
_READ_BYTES = 8 << 20  # of a file at once: few requests to a bucket
_RECORDS_AHEAD = 64


class ClipStream:
    """Reads the clips of segments in the order in which these were announced.

    Memory: clips whose segments are still to come, of a streamed order those of SHARDS_AT_ONCE
    shards; and _READ_BYTES of each file that is read.
    """

    def __init__(self, source: Source, orders: Iterable[np.ndarray]):
        """orders: the clips of the segments that will be read, int64 [n] for each pass."""
        self._source, self._orders = source, iter(orders)
        self._left = 0  # segments of this order
        self._uses: dict[int, int] = {}  # by clip: how many of its segments are to come
        self._held: dict[int, np.ndarray] = {}
        self._records: Iterator[Any] = iter(())

    def read(
        self, clips: np.ndarray, starts: np.ndarray, counts: np.ndarray, rows: np.ndarray
    ) -> None:
        """See `Source.read`; here records are verified. Not for several threads."""
        places = zip(clips.tolist(), starts.tolist(), counts.tolist(), strict=True)
        for row, (clip, start, count) in zip(rows, places, strict=True):
            while not self._left:
                self._begin(next(self._orders))
            row[:count] = self._clip(clip)[start : start + count]
            self._left -= 1
            self._uses[clip] -= 1
            if not self._uses[clip]:
                del self._held[clip]

    def _begin(self, clips: np.ndarray) -> None:
        self._left = len(clips)
        numbers, uses = np.unique(clips, return_counts=True)
        self._uses = dict(zip(numbers.tolist(), uses.tolist(), strict=True))
        self._records = iter(_dataset(self._source, clips))

    def _clip(self, clip: int) -> np.ndarray:
        errors = tensorflow_quietly().errors
        while clip not in self._held:
            try:
                number, content = (value.numpy() for value in next(self._records))
            except (StopIteration, errors.OpError):
                # Which shard is damaged TensorFlow does not say: reading the clip itself does.
                self._held[clip] = next(self._source.read_whole(np.array([clip])))
                continue
            if int(number) in self._uses:
                self._held[int(number)] = self._source.checked_audio(int(number), content)
        return self._held[clip]


def _dataset(source: Source, clips: np.ndarray) -> Any:
    """Yields (clip, record) of the shards that `clips` need, in the order of their first use."""
    tf = tensorflow_quietly()
    shard_of, offsets = source.index.shard_of(clips), source.index.shard_offsets
    shards, first_use = np.unique(shard_of, return_index=True)
    low, high = np.full(len(offsets), len(source.index)), np.zeros(len(offsets), np.int64)
    np.minimum.at(low, shard_of, clips)
    np.maximum.at(high, shard_of, clips)
    shards = shards[np.argsort(first_use)]
    table = (
        [source.paths[shard] for shard in shards],
        low[shards] - offsets[shards],  # records to skip: before the first clip that is needed
        high[shards] - low[shards] + 1,
        low[shards],
    )

    def read(path: Any, skipped: Any, count: Any, clip: Any) -> Any:
        records = tf.data.TFRecordDataset(path, buffer_size=_READ_BYTES)
        return records.skip(skipped).take(count).enumerate(clip)

    options = tf.data.Options()
    options.deterministic = True
    options.threading.private_threadpool_size = SHARDS_AT_ONCE  # training needs the cores as well
    options.autotune.enabled = False  # it would take memory for buffers of its own
    # TensorFlow 2.21 crashes in them over counts to skip and take that are not constants.
    options.experimental_optimization.apply_default_optimizations = False
    options.experimental_optimization.noop_elimination = False
    return (
        tf.data.Dataset.from_tensor_slices(table)
        .interleave(read, cycle_length=SHARDS_AT_ONCE, num_parallel_calls=SHARDS_AT_ONCE)
        .prefetch(_RECORDS_AHEAD)
        .with_options(options)
    )
