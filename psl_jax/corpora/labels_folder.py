"""Reads a folder of one's own: its CSVs, classes and events. No audio is opened here.

    <folder>/{split}.csv          filename,labels                  labels separated by ';', none:
                                                                   the recording holds nothing
    <folder>/{split}_events.csv   filename,onset,offset,label      optional, seconds
    <folder>/classes.csv          index,mid,display_name or label  optional

File names are relative to the folder. Everything left out is reported, nothing is fatal but a
folder of another form.
"""

import collections
import dataclasses
import math
import os
import pathlib
import posixpath
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Literal

from psl_jax.corpora.clip_rows import ClipRow, Problem, mixed
from psl_jax.corpora.label_cells import LabelCells
from psl_jax.corpora.recording_clips import Coverage
from psl_jax.corpora.stored_audio import FileAudio
from psl_jax.data.clip_index import Event
from psl_jax.networks.class_lists import read_classes
from psl_jax.runtime import csv_files
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import is_remote, path_of

CLASSES_CSV = "classes.csv"
EVENTS_SUFFIX = "_events"
LABEL_COLUMNS = ("filename", "labels")
EVENT_COLUMNS = ("filename", "onset", "offset", "label")


@dataclasses.dataclass(frozen=True)
class OwnFolder:
    """What the CSVs of a folder say."""

    path: str
    classes: tuple[str, ...]
    class_ids: tuple[str, ...]  # the mid column, else the class names
    rows: dict[str, tuple[ClipRow, ...]]  # by split, in record order
    problems: tuple[tuple[str, Problem], ...]  # (split, problem)
    has_events: bool
    csv_sha256: str
    coverage: dict[str, dict[str, Coverage]]  # by split and file name


@dataclasses.dataclass
class _Table:
    """A CSV as read: dictionaries with their line numbers."""

    path: pathlib.Path
    rows: list[tuple[int, dict[str, str]]]
    bad: list[Problem]


def read_folder(
    folder: str | os.PathLike[str], separator: str = ";", *, keeps_background: bool = True
) -> OwnFolder:
    """Reads the CSVs of `folder`.

    Labels are all that a recording holds. keeps_background: events are all of a recording, too, so
    that a stretch of it without an event of a label lacks the class; else this is unknown.

    Rows are put in an order that depends on the ids alone and mixes them, as CSVs are often
    sorted by class. An id is the file name without folder and extension; where two files of the
    folder share it, theirs are the relative paths instead.

    Raises:
      UserError: no such folder, no split CSV, missing columns, unreadable CSV or class list.
    """
    root = path_of(folder)
    labels, events = _find_tables(root)
    class_file = root / CLASSES_CSV
    names = _FileNames(root)
    for table in (*labels.values(), *events.values()):
        names.correct(table)
    cells = LabelCells(
        (row["labels"] for table in labels.values() for _, row in table.rows),
        (row["label"] for table in events.values() for _, row in table.rows),
        separator,
        read_classes(class_file) if class_file.exists() else None,
    )
    if not cells.classes:
        paths = ", ".join(str(table.path) for table in labels.values())
        raise UserError(f"no label in any row of {paths}: expected labels separated by {separator}")
    ids = clip_ids(_normal(row["filename"]) for table in labels.values() for _, row in table.rows)
    first = next(iter(labels))
    problems = [(first, Problem(labels[first].path.name, *note)) for note in cells.notes]
    rows, coverage = {}, {}
    for split, table in labels.items():
        reader = _SplitReader(root, split, cells, ids)
        rows[split] = reader.read(table, events.get(split))
        coverage[split] = {
            row.filename: reader.coverage(row, len(cells.classes), keeps_background)
            for row in rows[split]
        }
        problems += [(split, problem) for problem in reader.problems]
    tables = [table.path for table in (*labels.values(), *events.values())]
    return OwnFolder(
        path=os.fspath(root) if is_remote(root) else os.path.realpath(root),
        classes=cells.classes,
        class_ids=cells.class_ids,
        rows=rows,
        problems=tuple(problems),
        has_events=bool(events),
        csv_sha256=csv_files.hash_files(tables + [class_file] * class_file.exists()),
        coverage=coverage,
    )


