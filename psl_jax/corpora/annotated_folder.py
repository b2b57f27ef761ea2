"""A folder of recordings with tables of any tool, or with a folder for each class.

yard_01.wav  yard_01.Table.1.selections.txt     events of Raven, Audacity, BirdNET or ELAN
events.csv                                      filename,onset,offset,label
labels.csv                                      filename,labels: of whole recordings
dog/a.wav  cat/b.wav                            no table: folders are classes
c.wav                                           no row names it: not labelled
"""

import collections
import dataclasses
import math
import os
import pathlib
import posixpath
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from psl_jax.corpora.annotations.read_annotations import Annotations, read_annotations
from psl_jax.corpora.annotations.table_events import UNSURE, EventRow, Hints
from psl_jax.corpora.clip_rows import ClipRow, Problem
from psl_jax.corpora.label_cells import LabelCells
from psl_jax.corpora.labels_folder import CLASSES_CSV, clip_ids
from psl_jax.corpora.recording_clips import Coverage
from psl_jax.corpora.split_groups import SPLITS_CSV
from psl_jax.corpora.stored_audio import FileAudio
from psl_jax.networks.class_lists import read_classes
from psl_jax.runtime import csv_files
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import path_of


@dataclasses.dataclass
class AnnotatedFolder:
    """What is known of the recordings of a folder before any is opened.

    Attributes:
      rows: a row a recording, by `filename`: its path relative to the folder. One without labels
        holds no event, or is among `unlabelled`.
      events: (event, class) by recording, where tables have events.
      unsure: onset, offset and class (None: any) by recording, of which somebody is not sure.
      annotated_classes: classes of which all events are annotated, by recording, where a table
        names them.
      unlabelled: recordings of which nothing is said, where those are kept.
      tables_sha256: of all that was read.
    """

    path: str
    classes: tuple[str, ...]
    class_ids: tuple[str, ...]
    rows: dict[str, ClipRow]
    events: dict[str, list[tuple[EventRow, int]]]
    unsure: dict[str, list[tuple[float, float, int | None]]]
    annotated_classes: dict[str, frozenset[int]]
    unlabelled: frozenset[str]
    groups: dict[str, str]
    problems: list[Problem]
    folders_are_classes: bool
    tables_sha256: str

    @property
    def has_events(self) -> bool:
        return bool(self.events)

    def coverage(self, recording: str, keeps_background: bool) -> Coverage:
        """What is known of a recording where no event and no label is.

        keeps_background: whether everything was annotated in recordings with events.
        """
        unsure = tuple(self.unsure.get(recording, ()))
        if recording in self.unlabelled:
            return Coverage(frozenset(), True, True, unsure)
        if (classes := self.annotated_classes.get(recording)) is not None:
            return Coverage(classes, True, True, unsure)
        has_events = recording in self.events or (self.has_events and bool(unsure))
        is_complete = keeps_background or not has_events
        classes = frozenset(range(len(self.classes)) if is_complete else ())
        return Coverage(classes, is_complete, is_complete, unsure)


class _Numbered(NamedTuple):
    """What is known of each recording, with the numbers of classes.

    Attributes:
      labels: classes that it has; empty where it holds nothing, or nobody said.
      events: its events, and their classes.
      unsure: onset and offset in seconds where a class may be; None: any class.
    """

    labels: dict[str, set[int]]
    events: dict[str, list[tuple[EventRow, int]]]
    unsure: dict[str, list[tuple[float, float, int | None]]]


def _number_annotations(
    annotations: Annotations, cells: LabelCells, unlabelled: Iterable[str], problems: list[Problem]
) -> _Numbered:
    """Numbers the classes of all rows; notes in `problems` what is left out."""
    lookup = cells.numbers
    labels: dict[str, set[int]] = {
        recording: set() for recording in (*annotations.empty, *annotations.unsure, *unlabelled)
    }
    unsure: dict[str, list[tuple[float, float, int | None]]] = {
        recording: [
            (event.onset, event.offset, number)
            for event in rows
            for number in _unsure_numbers([event.label.rstrip(UNSURE).strip()], cells, lookup)
        ]
        for recording, rows in annotations.unsure.items()
    }
    events: dict[str, list[tuple[EventRow, int]]] = collections.defaultdict(list)
    for recording, rows in annotations.events.items():
        for event in rows:
            if (label := lookup.get(cells.name(event.label))) is None:
                detail = f"row {event.row} of {event.table}: {event.label!r} not in the classes"
                problems.append(Problem(recording, "unknown label", f"{detail}; left out"))
            else:
                events[recording].append((event, label))
                labels.setdefault(recording, set()).add(label)
    for recording, texts in annotations.labels.items():
        names = {name for text in texts for name in cells.of(text)}
        unsure_names = [name for text in texts for name in cells.unsure(text)]
        if unsure_names:
            unsure_numbers = _unsure_numbers(unsure_names, cells, lookup)
            unsure[recording] = [(0.0, math.inf, number) for number in unsure_numbers]
        if (numbers := _number_labels(recording, names, lookup, problems)) or unsure_names:
            labels[recording] = numbers
        else:
            problems.append(Problem(recording, "no label", "left out"))
    return _Numbered(labels, dict(events), unsure)


def _number_labels(
    recording: str, names: set[str], lookup: Mapping[str, int], problems: list[Problem]
) -> set[int]:
    """The numbers of a recording's classes; notes in `problems` what is left out."""
    if unknown := sorted(names - lookup.keys()):
        detail = f"{', '.join(map(repr, unknown))} not in the classes; dropped"
        problems.append(Problem(recording, "unknown label", detail))
    numbers = {lookup[name] for name in names if name in lookup}
    return numbers


