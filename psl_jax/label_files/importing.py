"""Imports the labels of a file as the soft labels of a split.

A file has its clips in an order of its own. We first put its rows in their places in a scratch file
on the disk, then write the shards from that file. So memory holds a block and a shard, whatever the
split's size, and the disk holds the labels twice for a while.
"""

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from psl_jax.audio.segments import SAMPLE_RATE, Segmentation
from psl_jax.data import label_manifest
from psl_jax.data.clip_index import ClipIndex
from psl_jax.data.soft_labels import SoftLabelWriter
from psl_jax.label_files.clip_names import ClipNames
from psl_jax.label_files.label_file import SAME_SECONDS, Block, LabelFile, ReadRequest
from psl_jax.networks import class_lists
from psl_jax.networks.class_lists import Columns
from psl_jax.runtime import progress
from psl_jax.runtime.disk_errors import plain_disk_errors
from psl_jax.runtime.errors import UserError

_EXAMPLES = 5


@dataclasses.dataclass(frozen=True)
class Imported:
    """Counts of an import.

    Attributes:
      rows: rows of the file that were used.
      idle_rows: rows of the data's clips with times in which no segment has its middle.
      other_rows, other_examples: rows of clips that the data does not have; some of their names.
      segments: segments of the split.
      filled_segments, filled_clips: segments that the file had no row for, and their clips.
      unmapped: classes that the file has no column for.
    """

    rows: int
    idle_rows: int
    other_rows: int
    other_examples: list[str]
    segments: int
    filled_segments: int
    filled_clips: int
    unmapped: list[str]

    def summary(self, path: pathlib.Path, num_clips: int) -> list[str]:
        """Lines that tell a user what was read from a file for a split of `num_clips` clips."""
        lines = [
            f"{path}: {self.rows:,} rows for {self.segments:,} segments of {num_clips:,} clips"
        ]
        if self.other_rows:
            examples = ", ".join(self.other_examples)
            lines.append(
                f"  {self.other_rows:,} rows are of clips that the split lacks: {examples}"
            )
        if self.idle_rows:
            lines.append(
                f"  {self.idle_rows:,} rows hold for no segment: no segment's middle lies in their "
                "times, such as past a clip's end"
            )
        if self.filled_segments:
            lines.append(
                f"  {self.filled_segments:,} segments of {self.filled_clips:,} clips had no row "
                "and have their weak labels"
            )
        if self.unmapped:
            shown = ", ".join(self.unmapped[:5]) + (", ..." if len(self.unmapped) > 5 else "")
            lines.append(
                f"  {len(self.unmapped)} classes had no column and have weak labels: {shown}"
            )
        return lines


def import_labels(
    file: LabelFile,
    path: pathlib.Path,
    *,
    index: ClipIndex,
    segmentation: Segmentation,
    class_columns: Columns,
    directory: pathlib.Path,
    open_writer: Callable[[], SoftLabelWriter],
    fill_missing: bool,
) -> Imported:
    """Writes the soft labels of every clip of `index` from a file.

    Args:
      file, path: the opened file, and its path.
      class_columns: the file's columns of each class, see `class_lists`.
      directory: the folder of the soft labels.
      open_writer: returns their writer. It is called after all rows were read, so that a file that
        cannot be used leaves nothing behind; or at once where the folder has labels already, which
        must be the same.
      fill_missing: gives segments without a row the clip's weak labels; else they are an error.

    Raises UserError for a damaged file, one with other clips, or with two rows for one segment.
    """
    names = ClipNames(index.ids)
    counts = segmentation.count_segments(index.num_samples).astype(np.int64)
    writer = open_writer() if label_manifest.are_begun(directory) else None
    with _open_scratch(
        directory, int(counts.sum()), num_classes=len(class_columns), has_views=file.has_views
    ) as scratch:
        places = _PlaceFinder(index, segmentation, counts, path, file.may_pad)
        num_rows, num_known_rows = _place_rows(
            file, names, places=places, class_columns=class_columns, scratch=scratch
        )
        names.check_some_found(path, num_known_rows)
        if not num_rows:
            raise UserError(
                f"{path}: no segment's middle lies in the times of any row. Are they seconds from "
                "the beginning of the clip, not of the recording that it is from?"
            )
        is_missing = scratch.num_rows == 0
        incomplete_clips = np.unique(
            np.searchsorted(places.starts, np.flatnonzero(is_missing), "right") - 1
        )
        if len(incomplete_clips) and not fill_missing:
            _refuse_missing(path, index, is_missing=is_missing, clips=incomplete_clips)
        _write_shards(writer or open_writer(), index, counts=counts, scratch=scratch)
    return Imported(
        rows=num_rows,
        idle_rows=0 if file.may_pad else num_known_rows - num_rows,
        other_rows=names.unknown,
        other_examples=names.unknown_examples,
        segments=int(counts.sum()),
        filled_segments=int(is_missing.sum()),
        filled_clips=len(incomplete_clips),
        unmapped=[
            name
            for name, columns in zip(index.classes, class_columns, strict=True)
            if not len(columns)
        ],
    )