class _SplitReader:
    """Makes the rows of one split, gathering what there is to report."""

    def __init__(
        self,
        root: pathlib.Path,
        split: str,
        cells: LabelCells,
        ids: dict[str, str],
    ):
        self.problems: list[Problem] = []
        self._root, self._split = root, split
        self._cells, self._ids = cells, ids
        self._lookup = cells.numbers
        self._unsure: dict[str, list[int | None]] = collections.defaultdict(list)  # by file name
        self._annotated: dict[str, frozenset[int]] = {}

    def read(self, table: _Table, events: _Table | None) -> tuple[ClipRow, ...]:
        self.problems += table.bad
        labels: dict[str, list[int]] = {}
        names: dict[str, str] = {}
        for line, row in table.rows:
            found = self._row_labels(line, row)
            key = _normal(row["filename"])
            if key in labels:
                self._merge(line, row["filename"], labels[key], found or [])
            elif found is not None:
                labels[key], names[key] = found, row["filename"]
        by_file = self._events(events, labels) if events is not None else None
        rows = (
            ClipRow(
                id=self._ids[key],
                filename=names[key],
                audio=FileAudio(_existing(os.path.join(self._root, names[key]))),
                labels=tuple(found),
                events=None if by_file is None else tuple(sorted(by_file.get(key, ()))),
            )
            for key, found in labels.items()
        )
        return mixed(rows)

    def coverage(self, row: ClipRow, num_classes: int, keeps_background: bool) -> Coverage:
        """What is known of a recording where no event and no label is."""
        unsure = tuple((0.0, math.inf, label) for label in self._unsure[row.filename])
        if (classes := self._annotated.get(row.filename)) is not None:
            return Coverage(classes, True, True, unsure)
        timed = set() if keeps_background else {label for _, _, label in row.events or ()}
        is_background = keeps_background or not row.labels
        return Coverage(frozenset(range(num_classes)) - timed, False, is_background, unsure)

    def _row_labels(self, line: int, row: dict[str, str]) -> list[int] | None:
        """The labels of a row, none where nothing is in the recording; None: no row of a clip."""
        given = self._cells.of(row["labels"])
        for name in self._cells.unsure(row["labels"]):
            if not name or name in self._lookup:
                self._unsure[row["filename"]].append(self._lookup.get(name))
        if text := row.get("annotated_classes", "").strip():
            names = self._cells.names(text)
            self._annotated[row["filename"]] = frozenset(
                self._lookup[name] for name in names if name in self._lookup
            )
            if others := [name for name in names if name not in self._lookup]:
                detail = f"line {line}: annotated_classes: {', '.join(map(repr, others))} not in "
                self._report(row, "unknown label", f"{detail}the classes")
        unknown = [name for name in given if name not in self._lookup]
        found = sorted({self._lookup[name] for name in given if name in self._lookup})
        where = f"line {line}"
        if unknown:
            dropped = ", ".join(map(repr, unknown))
            end = "label dropped" if found else "row skipped, no label is left"
            self._report(row, "unknown label", f"{where}: {dropped} not in the classes; {end}")
            return found or None
        if not found and row["filename"] not in self._unsure:
            self._report(row, "holds nothing", f"{where}: no label, so no class is in it")
        return found

    def _merge(self, line: int, filename: str, first: list[int], again: list[int]) -> None:
        added = sorted(set(again) - set(first))
        first[:] = sorted({*first, *added})
        what = f"{len(added)} more labels merged into the first" if added else "first kept"
        self.problems.append(Problem(filename, "duplicate row", f"line {line}: {what}"))

    def _events(self, table: _Table, labels: dict[str, list[int]]) -> dict[str, list[Event]]:
        self.problems += table.bad
        by_file: dict[str, list[Event]] = {}
        for line, row in table.rows:
            key, names = _normal(row["filename"]), self._cells.of(row["label"])
            onset, offset = _number(row["onset"]), _number(row["offset"])
            where = f"{table.path.name} line {line}"
            if key not in labels:
                self._report(row, "event without clip", f"{where}: no row of {self._split}.csv")
            elif unknown := [name for name in names if name not in self._lookup]:
                self._report(row, "unknown label", f"{where}: {unknown[0]!r} not in the classes")
            elif onset is None or offset is None or not 0 <= onset < offset:
                times = f"{row['onset']!r} to {row['offset']!r}"
                self._report(row, "bad event", f"{where}: {times} s is no stretch of time")
            else:
                found = [(onset, offset, self._lookup[name]) for name in names]
                by_file.setdefault(key, []).extend(found)
        return by_file

    def _report(self, row: dict[str, str], kind: str, detail: str) -> None:
        self.problems.append(Problem(row["filename"], kind, detail))


