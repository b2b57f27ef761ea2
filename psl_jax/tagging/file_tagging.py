"""Finds the files to tag, and tags them in batches across files, in their order."""

import dataclasses
import functools
import glob
import itertools
import math
import os
import pathlib
import sys
import tempfile
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from psl_jax.audio.audio_input import Blocks, limit_blocks
from psl_jax.audio.decoding import AUDIO_SUFFIXES, MIN_SAMPLES
from psl_jax.audio.readers import DecodeError
from psl_jax.audio.segments import SAMPLE_RATE, Segmentation
from psl_jax.runtime.paths import is_remote, path_of
from psl_jax.tagging.events import Event, EventFinder, EventSettings
from psl_jax.tagging.jitted_programs import FRAME_SCORES, SCORES_AND_EMBEDDINGS
from psl_jax.tagging.tagger import ReadFailure, Tagger
from psl_jax.tagging.windowing import FRAME_SECONDS, MaxPool, Timeline

_SPOOL_ROWS = 4096
STDIN = "-"
RESOURCE_FORK = "._"  # macOS adds files with this prefix on foreign disks


@dataclasses.dataclass(frozen=True, slots=True)
class Input:
    """A file to tag; `name` is its path below the folder that was given, for output files.

    The path STDIN is standard input.
    """

    path: str
    name: str


@dataclasses.dataclass(frozen=True)
class FileTags:
    """The tags of a file.

    Attributes:
      input: the file.
      labels: names of the classes.
      seconds: length of the file.
      scores: float32 [classes], for the whole file.
      peaks: float32 [classes], highest score over time.
      events: events sorted by onset.
      heatmap: float32 [n, classes], scores over time, pooled to a few thousand rows at most.
      heatmap_row_seconds: seconds from one row of the heatmap to the next.
      rows: all scores over time, or None (see KeepOptions).
      high_hertz: highest frequency that the file can hold: half of its rate, at most 8 kHz.
      cut: the damage of a file that was tagged as far as it can be read, else None.
      embedding, frame_embeddings: float32 [channels], and all over time, or None (see KeepOptions).
    """

    input: Input
    labels: tuple[str, ...]
    seconds: float
    scores: np.ndarray
    peaks: np.ndarray
    events: list[Event]
    heatmap: np.ndarray
    heatmap_row_seconds: float
    rows: "RowFile | None" = None
    high_hertz: float = SAMPLE_RATE / 2
    cut: str | None = None
    embedding: np.ndarray | None = None
    frame_embeddings: "RowFile | None" = None

    def rank_classes(self, values: np.ndarray, k: int, min_value: float = 0.0) -> list[int]:
        """Returns the `k` classes of highest `values` (`scores` or `peaks`) from `min_value` on."""
        order = np.argsort(-values, kind="stable")[:k]
        classes: list[int] = order[values[order] >= min_value].tolist()
        return classes


@dataclasses.dataclass(frozen=True)
class BadFile:
    """A file that could not be tagged."""

    input: Input
    error: DecodeError

    @property
    def reason(self) -> str:
        """The reason in one line."""
        return f"{self.error.kind} ({self.error.detail})"


