"""All tables of a folder of recordings as the events of each recording."""

import collections
import dataclasses
import os
import pathlib
import posixpath
import re
from typing import Any

from psl_jax.audio.decoding import AUDIO_SUFFIXES
from psl_jax.corpora.annotations import cells as cells_lib
from psl_jax.corpora.annotations.audacity import is_audacity, read_audacity
from psl_jax.corpora.annotations.elan import is_elan, read_elan
from psl_jax.corpora.annotations.plain_tables import read_plain
from psl_jax.corpora.annotations.raven import is_raven, read_raven
from psl_jax.corpora.annotations.recording_names import RecordingNames, suffix_of
from psl_jax.corpora.annotations.table_events import EventRow, Hints, TableEvents
from psl_jax.corpora.audio_folders import walk_files
from psl_jax.corpora.clip_rows import Problem
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import is_remote, path_of

TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".txt", ".xlsx", ".parquet"})
_PLAIN = "a table with the columns filename,onset,offset,label"
_DECLINED_SUFFIXES = {
    ".textgrid": "Praat's TextGrids are not read",
    ".eaf": "ELAN's own files are not read: export them as tab-delimited text",
    ".svl": "Sonic Visualiser's layers are not read",
    ".aup": "Audacity's projects are not read: export their labels",
    ".aup3": "Audacity's projects are not read: export their labels",
    ".xls": "old spreadsheets are not read: save them as .xlsx",
    ".ods": "OpenDocument spreadsheets are not read: save them as .xlsx",
}
# Columns by which a tool's table is known, and the tool.
_DECLINED_COLUMNS = {
    frozenset({"in file", "offset", "duration"}): "Kaleidoscope",
    frozenset({"annotation", "annotator", "start_datetime"}): "APLOSE",
    frozenset({"annotation_id", "lead_time"}): "Label Studio",
}
_LABEL_STUDIO = re.compile(rb'"annotation_id"|"was_cancelled"|"annotations".*"result"', re.DOTALL)


@dataclasses.dataclass
class Annotations:
    """What the tables of a folder say of its recordings, which are paths relative to it.

    Attributes:
      events: by recording, sorted; of a table's rows.
      labels: cells of labels of whole recordings, where the tables have no times.
      unsure: as events, of which somebody is not sure.
      annotated_classes: by recording, the cell that names the classes of which all events are
        annotated.
      empty: recordings of which a table says that they hold nothing.
      groups: values of the hints' group column by recording.
      problems: what was left out.
    """

    recordings: list[str]
    tables: list[str]
    events: dict[str, list[EventRow]] = dataclasses.field(default_factory=dict)
    labels: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    unsure: dict[str, list[EventRow]] = dataclasses.field(default_factory=dict)
    annotated_classes: dict[str, str] = dataclasses.field(default_factory=dict)
    empty: list[str] = dataclasses.field(default_factory=list)
    groups: dict[str, str] = dataclasses.field(default_factory=dict)
    problems: list[Problem] = dataclasses.field(default_factory=list)

    @property
    def unnamed(self) -> list[str]:
        """Recordings that no row names."""
        named = self.events.keys() | self.labels.keys() | self.unsure.keys() | set(self.empty)
        return [recording for recording in self.recordings if recording not in named]