def _find_tables(root: pathlib.Path) -> tuple[dict[str, _Table], dict[str, _Table]]:
    """The label and the event tables by split."""
    expected = (
        "expected {split}.csv (such as full.csv, eval.csv) with the columns filename,labels, and "
        "the audio files that they name"
    )
    if not root.is_dir():
        raise UserError(f"{root} is not a folder: {expected}")
    tables = (p for p in root.glob("*.csv") if not p.name.startswith("._"))  # macOS leaves those
    paths = sorted(p for p in tables if p.name != CLASSES_CSV)
    stems = {path.stem for path in paths}
    event_paths = {
        path
        for path in paths
        if path.stem.endswith(EVENTS_SUFFIX) and path.stem.removesuffix(EVENTS_SUFFIX) in stems
    }
    labels = {
        path.stem: _read_table(path, LABEL_COLUMNS) for path in paths if path not in event_paths
    }
    if not labels:
        found = sorted(path.name for path in root.iterdir())[:10]
        raise UserError(f"no CSV in {root}: {expected}; found {found}")
    for split in labels:
        if not re.fullmatch(r"\w+", split, re.ASCII) or split.lower() == "all":
            raise UserError(
                f"{root / split}.csv: a split is named with letters, digits and '_' and not 'all'. "
                "Rename the file, or move it away if it is no split."
            )
    events = {p.stem.removesuffix(EVENTS_SUFFIX): p for p in sorted(event_paths)}
    return labels, {split: _read_table(path, EVENT_COLUMNS) for split, path in events.items()}


def _read_table(path: pathlib.Path, columns: Sequence[str]) -> _Table:
    """The rows of a CSV with (at least) `columns`; ill-formed rows go to `bad`."""
    table = _Table(path, [], [])

    def note_bad(line: int, problem: str, row: dict[str, str]) -> None:
        name = row.get("filename", "").strip() or path.name
        table.bad.append(Problem(name, "bad row", f"line {line}: {problem}"))

    expected = f"{','.join(columns)} (if it is no table of clips, move it out of the folder)"
    for line, row in csv_files.read_rows(path, columns, expected, note_bad):
        if row["filename"].strip():
            table.rows.append((line, row | {"filename": row["filename"].strip()}))
        else:
            note_bad(line, "no file name", row)
    with csv_files.open_table(path, columns) as opened:
        if opened.separator != ",":
            detail = f"its columns are separated by {csv_files.SEPARATORS[opened.separator]}"
            table.bad.append(Problem(path.name, "other separator", detail))
    return table


class _FileNames:
    """Names in tables as the files are called: other case, no extension, backslashes."""

    def __init__(self, root: pathlib.Path):
        self._root = root
        self._found: dict[str, str] = {}
        self._listed: dict[str, list[str]] | None = None

    def correct(self, table: _Table) -> None:
        """Puts the names of the files into the rows; tells of those that differ, in `bad`."""
        changed = {}
        for number, (line, row) in enumerate(table.rows):
            name = row["filename"]
            if name not in self._found:
                self._found[name] = self._find(name)
            if (found := self._found[name]) != name:
                changed[name] = found
                table.rows[number] = line, row | {"filename": found}
        if changed:
            name, found = next(iter(changed.items()))
            detail = f"{len(changed)} files are called otherwise than here, such as {name!r}: "
            table.bad.append(Problem(table.path.name, "other file name", f"{detail}{found!r}"))

    def _find(self, name: str) -> str:
        if is_remote(self._root) or os.path.exists(_existing(os.path.join(self._root, name))):
            return name
        if self._listed is None:
            self._listed = {}
            for path in self._root.rglob("*"):
                if path.is_file() and path.suffix.lower() != ".csv":
                    place = path.relative_to(self._root).as_posix()
                    stem = posixpath.splitext(place)[0]
                    for key in {_folded(place), _folded(stem)}:
                        self._listed.setdefault(key, []).append(place)
        matches = self._listed.get(_folded(name), [])
        return matches[0] if len(matches) == 1 else name


def _folded(filename: str) -> str:
    return _normal(filename.replace("\\", "/")).casefold()


def clip_ids(files: Iterable[str]) -> dict[str, str]:
    """File to clip id: the stem where it is that of one file only, else the relative path."""
    ids = {file: posixpath.splitext(posixpath.basename(file))[0] for file in set(files)}
    while True:
        counts = collections.Counter(ids.values())
        shared = [file for file, clip in ids.items() if counts[clip] > 1 and clip != file]
        if not shared:
            return ids
        # One's path may be another's stem: "a.wav" and "a.wav.flac".
        ids |= {file: file for file in shared}


def _normal(filename: str) -> str:
    return unicodedata.normalize("NFC", posixpath.normpath(filename.strip()))


def _existing(path: str) -> str:
    """The path as the disk spells it: é is one character in some names, e and an accent in others.

    Tables and archives made on macOS have the latter.
    """
    if not path.isascii() and not path_of(path).exists():
        forms: tuple[Literal["NFC", "NFD"], ...] = ("NFC", "NFD")
        for form in forms:
            other = unicodedata.normalize(form, path)
            if path_of(other).exists():
                return other
    return path


def _number(text: str) -> float | None:
    try:
        value = csv_files.parse_number(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
