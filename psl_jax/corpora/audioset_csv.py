"""AudioSet's own tables: segment CSVs, the TSV of strong labels; file names of their clips."""

import collections
import csv
import dataclasses
import enum
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence

from psl_jax.corpora.clip_rows import Problem
from psl_jax.data.clip_index import Event
from psl_jax.runtime.csv_files import plain_read_errors, read_rows
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import path_of

ID_LENGTH = 11  # of a YouTube id, in which "-" and "_" may stand anywhere
_ID = re.compile(rf"[A-Za-z0-9_-]{{{ID_LENGTH}}}")
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

    Args:
      path: lines `YTID, start, end, "mid,mid"` after header lines that begin with "#".
      classes: class index by mid.

    Raises UserError for a file of another form.
    """
    segments: dict[str, ListedClip] = {}
    problems: list[Problem] = []
    unknown: collections.Counter[str] = collections.Counter()
    for line, row in _csv_rows(path):
        problem = _row_problem(row)
        if problem is None and row[0] in segments:
            problem = Problem(row[0], "duplicate row", "the first is kept")
        if problem is not None:
            problems.append(dataclasses.replace(problem, detail=f"line {line}: {problem.detail}"))
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
        raise UserError(
            f"{path}: no segment found. Expected lines such as\n"
            '  --PJHxphWEs, 30.000, 40.000, "/m/09x0r,/t/dd00088"'
        )
    return list(segments.values()), problems


def _csv_rows(path: str | os.PathLike[str]) -> Iterator[tuple[int, list[str]]]:
    """(line number, fields) of each row that is neither empty nor a comment."""
    with plain_read_errors(path), path_of(path).open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, skipinitialspace=True)
        for row in reader:
            if row and not row[0].startswith("#"):
                yield reader.line_num, row


def _row_problem(row: Sequence[str]) -> Problem | None:
    if len(row) != 4:
        return Problem(row[0], "bad row", f"{len(row)} fields, expected id, start, end, labels")
    if not _ID.fullmatch(row[0]):
        return Problem(row[0], "bad row", f"an id has {ID_LENGTH} letters, digits, '-' and '_'")
    try:
        start, end = float(row[1]), float(row[2])
    except ValueError:
        start = end = math.nan
    if not 0 <= start < end < math.inf:
        return Problem(row[0], "bad row", f"{row[1]} to {row[2]} s is no stretch of time")
    return None


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
    the start of the segment) and label (a mid). Rows of other clips are passed over; labels
    outside the classes and impossible times are left out and reported.

    Raises UserError for a file of another form.
    """
    events: dict[str, list[Event]] = {}
    problems: list[Problem] = []
    unknown: collections.Counter[str] = collections.Counter()
    for line, row in read_rows(path, _STRONG_COLUMNS):
        clip = row["segment_id"][:ID_LENGTH]
        segment = segments.get(clip)
        if segment is None:
            continue
        found = events.setdefault(clip, [])
        start = row["segment_id"][ID_LENGTH:].removeprefix("_")
        times = _times(row)
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
            found.append((*times, classes[row["label"]]))
    return events, problems + _unknown_labels(path, unknown)


def _times(row: Mapping[str, str]) -> tuple[float, float] | None:
    try:
        onset, offset = float(row["start_time_seconds"]), float(row["end_time_seconds"])
    except ValueError:
        return None
    return (onset, offset) if 0 <= onset < offset < math.inf else None


# What is tried, in this order, for a name without its folder and extension.
PATTERNS = (
    "{id}",
    "Y{id}",
    "{id}_{start}, {id}_{start}_{end} or {id}_{start}-{end}",
    "Y{id}_{start} and so on",
)
_TIMES = re.compile(r"_(\d+(?:\.\d+)?)(?:[_-](\d+(?:\.\d+)?))?")


class Match(enum.Enum):
    """What came of a name."""

    CLIP = "clip"
    OTHER_SEGMENT = "other segment"  # the right video, but other times
    UNKNOWN = "unknown"


def match_filename(stem: str, segments: Mapping[str, ListedClip]) -> tuple[Match, str]:
    """The clip that a name (without folder and extension) belongs to, and how sure that is.

    The whole name is tried as an id first. Times, in milliseconds or seconds, must be those of the
    segment: another part of the video has other labels.
    """
    for candidate in (stem, stem.removeprefix("Y")):
        if candidate in segments:
            return Match.CLIP, candidate
    other = None
    for candidate in (stem, stem.removeprefix("Y")):
        clip, times = candidate[:ID_LENGTH], _TIMES.fullmatch(candidate[ID_LENGTH:])
        if times and clip in segments:
            if _fits(times[1], times[2], segments[clip]):
                return Match.CLIP, clip
            other = clip
    return (Match.UNKNOWN, "") if other is None else (Match.OTHER_SEGMENT, other)


def _fits(start: str, end: str | None, segment: ListedClip) -> bool:
    """Times in a file name are those of the segment, in milliseconds or in seconds."""
    return any(
        abs(float(start) * unit - segment.start) < 0.01
        and (end is None or abs(float(end) * unit - segment.end) < 0.01)
        for unit in (0.001, 1.0)
    )
