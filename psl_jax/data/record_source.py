"""Clips streamed from the TFRecord shards that `prepare` writes."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from psl_jax.data import record_files
from psl_jax.data.clip_index import ClipIndex, joined
from psl_jax.data.sampling import Window
from psl_jax.data.sources import LoadedWindow, read_ahead
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import is_remote, path_of

LOCAL_THREADS = 2  # more gain nothing, and training needs the cores as well
REMOTE_THREADS = 16  # that mostly wait


class TFRecordSource:
    """A split as TFRecord shards: the `Source` for data of any size.

    While one window is used the next is read by `threads` threads: directly, each record going from
    its file into its row of the window, or by tf.data (`TfDataReader`). Memory is as stated in
    `Source.read`, whatever the corpus's size, and one record per thread.
    """

    def __init__(
        self,
        paths: Sequence[str | os.PathLike],
        index: ClipIndex,
        threads: int = 0,
        reader: str = "auto",
    ):
        """`paths`: the shards, in the order of `index.shard_sizes`.

        threads, reader: see `DataSettings`.
        """
        if len(paths) != len(index.shard_sizes):
            raise UserError(
                f"split {index.split!r} has {len(paths)} shards, but its index knows "
                f"{len(index.shard_sizes)}; delete the index file and prepare the data again"
            )
        self.paths, self.index = [os.fspath(path) for path in paths], index
        self.reader = reader
        self.threads = threads or (LOCAL_THREADS if self._is_local else REMOTE_THREADS)
        self._places: dict[int, np.ndarray | None] = {}  # by shard

    @classmethod
    def open(
        cls, data_dir: str | os.PathLike, split: str, threads: int = 0, reader: str = "auto"
    ) -> "TFRecordSource":
        """The split of a data directory written by `prepare`; or several, as in "fold1+fold2"."""
        from psl_jax.data import index_files

        splits = split.split("+")
        paths = [path for one in splits for path in index_files.shard_paths(data_dir, one)]
        indices = [index_files.load_index(data_dir, one) for one in splits]
        return cls(paths, indices[0] if len(indices) == 1 else joined(indices), threads, reader)

    @property
    def _is_local(self) -> bool:
        return not any("://" in path for path in self.paths)

    def read(self, windows: Iterable[Window]) -> Iterator[LoadedWindow]:
        """See `Source.read`. Raises UserError, naming the shard, for a damaged or missing one."""
        if self.reader == "direct" or (self.reader == "auto" and self._is_local):
            return read_ahead(self._fill, windows)
        return self._read_with_tf_data(windows)

    def _read_with_tf_data(self, windows: Iterable[Window]) -> Iterator[LoadedWindow]:
        from psl_jax.data.tf_data_reader import TfDataReader

        with contextlib.closing(TfDataReader(self.paths, self.index, self.threads)) as reader:

            def announced() -> Iterator[Window]:
                for window in windows:
                    if reader.takes(window):
                        reader.announce(window)
                    yield window

            def fill(window: Window, rows: list[np.ndarray]) -> None:
                # Where it fails, reading shard by shard finds the one to blame.
                if not (reader.takes(window) and reader.fill(window, rows)):
                    self._fill(window, rows)

            yield from read_ahead(fill, announced())

    def _fill(self, window: Window, rows: list[np.ndarray]) -> None:
        shards = self.index.shard_of(window.clips)
        ends = np.append(np.flatnonzero(np.diff(shards)) + 1, len(shards))
        with ThreadPoolExecutor(self.threads) as pool:
            parts = [slice(low, high) for low, high in zip([0, *ends[:-1]], ends, strict=True)]
            tasks = [
                pool.submit(
                    self._fill_shard,
                    rows[part],
                    int(shards[part.start]),
                    window.clips[part],
                    window.starts[part],
                )
                for part in parts
            ]
            for task in tasks:
                task.result()

    def _fill_shard(
        self, rows: list[np.ndarray], shard: int, clips: np.ndarray, starts: np.ndarray
    ) -> None:
        """Reads `clips` [n] of one shard, from the samples `starts` on, into `rows`."""
        path = self.paths[shard]
        positions = clips - self.index.shard_offsets[shard]
        ids = self.index.ids[clips].tolist()
        lengths = self.index.num_samples[clips].tolist()
        try:
            # Of a few clips far apart the way over all before them costs more than a jump.
            places = self._places_of(shard) if starts.any() or self._is_sparse(positions) else None
            found = record_files.read_audio(path, positions.tolist(), rows, starts.tolist(), places)
            for row, clip_id, start, length, (found_id, num_bytes) in zip(
                rows, ids, starts.tolist(), lengths, found, strict=True
            ):
                self._check(path, found_id, clip_id, num_bytes, length)
                row[max(length - start, 0) :] = 0
        except (record_files.DamagedFileError, OSError) as error:
            if is_remote(path):
                path_of(path).exists()  # raises where it is the bucket that is not reached
            raise UserError(
                f"{path}: damaged clip shard ({error}); prepare the data again, or copy the "
                "shard again if it was copied"
            ) from error

    @staticmethod
    def _is_sparse(positions: np.ndarray) -> bool:
        return len(positions) < 0.5 * (positions[-1] + 1)

    def _places_of(self, shard: int) -> np.ndarray | None:
        """Where the records of a shard begin, where that is known; found out once, and kept."""
        if shard not in self._places and self.index.record_bytes is not None:
            low, high = self.index.shard_offsets[shard : shard + 2]
            ends = np.cumsum(self.index.record_bytes[low:high])
            self._places[shard] = ends - self.index.record_bytes[low:high]
        if shard not in self._places:
            self._places[shard] = record_files.record_places(self.paths[shard])
        return self._places[shard]

    @staticmethod
    def _check(path: str, found_id: str | None, clip_id: str, num_bytes: int, length: int) -> None:
        if found_id not in (clip_id, None) or num_bytes != 2 * length:
            name = "another clip" if found_id is None else f"clip {found_id!r}"
            raise UserError(
                f"{path}: holds {name} of {num_bytes / 2:g} "
                f"samples where the index has {clip_id!r} of {length}; the index is of other data: "
                "delete the index file and prepare the data again"
            )
