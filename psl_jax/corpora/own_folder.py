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
import contextlib
import dataclasses
import functools
import math
import os
import pathlib
import posixpath
import re
from collections.abc import Iterable, Sequence

from psl_jax.audio.readers import CUT_TOLERANCE_SECONDS
from psl_jax.corpora.annotations import cells as cells_lib
from psl_jax.corpora.annotations.read_annotations import (
    TABLE_SUFFIXES,
    Annotations,
    RecordingRows,
    check_columns,
    find_files,
    join_tables,
    read_annotations,
)
from psl_jax.corpora.annotations.recording_names import suffix_of
from psl_jax.corpora.annotations.table_events import UNSURE, Hints, TableRow
from psl_jax.corpora.corpus import ClipRow, Problem
from psl_jax.corpora.label_cells import OTHER_SPELLING, LabelCells
from psl_jax.corpora.recording_clips import Coverage, UnsureTime
from psl_jax.corpora.stored_audio import FileAudio
from psl_jax.networks.class_lists import list_first, near_names, read_classes
from psl_jax.runtime import csv_files
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import is_remote, path_of

CLASSES_CSV = "classes.csv"
SPLITS_CSV = "splits.csv"
_NO_ANNOTATIONS = frozenset({CLASSES_CSV, SPLITS_CSV})
_EVENTS_SUFFIX = "_events"
_SPLIT_NAMES = re.compile(r"full|balanced|train|training|validation|val|dev|eval|test|fold\d+")
_near_names = functools.cache(near_names)
_LABEL_COLUMNS = {"filename", "labels"}


@dataclasses.dataclass
class Recording:
    """What is known of a recording before it is opened."""

    row: ClipRow  # without labels it holds nothing, or is unlabelled
    events: Sequence[tuple[TableRow, int]] = ()  # with their classes
    unsure: tuple[UnsureTime, ...] | None = None  # None: no row says that somebody is not sure
    annotated_classes: frozenset[int] | None = None  # where a table names them
    is_labelled: bool = False  # a table says all its labels
    is_unlabelled: bool = False  # nothing is said of it
    group: str = ""  # value of the hints' group column

    def find_coverage(self, num_classes: int, *, keeps_background: bool) -> Coverage:
        """What is known of it where no event is; keeps_background: all events were annotated."""
        everything, unsure = frozenset(range(num_classes)), self.unsure or ()
        if self.is_unlabelled:
            return Coverage(frozenset(), True, True, unsure)
        if self.annotated_classes is not None:
            return Coverage(self.annotated_classes, True, True, unsure)
        split_has_events = self.row.events is not None
        if keeps_background or not (self.events or (split_has_events and unsure)):
            return Coverage(everything, True, True, unsure)
        if self.is_labelled:
            labels = self.row.labels
            timed = {label for _, label in self.events} & set(labels)  # others are none of its own
            return Coverage(everything - timed, False, not labels, unsure)
        return Coverage(frozenset(), False, False, unsure)

    def shorten_events(self, end: float | None) -> tuple[ClipRow | None, list[Problem]]:
        """The row without events past the recording's end, and what there is to tell of them.

        end: its length in seconds, where it is known. A recording that has no event left is one
        without labels only where it was one before, else there is no row.
        """
        problems: list[Problem] = []

        def note(kind: str, detail: str) -> None:
            problems.append(Problem(self.row.filename, kind, detail))

        if end is None:
            return self.row, problems
        inside = []
        for event, label in self.events:
            where = f"row {event.row} of {event.table}: {event.onset:g} to {event.offset:g} s"
            if event.onset > end or (event.onset == end and event.offset > end):
                note("bad event", f"{where} is after the end, at {end:.2f} s; left out")
                continue
            if event.offset > end + CUT_TOLERANCE_SECONDS:
                note("event cut", f"{where} goes on after the end; cut there, at {end:.2f} s")
            inside.append((event, label))
        if len(inside) == len(self.events):
            return self.row, problems
        row = dataclasses.replace(self.row, events=_list_times(inside))
        if not self.is_labelled:
            row = dataclasses.replace(row, labels=tuple(sorted({label for _, label in inside})))
            if not row.labels and self.unsure is None:
                note("no label", "no event is left; left out")
                return None, problems
        return row, problems


