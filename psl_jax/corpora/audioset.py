"""AudioSet as people have it on disk, by its own segment CSVs.

Splits: balanced, eval, full (balanced and unbalanced) and aud300h (balanced, and at most 200
clips a label of the unbalanced ones). A clip is stored once: of a split that holds another one,
only the others are (`full_others`), and the split is both together.
"""

import collections
import csv
import dataclasses
import hashlib
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from psl_jax.corpora.audio_folders import FoundAudio, Scan
from psl_jax.corpora.corpus import ClipRow, Corpus, Problem, mixed
from psl_jax.corpora.stored_audio import Hdf5Audio, ParquetAudio
from psl_jax.data.clip_index import Event
from psl_jax.networks.class_lists import AUDIOSET_CSV, read_classes
from psl_jax.runtime import progress
from psl_jax.runtime.csv_files import (
    existing_folder,
    find_tables,
    hash_files,
    listing,
    plain_read_errors,
    read_rows,
)
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import path_of

# AudioSet's own tables.
BALANCED, UNBALANCED = "balanced_train_segments.csv", "unbalanced_train_segments.csv"
EVAL = "eval_segments.csv"
STRONG_TABLES = "audioset_*_strong.tsv"
ID_LENGTH = 11  # of a YouTube id, in which "-" and "_" may stand anywhere
_ID = re.compile(rf"[A-Za-z0-9_-]{{{ID_LENGTH}}}")
_SEGMENT_EXAMPLE = '--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/t/dd00088"'
_STRONG_COLUMNS = ("segment_id", "start_time_seconds", "end_time_seconds", "label")
# The CSVs that each split is made of.
SPLITS = {
    "balanced": (BALANCED,),
    "eval": (EVAL,),
    "full": (BALANCED, UNBALANCED),
    "aud300h": (BALANCED, UNBALANCED),
}
# Those of which each holds the one before; what more it holds is stored as a split of its own.
NESTED = ("balanced", "aud300h", "full")
AUD300H_CLIPS_PER_LABEL, AUD300H_SEED = 200, 0


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
    for line, row in _read_csv(path):
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


def _read_csv(path: str | os.PathLike[str]) -> Iterator[tuple[int, list[str]]]:
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
    if clip_id := next((candidate for candidate in candidates if candidate in segments), ""):
        return clip_id, True
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


