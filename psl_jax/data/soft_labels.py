"""Soft labels on disk: one label shard beside each clip shard, in the same order.

A directory holds `manifest.json` (what the labels were made from and with) and for each clip shard
`labels-00000-of-00010.tfrecord`, or `.npz` for packed data, which needs no TensorFlow: see
`label_shards`. A shard appears under its name only when it is whole, so that a killed relabeling
goes on with `missing_shards`.
"""

import os
import pathlib
import threading
import zipfile
import zlib
from functools import cached_property
from typing import Any

import numpy as np

from psl_jax.audio.segments import Segmentation
from psl_jax.data import label_manifest, label_shards, record_files
from psl_jax.data.clip_index import ClipIndex
from psl_jax.data.label_manifest import FORMATS, MANIFEST, REMOVED_PARTS, WEAK, LabelRule
from psl_jax.runtime import files
from psl_jax.runtime.disk_errors import plain_disk_errors
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import path_of

# Permuted training asks for labels here and there: those of balanced AudioSet in 2 s are 116 MB.
_CACHE_BYTES = 1 << 30
_SPARSE = 0.25  # so few of a shard's clips are read by themselves
_GO_ON = "Run the same command again, which goes on where it stopped."
# What reading a damaged shard raises, by NumPy, zipfile and ourselves.
_DAMAGE = (
    record_files.DamagedFileError,
    zipfile.BadZipFile,
    OSError,
    EOFError,
    KeyError,
    ValueError,
    TypeError,
    RuntimeError,
    zlib.error,
)


def made_with(labels: "SoftLabels") -> dict[str, Any]:
    """What of a relabeling, besides its teacher, data and segments, its labels depend on.

    It is part of the digest of what is made of them.
    """
    names = [name for name in (*LabelRule().entries(), WEAK) if name in labels.manifest]
    return REMOVED_PARTS | {name: labels.manifest[name] for name in names}


class SoftLabelWriter:
    """Writes the soft labels of a split. Several processes may write different shards."""

    def __init__(
        self,
        directory: str | os.PathLike,
        index: ClipIndex,
        segmentation: Segmentation,
        *,
        teacher_digest: str,
        format: str = "tfrecord",
        rule: LabelRule | None = None,
        origin: dict[str, Any] | None = None,
        teachers: list[dict[str, Any]] | None = None,
        uses_weak_labels: bool = False,
    ):
        """Writes the manifest; if there is one, it must be the same (UserError), and its whole
        shards are kept.

        rule: how the labels are made (default: the paper's way).
        origin: of labels that no relabeling made: what they were read or cut from, as JSON.
        teachers: what there is to say of each teacher, as JSON; its digest alone is compared.
        uses_weak_labels: the labels depend on the clips' weak ones.
        """
        if format not in FORMATS:
            raise ValueError(f"format {format!r}, expected one of {FORMATS}")
        self.directory, self.index, self.segmentation = path_of(directory), index, segmentation
        self.format = format
        self.rule = rule or LabelRule()
        manifest = label_manifest.described(index, segmentation) | self.rule.entries()
        manifest |= {"teacher_digest": teacher_digest, "format": format}
        if uses_weak_labels:
            manifest[WEAK] = index.labels_sha256
        if (self.directory / MANIFEST).exists():
            label_manifest.compare(self.directory, label_manifest.read(directory), manifest)
        else:
            with plain_disk_errors(self.directory, _GO_ON):
                told = {"origin": origin, "teachers": teachers}
                manifest |= {name: value for name, value in told.items() if value}
                files.write_json(self.directory / MANIFEST, manifest)
        self._shard = -1
        self._rows: list[np.ndarray] = []

    @property
    def missing(self) -> list[int]:
        return label_manifest.missing_shards(self.directory)

    def add(self, clips: np.ndarray, probabilities: np.ndarray) -> list[int]:
        """Takes clips in index order, shard after shard; writes each shard as it becomes whole.

        Args:
          clips: [n] clip numbers.
          probabilities: [n, S, C]; what lies past a clip's last segment is left out.

        Returns the shards written. Raises ValueError for clips out of order.
        """
        counts = self.segmentation.counts(self.index.num_samples[clips])
        written = []
        for clip, rows, count in zip(clips, probabilities, counts, strict=True):
            if not self._rows:
                self._shard = int(self.index.shard_of(clip))
            low, high = self.index.shard_offsets[self._shard : self._shard + 2]
            if clip != low + len(self._rows):
                raise ValueError(f"clip {clip} where {low + len(self._rows)} was to come")
            self._rows.append(np.array(rows[:count], np.float16))
            if len(self._rows) == high - low:
                self.write_shard(self._shard, self._rows)
                written.append(self._shard)
                self._rows = []
        return written

    def write_shard(self, shard: int, probabilities: list[np.ndarray]) -> None:
        """Writes one shard: an array [segments, C] for each of its clips, in order.

        Raises ValueError for a wrong shape or a value that is not finite; UserError for a full
        disk.
        """
        low, high = self.index.shard_offsets[shard : shard + 2]
        counts = self.segmentation.counts(self.index.num_samples[low:high])
        rows = [np.asarray(p, np.float16) for p in probabilities]
        expected = [(int(count), self.index.num_classes) for count in counts]
        if [row.shape for row in rows] != expected:
            raise ValueError(
                f"shard {shard}: shapes {[r.shape for r in rows][:3]}... {expected[:3]}"
            )
        ids = self.index.ids[low:high]
        for row, clip_id in zip(rows, ids, strict=True):
            if not np.isfinite(row).all():
                raise ValueError(f"the teacher's probabilities of clip {clip_id} are not finite")
        count = len(self.index.shard_sizes)
        path = label_shards.shard_path(self.directory, shard, count, self.format)
        with plain_disk_errors(path, _GO_ON), files.atomic_path(path) as temporary:
            label_shards.write(temporary, self.format, ids, rows)