@dataclasses.dataclass
class OwnFolder:
    """A folder of recordings."""

    path: str
    classes: tuple[str, ...]
    class_ids: tuple[str, ...]
    # By split and path in the folder; the split is "" where no tables give splits by hand.
    splits: dict[str, dict[str, Recording]]
    num_missing: dict[str, int]  # of each split: names in its table that are of no recording
    problems: list[tuple[str | None, Problem]]  # with their split; None: of no split
    folders_are_classes: bool  # there is no table
    tables_sha256: str  # of all that was read

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
    """Reads the tables of a folder, or the names of its folders. Raises UserError.

    keeps_unlabelled: recordings that no row names are kept; without any table, all.
    """
    root = path_of(folder)
    annotations = _read_tables(root, hints, keeps_unlabelled=keeps_unlabelled)
    table_names = sorted({name for of_split in annotations.values() for name in of_split.tables})
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
    problems: list[tuple[str | None, Problem]] = []
    for kind, detail in cells.notes:
        places = _find_respelt(annotations.values(), cells) if kind == OTHER_SPELLING else []
        problems.append((None, Problem(list_first(places or table_names, 3) or ".", kind, detail)))
    splits = {}
    for split, of_split in annotations.items():
        splits[split] = _number_labels(root, of_split, cells, keeps_unlabelled=keeps_unlabelled)
        problems += [(split or None, problem) for problem in of_split.problems]
    if table_names and not (cells.numbers and any(splits.values())):
        notes = [problem for of_split in annotations.values() for problem in of_split.problems]
        raise UserError(
            f"{root}: no event and no label of a recording in {', '.join(table_names)}. The first "
            f"problems:\n{csv_files.listing(map(str, notes[:5]))}"
        )
    if not any(of_split.recordings for of_split in annotations.values()):
        raise UserError(f"no recording in {root}")
    ids = _make_ids({name for recordings in splits.values() for name in recordings})
    for recordings in splits.values():
        has_events = any(recording.events for recording in recordings.values())
        for name, recording in recordings.items():
            events = _list_times(recording.events) if has_events else None
            recording.row = dataclasses.replace(recording.row, id=ids[name], events=events)
    tables = [root / name for name in table_names] + [class_file] * class_file.exists()
    return OwnFolder(
        os.fspath(root) if is_remote(root) else os.path.realpath(root),
        cells.classes,
        cells.class_ids,
        splits,
        {split: of_split.num_missing for split, of_split in annotations.items()},
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
        return {"": read_annotations(root, hints, _NO_ANNOTATIONS)}
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
    """The tables of each split: by their names, or as there are several; else none.

    Spreadsheets, tables with tabs and parquet files count by their names alone.
    """
    paths = sorted(
        path
        for path in root.glob("*")
        if path.name not in _NO_ANNOTATIONS
        and not path.name.startswith((".", "~$"))  # of macOS, and of spreadsheets that are open
        and (suffix_of(path.name) == ".csv" or _is_named_as_split(path))
        and path.is_file()
    )
    stems = {path.stem for path in paths}
    is_by_name = any(_SPLIT_NAMES.fullmatch(stem.lower()) for stem in stems)
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


def _is_named_as_split(path: pathlib.Path) -> bool:
    stem = path.stem.lower().removesuffix(_EVENTS_SUFFIX)
    is_table = suffix_of(path.name) in TABLE_SUFFIXES - {".txt"}  # a label track of test.wav
    return is_table and bool(_SPLIT_NAMES.fullmatch(stem))


def _has_labels(path: pathlib.Path) -> bool:
    with contextlib.suppress(UserError):  # told when it is read
        header = cells_lib.read_separated(str(path), cells_lib.read_text(path)).header
        return set(map(str.casefold, header)) >= _LABEL_COLUMNS
    return False


def _find_respelt(all_annotations: Iterable[Annotations], cells: LabelCells) -> list[str]:
    """The recordings, or rows of events, where a class is spelt otherwise than it is read."""
    places = []
    for annotations in all_annotations:
        for name, rows in annotations.rows.items():
            if any(map(cells.is_respelt, rows.labels)):
                places.append(name)
            events = (event for event in rows.events if cells.is_respelt(event.label))
            places += [f"row {event.row} of {event.table}" for event in events]
    return places


def _number_labels(
    root: pathlib.Path, annotations: Annotations, cells: LabelCells, *, keeps_unlabelled: bool
) -> dict[str, Recording]:
    """The recordings with the numbers of their classes, sorted; ids and times are not there yet.

    Notes what is left out in `annotations.problems`.
    """
    are_some_labelled = any(rows.labels for rows in annotations.rows.values())
    recordings: dict[str, Recording] = {}
    for name, rows in annotations.rows.items():
        names_nothing = are_some_labelled and not (rows.events or rows.unsure)
        is_labelled = annotations.are_labelled or bool(rows.labels) or names_nothing
        recording = Recording(_make_row(root, name), is_labelled=is_labelled, group=rows.group)
        if _add_labels(recording, rows, cells, annotations.problems):
            recordings[name] = recording
    for name in annotations.unnamed:
        if keeps_unlabelled:
            recordings[name] = Recording(_make_row(root, name), is_unlabelled=True)
        elif annotations.tables:
            detail = "no row names it; left out"
            annotations.problems.append(Problem(name, "not annotated", detail))
    return dict(sorted(recordings.items()))


def _make_row(root: pathlib.Path, name: str) -> ClipRow:
    return ClipRow(name, name, FileAudio(os.fspath(root / name)), ())


def _add_labels(
    recording: Recording, rows: RecordingRows, cells: LabelCells, problems: list[Problem]
) -> bool:
    """Numbers the labels and events of a recording; tells whether it is kept."""
    file = recording.row.filename

    def note(kind: str, detail: str) -> None:
        problems.append(Problem(file, kind, detail))

    def find_numbers(names: Iterable[str], where: str = "") -> set[int]:
        names = set(names)
        if unknown := sorted(names - cells.numbers.keys()):
            shown = ", ".join(f"{name!r}{_near_names(name, cells.classes)}" for name in unknown)
            note("unknown label", f"{where}{shown} not in the classes; left out")
        return {cells.numbers[name] for name in names if name in cells.numbers}

    unsure: list[UnsureTime] = [
        (row.onset, row.offset, number)
        for row in rows.unsure
        for number in cells.find_unsure([cells.name(row.label.rstrip(UNSURE).strip())])
    ]
    names = [name for text in rows.labels for name in cells.of(text)]
    unsure_names = [name for text in rows.labels for name in cells.unsure(text)]
    if unsure_names:
        unsure = [(0.0, math.inf, number) for number in cells.find_unsure(unsure_names)]
    labels = find_numbers(names)
    if has_unknown_alone := bool(names) and not labels and not unsure_names:
        note("no label", "left out")
    if rows.labels and not names and not unsure_names:
        note("nothing in it", f"labels {rows.labels[0]!r} name nothing")
    events: list[tuple[TableRow, int]] = []
    for row in rows.events:
        where = f"row {row.row} of {row.table}: "
        names = cells.of(row.label)
        if not names:
            note("no label", f"{where}{row.label!r} names no class; left out")
        events += [(row, number) for number in find_numbers(names, where)]
    if not recording.is_labelled:
        labels = {number for _, number in events}
    if rows.annotated_classes:
        names = cells.names(rows.annotated_classes)
        recording.annotated_classes = frozenset(find_numbers(names, "annotated_classes: "))
    recording.events = events
    recording.unsure = tuple(unsure) if rows.unsure or unsure_names else None
    recording.row = dataclasses.replace(recording.row, labels=tuple(sorted(labels)))
    if rows.unsure:
        return True
    if rows.labels:
        return not has_unknown_alone
    return recording.is_labelled or bool(events) or not rows.events


def _list_times(events: Iterable[tuple[TableRow, int]]) -> tuple[tuple[float, float, int], ...]:
    """Onset, offset and class of each event, once: it may be marked in several channels."""
    return tuple(sorted({(event.onset, event.offset, label) for event, label in events}))


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


def _name_by_folders(root: pathlib.Path, annotations: Annotations) -> None:
    """Takes the folder of each recording as its label. Raises UserError where that is none."""
    expected = (
        "expected a table (filename,onset,offset,label, or filename,labels; CSV, TSV, XLSX or "
        "parquet), tables of Raven, Audacity, BirdNET or ELAN, or recordings in a folder for each "
        "class"
    )
    if not annotations.recordings:
        raise UserError(f"no recording in {root}: {expected}")
    for recording in annotations.recordings:
        if "/" in recording:
            annotations.rows[recording] = RecordingRows(labels=[recording.split("/")[0]])
        else:
            detail = "in no folder of a class, and there is no table; left out"
            annotations.problems.append(Problem(recording, "no label", detail))
    names = {rows.labels[0] for rows in annotations.rows.values()}
    if deeper := [recording for recording in annotations.recordings if recording.count("/") > 1]:
        if all(_SPLIT_NAMES.fullmatch(name.lower()) for name in names):
            raise UserError(
                f"{root}: are its folders splits that hold folders of classes, as in {deeper[0]}? "
                f"Write a table for each split, {min(names)}.csv (filename,labels)"
            )
        detail = f"{len(deeper)} recordings lie in folders of folders: the outer ones are classes"
        annotations.problems.append(Problem(deeper[0], "folder in a folder", detail))
    if len(names) < 2:
        where = f"all recordings are in {posixpath.join(root, *names)}" if names else "no folders"
        raise UserError(f"no table in {root}, and {where}: {expected}")
