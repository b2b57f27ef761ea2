"""Reads a folder of one's own: its CSVs, classes and events. No audio is opened here.

    <folder>/{split}.csv          filename,labels                  labels separated by ';'
    <folder>/{split}_events.csv   filename,onset,offset,label      optional, seconds
    <folder>/classes.csv          index,mid,display_name or label  optional

File names are relative to the folder. Everything left out is reported, nothing is fatal but a
folder of another form.
"""

import collections
import csv
import dataclasses
import math
import os
import pathlib
import posixpath
import re
import unicodedata
from collections.abc import Sequence
from typing import Literal

from psl_jax.corpora.clip_rows import ClipRow, Event, mixed
from psl_jax.corpora.problems import Problem
from psl_jax.corpora.stored_audio import FileAudio
from psl_jax.model.class_lists import clean_name, read_classes
from psl_jax.runtime.csv_files import hash_files
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import is_remote, path_of

CLASSES_CSV = "classes.csv"
EVENTS_SUFFIX = "_events"
LABEL_COLUMNS = ("filename", "labels")
EVENT_COLUMNS = ("filename", "onset", "offset", "label")
_TOO_MANY = "more fields than columns"  # an empty name is a column: pandas leaves its index so


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


@dataclasses.dataclass
class _Table:
    """A CSV as read: dictionaries with their line numbers."""

    path: pathlib.Path
    rows: list[tuple[int, dict[str, str]]]
    bad: list[Problem]


def read_folder(folder: str | os.PathLike, separator: str = ";") -> OwnFolder:
    """Reads the CSVs of `folder`.

    Rows are put in an order that depends on the ids alone and mixes them, as CSVs are often
    sorted by class. An id is the file name without folder and extension; where two files of the
    folder share it, theirs are the relative paths instead.

    Raises:
      UserError: no such folder, no split CSV, missing columns, unreadable CSV or class list.
    """
    root = path_of(folder)
    labels, events = _find_tables(root)
    class_file = root / CLASSES_CSV
    hints = [] if class_file.exists() else _other_separators(labels, separator)
    known = read_classes(class_file) if class_file.exists() else None
    names, class_ids = known or _found_classes(labels, events, separator)
    lookup = dict(zip(class_ids, range(len(names)), strict=True))
    lookup |= dict(zip(names, range(len(names)), strict=True))
    ids = _ids(_normal(row["filename"]) for table in labels.values() for _, row in table.rows)
    problems: list[tuple[str, Problem]] = hints
    rows = {}
    for split, table in labels.items():
        reader = _SplitReader(root, split, lookup, separator, ids)
        rows[split] = reader.read(table, events.get(split))
        problems += [(split, problem) for problem in reader.problems]
    tables = [table.path for table in (*labels.values(), *events.values())]
    return OwnFolder(
        path=os.fspath(root) if is_remote(root) else os.path.realpath(root),
        classes=names,
        class_ids=class_ids,
        rows=rows,
        problems=tuple(problems),
        has_events=bool(events),
        csv_sha256=hash_files(tables + [class_file] * class_file.exists()),
    )


