"""What another tagger wrote of the clips of a split: tables of events with their scores."""

import collections
import dataclasses
import os
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from psl_jax.audio.segments import SAMPLE_RATE
from psl_jax.corpora.annotations.read_annotations import TABLE_SUFFIXES, find_files, read_table
from psl_jax.corpora.annotations.recording_names import RecordingNames, suffix_of, without_ending
from psl_jax.corpora.annotations.table_events import Hints, TableRow
from psl_jax.data.clip_index import ClipIndex
from psl_jax.data.corrections import split_id
from psl_jax.networks.class_lists import clean_name, find_class, list_first
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import path_of
from psl_jax.scoring.event_metrics import StepScores


@dataclasses.dataclass(frozen=True)
class TaggerTables:
    """The scores that tables hold; what they do not hold has the score 0."""

    steps: list[StepScores]  # of each clip
    clip_scores: np.ndarray  # float32 [clips, classes], the highest score of an event in the clip
    lowest: float  # score in the tables
    notes: list[str]  # what was left out, and what the scores cannot tell


def read_tagger_tables(path: str | os.PathLike[str], index: ClipIndex) -> TaggerTables:
    """Reads a table of BirdNET, Raven or Audacity, a plain one, or all tables of a folder.

    Rows name recordings; the clips of a recording have its name, a part of it with its start
    behind an @. Raises UserError for a table without times or scores, and where no row is about a
    clip and a class of the split.
    """
    place = path_of(path)
    clips = _ClipPlaces(index)
    events_by_clip: list[list[tuple[float, float, int, float]]] = [[] for _ in range(len(index))]
    left_out: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    lowest = 1.0
    for name, event in _read_events(place, clips.names):
        lowest = min(lowest, event.score or 0.0)
        label = find_class(clean_name(event.label), index.classes)
        recording = None if event.files else clips.names.of_table(name)
        files = event.files or (name,)
        if recording is None:
            recording = clips.find(files, f"{name}, row {event.row}")
        if recording is None:
            left_out["recordings that are not in this split"][files[0]] += 1
        elif label is None:
            left_out["labels that are no class of the data"][event.label] += 1
        elif parts := list(clips.cut(recording, event.onset, event.offset)):
            for clip, onset, offset in parts:
                events_by_clip[clip].append((onset, offset, label, event.score or 0.0))
        else:
            left_out["recordings, at times of no clip or without length"][files[0]] += 1
    notes = [_describe(what, counts) for what, counts in left_out.items()]
    if not any(events_by_clip):
        raise UserError(
            f"{path}: no row is about a clip and a class of split {index.split!r}: "
            + "; ".join(notes)
        )
    notes.append(
        f"the lowest score in the table is {lowest:g}: what the tagger scored lower is not in it "
        "and counts as 0. With all scores (of BirdNET: a lower --min_conf) its mAP and PSDS may be "
        "higher"
    )
    steps = [_make_steps(events, index, clip) for clip, events in enumerate(events_by_clip)]
    clip_scores = np.stack([step.scores.max(axis=0) for step in steps])
    return TaggerTables(steps, clip_scores, lowest, notes)


def _read_events(place: pathlib.Path, names: RecordingNames) -> Iterator[tuple[str, TableRow]]:
    """Yields (name of the table, event), each with a score and a length. Raises UserError."""
    if not place.exists():
        raise UserError(f"{place} is not there: give a tagger's table, or a folder of tables")
    root, paths = place.parent, [place]
    if place.is_dir():
        root, paths = place, [place / name for name in find_files(place)[1]]
        paths = [path for path in paths if suffix_of(path.name) in TABLE_SUFFIXES]
    for path in paths:
        name = path.relative_to(root).as_posix()
        table = read_table(root, name, Hints(), names)
        if table is None:
            continue  # a README
        for event in table.rows:
            if not (event.has_times or event.label):  # nothing is in the recording
                continue
            if not event.has_times:
                raise UserError(
                    f"{path}: no times. Expected the columns file,onset,offset,label,score"
                )
            if event.score is None:
                raise UserError(
                    f"{path}, row {event.row}: no score from 0 to 1. Expected a column score or "
                    "confidence"
                )
            yield name, event


class _ClipPlaces:
    """Where in which recording each clip is."""

    def __init__(self, index: ClipIndex):
        self._clips: dict[str, list[tuple[float, float, int]]] = collections.defaultdict(list)
        for clip, clip_id in enumerate(index.ids.tolist()):
            recording, begin = split_id(clip_id)
            start = begin or 0.0
            seconds = float(index.num_samples[clip]) / SAMPLE_RATE
            # Recordings of one name in several folders have paths as ids, with their endings.
            has_ending = without_ending(recording) != recording
            name = recording if has_ending else f"{recording}.wav"
            self._clips[name].append((start, start + seconds, clip))
        self.names = RecordingNames(self._clips)

    def find(self, files: Sequence[str], where: str) -> str | None:
        """The recording of a name, whatever its ending: few ids have one. Raises UserError."""
        return self.names.find([without_ending(file) for file in files], where)

    def cut(
        self, recording: str, onset: float, offset: float
    ) -> Iterator[tuple[int, float, float]]:
        """Yields (clip, onset, offset) of the parts of an event, in seconds of the clip."""
        for start, stop, clip in self._clips[recording]:
            if max(onset, start) < min(offset, stop):
                yield clip, max(onset, start) - start, min(offset, stop) - start


def _make_steps(
    events: list[tuple[float, float, int, float]], index: ClipIndex, clip: int
) -> StepScores:
    """The highest score of the events at each time."""
    seconds = float(index.num_samples[clip]) / SAMPLE_RATE
    edges = np.unique([0.0, seconds, *(time for event in events for time in event[:2])])
    scores = np.zeros((len(edges) - 1, index.num_classes), np.float32)
    for onset, offset, label, score in events:
        steps = slice(*np.searchsorted(edges, [onset, offset]))
        scores[steps, label] = np.maximum(scores[steps, label], score)
    return StepScores(edges, scores)


def _describe(what: str, counts: collections.Counter[str]) -> str:
    names = list_first(name for name, _ in counts.most_common())
    return f"{counts.total():,} rows left out: {len(counts):,} {what} ({names})"
