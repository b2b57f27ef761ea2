"""Windows of whole clips read by tf.data: its threads read, check and parse the records.

For file systems that TensorFlow knows (`gs://...`), where many reads have to be under way at a
time, and wherever `config.data.reader` asks for it. Which records are read and where they go is
decided by the plan in `sampling`; tf.data's own order does not matter.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from psl_jax.data.clip_index import ClipIndex
from psl_jax.data.sampling import Window
from psl_jax.runtime.quiet_tensorflow import tensorflow_quietly

_BATCH = 16  # records parsed at once
_MOST_ANNOUNCED = 8  # windows; two are
_END = -1  # of a window, where parts have the number of their first row
_READ_BYTES = 8 << 20  # of a file at once: few requests to a bucket
_SAMPLE_BYTES = 2


class TfDataReader:
    """Reads windows in the order in which they were announced, ahead of their use.

    Memory besides the windows: a few batches of records, and 8 MB of each file that is read.
    """

    def __init__(self, paths: Sequence[str], index: ClipIndex, threads: int):
        """`threads` files are read at a time."""
        self.index = index
        tf = tensorflow_quietly()
        # One of TensorFlow's: its threads do not have to wait for Python.
        self._announced = tf.queue.FIFOQueue(_MOST_ANNOUNCED, [tf.int64])
        self._parts = iter(_dataset(paths, self._announced, threads))
        self._failed = False

    def close(self) -> None:
        """Ends tf.data's thread, which would wait for further windows."""
        self._announced.close(cancel_pending_enqueues=True)

    def takes(self, window: Window) -> bool:
        """Whether a window is one of whole clips, most of them neighbours on disk.

        tf.data reads files from their beginning: single clips here and there it cannot find.
        """
        if window.starts.any() or (np.diff(window.clips) == 0).any():
            return False
        parts = stretches(window, self.index)
        return parts.shape[1] <= 2 * len(np.unique(parts[0]))

    def announce(self, window: Window) -> None:
        """Begins to read a window."""
        self._announced.enqueue(stretches(window, self.index))

    def fill(self, window: Window, rows: Sequence[np.ndarray]) -> bool:
        """Fills `rows`, int16 [capacity] each, with the next announced window.

        False where a shard is damaged, missing or of other data, for this window and all after
        it: tf.data does not say which shard it is.
        """
        left, errors = len(rows), tensorflow_quietly().errors
        while not self._failed:
            try:
                part = next(self._parts, None)
            except errors.OpError:
                part = None
            if part is not None and int(part[0]) == _END:
                self._failed = left > 0
                break
            count = 0 if part is None else self._copy(part, window, rows)
            self._failed, left = not count, left - count
        return not self._failed

    def _copy(self, part: Any, window: Window, rows: Sequence[np.ndarray]) -> int:
        """Copies a part into its rows; returns how many, 0 where they are other clips."""
        first, ids, sizes, audio = (value.numpy() for value in part)
        clips = window.clips[first : first + len(ids)]
        lengths = self.index.num_samples[clips]
        named = [name.decode(errors="replace") for name in ids]
        if named != self.index.ids[clips].tolist() or (sizes != _SAMPLE_BYTES * lengths).any():
            return 0
        for row, one, length in zip(
            rows[first : first + len(ids)], audio, lengths.tolist(), strict=True
        ):
            row[:length] = one[:length]
            row[length:] = 0
        return len(ids)


def stretches(window: Window, index: ClipIndex) -> np.ndarray:
    """The neighbours on disk among a window's clips.

    int64 [4, n]: of each stretch its shard, first record there, number of records and first row.
    """
    shards = index.shard_of(window.clips)
    begins = np.flatnonzero(np.diff(window.clips, prepend=-2) != 1)
    begins = np.union1d(begins, np.flatnonzero(np.diff(shards, prepend=-1)))
    counts = np.diff(np.append(begins, len(shards)))
    first = window.clips[begins] - index.shard_offsets[shards[begins]]
    return np.stack([shards[begins], first, counts, begins]).astype(np.int64)


def _dataset(paths: Sequence[str], announced: Any, threads: int) -> Any:
    """Yields (first row, ids [n], bytes of audio [n], audio int16 [n, samples]) of n clips.

    After the last of a window (_END, and nothing).
    """
    tf = tensorflow_quietly()
    names = tf.constant(list(paths))
    features = {name: tf.io.FixedLenFeature([], tf.string) for name in ("id", "audio")}

    def parse(row: Any, records: Any) -> tuple[Any, ...]:
        parsed = tf.io.parse_example(records, features)
        sizes = tf.strings.length(parsed["audio"])
        longest = tf.reduce_max(sizes)
        longest = tf.maximum(longest + longest % _SAMPLE_BYTES, _SAMPLE_BYTES)
        audio = tf.io.decode_raw(parsed["audio"], tf.int16, fixed_length=longest)
        return row, parsed["id"], sizes, audio

    def stretch(part: Any) -> Any:
        shard, first, count, row = tf.unstack(part)
        records = tf.data.TFRecordDataset(tf.gather(names, shard), buffer_size=_READ_BYTES)
        batches = records.skip(first).take(count).batch(_BATCH).enumerate()
        return batches.map(lambda number, values: parse(row + number * _BATCH, values))

    def window(parts: Any) -> Any:
        # Any order will do: each batch says where it belongs.
        return tf.data.Dataset.from_tensor_slices(tf.transpose(parts)).interleave(
            stretch, cycle_length=threads, num_parallel_calls=threads, deterministic=False
        )

    # Without it a shard that is too short would be waited for.
    nothing = tf.zeros([0], tf.string), tf.zeros([0], tf.int32), tf.zeros([0, 0], tf.int16)
    end = tf.data.Dataset.from_tensors((tf.constant(_END, tf.int64), *nothing))
    windows = tf.data.Dataset.counter().map(
        lambda _: tf.ensure_shape(announced.dequeue(), [4, None])
    )
    options = tf.data.Options()
    options.threading.private_threadpool_size = threads  # training needs the cores as well
    options.autotune.enabled = False  # it would take memory for buffers of its own
    # TensorFlow 2.21 crashes in them over counts to skip and take that are not constants.
    options.experimental_optimization.apply_default_optimizations = False
    options.experimental_optimization.noop_elimination = False
    return (
        windows.flat_map(lambda parts: window(parts).concatenate(end))
        .prefetch(2)
        .with_options(options)
    )
