"""Reads a folder of recordings: tables of any tool, a table for each split, or class folders.

yard_01.wav  yard_01.Table.1.selections.txt     events of Raven, Audacity, BirdNET or ELAN
events.csv                                      filename,onset,offset,label
labels.csv                                      filename,labels: of whole recordings
full.csv  full_events.csv  eval.csv             the same by split: splits by hand
dog/a.wav  cat/b.wav                            no table: folders are classes
c.wav                                           no row names it: not labelled
classes.csv                                     index,mid,display_name or label: the only classes

No audio is opened here.
"""

import collections
import dataclasses
import math
import os
import pathlib
import posixpath
import re
from collections.abc import Iterable, Mapping

from psl_jax.corpora.annotations.read_annotations import (
    Annotations,
    check_columns,
    find_files,
    join_tables,
    read_annotations,
)
from psl_jax.corpora.annotations.table_events import UNSURE, Hints, TableRow
from psl_jax.corpora.clip_rows import ClipRow, Problem
from psl_jax.corpora.label_cells import LabelCells
from psl_jax.corpora.recording_clips import Coverage
from psl_jax.corpora.split_groups import SPLITS_CSV
from psl_jax.corpora.stored_audio import FileAudio
from psl_jax.networks.class_lists import read_classes
from psl_jax.runtime import csv_files
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import is_remote, path_of

CLASSES_CSV = "classes.csv"
_NO_ANNOTATIONS = frozenset({CLASSES_CSV, SPLITS_CSV})
_EVENTS_SUFFIX = "_events"
_SPLIT_NAMES = re.compile(r"full|balanced|train|training|validation|val|dev|eval|test|fold\d+")
_LABEL_COLUMNS = ("filename", "labels")


@dataclasses.dataclass
class Recordings:
    """What is known of some recordings before any is opened, by paths relative to their folder.

    Attributes:
      rows: a row a recording. One without labels holds nothing, or is among `unlabelled`.
      events: (event, class) by recording.
      unsure: onset, offset and class (None: any) of which somebody is not sure.
      annotated_classes: classes of which all events are annotated, where a table names them.
      labelled: recordings of which a table says all labels.
      unlabelled: recordings of which nothing is said, where those are kept.
      groups: values of the hints' group column.
      missing: names in the table of a split that are those of no recording.
    """

    rows: dict[str, ClipRow]
    events: dict[str, list[tuple[TableRow, int]]]
    unsure: dict[str, list[tuple[float, float, int | None]]]
    annotated_classes: dict[str, frozenset[int]]
    labelled: frozenset[str]
    unlabelled: frozenset[str]
    groups: dict[str, str]
    missing: list[str]

    def find_coverage(
        self, recording: str, num_classes: int, *, keeps_background: bool
    ) -> Coverage:
        """What is known of a recording where no event and no label is.

        keeps_background: whether everything was annotated in recordings with events.
        """
        unsure = tuple(self.unsure.get(recording, ()))
        everything = frozenset(range(num_classes))
        if recording in self.unlabelled:
            return Coverage(frozenset(), True, True, unsure)
        if (classes := self.annotated_classes.get(recording)) is not None:
            return Coverage(classes, True, True, unsure)
        events = self.events.get(recording, [])
        if keeps_background or not (events or (self.events and unsure)):
            return Coverage(everything, True, True, unsure)
        if recording in self.labelled:
            labels = self.rows[recording].labels
            timed = {label for _, label in events} & set(labels)  # others are none of its labels
            return Coverage(everything - timed, False, not labels, unsure)
        return Coverage(frozenset(), False, False, unsure)

    def shorten_events(
        self, seconds: Mapping[str, float | None], *, tolerance: float
    ) -> list[Problem]:
        """Leaves out events past the end of their recording, and tells of those that reach past it.

        A recording that has no event left is one without labels only where it was one before.
        """
        problems = []
        for recording, events in self.events.items():
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
            row = dataclasses.replace(self.rows[recording], events=_list_times(inside))
            if recording not in self.labelled:
                labels = tuple(sorted({label for _, label in inside}))
                row = dataclasses.replace(row, labels=labels)
                if not labels and recording not in self.unsure:
                    del self.rows[recording]
                    problems.append(Problem(recording, "no label", "no event is left; left out"))
                    continue
            self.rows[recording] = row
        return problems


