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
from psl_jax.corpora.annotations.audacity import is_audacity, read_audacity
from psl_jax.corpora.annotations.elan import is_elan, read_elan
from psl_jax.corpora.annotations.plain_tables import PLAIN_KIND, read_plain
from psl_jax.corpora.annotations.raven import is_raven, read_raven
from psl_jax.corpora.annotations.recording_names import RecordingNames, suffix_of
from psl_jax.corpora.annotations.table_events import Hints, TableEvents, TableRow
from psl_jax.corpora.audio_folders import walk_files
from psl_jax.corpora.clip_rows import Problem
from psl_jax.runtime.csv_files import SEPARATORS
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
_CLIP_COLUMNS = {"filename", "labels"}  # of a table of a split by hand
_LABEL_STUDIO = re.compile(rb'"annotation_id"|"was_cancelled"|"annotations".*"result"', re.DOTALL)


@dataclasses.dataclass
class Annotations:
    """What the tables of a folder say of its recordings, which are paths relative to it.

    Attributes:
      events: by recording, sorted.
      labels: cells of labels of whole recordings, where the tables have no times.
      unsure: events of which somebody is not sure.
      annotated_classes: by recording, the cell that names the classes of which all events are
        annotated.
      empty: recordings of which a table says that they hold nothing.
      groups: values of the hints' group column by recording.
      clips: recordings that the table of a split by hand names; None: there is none.
      labelled: the same, where that table says all their labels.
      missing: names in the table of a split by hand that are those of no recording.
      unplaced: rows of a split by hand that are of no recording of it.
      titles: of the columns that the tables have.
      problems: what was left out.
    """

    recordings: list[str]
    tables: list[str] = dataclasses.field(default_factory=list)
    events: dict[str, list[TableRow]] = dataclasses.field(default_factory=dict)
    labels: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    unsure: dict[str, list[TableRow]] = dataclasses.field(default_factory=dict)
    annotated_classes: dict[str, str] = dataclasses.field(default_factory=dict)
    empty: list[str] = dataclasses.field(default_factory=list)
    groups: dict[str, str] = dataclasses.field(default_factory=dict)
    clips: set[str] | None = None
    labelled: frozenset[str] = frozenset()
    missing: list[str] = dataclasses.field(default_factory=list)
    unplaced: list[TableRow] = dataclasses.field(default_factory=list)
    titles: set[str] = dataclasses.field(default_factory=set)
    problems: list[Problem] = dataclasses.field(default_factory=list)

    @property
    def label_cells(self) -> list[str]:
        """All cells of labels, also of recordings that are not there."""
        cells = [cell for texts in self.labels.values() for cell in texts]
        return cells + [row.label for row in self.unplaced if not row.has_times]

    @property
    def event_labels(self) -> list[str]:
        """The labels of all events that somebody is sure of, as `label_cells`."""
        rows = [*(row for rows in self.events.values() for row in rows), *self.unplaced]
        return [row.label for row in rows if row.has_times and not row.is_unsure]

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
    tables = [name for name in others if posixpath.basename(name) not in but]
    hints = hints or Hints()
    result = join_tables(root, recordings, tables, hints)
    check_columns(root, hints, result.titles)
    if result.events and result.labels:
        raise UserError(
            f"{root}: some tables hold events and others labels of whole recordings. Keep one kind"
        )
    if result.tables and len(result.unnamed) == len(recordings):
        first = "".join(f"\n  {p.file}: {p.kind} ({p.detail})" for p in result.problems[:5])
        raise UserError(f"no row of the tables in {root} is about a recording there:{first}")
    if result.tables and not keeps_unlabelled:
        result.problems += [
            Problem(recording, "not annotated", "no row names it; left out")
            for recording in result.unnamed
        ]
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
    result = Annotations(recordings, clips=set() if is_split else None)
    names = RecordingNames(recordings, root if is_split else None)
    by_tool: dict[str, dict[str, list[TableRow]]] = {}
    cells_of_tables: dict[str, dict[str, list[str]]] = {}
    for name in tables:
        names_clips = is_split and name == tables[0]
        table = read_table(root, name, hints, names, names_clips=names_clips)
        if table is None:
            if suffix_of(name) in TABLE_SUFFIXES:
                result.problems.append(Problem(name, "not read", "no table of annotations"))
            continue
        result.tables.append(name)
        result.titles.update(table.header)
        result.problems += [
            Problem(name, "left out", f"row {row}: {reason}") for row, reason in table.left_out
        ]
        if suffix_of(name) == ".csv" and table.separator not in ("", ","):
            detail = f"its columns are separated by {SEPARATORS[table.separator]}"
            result.problems.append(Problem(name, "other separator", detail))
        for recording, row in _find_recordings(table, name, names, result, names_clips=names_clips):
            if not row.has_times and row.label:
                cells_of_tables.setdefault(recording, {}).setdefault(name, []).append(row.label)
            elif not row.has_times:
                result.empty.append(recording)
            elif row.is_unsure:
                result.unsure.setdefault(recording, []).append(row)
            else:
                events = by_tool.setdefault(table.kind, {}).setdefault(recording, [])
                events.append(dataclasses.replace(row, table=name))
        if names_clips:
            result.recordings = sorted(result.clips or ())
            if not any(row.has_times for row in table.rows):
                result.labelled = frozenset(result.recordings)
    for recording, by_table in cells_of_tables.items():
        if len({tuple(sorted(cells)) for cells in by_table.values()}) > 1:
            raise UserError(f"{recording}: {' and '.join(by_table)} disagree. Keep one of them")
        result.labels[recording] = next(iter(by_table.values()))
    _merge_tools(by_tool, result)
    result.empty = sorted(set(result.empty) - result.events.keys() - result.labels.keys())
    return result