class RowFile:
    """Keeps scores or embeddings over time [rows, values] on disk, not in memory."""

    def __init__(self, num_values: int):
        self._num_values, self.count = num_values, 0
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        weakref.finalize(self, self._file.close)

    def add(self, rows: np.ndarray) -> None:
        rows.astype(np.float32).tofile(self._file)
        self.count += len(rows)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yields blocks of rows: float32 [n, values]."""
        self._file.seek(0)
        while len(block := np.fromfile(self._file, np.float32, _SPOOL_ROWS * self._num_values)):
            yield block.reshape(-1, self._num_values)


class FoundFiles(NamedTuple):
    """Files to tag, folders without any, and for each folder a line on the files left out."""

    inputs: list[Input]
    bad: list[BadFile]
    notes: list[str]


def find_files(paths: Iterable[str]) -> FoundFiles:
    """Finds the files to tag, and sorts those of folders.

    paths: files, folders, patterns such as "*/a?.wav", and STDIN.
    """
    files_to_tag = FoundFiles([], [], [])
    for path in itertools.chain.from_iterable(map(_expand_pattern, paths)):
        if path == STDIN:
            files_to_tag.inputs.append(Input(STDIN, "stdin"))
        elif is_remote(path):
            _add_from_bucket(path, files_to_tag)
        elif not os.path.isdir(path):
            files_to_tag.inputs.append(Input(path, os.path.basename(path)))
        else:
            _add_from_folder(path, files_to_tag)
    return files_to_tag._replace(inputs=list(dict.fromkeys(files_to_tag.inputs)))


def _add_from_bucket(path: str, files_to_tag: FoundFiles) -> None:
    """Adds an object of a bucket, or the audio files below a folder of it."""
    place = path_of(path)
    if not place.is_dir():
        files_to_tag.inputs.append(Input(path, place.name))
        return
    audio_files, num_skipped = [], 0
    for file in place.rglob("*"):
        is_audio = file.suffix.lower() in AUDIO_SUFFIXES and not file.name.startswith(RESOURCE_FORK)
        audio_files += [file] * is_audio
        num_skipped += not is_audio
    names = [os.fspath(file.relative_to(place)) for file in audio_files]
    files_to_tag.inputs.extend(
        Input(os.fspath(file), name) for file, name in zip(audio_files, names, strict=True)
    )
    if not audio_files:
        error = DecodeError("empty", "a folder without audio files")
        files_to_tag.bad.append(BadFile(Input(path, path), error))
    if num_skipped:
        files_to_tag.notes.append(
            f"{path}: {len(audio_files)} audio files; passed over {num_skipped} others"
        )


def _add_from_folder(folder: str, files_to_tag: FoundFiles) -> None:
    """Adds the audio files below a folder, and a line on the files that it leaves out."""
    audio_paths: list[str] = []
    skipped: Counter[str] = Counter()

    def count_unreadable(error: OSError) -> None:
        skipped["folders that cannot be read"] += 1

    for folder_path, folders, names in os.walk(folder, onerror=count_unreadable):
        for name in folders:
            if os.path.islink(os.path.join(folder_path, name)):
                skipped["links to folders"] += 1
        for name in names:
            suffix, path = os.path.splitext(name)[1].lower(), os.path.join(folder_path, name)
            if name.startswith(RESOURCE_FORK):
                skipped["resource forks of macOS (._ files)"] += 1
            elif suffix not in AUDIO_SUFFIXES:
                skipped[suffix if suffix and len(suffix) < 12 else "others"] += 1
            elif os.path.isfile(path):
                audio_paths.append(path)
            else:
                skipped["broken links"] += 1
    audio_paths.sort(key=pathlib.PurePath)
    files_to_tag.inputs.extend(Input(path, os.path.relpath(path, folder)) for path in audio_paths)
    if not audio_paths:
        error = DecodeError("empty", "a folder without audio files")
        files_to_tag.bad.append(BadFile(Input(folder, folder), error))
    if skipped:
        reasons = ", ".join(f"{count} {reason}" for reason, count in skipped.most_common(6))
        more = ", …" if len(skipped) > 6 else ""
        num_skipped = skipped.total()
        files_to_tag.notes.append(
            f"{folder}: {len(audio_paths)} audio files; passed over {num_skipped}: {reasons}{more}"
        )


def _expand_pattern(path: str) -> list[str]:
    """Lists the files of a pattern that no shell has expanded; returns any other path as it is."""
    if is_remote(path):
        if not glob.has_magic(path):
            return [path]
        place = path_of(path)
        root = next(parent for parent in place.parents if not glob.has_magic(os.fspath(parent)))
        pattern = os.fspath(place)[len(os.fspath(root)) + 1 :]
        return [os.fspath(file) for file in root.glob(pattern)] or [path]
    if os.path.exists(path) or not glob.has_magic(path):
        return [path]
    return sorted(glob.glob(path, recursive=True)) or [path]


@dataclasses.dataclass(frozen=True)
class KeepOptions:
    """Options for what is kept of each file besides its tags.

    rows: keeps the scores over time. embeddings: keeps the embeddings. truncated: tags files that
    end too soon or have damaged parts as far as they can be read.
    """

    rows: bool = False
    embeddings: bool = False
    truncated: bool = False


def tag_files(
    tagger: Tagger,
    inputs: Iterable[Input],
    *,
    segmentation: Segmentation | None,
    settings: EventSettings,
    keep: KeepOptions = KeepOptions(),
    report_seconds: Callable[[float], object] | None = None,
    watch_block: Callable[[Input, np.ndarray], object] | None = None,
    max_seconds: float = math.inf,
) -> Iterator[FileTags | BadFile]:
    """Tags files in batches across them, and yields their tags in their order.

    Memory does not grow with the length or the number of files. The iterator asks for an input when
    its turn comes. It calls `report_seconds` with the seconds of audio that it tagged since the
    last call, and `watch_block` with each block of a file's samples as it reads it. Files longer
    than `max_seconds` become BadFile.
    """
    started: dict[int, Input] = {}
    damages: dict[int, str] = {}
    rates: dict[int, int] = {}

    def open_sources() -> Iterator[Blocks]:
        for number, item in enumerate(inputs):
            started[number] = item
            audio = sys.stdin.buffer if item.path == STDIN else item.path
            blocks = tagger.open(audio, on_open=functools.partial(rates.__setitem__, number))
            if keep.truncated:
                blocks = _read_until_damage(blocks, functools.partial(damages.__setitem__, number))
            blocks = limit_blocks(blocks, max_seconds)
            yield (
                blocks
                if watch_block is None
                else _watch_blocks(blocks, functools.partial(watch_block, item))
            )

    open_files: dict[int, _Collector] = {}
    finished: dict[int, FileTags | BadFile] = {}
    next_number = 0
    output = SCORES_AND_EMBEDDINGS if keep.embeddings else FRAME_SCORES
    for item in tagger.run(open_sources(), segmentation, output):
        number = item.source
        if isinstance(item, ReadFailure):
            open_files.pop(number, None)
            finished[number] = BadFile(started.pop(number), item.error)
        else:
            if number not in open_files:
                open_files[number] = _Collector(tagger, settings, keep)
            new_seconds = open_files[number].add(item.rows, item.timeline.seconds)
            if report_seconds is not None:
                report_seconds(new_seconds)
            if item.is_last:
                collector, source = open_files.pop(number), started.pop(number)
                high_hertz = min(rates.pop(number), tagger.info.sample_rate) / 2
                cut = damages.pop(number, None)
                finished[number] = collector.finish(source, item.timeline, high_hertz, cut)
        while next_number in finished:
            yield finished.pop(next_number)
            next_number += 1


def _read_until_damage(blocks: Blocks, report_damage: Callable[[str], object]) -> Blocks:
    """Reads the blocks of a file up to its damage, which it reports."""

    def read_blocks() -> Iterator[np.ndarray]:
        num_samples = 0
        try:
            for block in blocks():
                num_samples += len(block)
                yield block
        except DecodeError as error:
            if error.kind not in ("truncated", "damaged") or num_samples < MIN_SAMPLES:
                raise
            report_damage(f"{error.kind} ({error.detail})")

    return read_blocks


def _watch_blocks(blocks: Blocks, watch_block: Callable[[np.ndarray], object]) -> Blocks:
    """Returns the same blocks, and passes each to `watch_block` when it is first read."""
    was_opened = False

    def read_blocks() -> Iterator[np.ndarray]:
        nonlocal was_opened
        is_first, was_opened = not was_opened, True
        for block in blocks():
            if is_first:
                watch_block(block)
            yield block

    return read_blocks


class _Collector:
    """Collects the rows of a file, and keeps what the outputs need."""

    def __init__(self, tagger: Tagger, settings: EventSettings, keep: KeepOptions):
        self.labels = labels = tagger.labels
        self.finder = EventFinder(settings, labels)
        self.peaks = np.zeros(len(labels), np.float32)
        self.pool = MaxPool()
        self.rows = RowFile(len(labels)) if keep.rows else None
        self.frame_embeddings = RowFile(tagger.embedding_size) if keep.embeddings else None
        self._seconds = 0.0

    def add(self, rows: np.ndarray, seconds: float) -> float:
        """Takes the rows of a file up to `seconds`; returns how many seconds are new."""
        new_seconds, self._seconds = seconds - self._seconds, seconds
        if not len(rows):
            return new_seconds
        rows, embedding_rows = np.split(rows, [len(self.labels)], axis=1)
        self.finder.add(rows)
        self.peaks = np.maximum(self.peaks, rows.max(axis=0))
        self.pool.add(rows)
        if self.rows is not None:
            self.rows.add(rows)
        if self.frame_embeddings is not None:
            self.frame_embeddings.add(embedding_rows)
        return new_seconds

    def finish(
        self, source: Input, timeline: Timeline, high_hertz: float, cut: str | None
    ) -> FileTags:
        scores, embedding = np.split(timeline.score, [len(self.labels)])
        return FileTags(
            source,
            self.labels,
            timeline.seconds,
            scores,
            self.peaks,
            self.finder.finish(timeline.seconds),
            self.pool.rows,
            self.pool.step * FRAME_SECONDS,
            self.rows,
            high_hertz,
            cut,
            None if self.frame_embeddings is None else embedding,
            self.frame_embeddings,
        )