@dataclasses.dataclass
class OwnFolder:
    """A folder of recordings.

    Attributes:
      splits: those that tables give by hand; else all recordings, under the name "".
      problems: (split, problem); None: of no split.
      folders_are_classes: there is no table.
      tables_sha256: of all that was read.
    """

    path: str
    classes: tuple[str, ...]
    class_ids: tuple[str, ...]
    splits: dict[str, Recordings]
    problems: list[tuple[str | None, Problem]]
    folders_are_classes: bool
    tables_sha256: str

    @property
    def is_split_by_hand(self) -> bool:
        return "" not in self.splits


def read_own_folder(
    folder: str | os.PathLike[str],
    hints: Hints,
    label_separator: str = ";",
    *,
    keeps_unlabelled: bool = False,
) -> OwnFolder:
    """Reads the tables of a folder, or the names of its folders.

    keeps_unlabelled: recordings that no row names are kept; without any table, all.

    Raises UserError for tables that cannot be read in one way only.
    """
    root = path_of(folder)
    annotations = _read_tables(root, hints, keeps_unlabelled=keeps_unlabelled)
    table_names = sorted({name for found in annotations.values() for name in found.tables})
    folders_are_classes = not table_names and not keeps_unlabelled
    if folders_are_classes:
        _name_by_folders(root, annotations[""])
    class_file = root / CLASSES_CSV
    cells = LabelCells(
        (cell for of_split in annotations.values() for cell in of_split.label_cells),
        (label for of_split in annotations.values() for label in of_split.event_labels),
        label_separator,
        read_classes(class_file) if class_file.exists() else None,
    )
    is_any_named = any(len(a.unnamed) < len(a.recordings) for a in annotations.values())
    if table_names and not (cells.numbers and is_any_named):
        notes = [problem for found in annotations.values() for problem in found.problems]
        raise UserError(
            f"{root}: no event and no label of a recording in {', '.join(table_names)}. The first "
            "problems:\n" + csv_files.listing(f"{p.file}: {p.kind} ({p.detail})" for p in notes[:5])
        )
    if not any(found.recordings for found in annotations.values()):
        raise UserError(f"no recording in {root}")
    has_labels = any(found.labels or found.labelled for found in annotations.values())
    problems: list[tuple[str | None, Problem]] = [
        (None, Problem(", ".join(table_names) or ".", kind, detail))
        for kind, detail in cells.notes
        if has_labels or kind != "class of events alone"
    ]
    labels: dict[str, dict[str, tuple[int, ...]]] = {}
    splits = {}
    for split, found in annotations.items():
        unlabelled = frozenset(found.unnamed if keeps_unlabelled else ())
        splits[split], labels[split] = _number_labels(found, cells, unlabelled)
        problems += [(split or None, problem) for problem in found.problems]
    ids = _make_ids({recording for by_recording in labels.values() for recording in by_recording})
    for split, recordings in splits.items():
        recordings.rows = {
            recording: ClipRow(
                id=ids[recording],
                filename=recording,
                audio=FileAudio(os.fspath(root / recording)),
                labels=numbers,
                events=_list_times(recordings.events.get(recording, []))
                if recordings.events
                else None,
            )
            for recording, numbers in sorted(labels[split].items())
        }
    tables = [root / name for name in table_names] + [class_file] * class_file.exists()
    return OwnFolder(
        os.fspath(root) if is_remote(root) else os.path.realpath(root),
        cells.classes,
        cells.class_ids,
        splits,
        problems,
        folders_are_classes,
        csv_files.hash_files(tables),
    )


def _read_tables(
    root: pathlib.Path, hints: Hints, *, keeps_unlabelled: bool
) -> dict[str, Annotations]:
    """What the tables say, by split; under the name "" where they give no splits."""
    split_tables = _find_split_tables(root)
    if not split_tables:
        found = read_annotations(root, hints, _NO_ANNOTATIONS, keeps_unlabelled=keeps_unlabelled)
        return {"": found}
    if keeps_unlabelled:
        raise UserError(
            f"{root} has tables of splits by hand, and data.unlabelled=True keeps recordings that "
            "no table names: put those into a folder of their own"
        )
    files, _ = find_files(root)
    annotations = {
        split: join_tables(root, files, names, hints, is_split=True)
        for split, names in split_tables.items()
    }
    titles = {title for of_split in annotations.values() for title in of_split.titles}
    check_columns(root, hints, titles)
    return annotations