class SoftLabels:
    """The soft labels of a split, checked against it. Open with `SoftLabels.open`."""

    def __init__(self, directory: pathlib.Path, index: ClipIndex, segmentation: Segmentation):
        self.directory, self.index, self.segmentation = directory, index, segmentation
        self.manifest = label_manifest.read(directory)
        self._lock = threading.Lock()
        self.num_segments = int(segmentation.counts(index.num_samples).max(initial=1))
        self._cache: dict[int, np.ndarray] = {}  # by shard, the last used at the end
        self._places: dict[int, np.ndarray | None] = {}  # by shard: where its records begin

    @classmethod
    def open(
        cls,
        directory: str | os.PathLike,
        index: ClipIndex,
        segmentation: Segmentation,
        teacher_digest: str | None = None,
        rule: LabelRule | None = None,
    ) -> "SoftLabels":
        """Opens the labels made for this data, segmentation and, if given, teacher and rule.

        Raises UserError, saying what differs, for labels of something else or with missing shards.
        """
        directory = path_of(directory)
        found, expected = (
            label_manifest.read(directory),
            label_manifest.described(index, segmentation),
        )
        expected |= rule.entries() if rule else {}
        if WEAK in found:
            expected[WEAK] = index.labels_sha256
        if teacher_digest is not None:
            expected["teacher_digest"] = teacher_digest
        label_manifest.compare(directory, found, expected)
        missing = label_manifest.missing_shards(directory)
        if missing:
            raise UserError(
                f"{directory}: {len(missing)} of {len(index.shard_sizes)} soft-label shards are "
                f"missing (the first is number {missing[0]}); run "
                f"{label_manifest.remake(found)} to the end"
            )
        return cls(directory, index, segmentation)

    @property
    def num_bytes(self) -> int:
        """What the shards take on disk."""
        count, format = len(self.index.shard_sizes), self.manifest["format"]
        paths = [label_shards.shard_path(self.directory, i, count, format) for i in range(count)]
        return sum(size or 0 for size in files.sizes(paths))

    def read_shard(self, shard: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Reads one shard.

        Returns:
          ids: [n] str.
          probabilities: float16 [n, S, C], S being the most segments of any clip in the split;
            zeros after a clip's last segment.
          counts: int32 [n], segments of each clip.

        Raises UserError for a damaged shard and for one whose clips are not those of the data.
        """
        return self._read(shard, np.arange(*self.index.shard_offsets[shard : shard + 2]))

    def read_clips(self, shard: int, clips: np.ndarray) -> np.ndarray:
        """The probabilities of some `clips` (ascending) of one tfrecord shard, as `read_shard`."""
        return self._read(shard, clips, only_these=True)[1]

    def _read(
        self, shard: int, clips: np.ndarray, only_these: bool = False
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        format = self.manifest["format"]
        path = label_shards.shard_path(self.directory, shard, len(self.index.shard_sizes), format)
        counts = self.segmentation.counts(self.index.num_samples[clips])
        try:
            some = self._some(path, shard, clips) if only_these else None
            ids, rows = label_shards.read(path, format, counts, self.index.num_classes, some)
        except _DAMAGE as error:
            raise UserError(
                f"{path}: damaged soft-label shard ({error}); delete it and run "
                f"{label_manifest.remake(self.manifest)} again, which makes it anew"
            ) from error
        _check_ids(path, ids, self.index.ids[clips])
        out = np.zeros((len(counts), self.num_segments, self.index.num_classes), np.float16)
        out[np.arange(self.num_segments) < counts[:, None]] = rows
        return np.array(ids, np.str_), out, counts

    def gather(self, clips: np.ndarray) -> np.ndarray:
        """Soft labels of `clips` [n], grouped by shard: float16 [n, S, C], zero padded."""
        out = np.empty((len(clips), self.num_segments, self.index.num_classes), np.float16)
        shards = self.index.shard_of(clips)
        for shard in dict.fromkeys(shards.tolist()):
            rows = np.flatnonzero(shards == shard)
            wanted, back = np.unique(clips[rows], return_inverse=True)
            if self._reads_only(shard, len(wanted)):
                out[rows] = self.read_clips(shard, wanted)[back]
            else:
                out[rows] = self._cached(shard)[clips[rows] - self.index.shard_offsets[shard]]
        return out

    def of_segments(self, clips: np.ndarray, segments: np.ndarray) -> np.ndarray:
        """Soft labels of segments: float16 [n, C]. Threads may read at once.

        clips, segments: int [n], the clip of each and its number in the clip.
        """
        out = np.empty((len(clips), self.index.num_classes), np.float16)
        shards = self.index.shard_of(clips)
        order = np.argsort(shards, kind="stable")
        wanted_shards, begins = np.unique(shards[order], return_index=True)
        with self._lock:
            for shard, rows in zip(
                wanted_shards.tolist(), np.split(order, begins[1:]), strict=False
            ):
                wanted, back = np.unique(clips[rows], return_inverse=True)
                if self._reads_only(shard, len(wanted)):
                    out[rows] = self.read_clips(shard, wanted)[back, segments[rows]]
                else:
                    local = clips[rows] - self.index.shard_offsets[shard]
                    out[rows] = self._cached(shard)[local, segments[rows]]
        return out

    def _some(self, path: pathlib.Path, shard: int, clips: np.ndarray) -> label_shards.Some:
        if shard not in self._places:
            self._places[shard] = record_files.record_places(path)
        return (clips - self.index.shard_offsets[shard]).tolist(), self._places[shard]

    def _reads_only(self, shard: int, count: int) -> bool:
        """Whether `count` clips of a shard are read without the others.

        Of draws from a large split a window has a clip of each shard, which is not in the cache
        any more when the next one is wanted.
        """
        is_sparse = count < _SPARSE * int(self.index.shard_sizes[shard])
        is_cached = shard in self._cache or self._all_bytes <= _CACHE_BYTES
        return self.manifest["format"] == "tfrecord" and is_sparse and not is_cached

    @cached_property
    def _all_bytes(self) -> int:
        """What the labels of all clips take in memory."""
        return 2 * len(self.index) * self.num_segments * self.index.num_classes

    def _cached(self, shard: int) -> np.ndarray:
        """The shard's probabilities; those used last are kept, up to _CACHE_BYTES of them."""
        found = self._cache.pop(shard, None)
        if found is None:
            found = self.read_shard(shard)[1]
            held = sum(array.nbytes for array in self._cache.values())
            while self._cache and held + found.nbytes > _CACHE_BYTES:
                held -= self._cache.pop(next(iter(self._cache))).nbytes
        self._cache[shard] = found
        return found


def _check_ids(path: pathlib.Path, found: list[str], expected: np.ndarray) -> None:
    for position, (ours, clip_id) in enumerate(zip(found, expected, strict=True)):
        if ours != clip_id:
            raise UserError(
                f"{path}: the soft labels at position {position} are of clip {ours!r}, but the "
                f"clip shard holds {str(clip_id)!r} there. Run relabel again into an empty "
                "directory, or point soft_labels_dir elsewhere"
            )