def read_annotated_folder(
    folder: str | os.PathLike[str],
    hints: Hints,
    label_separator: str,
    *,
    keeps_unlabelled: bool = False,
) -> AnnotatedFolder:
    """Reads the tables of a folder, or the names of its folders. Raises UserError, see there.

    keeps_unlabelled: recordings that no row names are kept; without any table, all.
    """
    root = path_of(folder)
    annotations = read_annotations(
        root,
        hints,
        frozenset({CLASSES_CSV, SPLITS_CSV}),
        keeps_unlabelled=keeps_unlabelled,
    )
    folders_are_classes = not annotations.tables and not keeps_unlabelled
    if folders_are_classes:
        _name_by_folders(root, annotations)
    if not annotations.recordings:
        raise UserError(f"no recording in {root}")
    class_file = root / CLASSES_CSV
    cells = LabelCells(
        (cell for texts in annotations.labels.values() for cell in texts),
        (event.label for events in annotations.events.values() for event in events),
        label_separator,
        read_classes(class_file) if class_file.exists() else None,
    )
    lookup = cells.numbers
    if not lookup and annotations.tables:
        raise UserError(f"{root}: no event and no label in any table")
    problems = list(annotations.problems)
    notes = [note for note in cells.notes if note[0] != "class of events alone"]
    problems += [Problem(", ".join(annotations.tables) or ".", *note) for note in notes]
    unlabelled = frozenset(annotations.unnamed if keeps_unlabelled else ())
    labels, events, unsure = _number_annotations(annotations, cells, unlabelled, problems)
    ids = clip_ids(labels)
    tables = [root / name for name in annotations.tables] + [class_file] * class_file.exists()
    result = {
        recording: ClipRow(
            id=ids[recording],
            filename=recording,
            audio=FileAudio(os.fspath(root / recording)),
            labels=tuple(sorted(labels[recording])),
            events=None if not events else _times(events.get(recording, [])),
        )
        for recording in sorted(labels)
    }
    return AnnotatedFolder(
        os.fspath(root),
        cells.classes,
        cells.class_ids,
        result,
        events,
        unsure,
        _annotated_classes(annotations, cells, lookup, problems),
        unlabelled,
        annotations.groups,
        problems,
        folders_are_classes,
        csv_files.hash_files(tables),
    )


def _unsure_numbers(
    names: Iterable[str], cells: LabelCells, lookup: Mapping[str, int]
) -> list[int | None]:
    """The numbers of classes; None for any, of an empty name. What is no class is left out."""
    return [
        lookup.get(cells.name(name)) for name in names if not name or cells.name(name) in lookup
    ]


def _annotated_classes(
    annotations: Annotations,
    cells: LabelCells,
    lookup: Mapping[str, int],
    problems: list[Problem],
) -> dict[str, frozenset[int]]:
    """The classes of which all events are annotated, by recording."""
    result = {}
    for recording, text in annotations.annotated_classes.items():
        names = set(cells.names(text))
        if others := sorted(names - lookup.keys()):
            detail = f"annotated_classes: {', '.join(map(repr, others))} not in the classes"
            problems.append(Problem(recording, "unknown label", detail))
        result[recording] = frozenset(lookup[name] for name in names if name in lookup)
    return result


def _times(events: list[tuple[EventRow, int]]) -> tuple[tuple[float, float, int], ...]:
    return tuple(sorted((event.onset, event.offset, label) for event, label in events))


def shorten_events(
    folder: AnnotatedFolder, seconds: dict[str, float | None], *, tolerance: float
) -> list[Problem]:
    """Leaves out events past the end of their recording, and tells of those that reach past it.

    A recording that has no event left is one without labels only where it was one before.
    """
    problems = []
    for recording, events in folder.events.items():
        end = seconds[recording]
        if end is None:
            continue
        inside = []
        for event, label in events:
            where = f"row {event.row} of {event.table}: {event.onset:g} to {event.offset:g} s"
            if event.onset > end or (event.onset == end and event.offset > end):
                detail = f"{where} is after the end, at {end:.2f} s; left out"
                problems.append(Problem(recording, "bad event", detail))
                continue
            if event.offset > end + tolerance:
                detail = f"{where} goes on after the end; cut there, at {end:.2f} s"
                problems.append(Problem(recording, "event cut", detail))
            inside.append((event, label))
        if len(inside) == len(events):
            continue
        row = folder.rows[recording]
        labels = tuple(sorted({label for _, label in inside}))
        folder.rows[recording] = dataclasses.replace(row, labels=labels, events=_times(inside))
        if not labels and recording not in folder.unsure:
            del folder.rows[recording]
            problems.append(Problem(recording, "no label", "no event is left; left out"))
    return problems


def _name_by_folders(root: pathlib.Path, found: Annotations) -> None:
    """Takes the folder of each recording as its label. Raises UserError where that is none."""
    expected = (
        "expected a table (filename,onset,offset,label, or filename,labels; CSV, TSV, XLSX or "
        "parquet), tables of Raven, Audacity, BirdNET or ELAN, or recordings in a folder for each "
        "class"
    )
    if not found.recordings:
        raise UserError(f"no recording in {root}: {expected}")
    for recording in found.recordings:
        if "/" in recording:
            found.labels[recording] = [recording.split("/")[0]]
        else:
            detail = "in no folder of a class, and there is no table; left out"
            found.problems.append(Problem(recording, "no label", detail))
    names = {cells[0] for cells in found.labels.values()}
    if len(names) < 2:
        where = f"all recordings are in {posixpath.join(root, *names)}" if names else "no folders"
        raise UserError(f"no table in {root}, and {where}: {expected}")
