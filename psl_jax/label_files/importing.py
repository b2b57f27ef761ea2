"""Imports the labels of a file, or of an older folder, as the soft labels of a split.

A file has its clips in an order of its own. We first put its rows in their places in a scratch file
on the disk, then write the shards from that file. So memory holds a block and a shard, whatever the
split's size, and the disk holds the labels three times for a while.
"""

import contextlib
import hashlib
import os
import pathlib
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from psl_jax.audio.segments import SAMPLE_RATE, Segmentation
from psl_jax.corpora.audioset import ID_LENGTH
from psl_jax.data import label_manifest, record_files
from psl_jax.data.clip_index import ClipIndex, list_places
from psl_jax.data.label_manifest import LabelRule
from psl_jax.data.soft_labels import SoftLabelWriter
from psl_jax.label_files.label_file import SAME_SECONDS, Block, LabelFile, ReadRequest
from psl_jax.networks import class_lists
from psl_jax.networks.class_lists import Columns
from psl_jax.runtime import files, progress
from psl_jax.runtime.disk_errors import plain_disk_errors
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import local_copy

_EXAMPLES, _NAME_EXAMPLES = 5, 3
_FAR = 10  # clips' lengths that no row in seconds lasts
_TIMES = re.compile(r"_\d+(\.\d+)?([_-]\d+(\.\d+)?)?")


class ClipNames:
    """Finds clips by their ids, or by the names of their files.

    It tries a name as it is; then without its folder, its extension, and a `Y` before it; then an
    AudioSet id also without the times behind it, as AudioSet has one part of each video. The whole
    name comes first, as ids may themselves begin with `Y`, `-` or `_`; no name is split at these.
    Memory: about 150 bytes a clip.
    """

    def __init__(self, ids: np.ndarray, path: object):
        """path: the file that names clips, for messages."""
        self._path = path
        self._numbers = {clip_id: number for number, clip_id in enumerate(ids.tolist())}
        self._folders: dict[int, str] = {}  # of the file names of clips
        self.unknown = 0
        self.unknown_examples: list[str] = []

    def find(self, names: Sequence[str]) -> np.ndarray:
        """Returns the numbers of clips, int64 [n]; -1 for clips of other data, and counts those.

        Raises UserError for files of one name in two folders that would be one clip.
        """
        clips = self.look_up(names)
        for clip, name in zip(clips.tolist(), names, strict=True):
            folder = name.replace("\\", "/").rpartition("/")[0]
            if folder and clip >= 0 and self._folders.setdefault(clip, folder) != folder:
                raise UserError(
                    f"{self._path}: {name} and the file of that name in {self._folders[clip]} "
                    "would be one clip, as the data have one of them. Leave out the other's rows"
                )
        unknown_names = [names[i] for i in np.flatnonzero(clips < 0).tolist()]
        self.unknown += len(unknown_names)
        names_so_far = dict.fromkeys([*self.unknown_examples, *unknown_names])
        self.unknown_examples = list(names_so_far)[:_NAME_EXAMPLES]
        return clips

    def look_up(self, names: Sequence[str]) -> np.ndarray:
        """Returns the same numbers, and counts nothing."""
        return np.fromiter((self._find(name) for name in names), np.int64, len(names))

    def _find(self, name: str) -> int:
        numbers = self._numbers
        return next((numbers[x] for x in _list_candidates(name) if x in numbers), -1)

    def check_some_found(self, num_found: int) -> None:
        """Raises UserError, with examples of both, where a file has no clip of the data."""
        if not num_found:
            examples = ", ".join(list(self._numbers)[:_NAME_EXAMPLES])
            raise UserError(
                f"{self._path} has labels of other clips: "
                f"{', '.join(self.unknown_examples) or 'none'}; the data has {examples}. Give its "
                "own split with --split"
            )