class AudioSet(Corpus):
    """AudioSet's clips from folders of audio, tars, parquet or HDF5 files, or a mix of them."""

    name = "audioset"
    max_clip_seconds = 10.0

    def __init__(
        self,
        *,
        source_dir: str | os.PathLike[str],
        labels_dir: str | os.PathLike[str] | None = None,
        splits: Sequence[str] = (),
    ):
        """Finds the tables; audio is looked for when there is something to prepare.

        source_dir: audio in any layout, at any depth. labels_dir: the segment CSVs, and perhaps the
        strong labels; default `source_dir`. splits: default balanced and eval, and full where its
        CSVs are there.

        Raises UserError for a missing folder or table, or an unknown split.
        """
        self.source_dir = existing_folder(source_dir, "AudioSet's audio", takes_buckets=True)
        tables = existing_folder(
            labels_dir or source_dir, "AudioSet's segment CSVs", takes_buckets=True
        )
        self._csvs = {
            name: paths[0]
            for name in (BALANCED, UNBALANCED, EVAL)
            if (paths := find_tables(tables, name))
        }
        self._strong = find_tables(tables, STRONG_TABLES)
        self._splits = _choose_splits(splits, self._csvs, tables)
        self.arguments = {"source_dir": self.source_dir, "labels_dir": tables}
        self.classes, self.class_ids = read_classes(AUDIOSET_CSV)
        self.has_events = bool(self._strong)
        self.unions = _find_unions(self._splits)
        self._tables = sorted({name for split in self._splits for name in SPLITS[split]})
        self.settings = {
            "source_dir": self.source_dir,
            "max_clip_seconds": self.max_clip_seconds,
            "hdf5_rate": None,  # as earlier versions know it, which had more options
            "splits": self._splits,
            "aud300h_seed": AUD300H_SEED,
            "csv_sha256": hash_files([self._csvs[name] for name in self._tables] + self._strong),
        }

    def rows(self) -> Mapping[str, Sequence[ClipRow]]:
        self.problems, lookup = [], {mid: i for i, mid in enumerate(self.class_ids)}
        tables = {}
        for name in self._tables:
            tables[name], problems = read_segments(self._csvs[name], lookup)
            self.problems += [(name, problem) for problem in problems]
        wanted = self._select_clips(tables)
        segments = {s.id: s for split in wanted.values() for s in split}
        events: dict[str, list[Event]] = {}
        for path in self._strong:
            table_events, problems = read_strong_labels(path, segments, lookup)
            events |= table_events
            self.problems += [(path.name, problem) for problem in problems]
        scan = Scan(self.source_dir)
        audio = self._find_audio(scan, segments)
        for split, clips in wanted.items():
            if not any(clip.id in audio for clip in clips):
                raise _make_no_match_error(split, clips, scan, bool(audio))
        self.absent, rows = {}, {}
        for split, clips in _select_stored(wanted, self.unions).items():
            missing = [clip.id for clip in clips if clip.id not in audio]
            self.absent[split], detail = len(missing), "no audio by this id"
            self.problems += [(split, Problem(clip, "missing", detail)) for clip in missing]
            if len(missing) == len(clips):  # of what a larger split has besides
                continue
            rows[split] = _sort_rows(
                ClipRow(
                    clip.id,
                    audio[clip.id].name,
                    audio[clip.id].audio,
                    clip.labels,
                    tuple(sorted(events.get(clip.id, ()))) if self.has_events else None,
                    (clip.start, clip.end),
                )
                for clip in clips
                if clip.id in audio
            )
        return rows

    def _select_clips(self, tables: Mapping[str, list[ListedClip]]) -> dict[str, list[ListedClip]]:
        wanted = {}
        for split in self._splits:
            parts = [tables[name] for name in SPLITS[split]]
            if split == "aud300h":
                parts[1] = choose_per_label(parts[1], AUD300H_CLIPS_PER_LABEL)
            wanted[split] = list({s.id: s for part in parts for s in part}.values())
        return wanted

    def _find_audio(self, scan: Scan, segments: Mapping[str, ListedClip]) -> dict[str, FoundAudio]:
        """The audio of each clip: the first that is found."""
        audio: dict[str, FoundAudio] = {}
        problems: list[Problem] = []
        first_unused, num_unused = "", 0
        for file in progress.track(scan, None, "files", "look for audio"):
            clip, is_its_part = match_filename(file.stem, segments)
            if not clip:
                first_unused = first_unused or file.name
                num_unused += 1
            elif not is_its_part:
                segment = segments[clip]
                detail = f"the clip is from {segment.start:g} to {segment.end:g} s; left out"
                problems.append(Problem(file.name, "other segment", detail))
            elif clip in audio:
                problems.append(Problem(file.name, "duplicate", f"{audio[clip].name} is kept"))
            else:
                audio[clip] = _cut_padding(file, segments[clip])
        problems += scan.problems
        if num_unused:
            detail = f"{num_unused} files of no clip of these splits, this is the first"
            problems.append(Problem(first_unused, "not used", detail))
        self.problems += [(None, problem) for problem in problems]
        return audio


def _find_unions(splits: Sequence[str]) -> dict[str, list[str]]:
    """Which of `splits` are stored as others together: the larger ones that hold smaller ones."""
    nested = [split for split in NESTED if split in splits]
    members = nested[:1] + [f"{split}_others" for split in nested[1:]]
    return {split: members[: number + 1] for number, split in enumerate(nested) if number}


