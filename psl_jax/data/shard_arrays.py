"""One array of soft labels for each shard of a split, in a folder.

A shard is a `.npy` file, and after its array four bytes more: the CRC-32 of the array's values. It
gets its name when it is whole, so that a killed program goes on with the shards that are missing.
"""

import contextlib
import os
import pathlib
import threading
import tokenize
import zlib
from collections.abc import Sequence

import numpy as np

from psl_jax.runtime import files
from psl_jax.runtime.disk_errors import plain_disk_errors
from psl_jax.runtime.errors import DamagedFileError
from psl_jax.runtime.paths import local_copy, path_of

# What NumPy raises for damaged files.
_DAMAGE = (
    *(ValueError, EOFError, SyntaxError, tokenize.TokenError),
    *(TypeError, KeyError, OverflowError, MemoryError),
)
# Python 3.11 parses what an array's header says wrongly where several threads do it at once.
_READING_HEADER = threading.Lock()
_GO_ON = "Run the same command again, which goes on where it stopped."


SHARDS = "labels"  # what they are called


class ShardArrays:
    """The float16 arrays [rows, width] of a folder. Threads may read at the same time."""

    dtype = np.dtype("<f2")

    def __init__(
        self, folder: str | os.PathLike[str], rows: Sequence[int], width: int | None = None
    ):
        """rows: of each shard, of `width` values (None: of any number)."""
        self.folder = path_of(folder)
        self.rows, self.width = [int(count) for count in rows], width
        self._mapped: dict[int, np.ndarray] = {}
        self._copies = contextlib.ExitStack()  # of shards in a bucket

    def path(self, shard: int) -> pathlib.Path:
        return self.folder / f"{SHARDS}-{shard:05d}-of-{len(self.rows):05d}.npy"

    @property
    def missing(self) -> list[int]:
        """Numbers of the shards that are not there; those without rows need not be."""
        shards = [shard for shard, rows in enumerate(self.rows) if rows]
        there = files.exist([self.path(shard) for shard in shards])
        return [shard for shard, is_there in zip(shards, there, strict=True) if not is_there]

    def write(self, shard: int, array: np.ndarray) -> None:
        """Writes the array [rows, width] of a shard; raises UserError for a full disk."""
        path, array = self.path(shard), np.ascontiguousarray(array, self.dtype)
        self._check_form(shard, array)
        with plain_disk_errors(path, _GO_ON), files.atomic_open(path, "wb") as file:
            np.lib.format.write_array(file, array, allow_pickle=False)
            file.write(_checksum(array))

    def read(self, shard: int) -> np.ndarray:
        """The array of a shard, verified. Raises DamagedFileError, and OSError."""
        path = self.path(shard)
        with path.open("rb") as file:
            try:
                array = np.lib.format.read_array(file, allow_pickle=False)
            except _DAMAGE as error:
                raise DamagedFileError(f"{path}: {error}") from error
            checksum = file.read()
        self._check_form(shard, array)
        if checksum != _checksum(array):
            raise DamagedFileError(f"{path} fails its checksum")
        return array

    def map(self, shard: int) -> np.ndarray:
        """The same, unverified: only the rows used are read; a bucket's shard is copied first."""
        if shard not in self._mapped:
            path = self.path(shard)
            local = self._copies.enter_context(local_copy(path))
            try:
                with _READING_HEADER:
                    array = np.load(local, mmap_mode="r", allow_pickle=False)
            except _DAMAGE as error:
                raise DamagedFileError(f"{path}: {error}") from error
            self._check_form(shard, array)
            self._mapped[shard] = np.asarray(array)  # rows of np.memmap take five times as long
        return self._mapped[shard]

    def _check_form(self, shard: int, array: np.ndarray) -> None:
        expected = (self.rows[shard], self.width or array.shape[-1])
        if array.shape != expected or array.dtype != self.dtype:
            raise DamagedFileError(
                f"{self.path(shard)}: {array.dtype} {list(array.shape)}, expected {self.dtype} "
                f"{list(expected)}"
            )


def _checksum(array: np.ndarray) -> bytes:
    return zlib.crc32(array.reshape(-1).view(np.uint8).data).to_bytes(4, "little")