def _list_candidates(name: str) -> Iterator[str]:
    yield name  # nearly always the id itself
    base = os.path.basename(name.replace("\\", "/"))
    stem = os.path.splitext(base)[0]
    names = [base, base.removeprefix("Y"), stem, stem.removeprefix("Y")]
    yield from names
    yield from (x[:ID_LENGTH] for x in names if _TIMES.fullmatch(x[ID_LENGTH:]))


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
) -> list[str]:
    """Writes the soft labels of every clip of `index` from a file.

    Args:
      file, path: the opened file, and its path.
      class_columns: the file's columns of each class, see `class_lists`.
      directory: the folder of the soft labels.
      open_writer: returns their writer. It is called after all rows were read, so that a file that
        cannot be used leaves nothing behind; or at once where the folder has labels already, which
        must be the same.
      fill_missing: gives segments without a row the clip's weak labels; else they are an error.

    Returns lines that tell a user what was read. Raises UserError for a damaged file, one with
    other clips.
    """
    clip_names = ClipNames(index.ids, path)
    writer = open_writer() if label_manifest.are_begun(directory) else None
    scratch = _Scratch(path, index, segmentation)
    with scratch.open(directory, len(class_columns)):
        num_rows, num_known_rows = _place_rows(file, clip_names, class_columns, scratch)
        clip_names.check_some_found(num_known_rows)
        scratch.check_times(num_rows, num_known_rows)
        num_missing, incomplete_clips = scratch.find_missing()
        if num_missing and not fill_missing:
            examples = class_lists.list_first(index.ids[incomplete_clips].tolist(), _EXAMPLES)
            raise UserError(
                f"{path} has no labels for {num_missing} segments of {len(incomplete_clips)} of "
                f"the {len(index)} clips of {index.split!r}: {examples}. --missing=weak lets the "
                "weak labels stand for them"
            )
        scratch.write_shards(writer or open_writer())
    num_segments = len(scratch.num_rows)
    lines = [f"{path}: {num_rows:,} rows for {num_segments:,} segments of {len(index):,} clips"]
    if clip_names.unknown:
        examples = ", ".join(clip_names.unknown_examples)
        lines.append(f"  {clip_names.unknown:,} rows are of clips that the split lacks: {examples}")
    if num_known_rows > num_rows:
        lines.append(
            f"  {num_known_rows - num_rows:,} rows hold for no segment: no segment's middle lies "
            "in their times, such as past a clip's end"
        )
    if num_repeated := int((scratch.num_rows > 1).sum()):
        lines.append(f"  {num_repeated:,} segments have the mean of several rows")
    if num_missing:
        lines.append(
            f"  {num_missing:,} segments of {len(incomplete_clips):,} clips had no row and have "
            "their weak labels"
        )
    pairs = zip(index.classes, class_columns, strict=True)
    if unmapped := [name for name, columns in pairs if not len(columns)]:
        shown = class_lists.list_first(unmapped, _EXAMPLES)
        lines.append(f"  {len(unmapped)} classes had no column and have weak labels: {shown}")
    return lines


def _place_rows(
    file: LabelFile, clip_names: ClipNames, class_columns: Columns, scratch: "_Scratch"
) -> tuple[int, int]:
    """Puts the rows of a file in their places; counts those used, and those of the data's clips."""
    num_samples = np.append(scratch.index.num_samples, 0).astype(np.int64)  # at -1: no clip
    request = ReadRequest(
        sorted({column for columns in class_columns for column in columns}),
        lambda names: num_samples[clip_names.look_up(names)],
    )
    num_rows = num_known_rows = 0
    with progress.bar(None, "row", "read") as bar:
        for block in file.read_blocks(request):
            clips = clip_names.find(block.names)
            rows, segments = scratch.match(block, clips)
            values = class_lists.select_columns(block.values[rows], class_columns)
            scratch.add(clips[rows], segments, values)
            num_rows += len(np.unique(rows))
            num_known_rows += int((clips >= 0).sum())
            bar.update(len(block.names))
    return num_rows, num_known_rows


def compute_sha256(paths: Sequence[pathlib.Path]) -> str:
    """Hashes the contents of files in their order."""
    digests = [bytes.fromhex(files.compute_sha256(path)) for path in paths]
    return hashlib.sha256(b"".join(digests)).hexdigest()


