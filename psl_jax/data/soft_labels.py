"""Soft labels on disk: a float16 array for each shard of clips, beside `manifest.json`.

The manifest says what the labels were made from and with, see `label_manifest`. An array,
labels-00000-of-00010.npy, is [segments, classes]: clip after clip, in the order of the clip shard.
Four bytes follow it: the CRC-32 of its values. A file gets its name when it is whole, so that a
killed program goes on with the shards that are missing.
"""

import contextlib
import os
import pathlib
import threading
import tokenize
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from psl_jax.audio.segments import Segmentation
from psl_jax.data import label_manifest
from psl_jax.data.clip_index import ClipIndex
from psl_jax.data.label_manifest import MANIFEST, REMOVED_PARTS, WEAK, LabelRule
from psl_jax.runtime import files, progress
from psl_jax.runtime.disk_errors import plain_disk_errors
from psl_jax.runtime.errors import DamagedFileError, UserError
from psl_jax.runtime.paths import local_copy, path_of

# What NumPy raises for damaged files.
_DAMAGE = (
    *(ValueError, EOFError, SyntaxError, tokenize.TokenError),
    *(TypeError, KeyError, OverflowError, MemoryError),
)
# Python 3.11 parses what an array's header says wrongly where several threads do it at once.
_HEADER_LOCK = threading.Lock()
_GO_ON = "Run the same command again, which goes on where it stopped."


class ShardArrays:
    """The float16 arrays [rows, width] of the shards in a folder; threads may read at once."""

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
        return self.folder / f"labels-{shard:05d}-of-{len(self.rows):05d}.npy"

    @property
    def missing(self) -> list[int]:
        """Numbers of the shards that are not there; those without rows need not be."""
        shards = [shard for shard, rows in enumerate(self.rows) if rows]
        there = files.exist([self.path(shard) for shard in shards])
        return [shard for shard, is_there in zip(shards, there, strict=True) if not is_there]

    def write(self, shard: int, array: np.ndarray) -> None:
        """Writes the array [rows, width] of a shard; raises UserError for a full disk."""
        path, array = self.path(shard), np.ascontiguousarray(array, self.dtype)
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
        """A shard's array, mapped into memory, unverified; of a bucket a copy is mapped."""
        if shard not in self._mapped:
            path = self.path(shard)
            local = self._copies.enter_context(local_copy(path))
            try:
                with _HEADER_LOCK:
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


def made_with(labels: "SoftLabels") -> dict[str, Any]:
    """What of a relabeling, besides its teacher, data and segments, its labels depend on.

    It is part of the digest of what is made of them, which lacks a type of float32 as it did before
    manifests told it.
    """
    names = [name for name in (*LabelRule().entries(), WEAK) if name in labels.manifest]
    entries = REMOVED_PARTS | {name: labels.manifest[name] for name in names}
    return {n: value for n, value in entries.items() if (n, value) != ("dtype", "float32")}


class SoftLabelWriter:
    """Writes the soft labels of a split. Several processes may write different shards."""

    def __init__(
        self,
        directory: str | os.PathLike[str],
        index: ClipIndex,
        segmentation: Segmentation,
        *,
        teacher_digest: str,
        rule: LabelRule | None = None,
        origin: dict[str, Any] | None = None,
        teachers: list[dict[str, Any]] | None = None,
        uses_weak_labels: bool = False,
    ):
        """Writes the manifest. If there is one, it must be the same (UserError), and its whole
        shards are kept.

        origin: of labels that no relabeling made: what they were read or cut from, as JSON.
        teachers: what there is to say of each teacher, as JSON; its digest alone is compared.
        uses_weak_labels: the labels depend on the clips' weak ones.
        """
        self.directory, self.index, self.segmentation = path_of(directory), index, segmentation
        manifest = label_manifest.described(index, segmentation) | (rule or LabelRule()).entries()
        manifest["teacher_digest"] = teacher_digest
        if uses_weak_labels:
            manifest[WEAK] = index.labels_sha256
        if (self.directory / MANIFEST).exists():
            label_manifest.compare(self.directory, label_manifest.read(directory), manifest)
        else:
            more = {"origin": origin, "teachers": teachers}
            manifest |= {name: value for name, value in more.items() if value}
            if any(self.directory.glob("labels-*")):
                raise UserError(
                    f"{self.directory} has shards of labels and no {MANIFEST} that says of what "
                    "they are: delete them, or give another folder"
                )
            with plain_disk_errors(self.directory, "Run the same command again."):
                files.write_json(self.directory / MANIFEST, manifest)
        self.firsts = segmentation.number_segments(index.num_samples)
        self._arrays = _arrays(directory, index, self.firsts)

    @property
    def missing(self) -> list[int]:
        """Numbers of the shards still to be written."""
        return self._arrays.missing

    def write_shard(self, shard: int, probabilities: np.ndarray) -> None:
        """Writes the probabilities [segments, classes] of a shard. Raises ValueError, UserError."""
        low, high = self.firsts[self.index.shard_offsets[shard : shard + 2]]
        expected = (high - low, self.index.num_classes)
        if probabilities.shape != expected:
            raise ValueError(f"shard {shard}: shape {probabilities.shape}, expected {expected}")
        is_finite = np.isfinite(probabilities).all(axis=1)
        if not is_finite.all():
            clip = np.searchsorted(self.firsts, low + np.argmin(is_finite), "right") - 1
            name = self.index.ids[clip]
            raise ValueError(f"the teacher's probabilities of clip {name} are not finite")
        self._arrays.write(shard, probabilities)


