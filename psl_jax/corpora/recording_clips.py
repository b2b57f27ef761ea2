"""Recordings into clips of one length: an event that crosses a border labels both clips."""

import collections
import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from psl_jax.audio.decoding import measure_seconds
from psl_jax.audio.readers import CUT_TOLERANCE_SECONDS, DecodeError
from psl_jax.audio.segments import SAMPLE_RATE
from psl_jax.corpora.corpus import ClipRow, Problem
from psl_jax.corpora.stored_audio import FileAudio, RecordingPart
from psl_jax.data.clip_index import Event
from psl_jax.runtime import progress
from psl_jax.runtime.ordered_map import ordered_map
from psl_jax.runtime.paths import is_remote, path_of

UnsureTime = tuple[float, float, int | None]  # onset, offset, class (None: any)

# Times within so many seconds are equal: rounding puts an end at 7 * 2.4 s behind 16.8 s.
_SAME_SECONDS = 0.5 / SAMPLE_RATE


class Coverage(NamedTuple):
    """What is known of a recording where no event and no label is."""

    # Of which all events are annotated: clips without such an event lack the class.
    classes: frozenset[int]
    is_told: bool  # by somebody; else classes of `find_unlearnable` count as absent, too
    keeps_background: bool  # whether clips without any label are kept
    unsure: tuple[UnsureTime, ...] = ()


class MeasuredRecording(NamedTuple):
    """A recording that is to be cut."""

    row: ClipRow  # of all of it
    seconds: float | None  # None where it cannot be opened: one clip
    coverage: Coverage


def path_of_row(row: ClipRow) -> str:
    """The file of a row that is a whole recording."""
    assert isinstance(row.audio, FileAudio)
    return row.audio.path


def measure_all(paths: Sequence[str]) -> list[float | None]:
    """Seconds of each recording; None of one that cannot be opened."""
    lengths = ordered_map(_measure, paths)
    return list(progress.track(lengths, len(paths), "recordings", "measure"))


def _measure(path: str) -> float | None:
    try:
        if is_remote(path):
            with path_of(path).open("rb") as file:  # its header, not all of it
                return measure_seconds(file)
        return measure_seconds(path)
    except (DecodeError, OSError):
        return None  # told when it is loaded


def cut_recording(
    recording: MeasuredRecording,
    clip_seconds: float,
    num_classes: int,
    absent: frozenset[int] = frozenset(),
) -> tuple[list[ClipRow], list[Problem]]:
    """The clips of a recording, in order, and what there is to tell of them.

    A label of a recording is one of all its clips where no event has it, else of those in which
    its events sound. Clips without any label are left out, but where the coverage keeps them.
    absent: classes that clips without such an event lack, unless somebody told what they lack.
    """
    row, _, covered = recording
    everything = range(num_classes)
    not_covered = set(everything) - covered.classes - (frozenset() if covered.is_told else absent)

    def find_unknown(onset: float, offset: float, labels: Iterable[int]) -> tuple[int, ...]:
        """The classes that are unknown in a stretch of the recording with these labels."""
        unknown = set(not_covered)
        for start, end, label in covered.unsure:
            end = max(end, start + 2 * _SAME_SECONDS)  # of a point in time
            if start < offset - _SAME_SECONDS and end > onset + _SAME_SECONDS:
                unknown |= set(everything if label is None else [label])
        return tuple(sorted(unknown - set(labels)))

    whole, remainder = divmod(recording.seconds or 0.0, clip_seconds)
    count = int(whole) + (remainder > CUT_TOLERANCE_SECONDS)
    if count < 2:
        if not (row.labels or covered.keeps_background):
            return [], [Problem(row.filename, "not annotated", "no sure label; left out")]
        unknown = find_unknown(0.0, math.inf, row.labels)
        return [dataclasses.replace(row, unknown=unknown)], []
    problems = []
    events, outside = _assign_events(row.events or (), count, clip_seconds)
    for onset, _, _ in outside:
        detail = f"event at {onset:g} s: after the last clip, at {count * clip_seconds:g} s"
        problems.append(Problem(row.filename, "bad event", f"{detail}; left out"))
    untimed = set(row.labels) - {label for _, _, label in row.events or ()}
    samples = round(clip_seconds * SAMPLE_RATE)
    clips = []
    for number in range(count):
        sounding = {label for _, _, label in events[number]} & set(row.labels)
        labels = tuple(sorted(untimed | sounding))
        if labels or covered.keeps_background:
            start, end = number * clip_seconds, (number + 1) * clip_seconds
            clip = dataclasses.replace(
                row,
                id=f"{row.id}@{start:g}",
                audio=RecordingPart(path_of_row(row), number * samples, samples),
                labels=labels,
                events=None if row.events is None else tuple(sorted(events[number])),
                unknown=find_unknown(start, end, labels),
            )
            clips.append(clip)
    if len(clips) < count:
        detail = f"{count - len(clips)} of {count} clips hold no event and are left out, as "
        detail += "nobody says that all was annotated (data.annotated=throughout)"
        problems.append(Problem(row.filename, "not annotated", detail))
    return clips, problems


def find_unlearnable(rows: Iterable[ClipRow], num_classes: int) -> frozenset[int]:
    """The classes that more clips are known to have than not to have."""
    with_class, without = np.zeros(num_classes, int), np.zeros(num_classes, int)
    for row in rows:
        with_class[list(row.labels)] += 1
        without += 1
        without[[*row.labels, *row.unknown]] -= 1
    return frozenset(np.flatnonzero(with_class > without).tolist())


def _assign_events(
    events: Sequence[Event], count: int, clip_seconds: float
) -> tuple[dict[int, list[Event]], list[Event]]:
    """The events in each clip, with times in the clip, and those after the last clip."""
    inside: dict[int, list[Event]] = collections.defaultdict(list)
    outside = []
    for onset, offset, label in events:
        first = int((onset + _SAME_SECONDS) // clip_seconds)
        last = max(first, math.ceil((offset - _SAME_SECONDS) / clip_seconds) - 1)
        if first >= count:
            outside.append((onset, offset, label))
        for number in range(first, min(last, count - 1) + 1):
            start = number * clip_seconds
            times = max(onset - start, 0.0), min(offset - start, clip_seconds)
            inside[number].append((*times, label))
    return inside, outside