def _find_split_tables(root: pathlib.Path) -> dict[str, list[str]]:
    """The tables of each split: by their names, or as there are several; else none."""
    paths = sorted(
        path
        for path in root.glob("*.csv")
        if path.name not in _NO_ANNOTATIONS
        and not path.name.startswith("._")  # of macOS
        and path.is_file()
    )
    stems = {path.stem for path in paths}
    is_by_name = any(_SPLIT_NAMES.fullmatch(stem) for stem in stems)
    if not is_by_name and sum(map(_has_labels, paths)) < 2:
        return {}
    tables: dict[str, list[str]] = {}
    for path in paths:
        split = path.stem.removesuffix(_EVENTS_SUFFIX)
        split = split if split in stems else path.stem
        if not re.fullmatch(r"\w+", split, re.ASCII) or split.lower() == "all":
            raise UserError(
                f"{path}: a split is named with letters, digits and '_' and not 'all'. "
                "Rename the file, or move it away if it is no split."
            )
        tables.setdefault(split, []).append(path.name)
    return tables


def _has_labels(path: pathlib.Path) -> bool:
    try:
        return set(_LABEL_COLUMNS) <= set(csv_files.read_header(path, _LABEL_COLUMNS))
    except UserError:
        return False


def _number_labels(
    found: Annotations, cells: LabelCells, unlabelled: frozenset[str]
) -> tuple[Recordings, dict[str, tuple[int, ...]]]:
    """Numbers the classes of all rows, and notes what is left out in `found.problems`.

    Returns recordings without their rows yet, and the labels of each.
    """
    labelled = found.labelled or frozenset((*found.labels, *found.empty) if found.labels else ())
    labels: dict[str, set[int]] = {
        recording: set()
        for recording in (
            *found.empty,
            *found.unsure,
            *unlabelled,
            *(labelled - found.labels.keys()),
        )
    }
    unsure = {
        recording: [
            (row.onset, row.offset, number)
            for row in rows
            for number in cells.find_unsure([cells.name(row.label.rstrip(UNSURE).strip())])
        ]
        for recording, rows in found.unsure.items()
    }
    for recording, texts in found.labels.items():
        names = [name for text in texts for name in cells.of(text)]
        unsure_names = [name for text in texts for name in cells.unsure(text)]
        if unsure_names:
            numbers_or_any = cells.find_unsure(unsure_names)
            unsure[recording] = [(0.0, math.inf, number) for number in numbers_or_any]
        numbers = _find_numbers(cells, names, found, recording, "")
        if names and not numbers and not unsure_names:
            found.problems.append(Problem(recording, "no label", "left out"))
            continue
        labels[recording] = numbers
        if not names and not unsure_names:
            detail = f"labels {texts[0]!r} name nothing: nothing is in it"
            found.problems.append(Problem(recording, "left out", detail))
    events: dict[str, list[tuple[TableRow, int]]] = {}
    for recording, rows in found.events.items():
        for row in rows:
            where = f"row {row.row} of {row.table}: "
            names = cells.of(row.label)
            if not names:
                detail = f"{where}{row.label!r} names no class; left out"
                found.problems.append(Problem(recording, "no label", detail))
            for number in _find_numbers(cells, names, found, recording, where):
                events.setdefault(recording, []).append((row, number))
                if recording not in labelled:
                    labels.setdefault(recording, set()).add(number)
    annotated = {
        recording: frozenset(
            _find_numbers(cells, cells.names(text), found, recording, "annotated_classes: ")
        )
        for recording, text in found.annotated_classes.items()
    }
    events = {recording: rows for recording, rows in events.items() if recording in labels}
    recordings = Recordings(
        {}, events, unsure, annotated, labelled, unlabelled, found.groups, found.missing
    )
    return recordings, {name: tuple(sorted(numbers)) for name, numbers in labels.items()}


def _find_numbers(
    cells: LabelCells, names: Iterable[str], found: Annotations, recording: str, where: str
) -> set[int]:
    """The numbers of classes; names that are none are noted in `found.problems`."""
    names = set(names)
    if unknown := sorted(names - cells.numbers.keys()):
        detail = f"{where}{', '.join(map(repr, unknown))} not in the classes; left out"
        found.problems.append(Problem(recording, "unknown label", detail))
    return {cells.numbers[name] for name in names if name in cells.numbers}


def _list_times(events: list[tuple[TableRow, int]]) -> tuple[tuple[float, float, int], ...]:
    return tuple(sorted((event.onset, event.offset, label) for event, label in events))


def _make_ids(files: Iterable[str]) -> dict[str, str]:
    """File to clip id: the stem where it is that of one file only, else the relative path."""
    ids = {file: posixpath.splitext(posixpath.basename(file))[0] for file in files}
    while True:
        counts = collections.Counter(ids.values())
        shared = [file for file, clip in ids.items() if counts[clip] > 1 and clip != file]
        if not shared:
            return ids
        # One's path may be another's stem: "a.wav" and "a.wav.flac".
        ids |= {file: file for file in shared}


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
