"""Features of a split, computed once and kept in files, shard by shard."""

import os
import pathlib
from typing import Any

import jax
import numpy as np

from psl_jax.data.clip_index import ClipIndex
from psl_jax.runtime import files, parallel
from psl_jax.runtime.disk_errors import plain_disk_errors
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import path_of

_MANIFEST = "features.json"
_GO_ON = "Then start again: what is there is kept."


class FeatureFiles:
    """A folder with an array float32 [rows, ...] for each shard of a split.

    Several processes may write different shards; one that was stopped leaves none half written.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        index: ClipIndex,
        rows: np.ndarray,
        shape: tuple[int, ...],
        made_with: dict[str, Any],
    ):
        """rows: int64 [shards], that each shard has; shape: of a row; made_with: as JSON, what the
        features depend on besides the audio.

        Raises UserError where the folder has features of something else.
        """
        self.folder, self.index, self.rows, self.shape = path_of(folder), index, rows, shape
        self._wanted = files.as_json(
            made_with
            | {
                "rows": files.json_digest(rows.tolist()),
                "shape": list(shape),
                "ids_in_order": files.json_digest(index.ids.tolist()),
                "lengths": files.json_digest(index.num_samples.tolist()),
                "audio_sha256": None if index.audio_digests is None else index.audio_sha256,
            }
        )
        manifest = self.folder / _MANIFEST
        found = files.read_json(manifest) if manifest.exists() else self._wanted
        if differing := sorted(k for k in {*found, *self._wanted} if self._differs(found, k)):
            raise UserError(
                f"{self.folder} holds features of something else (what differs: "
                f"{', '.join(differing)}): delete it"
            )
        self._begun: dict[int, tuple[np.memmap, int]] = {}  # shards: array, rows to come
        self._open: dict[int, np.ndarray] = {}

    def _differs(self, found: dict[str, Any], key: str) -> bool:
        return found.get(key) != self._wanted.get(key)

    @property
    def missing(self) -> list[int]:
        """Shards that are not there, or not whole."""
        return [k for k, n in enumerate(self.rows.tolist()) if n and not self._path(k).exists()]

    @property
    def num_bytes(self) -> int:
        """What they take."""
        return int(self.rows.sum()) * int(np.prod(self.shape, dtype=np.int64)) * 4

    def begin(self) -> None:
        """Writes what they will be of; all processes come here."""
        if jax.process_index() == 0:
            with plain_disk_errors(self.folder, _GO_ON):
                self.folder.mkdir(parents=True, exist_ok=True)
                files.write_json(self.folder / _MANIFEST, self._wanted)
        parallel.wait_for_all(f"features {self.folder}")

    def write(self, shard: int, first: int, values: np.ndarray) -> None:
        """Keeps rows `first` on of a shard [n, *shape]; each row once, in any order."""
        with plain_disk_errors(self.folder, _GO_ON):
            if shard not in self._begun:
                self._begun[shard] = self._opened(shard), int(self.rows[shard])
            array, left = self._begun[shard]
            array[first : first + len(values)] = values
            self._begun[shard] = array, left - len(values)
            if left == len(values):
                array.flush()
                del self._begun[shard]
                os.replace(self._partial(shard), self._path(shard))

    def _opened(self, shard: int) -> np.memmap:
        path, shape = self._partial(shard), (int(self.rows[shard]), *self.shape)
        array = np.lib.format.open_memmap(path, "w+", np.float32, shape)
        if hasattr(os, "posix_fallocate"):  # a full disk is told here, and not by a signal
            with open(path, "r+b") as file:
                os.posix_fallocate(file.fileno(), 0, os.path.getsize(path))
        return array

    def read(self, shard: int) -> np.ndarray:
        """float32 [rows, *shape], of which only what is used is read."""
        if shard not in self._open:
            self._open[shard] = np.load(self._path(shard), mmap_mode="r")
        return self._open[shard]

    def _path(self, shard: int) -> pathlib.Path:
        return self.folder / f"{shard:05d}.npy"

    def _partial(self, shard: int) -> pathlib.Path:
        return self.folder / f"{shard:05d}.npy.partial"
