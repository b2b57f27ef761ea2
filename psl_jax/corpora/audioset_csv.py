"""AudioSet's own tables: segment CSVs, the TSV of strong labels; file names of their clips."""

import collections
import csv
import dataclasses
import math
import os
import re
from collections.abc import Iterator, Mapping

from psl_jax.corpora.corpus import Problem
from psl_jax.data.clip_index import Event
from psl_jax.runtime.csv_files import plain_read_errors, read_rows
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import path_of

ID_LENGTH = 11  # of a YouTube id, in which "-" and "_" may stand anywhere
_ID = re.compile(rf"[A-Za-z0-9_-]{{{ID_LENGTH}}}")
_SEGMENT_EXAMPLE = '--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/t/dd00088"'
_STRONG_COLUMNS = ("segment_id", "start_time_seconds", "end_time_seconds", "label")

# Names of the tables as AudioSet has them.
BALANCED, UNBALANCED, EVAL = (
    "balanced_train_segments.csv",
    "unbalanced_train_segments.csv",
    "eval_segments.csv",
)
STRONG_TABLES = "audioset_*_strong.tsv"


@dataclasses.dataclass(frozen=True, slots=True)
class ListedClip:
    """A row of a segment CSV."""

    id: str
    start: float  # seconds into the video
    end: float
    labels: tuple[int, ...]  # class indices, ascending


def read_segments(
    path: str | os.PathLike[str], classes: Mapping[str, int]
) -> tuple[list[ListedClip], list[Problem]]:
    """The segments of one of AudioSet's CSVs, and the rows and labels that were left out.

    Its lines are `YTID, start, end, "mid,mid"`, after header lines that begin with "#". classes:
    class index by mid. Raises UserError for a file of another form.
    """
    segments: dict[str, ListedClip] = {}
    problems: list[Problem] = []
    unknown: collections.Counter[str] = collections.Counter()
    for line, row in _csv_rows(path):
        if len(row) != 4 or not _ID.fullmatch(row[0]) or not _read_times(*row[1:3]):
            detail = f"line {line}: {', '.join(row)!r:.80}, expected {_SEGMENT_EXAMPLE}"
            problems.append(Problem(row[0], "bad row", detail))
            continue
        if row[0] in segments:
            problems.append(Problem(row[0], "duplicate row", f"line {line}: the first is kept"))
            continue
        mids = [mid for mid in map(str.strip, row[3].split(",")) if mid]
        unknown.update(mid for mid in mids if mid not in classes)
        labels = tuple(sorted({classes[mid] for mid in mids if mid in classes}))
        if labels:
            segments[row[0]] = ListedClip(row[0], float(row[1]), float(row[2]), labels)
        else:
            detail = f"line {line}: none of {row[3]!r} is in the classes; row skipped"
            problems.append(Problem(row[0], "no label", detail))
    problems += _unknown_labels(path, unknown)
    if not segments:
        raise UserError(f"{path}: no segment found. Expected lines such as\n  {_SEGMENT_EXAMPLE}")
    return list(segments.values()), problems


def _csv_rows(path: str | os.PathLike[str]) -> Iterator[tuple[int, list[str]]]:
    """(line number, fields) of each row that is neither empty nor a comment."""
    with plain_read_errors(path), path_of(path).open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, skipinitialspace=True)
        yield from ((reader.line_num, row) for row in reader if row and row[0][:1] != "#")


def _read_times(start_text: str, end_text: str) -> tuple[float, float] | None:
    """Start and end in seconds; None for what is no stretch of time."""
    try:
        start, end = float(start_text), float(end_text)
    except ValueError:
        return None
    return (start, end) if 0 <= start < end < math.inf else None


def _unknown_labels(path: str | os.PathLike[str], unknown: Mapping[str, int]) -> list[Problem]:
    """One problem a label, not one a row: AudioSet's strong labels have dozens of other classes."""
    name = os.path.basename(path)
    return [
        Problem(name, "unknown label", f"{mid!r} ({count} times) is not in the classes; dropped")
        for mid, count in sorted(unknown.items())
    ]


def read_strong_labels(
    path: str | os.PathLike[str], segments: Mapping[str, ListedClip], classes: Mapping[str, int]
) -> tuple[dict[str, list[Event]], list[Problem]]:
    """Events by clip id, of the clips in `segments`, from a TSV of AudioSet's strong labels.

    Its columns are segment_id (`{id}_{start in ms}`), start_time_seconds, end_time_seconds (from
    the start of the segment) and label (a mid). Labels outside the classes and impossible times
    are reported. Raises UserError for a file of another form.
    """
    events: dict[str, list[Event]] = {}
    problems: list[Problem] = []
    unknown: collections.Counter[str] = collections.Counter()
    for line, row in read_rows(path, _STRONG_COLUMNS):
        clip = row["segment_id"][:ID_LENGTH]
        segment = segments.get(clip)
        if segment is None:
            continue
        clip_events = events.setdefault(clip, [])
        start = row["segment_id"][ID_LENGTH:].removeprefix("_")
        times = _read_times(row["start_time_seconds"], row["end_time_seconds"])
        if not start.isdigit() or abs(int(start) - 1000 * segment.start) > 1:
            detail = f"line {line}: {row['segment_id']!r} is not the clip from {segment.start:g} s"
            problems.append(Problem(clip, "bad event", detail))
        elif row["label"] not in classes:
            unknown[row["label"]] += 1
        elif times is None:
            spans = f"{row['start_time_seconds']} to {row['end_time_seconds']}"
            detail = f"line {line}: {spans} s is no stretch of time"
            problems.append(Problem(clip, "bad event", detail))
        else:
            clip_events.append((*times, classes[row["label"]]))
    return events, problems + _unknown_labels(path, unknown)


_TIMES = re.compile(r"_(\d+(?:\.\d+)?)(?:[_-](\d+(?:\.\d+)?))?")


def match_filename(stem: str, segments: Mapping[str, ListedClip]) -> tuple[str, bool]:
    """The clip of whose video a file is ("": of none), and whether it is the clip's part of it.

    stem: its name without folder and extension, which is tried as an id first. Times, in
    milliseconds or seconds, must be the segment's: other parts of the video have other labels.
    """
    candidates = (stem, stem.removeprefix("Y"))
    for candidate in candidates:
        if candidate in segments:
            return candidate, True
    video = ""
    for candidate in candidates:
        clip, times = candidate[:ID_LENGTH], _TIMES.fullmatch(candidate[ID_LENGTH:])
        if times and clip in segments:
            if _fits(times[1], times[2], segments[clip]):
                return clip, True
            video = clip
    return video, False


def _fits(start: str, end: str | None, segment: ListedClip) -> bool:
    """Times in a file name are those of the segment, in milliseconds or in seconds."""
    return any(
        abs(float(start) * unit - segment.start) < 0.01
        and (end is None or abs(float(end) * unit - segment.end) < 0.01)
        for unit in (0.001, 1.0)
    )