def _select_stored(
    wanted: Mapping[str, list[ListedClip]], unions: Mapping[str, Sequence[str]]
) -> dict[str, list[ListedClip]]:
    """The clips of the splits that are stored: each clip once."""
    stored = {split: clips for split, clips in wanted.items() if split not in unions}
    for split, (*smaller, others) in unions.items():  # from the smallest on
        held = {clip.id for name in smaller for clip in stored[name]}
        stored[others] = [clip for clip in wanted[split] if clip.id not in held]
    return stored


def choose_per_label(clips: Iterable[ListedClip], per_label: int) -> list[ListedClip]:
    """For each label `per_label` of its clips, or all where it has fewer; each clip once.

    Which ones are chosen depends on the label and the ids alone.
    """
    by_label: dict[int, list[ListedClip]] = collections.defaultdict(list)
    for clip in clips:
        for label in clip.labels:
            by_label[label].append(clip)
    chosen: dict[str, ListedClip] = {}
    for label, members in sorted(by_label.items()):

        def draw(clip: ListedClip, label: int = label) -> bytes:
            return hashlib.sha256(f"{AUD300H_SEED}:{label}:{clip.id}".encode()).digest()

        chosen |= {clip.id: clip for clip in sorted(members, key=draw)[:per_label]}
    return list(chosen.values())


def _choose_splits(splits: Sequence[str], csvs: Mapping[str, Any], folder: str) -> tuple[str, ...]:
    """The splits to make, given or by what tables there are."""
    lacking = {split: [t for t in tables if t not in csvs] for split, tables in SPLITS.items()}
    possible = [split for split, missing in lacking.items() if not missing]
    default = [split for split in possible if split != "aud300h"] or ["balanced", "eval"]
    wanted = tuple(dict.fromkeys(splits or default))
    for split in wanted:
        if split not in SPLITS:
            raise UserError(
                f"AudioSet has no split {split!r}, expected some of {', '.join(SPLITS)}"
            )
        if lacking[split]:
            raise UserError(
                f"split {split!r} needs {' and '.join(lacking[split])}, not found in {folder} or a "
                "folder in it. Put it there (it is at "
                "https://research.google.com/audioset/download.html), say with --labels_dir where "
                f"it is, or choose other --splits (possible now: {', '.join(possible) or 'none'})."
            )
    return wanted


def _cut_padding(file: FoundAudio, segment: ListedClip) -> FoundAudio:
    """PANNs pads clips to 10 s; AudioSet's times tell where shorter ones end."""
    if isinstance(file.audio, Hdf5Audio) and file.audio.row is not None:
        seconds = segment.end - segment.start
        return file._replace(audio=dataclasses.replace(file.audio, seconds=seconds))
    return file


def _sort_rows(rows: Iterable[ClipRow]) -> tuple[ClipRow, ...]:
    """Mixed, except that clips in parquet files come in the order of those files.

    A row has no place of its own in a parquet file: in any other order its whole group would have
    to be decoded again for each.
    """
    all_rows = mixed(rows)
    in_parquet = [row for row in all_rows if isinstance(row.audio, ParquetAudio)]
    in_parquet.sort(key=lambda row: dataclasses.astuple(row.audio))
    return (*in_parquet, *(row for row in all_rows if not isinstance(row.audio, ParquetAudio)))


def _make_no_match_error(
    split: str, clips: Sequence[ListedClip], scan: Scan, others_match: bool
) -> UserError:
    hint = "Other splits have audio: leave this one out with --splits.\n" if others_match else ""
    if scan.problems:
        unread = listing(f"{problem.file}: {problem.detail}" for problem in scan.problems[:3])
        hint += f"Files that could not be looked into\n{unread}"
    return UserError(
        f"no audio in {scan.root} belongs to a clip of split {split!r}.\n{hint}"
        f"The first of its {len(clips)} ids are\n{listing(c.id for c in clips[:5])}"
        f"and the first audio found\n{listing(scan.first_names)}"
        "Expected names such as {id}, {id}_{start}, {id}_{start}_{end} or {id}_{start}-{end}, with "
        "times in milliseconds or seconds, and perhaps a Y before"
    )
