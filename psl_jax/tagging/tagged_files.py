"""Many files through a model: which ones, and what is found in each, in their order."""

import dataclasses
import glob
import io
import itertools
import math
import os
import pathlib
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from psl_jax.audio import video_files
from psl_jax.audio.decoding import DecodeError
from psl_jax.audio.segments import Segmentation
from psl_jax.audio.waveforms import at_most, blocks_of
from psl_jax.tagging.events import Event, EventFinder, EventSettings
from psl_jax.tagging.tagger import Failed, Tagger
from psl_jax.tagging.timeline import FRAME_SECONDS, Piece, Pool, Timeline

# What is looked for in folders; a file that is named itself is read whatever its name.
SUFFIXES = (
    *(".wav", ".wave", ".wavex", ".rf64", ".w64", ".flac", ".mp3", ".ogg", ".oga", ".opus"),
    *(".aiff", ".aif", ".aifc", ".au", ".caf"),
    *video_files.SUFFIXES,  # without PyAV they are reported, not passed over
)
_SPOOL_ROWS = 4096
STDIN = "-"


@dataclasses.dataclass(frozen=True)
class Input:
    """A file to tag; `name` is its path below the folder that was given, for output files.

    The path STDIN is standard input.
    """

    path: str
    name: str


@dataclasses.dataclass(frozen=True)
class FileTags:
    """What was found in a file.

    Attributes:
      input: the file.
      labels: names of the classes.
      seconds: its length.
      scores: float32 [classes], for the whole file.
      peaks: float32 [classes], highest score over time.
      events: by onset.
      heat: float32 [n, classes], scores over time, pooled to a few thousand rows at most, and
      heat_seconds: from one of them to the next.
      rows: the scores over time, all of them, where they were asked for.
    """

    input: Input
    labels: tuple[str, ...]
    seconds: float
    scores: np.ndarray
    peaks: np.ndarray
    events: list[Event]
    heat: np.ndarray
    heat_seconds: float
    rows: "RowFile | None" = None

    def ranked(self, values: np.ndarray, k: int, least: float = 0.0) -> list[int]:
        """The `k` classes of highest `values` (`scores` or `peaks`), less those below `least`."""
        order = np.argsort(-values, kind="stable")[:k]
        return order[values[order] >= least].tolist()


@dataclasses.dataclass(frozen=True)
class BadFile:
    """A file that could not be tagged."""

    input: Input
    error: DecodeError

    @property
    def reason(self) -> str:
        """Why, in one line."""
        return f"{self.error.kind} ({self.error.detail})"


class RowFile:
    """Scores over time [rows, classes], kept on disk and not in memory."""

    def __init__(self, num_classes: int):
        self._num_classes = num_classes
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        weakref.finalize(self, self._file.close)

    def add(self, rows: np.ndarray) -> None:
        rows.astype(np.float32).tofile(self._file)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Blocks of rows: float32 [n, classes]."""
        self._file.seek(0)
        while len(block := np.fromfile(self._file, np.float32, _SPOOL_ROWS * self._num_classes)):
            yield block.reshape(-1, self._num_classes)


def find_files(paths: Iterable[str]) -> tuple[list[Input], list[BadFile]]:
    """The files to tag, those in folders sorted; and folders that hold none.

    paths: files, folders, patterns such as "*/a?.wav", and STDIN.
    """
    found, bad = [], []
    for path in itertools.chain.from_iterable(map(_expanded, paths)):
        if path == STDIN:
            found.append(Input(STDIN, "stdin"))
            continue
        if not os.path.isdir(path):
            found.append(Input(path, os.path.basename(path)))
            continue
        inside = sorted(
            p for p in pathlib.Path(path).rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()
        )
        found += [Input(str(p), str(p.relative_to(path))) for p in inside]
        if not inside:
            error = DecodeError("empty", "a folder without audio files")
            bad.append(BadFile(Input(path, path), error))
    return found, bad


def _expanded(path: str) -> list[str]:
    """What a pattern stands for, which no shell has expanded; any other path is itself."""
    if os.path.exists(path) or not glob.has_magic(path):
        return [path]
    return sorted(glob.glob(path, recursive=True)) or [path]


def _audio(item: Input) -> str | io.BytesIO:
    return io.BytesIO(sys.stdin.buffer.read()) if item.path == STDIN else item.path


def tag_files(
    tagger: Tagger,
    inputs: Sequence[Input],
    segmentation: Segmentation | None,
    settings: EventSettings,
    keep_rows: bool = False,
    heard: Callable[[float], object] | None = None,
    max_seconds: float = math.inf,
) -> Iterator[FileTags | BadFile]:
    """Tags files in batches across them, and yields what was found in their order.

    Memory does not grow with the length or the number of files. `heard` is called with the
    seconds of audio that have been tagged since its last call. Files longer than `max_seconds` are
    bad ones.
    """
    sources = (at_most(blocks_of(_audio(item)), max_seconds) for item in inputs)
    open_files: dict[int, _Collector] = {}
    finished: dict[int, FileTags | BadFile] = {}
    following = 0
    for item in tagger.run(sources, segmentation):
        number = item.source
        if isinstance(item, Failed):
            open_files.pop(number, None)
            finished[number] = BadFile(inputs[number], item.error)
        else:
            if number not in open_files:
                whole = segmentation is None
                open_files[number] = _Collector(tagger.labels, settings, whole, keep_rows)
            open_files[number].add(item.piece, item.frames)
            if heard is not None:
                heard(open_files[number].new_seconds)
            if item.piece.last:
                finished[number] = open_files.pop(number).finish(inputs[number])
        while following in finished:
            yield finished.pop(following)
            following += 1


class _Collector:
    """Takes the pieces of a file and keeps what the outputs need."""

    def __init__(
        self, labels: tuple[str, ...], settings: EventSettings, whole: bool, keep_rows: bool
    ):
        self.labels = labels
        self.timeline = Timeline(segments=not whole)
        self.finder = EventFinder(settings, labels)
        self.peaks = np.zeros(len(labels), np.float32)
        self.pool = Pool()
        self.rows = RowFile(len(labels)) if keep_rows else None
        self.new_seconds = 0.0

    def add(self, piece: Piece, frames: np.ndarray) -> None:
        before = self.timeline.seconds
        rows = self.timeline.add(piece, frames)
        self.new_seconds = self.timeline.seconds - before
        if len(rows):
            self.finder.add(rows)
            self.peaks = np.maximum(self.peaks, rows.max(axis=0))
            self.pool.add(rows)
            if self.rows is not None:
                self.rows.add(rows)

    def finish(self, source: Input) -> FileTags:
        return FileTags(
            source,
            self.labels,
            self.timeline.seconds,
            self.timeline.score,
            self.peaks,
            self.finder.finish(self.timeline.seconds),
            self.pool.rows,
            self.pool.step * FRAME_SECONDS,
            self.rows,
        )