def _find_recordings(
    table: TableEvents,
    name: str,
    names: RecordingNames,
    result: Annotations,
    *,
    names_clips: bool,
) -> Iterator[tuple[str, TableRow]]:
    """Yields the rows of a table with their recordings; notes in `result` what each row names."""
    of_table = names.of_table(name)
    missing: dict[str, list[int]] = collections.defaultdict(list)
    outside: dict[str, list[int]] = collections.defaultdict(list)
    renamed: dict[str, str] = {}
    for row in table.rows:
        recording = names.find(row.files, f"{name}, row {row.row}") if row.files else of_table
        if recording is None:
            missing[" or ".join(row.files)].append(row.row)
            if result.clips is not None:
                result.unplaced.append(row)
            continue
        if result.clips is not None and names_clips:
            result.clips.add(recording)
        elif result.clips is not None and recording not in result.clips:
            outside[recording].append(row.row)
            result.unplaced.append(row)
            continue
        if row.files and table.kind == PLAIN_KIND and posixpath.normpath(row.files[0]) != recording:
            renamed[row.files[0]] = recording
        for what, values, value in (
            ("annotated_classes", result.annotated_classes, row.annotated_classes),
            ("group", result.groups, row.group),
        ):
            if value and values.setdefault(recording, value) != value:
                raise UserError(
                    f"{table.path}, row {row.row}: {recording} has the {what} {value!r}, and "
                    f"{values[recording]!r} in a row before"
                )
        yield recording, row
    for file, rows in missing.items():
        if not file:
            raise UserError(
                f"{table.path}: no column names a recording, and none is called as the table. "
                "Call it as its recording, as in yard_01.txt for yard_01.wav"
            )
        detail = f"row {_list_rows(rows)} of {name}: no such recording in the folder"
        result.problems.append(Problem(file, "missing", detail))
    for recording, rows in outside.items():
        detail = f"row {_list_rows(rows)} of {name}: {result.tables[0]} does not name this "
        detail += "recording; left out"
        result.problems.append(Problem(recording, "event without clip", detail))
    if names_clips:
        result.missing += missing
    if renamed:
        file, recording = next(iter(renamed.items()))
        detail = f"{len(renamed)} files are called otherwise than here, such as {file!r}: "
        result.problems.append(Problem(name, "other file name", f"{detail}{recording!r}"))


def _list_rows(rows: list[int]) -> str:
    return ", ".join(map(str, rows[:5])) + (" and more" if len(rows) > 5 else "")


def read_table(
    root: pathlib.Path,
    name: str,
    hints: Hints,
    names: RecordingNames,
    *,
    names_clips: bool = False,
) -> TableEvents | None:
    """What a file says; None for a text that is no table. Raises UserError.

    names_clips: of the columns filename,labels and others, the others say nothing.
    """
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
        sheet = _checked(cells_lib.read_separated(str(path), text))
        return read_plain(_select_clip_columns(sheet, hints) if names_clips else sheet, hints)
    except UserError:
        if suffix == ".txt" and names.of_table(name) is None and "\t" not in text:
            return None  # a README
        raise


def _select_clip_columns(sheet: cells_lib.Sheet, hints: Hints) -> cells_lib.Sheet:
    """The columns filename and labels, and what belongs to them; all where not both are there."""
    titles = [title.casefold() for title in sheet.header]
    if not set(titles) >= _CLIP_COLUMNS:
        return sheet
    told = {hints.columns.get(name) for name in ("filename", "label")}
    wanted = {*_CLIP_COLUMNS, "annotated_classes"}
    pairs = enumerate(zip(titles, sheet.header, strict=True))
    return sheet.select([n for n, (title, own) in pairs if title in wanted or own in told])


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
            others = result.events.setdefault(recording, events)
            if different := {_round(e) for e in events} ^ {_round(e) for e in others}:
                onset, _, label = min(different)
                raise UserError(
                    f"{recording}: {events[0].table} and {others[0].table} disagree, such as on "
                    f"{label!r} at {onset:g} s. Keep one of them"
                )


def _round(event: TableRow) -> tuple[float, float, str]:
    return round(event.onset, 2), round(event.offset, 2), event.label