def find_files(root: pathlib.Path) -> tuple[list[str], list[str]]:
    """The recordings and the other files below a folder: paths relative to it, sorted."""
    if is_remote(root):
        found = (path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    else:
        found = (os.path.relpath(path, root) for path in walk_files(os.fspath(root)))
    paths = sorted(path for path in found if not posixpath.basename(path).startswith("."))
    return (
        [path for path in paths if suffix_of(path) in AUDIO_SUFFIXES],
        [path for path in paths if suffix_of(path) not in AUDIO_SUFFIXES],
    )


def read_annotations(
    folder: str | os.PathLike[str],
    hints: Hints | None = None,
    but: frozenset[str] = frozenset(),
    *,
    keeps_unlabelled: bool = False,
) -> Annotations:
    """Reads every table below a folder, whichever of the known tools wrote it.

    Args:
      hints: what the user says of the tables.
      but: names of files that are no annotations.
      keeps_unlabelled: recordings that no row names are no problem.

    Raises UserError for tables that cannot be read in one way only, for those of tools that are
    not read, and where no table is about a recording.
    """
    root = path_of(folder)
    if not root.is_dir():
        raise UserError(f"{root} is not a folder: expected recordings and their tables")
    recordings, others = find_files(root)
    result = Annotations(recordings, [])
    names = RecordingNames(recordings)
    tables: list[TableEvents] = []
    for path in others:
        if posixpath.basename(path) in but:
            continue
        table = read_table(root, path, hints or Hints(), names)
        if table is not None:
            tables.append(table)
            result.tables.append(path)
        elif suffix_of(path) in TABLE_SUFFIXES:
            result.problems.append(Problem(path, "not read", "no table of annotations"))
    _join(tables, names, root, result)
    if tables and len(result.unnamed) == len(recordings):
        first = "".join(f"\n  {p.file}: {p.kind} ({p.detail})" for p in result.problems[:5])
        raise UserError(f"no row of the tables in {root} is about a recording there:{first}")
    if tables and not keeps_unlabelled:
        result.problems += [
            Problem(recording, "not annotated", "no row names it; left out")
            for recording in result.unnamed
        ]
    return result


def read_table(
    root: pathlib.Path, name: str, hints: Hints, names: RecordingNames
) -> TableEvents | None:
    """What a file says; None for a text that is no table. Raises UserError."""
    path, suffix = root / name, suffix_of(name)
    if suffix in _DECLINED_SUFFIXES:
        raise UserError(f"{path}: {_DECLINED_SUFFIXES[suffix]}. Write {_PLAIN}, or move it away")
    if suffix == ".json" and _LABEL_STUDIO.search(path.read_bytes()):
        raise UserError(f"{path}: Label Studio's JSON is not read. Write {_PLAIN}")
    if suffix not in TABLE_SUFFIXES:
        return None
    if suffix in (".xlsx", ".parquet"):
        read = cells_lib.read_spreadsheet if suffix == ".xlsx" else cells_lib.read_parquet
        return read_plain(_checked(read(path)), hints)
    text = cells_lib.read_text(path)
    if text.lstrip().startswith('File type = "ooTextFile'):
        raise UserError(f"{path}: {_DECLINED_SUFFIXES['.textgrid']}. Write {_PLAIN}")
    rows = cells_lib.literal_rows(text)
    if is_elan(rows):
        return read_elan(str(path), rows)
    if rows and is_raven(rows[0][1]):
        return read_raven(cells_lib.sheet_of(str(path), "\t", rows), hints)
    if is_audacity(rows):
        return read_audacity(str(path), rows)
    try:
        return read_plain(_checked(cells_lib.read_separated(str(path), text)), hints)
    except UserError:
        if suffix == ".txt" and names.of_table(name) is None and "\t" not in text:
            return None  # a README
        raise


def _checked(sheet: cells_lib.Sheet) -> cells_lib.Sheet:
    """Raises UserError for the table of a tool whose tables are not read, and for an empty one."""
    header = {title.casefold() for title in sheet.header}
    for columns, tool in _DECLINED_COLUMNS.items():
        if columns <= header:
            raise UserError(f"{sheet.path}: {tool}'s tables are not read. Write {_PLAIN}")
    if is_raven(sheet.header):
        raise UserError(f"{sheet.path}: a selection table of Raven has tabs between its columns")
    if not header:
        raise UserError(f"{sheet.path} is empty. Move it away if it is no table")
    return sheet


def _join(
    tables: list[TableEvents], names: RecordingNames, root: pathlib.Path, result: Annotations
) -> None:
    """Puts the tables' rows to the recordings that they mean."""
    by_tool: dict[str, dict[str, list[EventRow]]] = collections.defaultdict(dict)
    first_table: dict[tuple[str, str], str] = {}
    cells_of_tables: dict[str, dict[str, list[str]]] = collections.defaultdict(dict)
    for table in tables:
        name = pathlib.PurePath(table.path).relative_to(root).as_posix()
        missing: dict[str, list[int]] = collections.defaultdict(list)
        of_table = names.of_table(name)

        def find(
            files: tuple[str, ...],
            row: int,
            name: str = name,
            missing: dict[str, list[int]] = missing,
            of_table: str | None = of_table,
        ) -> str | None:
            recording = names.find(files, f"{name}, row {row}") if files else of_table
            if recording is None:
                missing[" or ".join(files)].append(row)
            return recording

        result.problems += [
            Problem(name, "left out", f"row {row}: {reason}") for row, reason in table.left_out
        ]
        for event in table.events:
            if (recording := find(event.files, event.row)) is not None:
                event = dataclasses.replace(event, table=name)
                by_tool[table.kind].setdefault(recording, []).append(event)
                first_table.setdefault((table.kind, recording), name)
        for event in table.unsure:
            if (recording := find(event.files, event.row)) is not None:
                result.unsure.setdefault(recording, []).append(event)
        for files, cell, row in table.annotated_classes:
            recording = find(files, row)
            if recording and result.annotated_classes.setdefault(recording, cell) != cell:
                raise UserError(
                    f"{table.path}, row {row}: the annotated_classes of {recording} are {cell!r}, "
                    f"and {result.annotated_classes[recording]!r} in a row before"
                )
        for files, row in table.empty:
            if (recording := find(files, row)) is not None:
                result.empty.append(recording)
        for files, cell, row in table.labels:
            if (recording := find(files, row)) is not None:
                cells_of_tables[recording].setdefault(name, []).append(cell)
        for files, value, row in table.groups:
            recording = find(files, row)
            if recording and result.groups.setdefault(recording, value) != value:
                raise UserError(
                    f"{table.path}, row {row}: {recording} is of group {value!r}, and of "
                    f"{result.groups[recording]!r} in a row before"
                )
        for file, rows in missing.items():
            if not file:
                raise UserError(
                    f"{table.path}: no column names a recording, and none is called as the table. "
                    "Call it as its recording, as in yard_01.txt for yard_01.wav"
                )
            rows = sorted(set(rows))
            shown = ", ".join(map(str, rows[:5])) + (" and more" if len(rows) > 5 else "")
            detail = f"row {shown} of {name}: no such recording in the folder"
            result.problems.append(Problem(file, "missing", detail))
    for recording, by_table in cells_of_tables.items():
        if len({tuple(sorted(cells)) for cells in by_table.values()}) > 1:
            raise UserError(f"{recording}: {' and '.join(by_table)} disagree. Keep one of them")
        result.labels[recording] = next(iter(by_table.values()))
    if by_tool and result.labels:
        raise UserError(
            f"{root}: some tables hold events and others labels of whole recordings. Keep one kind"
        )
    _merge_tools(by_tool, first_table, result)
    result.empty = sorted(set(result.empty) - result.events.keys() - result.labels.keys())


def _merge_tools(
    by_tool: dict[str, dict[str, list[EventRow]]],
    first_table: dict[tuple[str, str], str],
    result: Annotations,
) -> None:
    """Tables of one tool add up; those of two tools about a recording must say the same."""
    seen: dict[str, str] = {}
    for tool, by_recording in by_tool.items():
        for recording, events in by_recording.items():
            events.sort(key=lambda event: (event.onset, event.offset, event.label))
            if len(names := {event.table for event in events}) > 1:
                first: dict[tuple[Any, ...], str] = {}
                events = [e for e in events if first.setdefault(_rounded(e), e.table) == e.table]
                detail = f"the events of {', '.join(sorted(names))} are put together"
                result.problems.append(Problem(recording, "several tables", detail))
            if recording not in seen:
                seen[recording], result.events[recording] = tool, events
                continue
            mine, others = ({_rounded(e) for e in es} for es in (events, result.events[recording]))
            if mine != others:
                onset, _, label = min(mine ^ others)
                tables = first_table[tool, recording], first_table[seen[recording], recording]
                raise UserError(
                    f"{recording}: {' and '.join(tables)} disagree, such as on {label!r} at "
                    f"{onset:g} s. Keep one of them"
                )


def _rounded(event: EventRow) -> tuple[float, float, str]:
    return round(event.onset, 2), round(event.offset, 2), event.label
