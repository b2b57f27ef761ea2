"""Tables with a header: filename, onset, offset, label by any of their names; BirdNET's CSV."""

import re

from psl_jax.corpora.annotations.cells import Sheet
from psl_jax.corpora.annotations.table_events import (
    EventRow,
    Hints,
    TableEvents,
    Times,
    is_number,
    read_score,
)
from psl_jax.runtime.errors import UserError

# Names of each column; those of the first group win over those of the second.
_NAMES: dict[str, tuple[str, str]] = {
    "filename": (
        "filename file_name",
        "file filepath file_path path recording audio audio_file wav datei dateiname aufnahme",
    ),
    "onset": ("onset", "start begin start_time begin_time onset_time beginn anfang startzeit"),
    "offset": ("offset", "end stop end_time offset_time ende endzeit"),
    "duration": ("duration", "dauer length"),
    "label": (
        "label labels event_label common_name",
        "class category species event annotation tag tags klasse kategorie ereignis",
    ),
    "annotated_classes": ("annotated_classes", ""),
    "score": ("score", "confidence"),
}
_UNIT = re.compile(
    r"(.+?)(?:_*[\[(](?P<a>\w+)[\])]|_(?P<b>s|sec|secs|seconds|sekunden|ms|msec|milliseconds))"
)
_SECONDS = {"s", "sec", "secs", "seconds", "sekunden"}
_MILLISECONDS = {"ms", "msec", "milliseconds"}
_BIRDNET = {"start (s)", "end (s)", "common name"}


def read_plain(sheet: Sheet, hints: Hints) -> TableEvents:
    """Events, or labels of whole recordings where the table has no times.

    A row without times and label says that its recording holds nothing; so does a row of a table
    without times whose label is empty. Raises UserError, with the
    row, for what can be read in several ways.
    """
    path, header = sheet.path, sheet.header
    is_birdnet = {name.casefold() for name in header} >= _BIRDNET
    result = TableEvents(path, "BirdNET" if is_birdnet else "a plain table")
    units: dict[str, float] = {}
    columns = {name: _column(sheet, name, hints, units) for name in _NAMES}
    file_column, label_column = columns["filename"], columns["label"]
    classes_column = columns["annotated_classes"]
    score_column = columns["score"]
    if label_column is None and not hints.label:
        raise _unknown(sheet, "no column of labels")
    has_times = columns["onset"] is not None and (
        columns["offset"] is not None or columns["duration"] is not None
    )
    if not has_times and any(columns[name] is not None for name in ("onset", "offset")):
        raise _unknown(sheet, "an onset without an offset or duration, or an offset alone")
    if file_column is None and not has_times:
        raise _unknown(sheet, "neither file names nor times")
    time_names = [
        n for n in ("onset", "offset", "duration") if columns[n] is not None and has_times
    ]
    if "offset" in time_names and "duration" in time_names:
        time_names.remove("duration")
    cells_of = {name: columns[name] or 0 for name in time_names}
    times = Times(
        path,
        ((row, cells[i]) for row, cells in sheet.rows for i in cells_of.values()),
        sheet.separator,
    )
    group_column = header.index(hints.group_column) if hints.group_column in header else None
    for row, cells in sheet.rows:
        file = "" if file_column is None else cells[file_column]
        label = hints.label if label_column is None else cells[label_column]
        texts = [cells[i] for i in cells_of.values()]
        if not any(cells):
            result.left_out.append((row, "an empty row"))
            continue
        if file_column is not None and not file:
            raise UserError(f"{path}, row {row}: no file name")
        files = (file,) if file else ()
        if group_column is not None:
            result.groups.append((files, cells[group_column], row))
        if classes_column is not None and cells[classes_column]:
            result.annotated_classes.append((files, cells[classes_column], row))
        if not has_times and not label:
            result.empty.append((files, row))
            result.left_out.append((row, "a recording without labels: nothing is in it"))
        elif not has_times:
            result.labels.append((files, label, row))
        elif not any(texts) and (not label or label_column is None):
            result.empty.append((files, row))
            result.left_out.append((row, "a recording without events"))
        elif not all(texts):
            raise UserError(f"{path}, row {row}: {label!r} without onset or offset")
        else:
            onset, second = (
                times.seconds(row, cells[i]) * units[name] for name, i in cells_of.items()
            )
            offset = onset + second if "duration" in cells_of else second
            score = None if score_column is None else read_score(cells[score_column])
            result.add(EventRow(files, onset, offset, label, row, score=score))
    if is_birdnet and file_column is None and not sheet.rows:
        result.empty.append(((), 1))  # a file of its own for each recording, and nothing found
    if not has_times:
        _check_whole_recordings(sheet, result, {i for i in columns.values() if i is not None})
    result.drop_repeated_rows()
    return result


def _column(sheet: Sheet, name: str, hints: Hints, units: dict[str, float]) -> int | None:
    """The number of a column, None where there is none; notes its unit. Raises UserError."""
    path, header = sheet.path, sheet.header
    units[name] = 1.0
    if told := hints.columns.get(name):
        if told not in header:
            raise UserError(f"{path}: no column {told!r}. Found {', '.join(header)}")
        return header.index(told)
    normal = [re.sub(r"[\s-]+", "_", title.strip().casefold()) for title in header]
    named: dict[int, str] = {}
    scales: dict[int, float] = {}
    for number, title in enumerate(normal):
        unit = _UNIT.fullmatch(title)
        named[number], scales[number] = title, 1.0
        if unit is not None and (given := unit["a"] or unit["b"]) in _SECONDS | _MILLISECONDS:
            named[number] = unit[1].rstrip("_")
            scales[number] = 1e-3 if given in _MILLISECONDS else 1.0
    for group in _NAMES[name]:
        found = [number for number, title in named.items() if title in group.split()]
        if len(found) == 1:
            units[name] = scales[found[0]]
            return found[0]
        if found:
            titles = ", ".join(header[number] for number in found)
            raise _unknown(sheet, f"several columns could be the {name}: {titles}")
    return None


def _check_whole_recordings(sheet: Sheet, result: TableEvents, used: set[int]) -> None:
    """Refuses a table whose times may stand in columns of other names."""
    files = [files for files, _, _ in result.labels]
    numeric = [
        title
        for number, title in enumerate(sheet.header)
        if number not in used and _is_numeric([cells[number] for _, cells in sheet.rows])
    ]
    if len(set(files)) < len(files) and len(numeric) > 1:
        raise _unknown(
            sheet, f"no onset and offset, but several rows a file and numbers in {numeric}"
        )


def _is_numeric(texts: list[str]) -> bool:
    return any(texts) and all(is_number(text) for text in texts if text)


def _unknown(sheet: Sheet, what: str) -> UserError:
    return UserError(
        f"{sheet.path}, row 1: {what}. Found the columns {', '.join(sheet.header)}; expected "
        "filename,onset,offset,label, or filename,labels. Rename them, or say which is which: "
        "--config.data.columns='filename=...,onset=...,offset=...,label=...'"
    )
