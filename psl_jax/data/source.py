"""A split as TFRecord shards, of which any part of any clip is read; or whole shards are streamed.

tf.data streams shards from their beginning to their end, several at a time: what a bucket does
best, and a disk that seeks. The order of segments is decided elsewhere (`training_order`); clips
wait until it wants them.
"""

import contextlib
import copy
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from psl_jax.audio.segments import tick_shape
from psl_jax.data import record_files, split_index_files
from psl_jax.data.clip_index import ClipIndex, joined
from psl_jax.runtime import files, run_files
from psl_jax.runtime import paths as path_lib
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.quiet_tensorflow import tensorflow_quietly

_MOST_OPEN = 256  # shards

SHARDS_AT_ONCE = 8  # that are streamed
_STREAMED_BYTES = 8 << 20  # of a file at once: few requests to a bucket
_RECORDS_AHEAD = 64


class Source:
    """The clips of a split. Threads may read at the same time."""

    is_remote = False  # in a bucket
    is_streamed = False  # tf.data reads whole shards where the order allows it
    can_stream = False  # TensorFlow reads the shards; from s3:// the same is read by number
    tick_shape: tuple[int, ...] = ()  # of its audio, see `audio.segments`

    def __init__(
        self, paths: Sequence[str | os.PathLike[str]], index: ClipIndex, is_streamed: bool = False
    ):
        assert index.record_bytes is not None, index.split  # `load_index` sees to it
        self.index, self.paths = index, [os.fspath(path) for path in paths]
        self._record_bytes = index.record_bytes
        self.is_remote = any(map(path_lib.is_remote, self.paths))
        from_gs = self.is_remote and all(path.startswith("gs://") for path in self.paths)
        self.is_streamed = is_streamed or from_gs
        self.can_stream = from_gs or not self.is_remote
        self.tick_shape = tick_shape(index.sample_rate)
        self._open: dict[int, _Shard] = {}
        self._verified: dict[int, tuple[int, ...]] = {}  # `_Shard.identity`, by shard

    @classmethod
    def open(
        cls, data_dir: str | os.PathLike[str], split: str, is_streamed: bool = False
    ) -> "Source":
        """The split of a data directory written by `prepare`; or several, as in "fold1+fold2"."""
        splits = split.split("+")
        paths = [path for name in splits for path in split_index_files.shard_paths(data_dir, name)]
        indices = [split_index_files.load_index(data_dir, name) for name in splits]
        index = indices[0] if len(indices) == 1 else joined(indices)
        return cls(paths, index, is_streamed)

    def with_index(self, index: ClipIndex) -> "Source":
        """The same clips with other labels."""
        other = copy.copy(self)
        other.index = index
        return other

    def read(
        self, clips: np.ndarray, starts: np.ndarray, counts: np.ndarray, rows: np.ndarray
    ) -> None:
        """Reads `counts[i]` ticks of clip `clips[i]` from `starts[i]` on into `rows[i]`.

        rows: int16 [n, ticks, *tick_shape], contiguous. Nothing but these bytes is read, so that no
        checksum is verified. Raises UserError, naming the shard, for a damaged or missing one.
        """
        shards, width = self.index.shard_of(clips), self.index.bytes_per_tick
        places = self.index.audio_places[clips] + width * starts
        sizes = width * counts.astype(np.int64)
        if self.is_remote:
            for row, data in zip(rows, self._read_ranges(shards, places, sizes), strict=True):
                row.reshape(-1)[: len(data) // 2] = np.frombuffer(data, "<i2")
            return
        ranges = zip(shards.tolist(), places.tolist(), sizes.tolist(), strict=True)
        target = rows.reshape(-1).view(np.uint8).data  # slices of it are made faster than rows
        begins = range(0, rows.nbytes, rows.strides[0])
        on_disk = []  # the disk reads them at once, while memory is read
        for begin, (shard, place, size) in zip(begins, ranges, strict=True):
            row = target[begin : begin + size]
            if not self._read_into(row, shard, place, waits=False):
                on_disk.append((row, shard, place))
        for row, shard, place in on_disk:
            self._read_into(row, shard, place)

    def read_whole(self, clips: np.ndarray) -> Iterator[np.ndarray]:
        """The verified audio of `clips` [n]: int16 [ticks, *tick_shape] each. Raises UserError."""
        index, shards = self.index, self.index.shard_of(clips)
        places, sizes = index.record_places[clips], self._record_bytes[clips]
        records = self._read_ranges(shards, places, sizes)
        for clip, shard, record in zip(clips.tolist(), shards.tolist(), records, strict=True):
            number = clip - int(index.shard_offsets[shard])
            try:
                content = record_files.record_content(record, number)
            except record_files.DamagedRecordError as error:
                raise self._damaged(shard, error) from error
            yield self.checked_audio(clip, content)

    def _read_ranges(
        self, shards: np.ndarray, places: np.ndarray, sizes: np.ndarray
    ) -> Iterator[bytes | memoryview]:
        """The bytes [sizes[i]] at each place."""
        ranges = zip(shards.tolist(), places.tolist(), sizes.tolist(), strict=True)
        if not self.is_remote:
            for shard, place, size in ranges:
                data = np.empty(size, np.uint8).data
                self._read_into(data, shard, place)
                yield data
            return
        paths = [self.paths[shard] for shard in shards]
        read = path_lib.read_ranges(paths, places.tolist(), (places + sizes).tolist())
        for content, (shard, place, size) in zip(read, ranges, strict=True):
            if len(content) != size:
                raise self._damaged(shard, f"it ends before byte {place + size}")
            yield content

    def _read_into(self, target: memoryview, shard: int, place: int, *, waits: bool = True) -> bool:
        """Fills `target`; unless it `waits`, only from memory. Whether it is filled."""
        try:
            file = self._open.get(shard) or self._open_shard(shard)
            if not waits:
                return file.read_from_memory(target, place)
            file.read_into(target, place)
            return True
        except (record_files.DamagedRecordError, OSError) as error:
            raise self._damaged(shard, error) from error

    def _open_shard(self, shard: int) -> "_Shard":
        """Opens a shard, and checks its size and first clip: a swapped or cut one is noticed.

        The clip is verified once: splits of more shards than stay open are opened all the time.
        """
        file, index = _Shard(self.paths[shard]), self.index
        first, end = index.shard_offsets[shard : shard + 2].tolist()
        size = int(index.record_places[end - 1] + self._record_bytes[end - 1])
        if file.size != size:
            raise record_files.DamagedRecordError(f"it has {file.size} bytes, expected {size}")
        if self._verified.get(shard) != file.identity:
            record = np.empty(int(self._record_bytes[first]), np.uint8).data
            file.read_into(record, 0)
            self.checked_audio(first, record_files.record_content(record, 0))
            self._verified[shard] = file.identity
        while len(self._open) >= _MOST_OPEN:  # threads that read it keep it open
            with contextlib.suppress(KeyError, RuntimeError):
                del self._open[next(iter(self._open))]
        self._open[shard] = file
        return file

    def checked_audio(self, clip: int, content: bytes | memoryview) -> np.ndarray:
        """The audio of a clip in its record's contents. Raises UserError for another clip's."""
        shard, index = int(self.index.shard_of(clip)), self.index
        try:
            features = record_files.parse_example(content)
            name, audio = record_files.single_values(features, ("id", "audio"))
        except record_files.DamagedRecordError as error:
            raise self._damaged(shard, error) from error
        clip_id, samples = bytes(name).decode(errors="replace"), int(index.num_samples[clip])
        start = int(index.audio_places[clip] - index.record_places[clip])
        if clip_id != index.ids[clip] or len(audio) != index.bytes_per_tick * samples:
            what = f"clip {clip_id!r} of {len(audio) / index.bytes_per_tick:g} samples"
        elif features["audio"].start + record_files.HEADER_BYTES != start:
            what = f"the audio of clip {clip_id!r} in another place"
        else:
            return np.frombuffer(audio, "<i2").reshape(-1, *self.tick_shape)
        raise UserError(
            f"{self.paths[shard]}: holds {what} where the index has {str(index.ids[clip])!r} of "
            f"{samples}; the index is of other data: delete the index file and prepare the data "
            "again"
        )

    def _damaged(self, shard: int, error: object) -> UserError:
        return UserError(
            f"{self.paths[shard]}: damaged clip shard ({error}): {split_index_files.REMEDY}"
        )


def open_folder(
    folder: str | os.PathLike[str], split: str, *, run: str | os.PathLike[str] | None = None
) -> Source:
    """A split of the prepared data set that `folder` is or has below it. Raises UserError.

    run: a model; of several data sets the one is taken that its run folder was made with.
    """
    data_dirs = split_index_files.find_data_dirs(folder)
    if run is not None and len(data_dirs) > 1:
        of_run = [data_dir for data_dir in data_dirs if _is_data_of(run, data_dir=data_dir)]
        if len(of_run) == 1:
            print(
                f"note: {folder} holds {len(data_dirs)} prepared data sets; {run} was made with "
                f"{of_run[0]}, which is used"
            )
            return Source.open(of_run[0], split)
    return Source.open(split_index_files.find_data_dir(folder), split)


def _is_data_of(run: str | os.PathLike[str], *, data_dir: str) -> bool:
    """Whether all splits that a run folder was made with are those of a data set."""
    made_with = files.find_json(path_lib.path_of(run) / run_files.DATA) or {}
    splits = {name: noted for name, noted in made_with.items() if isinstance(noted, dict)}
    for name, noted in splits.items():
        try:
            index = Source.open(data_dir, name).index
        except UserError:  # no such split
            return False
        if any(noted.get(key) != getattr(index, key) for key in ("ids_sha256", "labels_sha256")):
            return False
    return bool(splits)


class _Shard:
    """An open file, closed when nobody has it any more."""

    def __init__(self, path: str):
        self._file = os.open(path, os.O_RDONLY)
        status = os.fstat(self._file)
        self.size = status.st_size
        # Another file under the same name differs in it.
        self.identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)

    def read_from_memory(self, target: memoryview, place: int) -> bool:
        """Fills `target` if the system has its bytes in memory; else has the disk begin to read.

        Returns whether it is filled. Elsewhere than on Linux it never is.
        """
        if sys.platform != "linux":
            return False
        try:
            if os.preadv(self._file, [target], place, os.RWF_NOWAIT) == len(target):
                return True
        except OSError:  # not in memory, or this file system cannot tell
            pass
        os.posix_fadvise(self._file, place, len(target), os.POSIX_FADV_WILLNEED)
        return False

    def read_into(self, target: memoryview, place: int) -> None:
        """Fills `target` with what begins at `place`."""
        while len(target):
            count = os.preadv(self._file, [target], place)
            if not count:
                raise record_files.DamagedRecordError(f"it ends before byte {place}")
            target, place = target[count:], place + count


# --- Whole shards ---------------------------------------------------------------------------------


class ClipStream:
    """Reads the clips of segments in the order in which these were announced.

    Memory: clips whose segments are still to come, of a streamed order those of SHARDS_AT_ONCE
    shards; and _STREAMED_BYTES of each file that is read.
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
                self._begin_order(next(self._orders))
            row[:count] = self._find_clip(clip)[start : start + count]
            self._left -= 1
            self._uses[clip] -= 1
            if not self._uses[clip]:
                del self._held[clip]

    def _begin_order(self, clips: np.ndarray) -> None:
        self._left = len(clips)
        numbers, uses = np.unique(clips, return_counts=True)
        self._uses = dict(zip(numbers.tolist(), uses.tolist(), strict=True))
        self._records = iter(_open_dataset(self._source, clips))

    def _find_clip(self, clip: int) -> np.ndarray:
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


def _open_dataset(source: Source, clips: np.ndarray) -> Any:
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
        records = tf.data.TFRecordDataset(path, buffer_size=_STREAMED_BYTES)
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
