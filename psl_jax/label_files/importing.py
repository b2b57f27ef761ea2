"""Labels of a file as the soft labels of a split.

A file has its clips in an order of its own. Its rows are put in their places in a scratch file on
the disk, from which the shards are then written: memory holds a block and a shard, whatever the
split's size, and the disk for a while twice the labels.
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
from psl_jax.label_files.label_file import SAME_SECONDS, Block, LabelFile, Wanted
from psl_jax.networks import class_lists
from psl_jax.networks.class_lists import Columns
from psl_jax.runtime import progress
from psl_jax.runtime.disk_errors import plain_disk_errors
from psl_jax.runtime.errors import UserError

_EXAMPLES = 5


@dataclasses.dataclass(frozen=True)
class Imported:
    """What came of a file.

    Attributes:
      rows: of it that were used.
      idle_rows: of the data's clips, but with times in which no segment has its middle.
      other_rows: of clips that the data does not have, and examples of their names.
      segments: of the split.
      filled_segments: of them, those that the file had no row for, in how many clips.
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

    def summary(self, path: pathlib.Path, clips: int) -> list[str]:
        """Lines for people: what was read of a file for a split of so many clips."""
        lines = [f"{path}: {self.rows:,} rows for {self.segments:,} segments of {clips:,} clips"]
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
    index: ClipIndex,
    segmentation: Segmentation,
    columns: Columns,
    directory: pathlib.Path,
    begin: Callable[[], SoftLabelWriter],
    fill_missing: bool,
) -> Imported:
    """Writes the soft labels of every clip of `index` from a file.

    Args:
      file, path: the file, and where it lies.
      columns: which of the file's columns each class has, see `class_lists`.
      directory, begin: where the soft labels go, and what makes their writer: after all rows were
        read, so that a file that cannot be used leaves nothing behind; or at once where there are
        labels already, which must be the same.
      fill_missing: segments without a row get the clip's weak labels; else they are an error.

    Raises UserError for a damaged file, one with other clips, or with two rows for one segment.
    """
    names = ClipNames(index.ids)
    counts = segmentation.counts(index.num_samples).astype(np.int64)
    writer = begin() if label_manifest.are_begun(directory) else None
    with _scratch(directory, int(counts.sum()), len(columns), file.views) as scratch:
        places = _Places(index, segmentation, counts, path, file.padded)
        rows, known_rows = _read(file, names, places, columns, scratch)
        names.check_some_found(path, known_rows)
        if not rows:
            raise UserError(
                f"{path}: no segment's middle lies in the times of any row. Are they seconds from "
                "the beginning of the clip, not of the recording that it is from?"
            )
        lacking = scratch.found == 0
        clips = np.unique(np.searchsorted(places.starts, np.flatnonzero(lacking), "right") - 1)
        if len(clips) and not fill_missing:
            _refuse_missing(path, index, lacking, clips)
        _write(writer or begin(), index, counts, scratch)
    return Imported(
        rows=rows,
        idle_rows=0 if file.padded else known_rows - rows,
        other_rows=names.unknown,
        other_examples=names.unknown_examples,
        segments=int(counts.sum()),
        filled_segments=int(lacking.sum()),
        filled_clips=len(clips),
        unmapped=[name for name, of in zip(index.classes, columns, strict=True) if not len(of)],
    )


def _read(
    file: LabelFile, names: ClipNames, places: "_Places", columns: Columns, scratch: "_Scratch"
) -> tuple[int, int]:
    """Puts the rows of a file in their places; returns how many were used, and are of our clips."""
    lengths = np.append(places.index.num_samples, 0).astype(np.int64)  # at -1, an unknown clip's
    wanted = Wanted(
        sorted({column for of in columns for column in of}),
        lambda given: lengths[names.look_up(given)],
    )
    rows = known_rows = 0
    with progress.bar(None, "row", "read") as bar:
        for block in file.blocks(wanted):
            clips = names.find(block.names)
            taken, place = places.of(block, clips)
            scratch.add(
                place, class_lists.select_columns(block.values[taken], columns), places.name
            )
            rows += len(np.unique(taken))
            known_rows += int((clips >= 0).sum())
            bar.update(len(block.names))
    return rows, known_rows


