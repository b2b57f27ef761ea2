"""All tables of a folder of recordings as the events of each recording."""

import collections
import dataclasses
import os
import pathlib
import posixpath
import re
from collections.abc import Iterator

from psl_jax.audio.decoding import AUDIO_SUFFIXES
from psl_jax.corpora.annotations import cells as cells_lib
from psl_jax.corpora.annotations.plain_tables import PLAIN_KIND, read_plain
from psl_jax.corpora.annotations.recording_names import RecordingNames, is_same_path, suffix_of
from psl_jax.corpora.annotations.table_events import Hints, TableEvents, TableRow
from psl_jax.corpora.annotations.tool_tables import (
    is_audacity,
    is_elan,
    is_raven,
    read_audacity,
    read_elan,
    read_raven,
)
from psl_jax.corpora.audio_folders import walk_files
from psl_jax.corpora.corpus import Problem
from psl_jax.networks.class_lists import list_first
from psl_jax.runtime.csv_files import SEPARATORS, listing
from psl_jax.runtime.errors import UserError

TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".txt", ".xlsx", ".parquet"})
_PLAIN = "a table with the columns filename,onset,offset,label"
_DECLINED_SUFFIXES = {
    ".textgrid": "Praat's TextGrids are not read",
    ".eaf": "ELAN's own files are not read: export them as tab-delimited text",
    ".svl": "Sonic Visualiser's layers are not read",
    ".aup": "Audacity's projects are not read: export their labels",
    ".aup3": "Audacity's projects are not read: export their labels",
    ".xls": "old spreadsheets are not read: save them as .xlsx",
    ".xlsm": "spreadsheets with macros are not read: save them as .xlsx",
    ".ods": "OpenDocument spreadsheets are not read: save them as .xlsx",
    ".numbers": "Apple's spreadsheets are not read: export them as .xlsx",
}
# Columns by which a tool's table is known, and the tool.
_DECLINED_COLUMNS = {
    frozenset({"in file", "offset", "duration"}): "Kaleidoscope",
    frozenset({"annotation", "annotator", "start_datetime"}): "APLOSE",
    frozenset({"annotation_id", "lead_time"}): "Label Studio",
    frozenset({"decision", "who", "when"}): "psl-jax review, which config.corrections takes,",
}
_LABEL_STUDIO = re.compile(rb'"annotation_id"|"was_cancelled"|"annotations".*"result"', re.DOTALL)


@dataclasses.dataclass
class RecordingRows:
    """What tables say of a recording: without events and labels, that it holds nothing."""

    events: list[TableRow] = dataclasses.field(default_factory=list)  # sorted
    labels: list[str] = dataclasses.field(default_factory=list)  # cells of the whole recording
    unsure: list[TableRow] = dataclasses.field(default_factory=list)  # events
    annotated_classes: str = ""  # see TableRow
    group: str = ""


@dataclasses.dataclass
class Annotations:
    """What the tables of a folder say of its recordings, which are paths relative to it."""

    recordings: list[str]  # all of the folder, or those that the table of a split by hand names
    tables: list[str] = dataclasses.field(default_factory=list)
    rows: dict[str, RecordingRows] = dataclasses.field(default_factory=dict)  # of those named
    are_labelled: bool = False  # the table of a split by hand says all its labels
    num_missing: int = 0  # names in that table that are those of no recording
    unplaced: list[TableRow] = dataclasses.field(default_factory=list)  # of none of the split
    titles: set[str] = dataclasses.field(default_factory=set)  # of all columns
    problems: list[Problem] = dataclasses.field(default_factory=list)  # what was left out

    @property
    def label_cells(self) -> list[str]:
        """All cells of labels, also of recordings that are not there."""
        cells = [cell for rows in self.rows.values() for cell in rows.labels]
        return cells + [row.label for row in self.unplaced if not row.has_times]

    @property
    def event_labels(self) -> list[str]:
        """The labels of all events that somebody is sure of, as `label_cells`."""
        rows = [*(row for rows in self.rows.values() for row in rows.events), *self.unplaced]
        return [row.label for row in rows if row.has_times and not row.is_unsure]

    @property
    def unnamed(self) -> list[str]:
        """Recordings that no row names."""
        return [recording for recording in self.recordings if recording not in self.rows]


def find_files(root: pathlib.Path) -> tuple[list[str], list[str]]:
    """The recordings and the other files below a folder that are not hidden: paths, sorted."""
    names = (os.path.relpath(path, root) for path in walk_files(os.fspath(root)))
    hidden = (".", "~$")  # the latter of a spreadsheet that is open
    paths = sorted(n for n in names if not any(p.startswith(hidden) for p in n.split("/")))
    return (
        [path for path in paths if suffix_of(path) in AUDIO_SUFFIXES],
        [path for path in paths if suffix_of(path) not in AUDIO_SUFFIXES],
    )


