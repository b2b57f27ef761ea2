"""Finds the files to tag, and tags them in batches across files, in their order."""

import dataclasses
import functools
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

from psl_jax.audio.audio_input import limit_blocks
from psl_jax.audio.decoding import AUDIO_SUFFIXES
from psl_jax.audio.readers import DecodeError
from psl_jax.audio.segments import SAMPLE_RATE, Segmentation
from psl_jax.runtime.disk_errors import plain_disk_errors
from psl_jax.runtime.paths import absolute, is_remote, path_of
from psl_jax.tagging.events import Event, EventSettings, Tags, find_events
from psl_jax.tagging.tagger import ReadFailure, Tagger
from psl_jax.tagging.windowing import Timeline

STDIN = "-"
RESOURCE_FORK = "._"  # macOS adds files with this prefix on foreign disks


@dataclasses.dataclass(frozen=True, slots=True)
class Input:
    """A file to tag; `name` is its path below the folder that was given, for output files.

    The path STDIN is standard input.
    """

    path: str
    name: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileTags(Tags):
    """The tags of a file, whose scores over time lie on disk."""

    input: Input
    found_events: list[Event]  # of the settings with which it was tagged, by onset
    high_hertz: float = SAMPLE_RATE / 2  # highest frequency that file and model have


@dataclasses.dataclass(frozen=True)
class BadFile:
    """A file that could not be tagged."""

    input: Input
    error: DecodeError

    @property
    def reason(self) -> str:
        """The reason in one line."""
        return f"{self.error.kind} ({self.error.detail})"


class FoundFiles(NamedTuple):
    """Files to tag, folders without any, and for each folder a line on the files left out."""

    inputs: list[Input]
    bad: list[BadFile]
    notes: list[str]


def find_files(paths: Iterable[str]) -> FoundFiles:
    """Finds the files to tag, and sorts those of folders.

    paths: files, folders, and STDIN.
    """
    inputs: list[Input] = []
    bad_folders, notes = [], []
    for path in paths:
        if path == STDIN:
            inputs.append(Input(STDIN, "stdin"))
        elif not (path_of(path).is_dir() if is_remote(path) else os.path.isdir(path)):
            inputs.append(Input(path, os.path.basename(path)))
        else:
            names, skipped = _list_audio(path)
            inputs += [Input(os.path.join(path, name), name) for name in names]
            if not names:
                error = DecodeError("empty", "a folder without audio files")
                bad_folders.append(BadFile(Input(path, path), error))
            if skipped:
                reasons = ", ".join(f"{count} {reason}" for reason, count in skipped.most_common(6))
                more = ", …" if len(skipped) > 6 else ""
                tagged = f"{path}: {len(names)} audio files"
                notes.append(f"{tagged}; passed over {skipped.total()}: {reasons}{more}")
    different = {(os.fspath(absolute(item.path)), item.name): item for item in inputs}
    return FoundFiles(list(different.values()), bad_folders, notes)


def _list_audio(folder: str) -> tuple[list[str], Counter[str]]:
    """Lists the audio files below a folder, by their paths in it, and counts what it leaves out."""
    names, skipped = [], Counter[str]()
    for name in _list_files(folder, skipped):
        suffix = os.path.splitext(name)[1].lower()
        if os.path.basename(name).startswith(RESOURCE_FORK):
            skipped["resource forks of macOS (._ files)"] += 1
        elif suffix not in AUDIO_SUFFIXES:
            skipped[suffix if suffix and len(suffix) < 12 else "others"] += 1
        elif is_remote(folder) or os.path.isfile(os.path.join(folder, name)):
            names.append(name)
        else:
            skipped["broken links"] += 1
    return sorted(names, key=pathlib.PurePath), skipped