def sha256(paths: Sequence[pathlib.Path]) -> str:
    """Of the contents of files, in their order. Raises UserError for one that cannot be read."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
    return digest.hexdigest()


class _Places:
    """Where rows go: the segments of all clips lie end to end."""

    def __init__(
        self,
        index: ClipIndex,
        segmentation: Segmentation,
        counts: np.ndarray,
        path: pathlib.Path,
        padded: bool,
    ):
        self.index, self.segmentation, self.counts = index, segmentation, counts
        self.path, self.padded = path, padded
        self.starts = np.cumsum(counts) - counts

    def name(self, place: int) -> str:
        clip = int(np.searchsorted(self.starts, place, side="right")) - 1
        return f"{self.path}: clip {self.index.ids[clip]}, segment {place - self.starts[clip]}"

    def of(self, block: Block, clips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(rows of the block, the place of each); a row may go to several places, or to none.

        clips: that the rows are of; -1: of none.
        """
        if block.segments is not None:
            return self._numbered(clips, block.segments)
        rows = np.repeat(np.arange(len(clips)), np.where(clips < 0, 0, self.counts[clips]))
        firsts = np.flatnonzero(np.diff(rows, prepend=-1))
        segment = np.arange(len(rows)) - np.repeat(firsts, np.diff(np.append(firsts, len(rows))))
        if block.onsets is not None and block.offsets is not None:
            self._check_times(block.names, clips, block.onsets, block.offsets)
            length = self.index.num_samples[clips[rows]] / SAMPLE_RATE
            times = block.onsets[rows], block.offsets[rows]
            kept = self._fitting(rows, segment, length, *times)
            rows, segment = rows[kept], segment[kept]
        return rows, self.starts[clips[rows]] + segment

    def _check_times(
        self, names: Sequence[str], clips: np.ndarray, onsets: np.ndarray, offsets: np.ndarray
    ) -> None:
        right = np.isfinite(onsets) & np.isfinite(offsets) & (onsets < offsets)
        if (wrong := np.flatnonzero(~right & (clips >= 0))).size:
            row = wrong[0]
            raise UserError(
                f"{self.path}: clip {names[row]} has a row from {onsets[row]:g} to "
                f"{offsets[row]:g} s: expected two times in seconds, the later one second"
            )

    def _fitting(
        self,
        rows: np.ndarray,
        segment: np.ndarray,
        length: np.ndarray,
        onsets: np.ndarray,
        offsets: np.ndarray,
    ) -> np.ndarray:
        """Which pairs of a row and a segment of its clip, [n] all, belong together: bool [n].

        A row that has the times of a segment is that segment's alone (others may overlap it); any
        other one is of the segments whose middles lie in it. length: of clips, in seconds.
        """
        onset, offset = self.segmentation.times(segment)
        ends = np.minimum(offset, length)
        middle = (onset + np.maximum(ends, onset)) / 2
        same = np.abs(onsets - onset) < SAME_SECONDS
        same &= np.abs(np.minimum(offsets, length) - ends) < SAME_SECONDS
        is_own = np.zeros(rows.max(initial=-1) + 1, bool)
        is_own[rows[same]] = True
        return np.where(is_own[rows], same, (onsets <= middle) & (middle < offsets))

    def _numbered(self, clips: np.ndarray, segments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        inside = segments < np.where(clips < 0, 0, self.counts[clips])
        if not self.padded and (wrong := np.flatnonzero(~inside & (clips >= 0))).size:
            clip, segment = clips[wrong[0]], segments[wrong[0]]
            raise UserError(
                f"{self.path}: clip {self.index.ids[clip]} has a row for segment {segment}, and "
                f"with {self.segmentation.seconds:g} s it has {self.counts[clip]} (from 0). Is "
                "--segment_seconds that of the file?"
            )
        rows = np.flatnonzero(inside)
        return rows, self.starts[clips[rows]] + segments[rows]


class _Scratch:
    """Labels of all segments in a file, and how many rows each had."""

    def __init__(self, values: np.ndarray, views: bool):
        self.values, self.views = values, views
        self.found = np.zeros(len(values), np.uint32)

    def add(self, places: np.ndarray, rows: np.ndarray, name) -> None:
        """Takes rows [n, classes]; name(place) says which segment it is, for messages."""
        if self.views:
            np.add.at(self.values, places, rows)
        else:
            unique, times = np.unique(places, return_counts=True)
            again = unique[(times > 1) | (self.found[unique] > 0)]
            if len(again):
                raise UserError(f"{name(int(again[0]))} has two rows")
            self.values[places] = rows
        np.add.at(self.found, places, 1)

    def mean(self, rows: slice) -> np.ndarray:
        """float32 [rows, classes]; NaN where nothing was given."""
        found = self.found[rows, None]
        values = np.asarray(self.values[rows], np.float32)
        return np.where(found > 0, values / np.maximum(found, 1), np.nan)


@contextlib.contextmanager
def _scratch(folder: pathlib.Path, segments: int, classes: int, views: bool) -> Iterator[_Scratch]:
    """A file that is gone when the block ends, however it ends."""
    dtype = np.dtype(np.float32 if views else np.float16)
    size = max(segments, 1) * classes * dtype.itemsize
    folder.mkdir(parents=True, exist_ok=True)
    advice = f"{size / 1e9:.2f} GB are needed beside the labels."
    with plain_disk_errors(folder, advice), tempfile.TemporaryFile(dir=folder) as file:
        # Memory that a full disk cannot back would end the process without a word.
        os.posix_fallocate(file.fileno(), 0, size)
        values = np.memmap(file, dtype, "r+", shape=(max(segments, 1), classes))[:segments]
        yield _Scratch(values, views)
        del values


def _refuse_missing(
    path: pathlib.Path, index: ClipIndex, lacking: np.ndarray, clips: np.ndarray
) -> None:
    examples = ", ".join(index.ids[clips[:_EXAMPLES]].tolist())
    more = f" and {len(clips) - _EXAMPLES} more" if len(clips) > _EXAMPLES else ""
    raise UserError(
        f"{path} has no labels for {lacking.sum()} segments of {len(clips)} of the {len(index)} "
        f"clips of {index.split!r}: {examples}{more}. --missing=weak lets the weak labels stand "
        "for them"
    )


def _write(
    writer: SoftLabelWriter, index: ClipIndex, counts: np.ndarray, scratch: _Scratch
) -> None:
    starts = np.concatenate([[0], np.cumsum(counts)])
    for shard in writer.missing:
        clips = np.arange(index.shard_offsets[shard], index.shard_offsets[shard + 1])
        if not len(clips):
            writer.write_shard(shard, [])
            continue
        values = scratch.mean(slice(starts[clips[0]], starts[clips[-1] + 1]))
        weak = np.repeat(index.weak_labels(clips), counts[clips], axis=0)
        values = np.where(np.isnan(values), weak, values)
        writer.write_shard(shard, np.split(values, np.cumsum(counts[clips])[:-1]))