class _SplitReader:
    """Makes the rows of one split, gathering what there is to report."""

    def __init__(
        self,
        root: pathlib.Path,
        split: str,
        lookup: dict[str, int],
        separator: str,
        ids: dict[str, str],
    ):
        self.problems: list[Problem] = []
        self._root, self._split, self._lookup = root, split, lookup
        self._separator, self._ids = separator, ids

    def read(self, table: _Table, events: _Table | None) -> tuple[ClipRow, ...]:
        self.problems += table.bad
        labels: dict[str, list[int]] = {}
        names: dict[str, str] = {}
        for line, row in table.rows:
            found = self._row_labels(line, row)
            key = _normal(row["filename"])
            if key in labels:
                self._merge(line, row["filename"], labels[key], found)
            elif found:
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

    def _row_labels(self, line: int, row: dict[str, str]) -> list[int]:
        given = _split_labels(row["labels"], self._separator)
        unknown = [name for name in given if name not in self._lookup]
        found = sorted({self._lookup[name] for name in given if name in self._lookup})
        where = f"line {line}"
        if unknown:
            dropped = ", ".join(map(repr, unknown))
            end = "label dropped" if found else "row skipped, no label is left"
            self._report(row, "unknown label", f"{where}: {dropped} not in the classes; {end}")
        elif not found:
            self._report(row, "no label", f"{where}: row skipped")
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
            key, name = _normal(row["filename"]), clean_name(row["label"])
            onset, offset = _number(row["onset"]), _number(row["offset"])
            where = f"{table.path.name} line {line}"
            if key not in labels:
                self._report(row, "event without clip", f"{where}: no row of {self._split}.csv")
            elif name not in self._lookup:
                self._report(row, "unknown label", f"{where}: {name!r} not in the classes")
            elif onset is None or offset is None or not 0 <= onset < offset:
                times = f"{row['onset']!r} to {row['offset']!r}"
                self._report(row, "bad event", f"{where}: {times} s is no stretch of time")
            else:
                by_file.setdefault(key, []).append((onset, offset, self._lookup[name]))
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
    paths = sorted(p for p in root.glob("*.csv") if p.name != CLASSES_CSV)
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
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restkey=_TOO_MANY, restval=None)
            reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
            if missing := [name for name in columns if name not in reader.fieldnames]:
                raise UserError(
                    f"{path}: no column {', '.join(missing)}. Found the columns "
                    f"{','.join(reader.fieldnames) or '(none, the file is empty)'}; expected "
                    f"{','.join(columns)}. If it is no table of clips, move it out of the folder."
                )
            for row in reader:
                filename = (row["filename"] or "").strip()
                if _TOO_MANY in row or None in row.values() or not filename:
                    problem = f"line {reader.line_num}: {_why_malformed(row, reader.fieldnames)}"
                    table.bad.append(Problem(filename or path.name, "bad row", problem))
                else:
                    table.rows.append((reader.line_num, row | {"filename": filename}))
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error}. Save it as UTF-8.") from error
    except csv.Error as error:
        raise UserError(f"{path}: not a CSV: {error}") from error
    return table


def _why_malformed(row: dict, columns: Sequence[str]) -> str:
    if _TOO_MANY in row:
        return f"more fields than the {len(columns)} columns; quote a field that holds commas"
    if None in row.values():
        return f"fewer fields than the {len(columns)} columns"
    return "no file name"


def _ids(files) -> dict[str, str]:
    """File to clip id: the stem where it is that of one file only, else the relative path."""
    ids = {file: posixpath.splitext(posixpath.basename(file))[0] for file in set(files)}
    while True:
        counts = collections.Counter(ids.values())
        shared = [file for file, clip in ids.items() if counts[clip] > 1 and clip != file]
        if not shared:
            return ids
        # One's path may be another's stem: "a.wav" and "a.wav.flac".
        ids |= {file: file for file in shared}


def _split_labels(text: str, separator: str) -> list[str]:
    return [name for name in map(clean_name, text.split(separator)) if name]


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
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _other_separators(labels: dict[str, _Table], separator: str) -> list[tuple[str, Problem]]:
    """What to say where no label holds the separator, and some look as if another one did."""
    found = []
    for split, table in labels.items():
        texts = {row["labels"] for _, row in table.rows}
        if any(separator in text for text in texts):
            continue
        for other in (",", ";", "|"):  # "Vehicle horn, car horn" is one of AudioSet's names
            joined = sorted(t for t in texts if other in t.strip() and f"{other} " not in t)
            if joined and other != separator:
                detail = (
                    f"{len(joined)} labels hold {other!r}, such as {joined[0]!r}, which is one "
                    f"class here: labels are separated by {separator!r}. If {other!r} separates "
                    f"them, give --label_separator='{other}' (--config.data.label_separator)"
                )
                found.append((split, Problem(table.path.name, "one label or several?", detail)))
    return found


def _found_classes(
    labels: dict[str, _Table], events: dict[str, _Table], separator: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """All labels that any split or its events name, sorted."""
    names = {
        name
        for table in labels.values()
        for _, row in table.rows
        for name in _split_labels(row["labels"], separator)
    }
    names |= {clean_name(row["label"]) for table in events.values() for _, row in table.rows}
    found = tuple(sorted(names - {""}))
    if not found:
        paths = ", ".join(str(table.path) for table in labels.values())
        raise UserError(f"no label in any row of {paths}: expected labels separated by {separator}")
    return found, found
