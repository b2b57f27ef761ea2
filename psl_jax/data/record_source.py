"""Clips streamed from the TFRecord shards that `prepare` writes."""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from psl_jax.data import record_files
from psl_jax.data.clip_index import ClipIndex
from psl_jax.data.sampling import Window
from psl_jax.data.sources import LoadedWindow, read_ahead
from psl_jax.runtime.errors import UserError


class TFRecordSource:
    """A split as TFRecord shards: the `Source` for data of any size.

    While one window is used the next is read by `threads` threads, each record going from its
    file into its row of the window. Memory is as stated in `Source.read`, whatever the corpus's
    size, and one record per thread.
    """

    def __init__(self, paths: Sequence[str | os.PathLike], index: ClipIndex, threads: int = 2):
        """`paths`: the shards, in the order of `index.shard_sizes`."""
        if len(paths) != len(index.shard_sizes):
            raise UserError(
                f"split {index.split!r} has {len(paths)} shards, but its index knows "
                f"{len(index.shard_sizes)}; delete the index file and prepare the data again"
            )
        self.paths, self.index, self.threads = [os.fspath(path) for path in paths], index, threads

    @classmethod
    def open(cls, data_dir: str | os.PathLike, split: str, threads: int = 2) -> "TFRecordSource":
        """The split of a data directory written by `prepare`."""
        from psl_jax.data import index_files

        return cls(
            index_files.shard_paths(data_dir, split),
            index_files.load_index(data_dir, split),
            threads,
        )

    def read(self, windows: Iterable[Window]) -> Iterator[LoadedWindow]:
        """See `Source.read`. Raises UserError, naming the shard, for a damaged or missing one."""
        return read_ahead(self._fill, windows, self.index.clip_samples)

    def _fill(self, window: Window, audio: np.ndarray) -> None:
        shards = self.index.shard_of(window.clips)
        ends = np.append(np.flatnonzero(np.diff(shards)) + 1, len(shards))
        with ThreadPoolExecutor(self.threads) as pool:
            parts = [slice(low, high) for low, high in zip([0, *ends[:-1]], ends, strict=True)]
            tasks = [
                pool.submit(
                    self._fill_shard, audio[part], int(shards[part.start]), window.clips[part]
                )
                for part in parts
            ]
            for task in tasks:
                task.result()

    def _fill_shard(self, audio: np.ndarray, shard: int, clips: np.ndarray) -> None:
        """Reads `clips` [n] of one shard into the rows of `audio` [n, clip_samples]."""
        path = self.paths[shard]
        positions = clips - self.index.shard_offsets[shard]
        ids = self.index.ids[clips].tolist()
        lengths = self.index.num_samples[clips].tolist()
        try:
            found = record_files.read_audio(path, positions.tolist(), audio)
            for row, clip_id, length, (found_id, num_bytes) in zip(
                audio, ids, lengths, found, strict=True
            ):
                self._check(path, found_id, clip_id, num_bytes, length)
                row[length:] = 0
        except (record_files.DamagedFileError, OSError) as error:
            raise UserError(
                f"{path}: damaged clip shard ({error}); prepare the data again, or copy the "
                "shard again if it was copied"
            ) from error

    @staticmethod
    def _check(path: str, found_id: str, clip_id: str, num_bytes: int, length: int) -> None:
        if found_id != clip_id or num_bytes != 2 * length:
            raise UserError(
                f"{path}: holds clip {found_id!r} of {num_bytes / 2:g} "
                f"samples where the index has {clip_id!r} of {length}; the index is of other data: "
                "delete the index file and prepare the data again"
            )