def _list_files(folder: str, skipped: Counter[str]) -> Iterator[str]:
    """Yields the paths in a folder of the files below it; counts folders that it leaves out."""
    if is_remote(folder):
        place = path_of(folder)
        yield from (os.fspath(file.relative_to(place)) for file in place.rglob("*"))
        return

    def count_unreadable(error: OSError) -> None:
        skipped["folders that cannot be read"] += 1

    for folder_path, folders, names in os.walk(folder, onerror=count_unreadable):
        for name in folders:
            if os.path.islink(os.path.join(folder_path, name)):
                skipped["links to folders"] += 1
        yield from (os.path.relpath(os.path.join(folder_path, name), folder) for name in names)


def tag_files(
    tagger: Tagger,
    inputs: Iterable[Input],
    *,
    segmentation: Segmentation,
    settings: EventSettings,
    embeddings: bool = False,
    report_seconds: Callable[[float], object] | None = None,
    watch_block: Callable[[Input, np.ndarray], object] | None = None,
    max_seconds: float = math.inf,
) -> Iterator[FileTags | BadFile]:
    """Tags files in batches across them, and yields their tags in their order.

    Memory does not grow with the length or the number of files. The iterator asks for an input when
    its turn comes. It calls `report_seconds` with the seconds of audio that it tagged since the
    last call, and `watch_block` with each block of a file's samples as it reads it. Files longer
    than `max_seconds` become BadFile; so do those that end too soon or have damaged parts.
    """
    open_files: dict[int, OpenFile] = {}
    finished: dict[int, FileTags | BadFile] = {}
    next_number = 0

    def read_blocks(file: OpenFile) -> Iterator[np.ndarray]:
        for block in limit_blocks(file.read_blocks, max_seconds)():
            if watch_block is not None:
                watch_block(file.input, block)
            yield block

    def open_sources() -> Iterator[Callable[[], Iterator[np.ndarray]]]:
        for number, item in enumerate(inputs):
            file = open_files[number] = OpenFile(item, tagger)
            yield functools.partial(read_blocks, file)

    for item in tagger.run(open_sources(), segmentation, embeddings=embeddings):
        file = open_files[item.source]
        if isinstance(item, ReadFailure):
            finished[item.source] = BadFile(file.input, item.error)
        else:
            new_seconds = file.add(item.rows, item.timeline.seconds)
            if report_seconds is not None:
                report_seconds(new_seconds)
            if item.is_last:
                finished[item.source] = file.finish(item.timeline, settings)
        if item.source in finished:
            del open_files[item.source]
        while next_number in finished:
            yield finished.pop(next_number)
            next_number += 1


class OpenFile:
    """Reads a file that is being tagged, and keeps its scores over time."""

    def __init__(self, item: Input, tagger: Tagger):
        self.input, self._tagger = item, tagger
        self._seconds, self._high_hertz = 0.0, SAMPLE_RATE / 2
        # Rows of hours need not be in memory.
        self._row_file = tempfile.TemporaryFile()  # noqa: SIM115
        weakref.finalize(self, self._row_file.close)

    def read_blocks(self) -> Iterator[np.ndarray]:
        """Reads the file's audio."""
        audio = sys.stdin.buffer if self.input.path == STDIN else self.input.path
        return self._tagger.open(audio, on_open=self._note_rate)()

    def _note_rate(self, rate: int) -> None:
        self._high_hertz = min(rate, self._tagger.info.sample_rate) / 2

    def add(self, rows: np.ndarray, seconds: float) -> float:
        """Takes the rows of a file up to `seconds`; returns how many seconds are new."""
        with plain_disk_errors(tempfile.gettempdir(), "TMPDIR names another folder for scores."):
            self._row_file.write(rows.astype(np.float32).tobytes())
        new_seconds, self._seconds = seconds - self._seconds, seconds
        return new_seconds

    def finish(self, timeline: Timeline, settings: EventSettings) -> FileTags:
        rows = np.asarray(np.memmap(self._row_file, np.float32, "r"))
        tags = self._tagger.make_tags(rows.reshape(-1, len(timeline.score)), timeline)
        return FileTags(
            **vars(tags),
            input=self.input,
            found_events=find_events(tags.frame_scores, settings, tags.labels, tags.seconds),
            high_hertz=self._high_hertz,
        )