class _Scratch:
    """The labels of all segments of a split, clip after clip, as the rows of a file arrive."""

    values: np.ndarray  # sums of rows, float32 [segments, classes]; see `open`
    num_rows: np.ndarray  # that each segment had [segments]

    def __init__(self, path: pathlib.Path, index: ClipIndex, segmentation: Segmentation):
        self.path, self.index, self.segmentation = path, index, segmentation
        self.firsts = segmentation.number_segments(index.num_samples)
        self.counts = np.diff(self.firsts)
        self.num_rows = np.zeros(self.firsts[-1], np.uint32)
        self.num_far_rows = 0  # that begin past the end of a clip, and are much longer than it

    @contextlib.contextmanager
    def open(self, folder: pathlib.Path, num_classes: int) -> Iterator[None]:
        """Keeps the values in a file that is deleted when the block ends, however it ends."""
        shape = max(len(self.num_rows), 1), num_classes
        num_bytes = 4 * shape[0] * num_classes
        folder.mkdir(parents=True, exist_ok=True)
        advice = f"{num_bytes / 1e9:.2f} GB are needed beside the labels."
        with plain_disk_errors(folder, advice), tempfile.TemporaryFile(dir=folder) as scratch_file:
            # Memory that a full disk cannot back would end the process without a word.
            os.posix_fallocate(scratch_file.fileno(), 0, num_bytes)
            self.values = np.memmap(scratch_file, np.float32, "r+", shape=shape)
            yield

    def match(self, block: Block, clips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Finds the segments of each row: numbers of rows of the block, and a segment of each.

        A row that has the times of a segment belongs to that segment alone (others may overlap it).
        Any other row with times belongs to the segments whose middles lie in it, perhaps none.
        clips: the clip of each row; -1 where the data does not have it.
        """
        counts = np.where(clips < 0, 0, self.counts[clips])
        if block.segments is not None:
            is_inside = block.segments < counts
            if (wrong := np.flatnonzero(~is_inside & (clips >= 0))).size:
                clip, segment = clips[wrong[0]], block.segments[wrong[0]]
                raise UserError(
                    f"{self.path}: clip {self.index.ids[clip]} has a row for segment {segment}, "
                    f"and with {self.segmentation.seconds:g} s it has {self.counts[clip]} (from "
                    "0). Is --segment_seconds that of the file?"
                )
            rows = np.flatnonzero(is_inside)
            return rows, block.segments[rows]
        rows, segments = list_places(np.zeros(len(clips), np.int64), counts)
        if block.onsets is None or block.offsets is None:
            return rows, segments
        is_valid = np.isfinite(block.onsets) & np.isfinite(block.offsets)
        is_valid &= block.onsets < block.offsets
        if (wrong := np.flatnonzero(~is_valid & (clips >= 0))).size:
            row = wrong[0]
            raise UserError(
                f"{self.path}: clip {block.names[row]} has a row from {block.onsets[row]:g} to "
                f"{block.offsets[row]:g} s: expected two times in seconds, the later one second"
            )
        seconds = self.index.num_samples[clips] / SAMPLE_RATE  # of -1 any
        is_far = (block.onsets >= seconds) & (block.offsets - block.onsets > _FAR * seconds)
        self.num_far_rows += int((is_far & (clips >= 0)).sum())
        onsets, offsets = block.onsets[rows], block.offsets[rows]
        clip_seconds = self.index.num_samples[clips[rows]] / SAMPLE_RATE
        segment_onsets, segment_offsets = self.segmentation.compute_times(segments)
        ends = np.minimum(segment_offsets, clip_seconds)
        middles = (segment_onsets + np.maximum(ends, segment_onsets)) / 2
        has_same_times = np.abs(onsets - segment_onsets) < SAME_SECONDS
        has_same_times &= np.abs(np.minimum(offsets, clip_seconds) - ends) < SAME_SECONDS
        has_segment_times = np.isin(rows, rows[has_same_times])
        has_middle = (onsets <= middles) & (middles < offsets)
        is_fitting = np.where(has_segment_times, has_same_times, has_middle)
        return rows[is_fitting], segments[is_fitting]

    def add(self, clips: np.ndarray, segments: np.ndarray, values: np.ndarray) -> None:
        """Adds labels [n, classes] of segments."""
        places = self.firsts[clips] + segments
        np.add.at(self.num_rows, places, 1)
        if len(np.unique(places)) == len(places):  # which is faster
            self.values[places] += values
        else:
            np.add.at(self.values, places, values)

    def check_times(self, num_rows: int, num_known_rows: int) -> None:
        """Raises UserError where few of the known rows hold for a segment, as `num_rows` do."""
        if not num_rows:
            raise UserError(
                f"{self.path}: no segment's middle lies in the times of any row. Are they seconds "
                "from the beginning of the clip, not of the recording that it is from?"
            )
        if 2 * self.num_far_rows > num_known_rows:
            raise UserError(
                f"{self.path}: most rows begin past the end of their clips, and last more than "
                f"{_FAR:g} times as long. Are they in milliseconds? Expected seconds"
            )

    def find_missing(self) -> tuple[int, np.ndarray]:
        """Counts the segments without a row, and lists the numbers of their clips."""
        missing = np.flatnonzero(self.num_rows == 0)
        return len(missing), np.unique(np.searchsorted(self.firsts, missing, "right") - 1)

    def write_shards(self, writer: SoftLabelWriter) -> None:
        """Writes the means of the rows; weak labels stand for what is missing."""
        for shard in writer.missing:
            rows = slice(*self.firsts[self.index.shard_offsets[shard : shard + 2]])
            clips = np.arange(*self.index.shard_offsets[shard : shard + 2])
            num_rows = self.num_rows[rows, None]
            means = self.values[rows] / np.maximum(num_rows, 1)
            values = np.where(num_rows > 0, means, np.nan)
            weak = np.repeat(self.index.weak_labels(clips), self.counts[clips], axis=0)
            writer.write_shard(shard, np.where(np.isnan(values), weak, values))


# --- Folders of earlier versions ------------------------------------------------------------------


def import_older_folder(folder: pathlib.Path, index: ClipIndex, out: pathlib.Path) -> None:
    """Writes the labels that an earlier version wrote, as shards of TFRecord or npz, into `out`.

    The new manifest has the facts of the old one: a run that began with the old labels goes on with
    the new ones. Raises UserError for labels of other data, and for missing and damaged shards.
    """
    manifest = label_manifest.read(folder, label_manifest.OLD_FORMATS)
    segmentation = label_manifest.segmentation_of(folder, label_manifest.OLD_FORMATS)
    expected = label_manifest.described(index, segmentation)
    del expected["format"], expected["clip_ids_in_order"]  # ids are compared below
    if label_manifest.WEAK in manifest:
        expected[label_manifest.WEAK] = index.labels_sha256
    label_manifest.compare(folder, manifest, expected)
    writer = SoftLabelWriter(
        out,
        index,
        segmentation,
        teacher_digest=manifest["teacher_digest"],
        rule=LabelRule(dtype="", count_padding=manifest["count_padding"]),
        origin=manifest.get("origin"),
        teachers=manifest.get("teachers"),
        uses_weak_labels=label_manifest.WEAK in manifest,
    )
    for shard in progress.track(writer.missing, len(writer.missing), "shard", "import"):
        clips = slice(*index.shard_offsets[shard : shard + 2])
        counts = segmentation.count_segments(index.num_samples[clips])
        name = f"labels-{shard:05d}-of-{len(index.shard_sizes):05d}.{manifest['format']}"
        with local_copy(folder / name) as path:
            try:
                ids, values = _read_older_shard(path, len(counts), index.num_classes)
            except Exception as error:  # of NumPy, zipfile, zlib or the disk
                raise UserError(f"{folder / name}: missing or damaged: {error!r}") from error
        if ids != index.ids[clips].tolist() or values.shape != (counts.sum(), index.num_classes):
            raise UserError(f"{folder / name}: its clips are not those of the data's shard")
        writer.write_shard(shard, values)


def _read_older_shard(
    path: pathlib.Path, num_clips: int, num_classes: int
) -> tuple[list[str], np.ndarray]:
    """Reads a shard: ids [clips], and labels, float16 [segments, classes]."""
    if path.suffix == ".npz":
        with open(path, "rb") as file, np.load(file) as data:
            return data["ids"].tolist(), data["probabilities"]
    ids, labels = [], []
    for record in record_files.read_records(path, num_clips):
        features = record_files.parse_example(record)
        name, values = record_files.single_values(features, ("id", "probabilities"))
        ids.append(bytes(name).decode())
        labels.append(np.frombuffer(values, "<f2").reshape(-1, num_classes))
    return ids, np.concatenate(labels)