def read_annotations(
    root: pathlib.Path, hints: Hints, but: frozenset[str] = frozenset()
) -> Annotations:
    """Reads every table below a folder, but files of some names, whichever tool wrote it.

    Raises UserError for tables that cannot be read in one way only, or at all, and where none is
    about a recording.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a folder: expected recordings and their tables")
    recordings, others = find_files(root)
    tables = [name for name in others if posixpath.basename(name) not in but]
    result = join_tables(root, recordings, tables, hints)
    check_columns(root, hints, result.titles)
    all_rows = result.rows.values()
    if any(rows.events for rows in all_rows) and any(rows.labels for rows in all_rows):
        raise UserError(
            f"{root}: some tables hold events and others labels of whole recordings. Keep one kind"
        )
    if result.tables and not result.rows:
        raise UserError(
            f"no row of the tables in {root} is about a recording there:\n"
            + listing(map(str, result.problems[:5]))
        )
    return result


def check_columns(root: pathlib.Path, hints: Hints, titles: set[str]) -> None:
    """Raises UserError for a column that the user names and that no table has."""
    if titles and (lacking := sorted(set(hints.columns.values()) - titles)):
        raise UserError(
            f"{root}: data.columns names {lacking[0]!r}, which is read from no table. The columns "
            f"there: {', '.join(sorted(titles))}"
        )


def join_tables(
    root: pathlib.Path,
    recordings: list[str],
    tables: list[str],
    hints: Hints,
    *,
    is_split: bool = False,
) -> Annotations:
    """Puts the rows of tables to the recordings that they mean. Raises UserError.

    tables: paths relative to `root`, some of which may be other texts.
    is_split: the first table has the clips of a split by hand, with their paths. Only these are
      the recordings of the result: rows of other tables about others are left out.
    """
    result = Annotations(recordings)
    names = RecordingNames(recordings, root if is_split else None)
    by_tool: dict[str, dict[str, list[TableRow]]] = {}
    cells_of_tables: dict[str, dict[str, list[str]]] = {}
    unread: dict[str, list[str]] = {}  # by ending
    for number, name in enumerate(tables):
        names_clips = is_split and number == 0
        table = read_table(root, name, hints, names)
        if table is None:
            unread.setdefault(suffix_of(name), []).append(name)
            continue
        result.tables.append(name)
        result.titles.update(table.header)
        for kind, rows in (("left out", table.left_out), ("nothing in it", table.nothing_in)):
            result.problems += [Problem(name, kind, f"row {row}: {reason}") for row, reason in rows]
        if suffix_of(name) == ".csv" and table.separator not in ("", ","):
            detail = f"its columns are separated by {SEPARATORS[table.separator]}"
            result.problems.append(Problem(name, "other separator", detail))
        clips = set(result.rows) if is_split and not names_clips else None
        for recording, row in _find_recordings(table, name, names, clips, result):
            if not row.has_times and row.label:
                cells_of_tables.setdefault(recording, {}).setdefault(name, []).append(row.label)
            elif row.is_unsure:
                result.rows[recording].unsure.append(row)
            elif row.has_times:
                events = by_tool.setdefault(table.kind, {}).setdefault(recording, [])
                events.append(dataclasses.replace(row, table=name))
        if names_clips:
            result.recordings = sorted(result.rows)
            result.num_missing = sum(problem.kind == "missing" for problem in result.problems)
            has_times = any(row.has_times for row in table.rows)
            result.are_labelled = bool(result.recordings) and not has_times
    for suffix, others in unread.items():
        more = f", as {len(others) - 1} more files *{suffix}" if len(others) > 1 else ""
        detail = f"neither a recording nor a table of annotations{more}"
        result.problems.append(Problem(others[0], "not read", detail))
    for recording, by_table in cells_of_tables.items():
        if len({tuple(sorted(cells)) for cells in by_table.values()}) > 1:
            raise UserError(f"{recording}: {' and '.join(by_table)} disagree. Keep one of them")
        result.rows[recording].labels = next(iter(by_table.values()))
    _merge_tools(by_tool, result)
    if not is_split:
        result.unplaced = []
    return result


def _find_recordings(
    table: TableEvents,
    name: str,
    names: RecordingNames,
    clips: set[str] | None,
    result: Annotations,
) -> Iterator[tuple[str, TableRow]]:
    """Yields the rows of a table with their recordings; `clips` are those of a split by hand."""
    of_table = names.of_table(name)
    missing: dict[str, list[int]] = collections.defaultdict(list)
    outside: dict[str, list[int]] = collections.defaultdict(list)
    renamed: dict[str, str] = {}
    for row in table.rows:
        where, folder = f"{name}, row {row.row}", posixpath.dirname(name)
        recording = names.find(row.files, where, folder=folder) if row.files else of_table
        if recording is None or (clips is not None and recording not in clips):
            if recording is None:
                missing[" or ".join(row.files)].append(row.row)
            else:
                outside[recording].append(row.row)
            result.unplaced.append(row)
            continue
        if row.files and table.kind == PLAIN_KIND and not is_same_path(row.files[0], recording):
            renamed[row.files[0]] = recording
        rows = result.rows.setdefault(recording, RecordingRows())
        for column in ("annotated_classes", "group"):
            value, value_before = getattr(row, column), getattr(rows, column)
            if value and value_before and value != value_before:
                raise UserError(
                    f"{table.path}, row {row.row}: {recording} has the {column} {value!r}, and "
                    f"{value_before!r} in a row before"
                )
            setattr(rows, column, value_before or value)
        yield recording, row
    for file, row_numbers in missing.items():
        if not file:
            raise UserError(
                f"{table.path}: no column names a recording, and none is called as the table. "
                "Call it as its recording, as in yard_01.txt for yard_01.wav"
            )
        shown = list_first(map(str, row_numbers))
        detail = f"row {shown} of {name}: no such recording in the folder"
        result.problems.append(Problem(f"{file:.200}", "missing", detail))  # it may be audio
    for recording, row_numbers in outside.items():
        detail = f"row {list_first(map(str, row_numbers))} of {name}: {result.tables[0]} does not "
        detail += "name this recording; left out"
        result.problems.append(Problem(recording, "event without clip", detail))
    if renamed:
        file, recording = next(iter(renamed.items()))
        detail = f"{len(renamed)} files are called otherwise than here, such as {file!r}: "
        result.problems.append(Problem(name, "other file name", f"{detail}{recording!r}"))


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
        return _read_sheet(read(path), hints)
    text = cells_lib.read_text(path)
    if text.lstrip().startswith('File type = "ooTextFile'):
        raise UserError(f"{path}: {_DECLINED_SUFFIXES['.textgrid']}. Write {_PLAIN}")
    rows = cells_lib.split_literal_rows(text)
    if is_elan(rows):
        return read_elan(str(path), rows)
    if rows and is_raven(rows[0][1]):  # its labels may hold quotes
        return read_raven(cells_lib.make_sheet(str(path), "\t", rows), hints)
    if is_audacity(rows):
        return read_audacity(str(path), rows)
    try:
        return _read_sheet(cells_lib.read_separated(str(path), text), hints)
    except UserError:
        if suffix == ".txt" and names.of_table(name) is None and "\t" not in text:
            return None  # a README
        raise


def _read_sheet(sheet: cells_lib.Sheet, hints: Hints) -> TableEvents:
    """What a table with a header says. Raises UserError for those of tools that are not read."""
    header = {title.casefold() for title in sheet.header}
    for columns, tool in _DECLINED_COLUMNS.items():
        if columns <= header:
            raise UserError(
                f"{sheet.path}: tables of {tool} are not read here. Write {_PLAIN}, or move it away"
            )
    if not header:
        raise UserError(f"{sheet.path} is empty. Move it away if it is no table")
    return (read_raven if is_raven(sheet.header) else read_plain)(sheet, hints)


def _merge_tools(by_tool: dict[str, dict[str, list[TableRow]]], result: Annotations) -> None:
    """Tables of one tool add up; those of two tools about a recording must say the same."""
    for by_recording in by_tool.values():
        for recording, events in by_recording.items():
            events.sort(key=lambda event: (event.onset, event.offset, event.label))
            if len(names := {event.table for event in events}) > 1:
                first: dict[tuple[float, float, str], str] = {}
                events = [e for e in events if first.setdefault(_round(e), e.table) == e.table]
                detail = f"the events of {', '.join(sorted(names))} are put together"
                result.problems.append(Problem(recording, "several tables", detail))
            rows = result.rows[recording]
            others = rows.events = rows.events or events
            if different := {_round(e) for e in events} ^ {_round(e) for e in others}:
                onset, _, label = min(different)
                raise UserError(
                    f"{recording}: {events[0].table} and {others[0].table} disagree, such as on "
                    f"{label!r} at {onset:g} s. Keep one of them"
                )


def _round(event: TableRow) -> tuple[float, float, str]:
    return round(event.onset, 2), round(event.offset, 2), event.label