def _place_rows(
    file: LabelFile,
    names: ClipNames,
    *,
    places: "_PlaceFinder",
    class_columns: Columns,
    scratch: "_Scratch",
) -> tuple[int, int]:
    """Puts the rows of a file in their places; counts those used, and those of the data's clips."""
    lengths = np.append(places.index.num_samples, 0).astype(np.int64)  # at -1, an unknown clip's
    request = ReadRequest(
        sorted({column for columns in class_columns for column in columns}),
        lambda clip_names: lengths[names.look_up(clip_names)],
    )
    num_rows = num_known_rows = 0
    with progress.bar(None, "row", "read") as bar:
        for block in file.read_blocks(request):
            clips = names.find(block.names)
            rows, row_places = places.find_places(block, clips)
            scratch.add(
                row_places,
                class_lists.select_columns(block.values[rows], class_columns),
                places.describe,
            )
            num_rows += len(np.unique(rows))
            num_known_rows += int((clips >= 0).sum())
            bar.update(len(block.names))
    return num_rows, num_known_rows


def compute_sha256(paths: Sequence[pathlib.Path]) -> str:
    """Hashes the contents of files in their order. Raises UserError for one that is unreadable."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
    return digest.hexdigest()


class _PlaceFinder:
    """Finds the places of rows in the scratch file, where the clips' segments lie end to end."""

    def __init__(
        self,
        index: ClipIndex,
        segmentation: Segmentation,
        counts: np.ndarray,
        path: pathlib.Path,
        may_pad: bool,
    ):
        self.index, self.segmentation, self.counts = index, segmentation, counts
        self.path, self.may_pad = path, may_pad
        self.starts = np.cumsum(counts) - counts

    def describe(self, place: int) -> str:
        clip = int(np.searchsorted(self.starts, place, side="right")) - 1
        return f"{self.path}: clip {self.index.ids[clip]}, segment {place - self.starts[clip]}"

    def find_places(self, block: Block, clips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns rows of the block, and the place of each; a row may have several places or none.

        clips: the clip of each row; -1 where the data does not have it.
        """
        if block.segments is not None:
            return self._find_numbered(clips, block.segments)
        rows = np.repeat(np.arange(len(clips)), np.where(clips < 0, 0, self.counts[clips]))
        firsts = np.flatnonzero(np.diff(rows, prepend=-1))
        segments = np.arange(len(rows)) - np.repeat(firsts, np.diff(np.append(firsts, len(rows))))
        if block.onsets is not None and block.offsets is not None:
            self._check_times(block.names, clips, block.onsets, block.offsets)
            clip_seconds = self.index.num_samples[clips[rows]] / SAMPLE_RATE
            times = block.onsets[rows], block.offsets[rows]
            is_fitting = self._find_fitting(rows, segments, clip_seconds, *times)
            rows, segments = rows[is_fitting], segments[is_fitting]
        return rows, self.starts[clips[rows]] + segments

    def _check_times(
        self, names: Sequence[str], clips: np.ndarray, onsets: np.ndarray, offsets: np.ndarray
    ) -> None:
        is_valid = np.isfinite(onsets) & np.isfinite(offsets) & (onsets < offsets)
        if (wrong := np.flatnonzero(~is_valid & (clips >= 0))).size:
            row = wrong[0]
            raise UserError(
                f"{self.path}: clip {names[row]} has a row from {onsets[row]:g} to "
                f"{offsets[row]:g} s: expected two times in seconds, the later one second"
            )

    def _find_fitting(
        self,
        rows: np.ndarray,
        segments: np.ndarray,
        clip_seconds: np.ndarray,
        onsets: np.ndarray,
        offsets: np.ndarray,
    ) -> np.ndarray:
        """Tells which pairs of a row and a segment of its clip, [n] all, belong together: bool [n].

        A row that has the times of a segment belongs to that segment alone (others may overlap it).
        Any other row belongs to the segments whose middles lie in it.
        """
        segment_onsets, segment_offsets = self.segmentation.compute_times(segments)
        ends = np.minimum(segment_offsets, clip_seconds)
        middles = (segment_onsets + np.maximum(ends, segment_onsets)) / 2
        has_same_times = np.abs(onsets - segment_onsets) < SAME_SECONDS
        has_same_times &= np.abs(np.minimum(offsets, clip_seconds) - ends) < SAME_SECONDS
        has_segment_times = np.zeros(rows.max(initial=-1) + 1, bool)
        has_segment_times[rows[has_same_times]] = True
        has_middle = (onsets <= middles) & (middles < offsets)
        return np.asarray(np.where(has_segment_times[rows], has_same_times, has_middle))

    def _find_numbered(
        self, clips: np.ndarray, segments: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        is_inside = segments < np.where(clips < 0, 0, self.counts[clips])
        if not self.may_pad and (wrong := np.flatnonzero(~is_inside & (clips >= 0))).size:
            clip, segment = clips[wrong[0]], segments[wrong[0]]
            raise UserError(
                f"{self.path}: clip {self.index.ids[clip]} has a row for segment {segment}, and "
                f"with {self.segmentation.seconds:g} s it has {self.counts[clip]} (from 0). Is "
                "--segment_seconds that of the file?"
            )
        rows = np.flatnonzero(is_inside)
        return rows, self.starts[clips[rows]] + segments[rows]


class _Scratch:
    """Labels of all segments in a file, and the number of rows that each had."""

    def __init__(self, values: np.ndarray, has_views: bool):
        self.values, self.has_views = values, has_views
        self.num_rows = np.zeros(len(values), np.uint32)

    def add(self, places: np.ndarray, rows: np.ndarray, describe: Callable[[int], str]) -> None:
        """Adds rows [n, classes]; describe(place) names the segment of a place in messages."""
        if self.has_views:
            np.add.at(self.values, places, rows)
        else:
            unique, num_times = np.unique(places, return_counts=True)
            repeated = unique[(num_times > 1) | (self.num_rows[unique] > 0)]
            if len(repeated):
                raise UserError(f"{describe(int(repeated[0]))} has two rows")
            self.values[places] = rows
        np.add.at(self.num_rows, places, 1)

    def mean(self, rows: slice) -> np.ndarray:
        """Mean labels, float32 [rows, classes]; NaN for segments without a row."""
        num_rows = self.num_rows[rows, None]
        values = np.asarray(self.values[rows], np.float32)
        return np.where(num_rows > 0, values / np.maximum(num_rows, 1), np.nan)


@contextlib.contextmanager
def _open_scratch(
    folder: pathlib.Path, num_segments: int, *, num_classes: int, has_views: bool
) -> Iterator[_Scratch]:
    """Opens a file that is deleted when the block ends, however it ends."""
    dtype = np.dtype(np.float32 if has_views else np.float16)
    num_bytes = max(num_segments, 1) * num_classes * dtype.itemsize
    folder.mkdir(parents=True, exist_ok=True)
    advice = f"{num_bytes / 1e9:.2f} GB are needed beside the labels."
    with plain_disk_errors(folder, advice), tempfile.TemporaryFile(dir=folder) as file:
        # Memory that a full disk cannot back would end the process without a word.
        os.posix_fallocate(file.fileno(), 0, num_bytes)
        values = np.memmap(file, dtype, "r+", shape=(max(num_segments, 1), num_classes))[
            :num_segments
        ]
        yield _Scratch(values, has_views)
        del values


def _refuse_missing(
    path: pathlib.Path, index: ClipIndex, *, is_missing: np.ndarray, clips: np.ndarray
) -> None:
    examples = ", ".join(index.ids[clips[:_EXAMPLES]].tolist())
    more = f" and {len(clips) - _EXAMPLES} more" if len(clips) > _EXAMPLES else ""
    raise UserError(
        f"{path} has no labels for {is_missing.sum()} segments of {len(clips)} of the {len(index)} "
        f"clips of {index.split!r}: {examples}{more}. --missing=weak lets the weak labels stand "
        "for them"
    )


def _write_shards(
    writer: SoftLabelWriter, index: ClipIndex, *, counts: np.ndarray, scratch: _Scratch
) -> None:
    starts = np.concatenate([[0], np.cumsum(counts)])
    for shard in writer.missing:
        clips = np.arange(index.shard_offsets[shard], index.shard_offsets[shard + 1])
        values = scratch.mean(slice(*starts[index.shard_offsets[shard : shard + 2]]))
        weak = np.repeat(index.weak_labels(clips), counts[clips], axis=0)
        writer.write_shard(shard, np.where(np.isnan(values), weak, values))