class SoftLabels:
    """The soft labels of a split, checked against it. Open with `SoftLabels.open`."""

    def __init__(
        self,
        directory: pathlib.Path,
        index: ClipIndex,
        segmentation: Segmentation,
        manifest: dict[str, Any],
    ):
        self.directory, self.index, self.segmentation = directory, index, segmentation
        self.manifest = manifest
        self._firsts = segmentation.number_segments(index.num_samples)
        self._counts = np.diff(self._firsts)
        self.num_segments = int(self._counts.max(initial=1))
        self._arrays = _arrays(directory, index, self._firsts)

    @classmethod
    def open(
        cls,
        directory: str | os.PathLike[str],
        index: ClipIndex,
        segmentation: Segmentation,
        teacher_digest: str | None = None,
        rule: LabelRule | None = None,
    ) -> "SoftLabels":
        """Opens the labels made for this data, segmentation and, if given, teacher and rule.

        Data without classes take those of the labels. Raises UserError, saying what differs, for
        labels of something else or with missing shards.
        """
        directory = path_of(directory)
        manifest = label_manifest.read(directory)
        if not index.classes:
            index = index.with_classes(manifest["classes"])
        expected = label_manifest.described(index, segmentation) | (rule.entries() if rule else {})
        if WEAK in manifest:
            expected[WEAK] = index.labels_sha256
        if teacher_digest is not None:
            expected["teacher_digest"] = teacher_digest
        label_manifest.compare(directory, manifest, expected)
        labels = cls(directory, index, segmentation, manifest)
        if missing := labels._arrays.missing:
            raise UserError(
                f"{directory}: {len(missing)} of {len(index.shard_sizes)} soft-label shards are "
                f"missing (the first is number {missing[0]}); run "
                f"{label_manifest.remake(manifest)} to the end"
            )
        return labels

    def read_shard(self, shard: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Reads and verifies a shard: ids [n], float16 [n, S, C], segments of each clip int64 [n].

        S are the most segments of any clip; zeros follow a clip's last. Raises UserError.
        """
        clips = slice(*self.index.shard_offsets[shard : shard + 2])
        counts = self._counts[clips]
        out = np.zeros((len(counts), self.num_segments, self.index.num_classes), np.float16)
        if len(counts):
            try:
                values = self._arrays.read(shard)
            except (DamagedFileError, OSError) as error:
                raise self._damaged(error) from error
            out[np.arange(self.num_segments) < counts[:, None]] = values
        return self.index.ids[clips], out, counts

    def of_segments(self, clips: np.ndarray, segments: np.ndarray) -> np.ndarray:
        """Soft labels of segments[i] of clips[i]: float16 [n, C], not verified; thread-safe."""
        out = np.empty((len(clips), self.index.num_classes), np.float16)
        shards = self.index.shard_of(clips)
        starts = self._firsts[self.index.shard_offsets[shards]]
        rows = self._firsts[clips] + segments - starts  # in the arrays of the shards
        try:
            for place, (shard, row) in enumerate(zip(shards.tolist(), rows.tolist(), strict=True)):
                out[place] = self._arrays.map(shard)[row]
        except (DamagedFileError, OSError) as error:
            raise self._damaged(error) from error
        return out

    def gather(self, clips: np.ndarray) -> np.ndarray:
        """Soft labels of `clips` [n]: float16 [n, S, C], zero padded."""
        inside = np.arange(self.num_segments) < self._counts[clips][:, None]
        rows, segments = np.nonzero(inside)
        out = np.zeros((len(clips), self.num_segments, self.index.num_classes), np.float16)
        out[inside] = self.of_segments(clips[rows], segments)
        return out

    def _damaged(self, error: Exception) -> UserError:
        return UserError(
            f"damaged soft-label shard: {error}; delete it and run "
            f"{label_manifest.remake(self.manifest)} again, which makes it anew"
        )


def missing_shards(directory: str | os.PathLike[str]) -> list[int]:
    """Numbers of the shards still to be written. Raises UserError without a manifest."""
    return ShardArrays(directory, label_manifest.read(directory)["shard_sizes"]).missing


def _arrays(directory: str | os.PathLike[str], index: ClipIndex, firsts: np.ndarray) -> ShardArrays:
    rows = np.diff(firsts[index.shard_offsets]).tolist()
    return ShardArrays(directory, rows, index.num_classes)


# --- Labels of other segments ---------------------------------------------------------------------

# At a time: the segments of an hour times its frames would not fit into memory.
_BLOCK_SEGMENTS = 256


def _compute_bounds(
    segmentation: Segmentation, num_segments: int, num_samples: int
) -> tuple[np.ndarray, np.ndarray]:
    """Computes the first and past-the-last sample of a clip's segments, without padding."""
    begin = np.arange(num_segments) * segmentation.hop_samples
    return begin, np.minimum(begin + segmentation.segment_samples, num_samples)


def _compute_means(
    values: np.ndarray, first: np.ndarray, last: np.ndarray, begin: np.ndarray, end: np.ndarray
) -> np.ndarray:
    """Computes means of values [intervals, classes] over segments: float32 [segments, classes].

    A value holds over the samples [first, last) of its interval, which weighs as many samples as it
    shares with the segment [begin, end). Intervals may overlap.
    """
    segment_means = np.empty((len(begin), values.shape[-1]), np.float32)
    for start in range(0, len(begin), _BLOCK_SEGMENTS):
        block = slice(start, start + _BLOCK_SEGMENTS)
        shared_samples = np.minimum(end[block, None], last) - np.maximum(begin[block, None], first)
        weights = np.maximum(shared_samples, 0).astype(np.float32)
        segment_means[block] = (weights / weights.sum(axis=1, keepdims=True)) @ values
    return segment_means


def check_no_gaps(labels: Segmentation) -> None:
    """Raises UserError where the labels leave parts of a clip without a label."""
    if labels.hop_samples > labels.segment_samples:
        raise UserError(
            f"labels of {labels.seconds:g} s, one every {labels.hop_seconds:g} s, leave gaps: of "
            "what lies between them nothing is known"
        )


def write_resegmented(labels: SoftLabels, writer: SoftLabelWriter) -> None:
    """Writes the labels of the writer's segments, shard by shard.

    A segment gets the mean of the labels that it overlaps, weighted by the time that they share.
    The last label of a clip holds until the clip ends.
    """
    index, shards = labels.index, writer.missing
    for shard in progress.track(shards, len(shards), "shard", "cut"):
        _, values, counts = labels.read_shard(shard)
        lengths = index.num_samples[slice(*index.shard_offsets[shard : shard + 2])]
        segment_counts = writer.segmentation.count_segments(lengths)
        clip_labels = []
        for clip, num_samples in enumerate(lengths):
            first, last = _compute_bounds(labels.segmentation, counts[clip], num_samples)
            last[-1] = num_samples
            begin, end = _compute_bounds(writer.segmentation, segment_counts[clip], num_samples)
            segment_labels = _compute_means(values[clip, : counts[clip]], first, last, begin, end)
            clip_labels.append(segment_labels.astype(np.float16))
        writer.write_shard(shard, np.concatenate(clip_labels))
