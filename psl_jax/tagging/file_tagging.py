"""Many files through a model: which ones, and what is found in each, in their order."""

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

from psl_jax.audio.audio_input import Blocks, at_most, blocks_of
from psl_jax.audio.decoding import AUDIO_SUFFIXES, MIN_SAMPLES, DecodeError
from psl_jax.audio.segments import SAMPLE_RATE, Segmentation
from psl_jax.networks.mobilenetv2 import HEAD_CHANNELS
from psl_jax.runtime.paths import is_remote, path_of
from psl_jax.tagging.events import Event, EventFinder, EventSettings
from psl_jax.tagging.jitted_programs import BOTH, SCORES
from psl_jax.tagging.tagger import Failed, Tagger
from psl_jax.tagging.windowing import FRAME_SECONDS, Pool, Timeline

_SPOOL_ROWS = 4096
STDIN = "-"
RESOURCE_FORK = "._"  # how the names begin that macOS adds on foreign disks


@dataclasses.dataclass(frozen=True, slots=True)
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
      high_hertz: highest frequency that was heard: half of the file's rate, at most 8 kHz.
      cut: what is missing of the file, where that was to be tagged all the same.
      embedding: float32 [1280], where asked for, and frame_embeddings: over time.
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
    high_hertz: float = SAMPLE_RATE / 2
    cut: str | None = None
    embedding: np.ndarray | None = None
    frame_embeddings: "RowFile | None" = None

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
    """Scores or embeddings over time [rows, values], kept on disk and not in memory."""

    def __init__(self, num_values: int):
        self._num_values, self.count = num_values, 0
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        weakref.finalize(self, self._file.close)

    def add(self, rows: np.ndarray) -> None:
        rows.astype(np.float32).tofile(self._file)
        self.count += len(rows)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Blocks of rows: float32 [n, values]."""
        self._file.seek(0)
        while len(block := np.fromfile(self._file, np.float32, _SPOOL_ROWS * self._num_values)):
            yield block.reshape(-1, self._num_values)


class Found(NamedTuple):
    """What there is to tag; folders that hold none; a line on what was passed over in each."""

    inputs: list[Input]
    bad: list[BadFile]
    notes: list[str]


def find_files(paths: Iterable[str]) -> Found:
    """The files to tag, those in folders sorted.

    paths: files, folders, patterns such as "*/a?.wav", and STDIN.
    """
    found = Found([], [], [])
    for path in itertools.chain.from_iterable(map(_expanded, paths)):
        if path == STDIN:
            found.inputs.append(Input(STDIN, "stdin"))
        elif is_remote(path):
            _look_into_bucket(path, found)
        elif not os.path.isdir(path):
            found.inputs.append(Input(path, os.path.basename(path)))
        else:
            _look_into(path, found)
    return found._replace(inputs=list(dict.fromkeys(found.inputs)))


def _look_into_bucket(path: str, found: Found) -> None:
    """Adds an object, or the audio among those below a place."""
    place = path_of(path)
    if not place.is_dir():
        found.inputs.append(Input(path, place.name))
        return
    inside, passed = [], 0
    for one in place.rglob("*"):
        is_audio = one.suffix.lower() in AUDIO_SUFFIXES and not one.name.startswith(RESOURCE_FORK)
        inside += [one] * is_audio
        passed += not is_audio
    names = [os.fspath(one.relative_to(place)) for one in inside]
    found.inputs.extend(Input(os.fspath(o), name) for o, name in zip(inside, names, strict=True))
    if not inside:
        error = DecodeError("empty", "a folder without audio files")
        found.bad.append(BadFile(Input(path, path), error))
    if passed:
        found.notes.append(f"{path}: {len(inside)} audio files; passed over {passed} others")


def _look_into(folder: str, found: Found) -> None:
    """Adds the audio files below a folder, and what was passed over there."""
    inside: list[str] = []
    passed: Counter[str] = Counter()

    def unreadable(error: OSError) -> None:
        passed["folders that cannot be read"] += 1

    for place, folders, names in os.walk(folder, onerror=unreadable):
        for name in folders:
            if os.path.islink(os.path.join(place, name)):
                passed["links to folders"] += 1
        for name in names:
            suffix, path = os.path.splitext(name)[1].lower(), os.path.join(place, name)
            if name.startswith(RESOURCE_FORK):
                passed["resource forks of macOS (._ files)"] += 1
            elif suffix not in AUDIO_SUFFIXES:
                passed[suffix if suffix and len(suffix) < 12 else "others"] += 1
            elif os.path.isfile(path):
                inside.append(path)
            else:
                passed["broken links"] += 1
    inside.sort(key=pathlib.PurePath)
    found.inputs.extend(Input(path, os.path.relpath(path, folder)) for path in inside)
    if not inside:
        error = DecodeError("empty", "a folder without audio files")
        found.bad.append(BadFile(Input(folder, folder), error))
    if passed:
        what = ", ".join(f"{count} {kind}" for kind, count in passed.most_common(6))
        more = ", …" if len(passed) > 6 else ""
        total = passed.total()
        found.notes.append(
            f"{folder}: {len(inside)} audio files; passed over {total}: {what}{more}"
        )


def _expanded(path: str) -> list[str]:
    """What a pattern stands for, which no shell has expanded; any other path is itself."""
    if is_remote(path):
        if not glob.has_magic(path):
            return [path]
        place = path_of(path)
        root = next(p for p in place.parents if not glob.has_magic(os.fspath(p)))
        pattern = os.fspath(place)[len(os.fspath(root)) + 1 :]
        return [os.fspath(one) for one in root.glob(pattern)] or [path]
    if os.path.exists(path) or not glob.has_magic(path):
        return [path]
    return sorted(glob.glob(path, recursive=True)) or [path]


@dataclasses.dataclass(frozen=True)
class Keep:
    """What is kept of each file besides its tags.

    rows: the scores over time. embeddings: those. truncated: files that end too soon or have
    damaged parts, as far as they can be read.
    """

    rows: bool = False
    embeddings: bool = False
    truncated: bool = False


def tag_files(
    tagger: Tagger,
    inputs: Iterable[Input],
    segmentation: Segmentation | None,
    settings: EventSettings,
    keep: Keep = Keep(),
    heard: Callable[[float], object] | None = None,
    watch: Callable[[Input, np.ndarray], object] | None = None,
    max_seconds: float = math.inf,
) -> Iterator[FileTags | BadFile]:
    """Tags files in batches across them, and yields what was found in their order.

    Memory does not grow with the length or the number of files; an input is asked for when its turn
    comes. `heard` is called with the seconds of audio that have been tagged since its last call,
    `watch` with each block of a file's samples as it is read. Files longer than `max_seconds` are
    bad ones.
    """
    begun: dict[int, Input] = {}
    cuts: dict[int, str] = {}
    rates: dict[int, int] = {}

    def sources() -> Iterator[Blocks]:
        for number, item in enumerate(inputs):
            begun[number] = item
            audio = sys.stdin.buffer if item.path == STDIN else item.path
            blocks = blocks_of(audio, on_open=functools.partial(rates.__setitem__, number))
            if keep.truncated:
                blocks = _until_cut(blocks, functools.partial(cuts.__setitem__, number))
            blocks = at_most(blocks, max_seconds)
            yield blocks if watch is None else _watched(blocks, functools.partial(watch, item))

    open_files: dict[int, _Collector] = {}
    finished: dict[int, FileTags | BadFile] = {}
    following = 0
    output = BOTH if keep.embeddings else SCORES
    for item in tagger.run(sources(), segmentation, output):
        number = item.source
        if isinstance(item, Failed):
            open_files.pop(number, None)
            finished[number] = BadFile(begun.pop(number), item.error)
        else:
            if number not in open_files:
                open_files[number] = _Collector(tagger.labels, settings, keep)
            new_seconds = open_files[number].add(item.rows, item.timeline.seconds)
            if heard is not None:
                heard(new_seconds)
            if item.is_last:
                done, source = open_files.pop(number), begun.pop(number)
                high_hertz = min(rates.pop(number), SAMPLE_RATE) / 2
                cut = cuts.pop(number, None)
                finished[number] = done.finish(source, item.timeline, high_hertz, cut)
        while following in finished:
            yield finished.pop(following)
            following += 1


def _until_cut(blocks: Blocks, tell: Callable[[str], object]) -> Blocks:
    """The blocks of a file as far as it goes; what is missing is told."""

    def kept() -> Iterator[np.ndarray]:
        samples = 0
        try:
            for block in blocks():
                samples += len(block)
                yield block
        except DecodeError as error:
            if error.kind not in ("truncated", "damaged") or samples < MIN_SAMPLES:
                raise
            tell(f"{error.kind} ({error.detail})")

    return kept


def _watched(blocks: Blocks, watch: Callable[[np.ndarray], object]) -> Blocks:
    """The same blocks, each of which is shown to a function when it is read for the first time."""
    was_opened = False

    def watched() -> Iterator[np.ndarray]:
        nonlocal was_opened
        is_first, was_opened = not was_opened, True
        for block in blocks():
            if is_first:
                watch(block)
            yield block

    return watched


class _Collector:
    """Takes the rows of a file and keeps what the outputs need."""

    def __init__(self, labels: tuple[str, ...], settings: EventSettings, keep: Keep):
        self.labels = labels
        self.finder = EventFinder(settings, labels)
        self.peaks = np.zeros(len(labels), np.float32)
        self.pool = Pool()
        self.rows = RowFile(len(labels)) if keep.rows else None
        self.embedded = RowFile(HEAD_CHANNELS) if keep.embeddings else None
        self._seconds = 0.0

    def add(self, rows: np.ndarray, seconds: float) -> float:
        """Takes the next rows of a file that is known up to `seconds`; returns how many are new."""
        new_seconds, self._seconds = seconds - self._seconds, seconds
        if not len(rows):
            return new_seconds
        rows, embedded = np.split(rows, [len(self.labels)], axis=1)
        self.finder.add(rows)
        self.peaks = np.maximum(self.peaks, rows.max(axis=0))
        self.pool.add(rows)
        if self.rows is not None:
            self.rows.add(rows)
        if self.embedded is not None:
            self.embedded.add(embedded)
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
            None if self.embedded is None else embedding,
            self.embedded,
        )
