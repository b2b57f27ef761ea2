"""Tables with a header: filename, onset, offset, label by any of their names; BirdNET's CSV."""

import re
from collections.abc import Mapping

from psl_jax.corpora.annotations.cells import Sheet
from psl_jax.corpora.annotations.table_events import (
    Hints,
    TableEvents,
    TableRow,
    Times,
    is_number,
    is_time,
    read_score,
)
from psl_jax.corpora.label_cells import LIST, QUOTED
from psl_jax.runtime.errors import UserError

# Names of each column without spaces; those of the first group win over those of the second.
_NAMES: dict[str, tuple[str, str]] = {
    "filename": (
        "filename",
        "file filepath path recording audio audiofile wav datei dateiname aufnahme",
    ),
    "onset": ("onset", "start begin starttime begintime onsettime beginn anfang startzeit"),
    "offset": ("offset", "end stop endtime offsettime ende endzeit"),
    "duration": ("duration", "dauer length"),
    "label": (
        "label labels eventlabel commonname",
        "class category species event annotation tag tags klasse klassen kategorie ereignis",
    ),
    "annotated_classes": ("annotatedclasses", ""),
    "score": ("score", "confidence"),
}
PLAIN_KIND = "a plain table"  # of no known tool
_TIMES = ("onset", "offset", "duration")
_LIKE_ONSET = {"from", "von", "xmin", "tmin", "in", "inicio", "início", "début", "debut", "inizio"}
_LIKE_OFFSET = {"to", "bis", "xmax", "tmax", "out", "fin", "fim", "final", "fine"}
_UNIT = re.compile(
    r"(.+?)(?:_*[\[(](?P<a>\w+)[\])]|_(?P<b>s)|"
    r"_?(?P<c>sec|secs|seconds|sekunden|ms|msec|milliseconds))"
)
# Numbers for classes, as [0, 1, 0] or [.2 .9 .1]: no names, unless other cells hold other lists.
_NUMBERS = re.compile(
    r"\[\s*(?:(?:[01]|\d*\.\d*(?:e[-+]\d+)?|true|false|\.{3})(?:[\s,]+|(?=\]))){2,}\]",
    re.IGNORECASE,
)
# Names with their scores, as dog:0.9;cat:0.1 or dog (90 %).
_SCORED = re.compile(r"[^\W\d_].*[\s:;|=(,]\s*(?:[01]?[.,]\d+|\d{1,3}\s*%)\W*", re.DOTALL)
_PRESENCE = {"present", "presence", "ispresent"}
_ABSENT = re.compile(r"-1|0(?:\.0*)?|f(?:alse)?|no?|absent|not[_ ]?present", re.IGNORECASE)
_SCALES = dict.fromkeys(("s", "sec", "secs", "seconds", "sekunden"), 1.0)
_SCALES |= dict.fromkeys(("ms", "msec", "milliseconds"), 1e-3)
_BIRDNET = {"start (s)", "end (s)", "common name"}


def read_plain(sheet: Sheet, hints: Hints) -> TableEvents:
    """Events, or labels of whole recordings where the table has no times.

    A row without times and label says that its recording holds nothing; so does an empty label in
    a table without times. Raises UserError for what can be read in several ways.
    """
    path, header = sheet.path, sheet.header
    is_birdnet = {name.casefold() for name in header} >= _BIRDNET
    result = TableEvents(path, "BirdNET" if is_birdnet else PLAIN_KIND)
    result.separator, result.header = sheet.separator, header
    columns, scales = _find_columns(sheet, hints)
    if "label" not in columns and not hints.label:
        raise _make_error(sheet, "no column of labels")
    _check_labels(sheet, columns.get("label"))
    has_times = _has_times(sheet, columns)
    time_names = [name for name in _TIMES if name in columns][:2] if has_times else []
    time_cells = ((row, cells[columns[name]]) for row, cells in sheet.rows for name in time_names)
    times = Times(path, time_cells, sheet.separator)
    if hints.group_column and hints.group_column in header:  # an index of pandas has no name
        columns["group"] = header.index(hints.group_column)
    for row, cells in sheet.rows:
        if not any(cells):
            result.left_out.append((row, "an empty row"))
            continue
        if cells == header:  # of several tables, one behind the other
            result.left_out.append((row, "the header again"))
            continue
        values = {name: cells[number] for name, number in columns.items()}
        if values.get("filename") == "":
            raise UserError(f"{path}, row {row}: no file name")
        label = values.get("label", hints.label)
        texts = [values[name] for name in time_names]
        onset, offset = 0.0, float("inf")
        holds_nothing = has_times and not any(texts) and not values.get("label")
        if has_times and not holds_nothing:
            if not all(texts):
                raise UserError(f"{path}, row {row}: {label!r} without onset or offset")
            onset, offset = (times.seconds(row, values[n]) * scales[n] for n in time_names)
            if "offset" not in columns:
                offset += onset
        result.add(
            TableRow(
                (values["filename"],) if "filename" in values else (),
                "" if holds_nothing else label,
                row,
                onset,
                offset,
                has_times=has_times and not holds_nothing,
                score=read_score(values.get("score", "")),
                annotated_classes=values.get("annotated_classes", ""),
                group=values.get("group", ""),
            )
        )
    if is_birdnet and "filename" not in columns and not sheet.rows:
        # A file of its own for each recording, and nothing found.
        result.rows.append(TableRow((), "", 1, has_times=False))
    if not has_times:
        _check_whole_recordings(sheet, result, columns)
    result.drop_repeated_rows()
    return result


def _find_columns(sheet: Sheet, hints: Hints) -> tuple[dict[str, int], dict[str, float]]:
    """The numbers of the columns that are there, and the units of times. Raises UserError."""
    titles, units = [], []
    for title in sheet.header:
        normal = re.sub(r"[\s-]+", "_", title.strip().casefold())
        match = _UNIT.fullmatch(normal)
        unit = (match["a"] or match["b"] or match["c"]) if match else ""
        titles.append((match[1] if match and unit in _SCALES else normal).replace("_", ""))
        units.append(_SCALES.get(unit))
    columns: dict[str, int] = {}
    scales: dict[str, float | None] = {}
    for name, groups in _NAMES.items():
        title_of_user = hints.columns.get(name)
        if title_of_user is not None and title_of_user in sheet.header:
            columns[name] = sheet.header.index(title_of_user)
            scales[name] = units[columns[name]]
            continue
        for group in groups:
            numbers = [n for n, title in enumerate(titles) if title in group.split()]
            if len(numbers) > 1:
                several = ", ".join(sheet.header[number] for number in numbers)
                raise _make_error(sheet, f"several columns could be the {name}: {several}")
            if numbers:
                columns[name], scales[name] = numbers[0], units[numbers[0]]
                break
    of_times = {name: scales[name] for name in [n for n in _TIMES if n in columns][:2]}
    if {None, 1e-3} <= set(of_times.values()):
        titles_of_times = ", ".join(sheet.header[columns[name]] for name in of_times)
        raise _make_error(sheet, f"milliseconds and times without a unit, in {titles_of_times}")
    return columns, {name: scale or 1.0 for name, scale in of_times.items()}


def _has_times(sheet: Sheet, columns: Mapping[str, int]) -> bool:
    """Whether rows are events with times. Raises UserError for half of them, or no file names."""
    has_times = "onset" in columns and ("offset" in columns or "duration" in columns)
    if not has_times and ("onset" in columns or "offset" in columns):
        raise _make_error(sheet, "an onset without an offset or duration, or an offset alone")
    if "filename" not in columns and not has_times:
        raise _make_error(sheet, "neither file names nor times")
    return has_times


def _check_labels(sheet: Sheet, column: int | None) -> None:
    """Refuses rows of which another column says that they do not hold, and lists of no names."""
    for number, title in enumerate(sheet.header):
        if re.sub(r"[\W_]", "", title.casefold()) in _PRESENCE:
            for row, cells in sheet.rows:
                if _ABSENT.fullmatch(cells[number]):
                    raise UserError(
                        f"{sheet.path}, row {row}: {title} is {cells[number]!r}, so that the class "
                        "is absent. Keep only rows of what is there, and delete the column"
                    )
    texts = [(row, cells[column]) for row, cells in sheet.rows] if column is not None else []
    lists = [(row, text) for row, text in texts if LIST.fullmatch(text)]
    are_numbers = all(_NUMBERS.fullmatch(text) for _, text in lists)
    refused = []
    for row, text in lists:
        between = QUOTED.sub("", text)
        if are_numbers or ":" in between or (between != text and re.search(r"\d", between)):
            refused.append((row, text))
    scored = [(row, text) for row, text in texts if _SCORED.fullmatch(text)]
    if len(scored) == sum(bool(text) for _, text in texts):
        refused += scored
    if refused:
        row, text = refused[0]
        raise UserError(
            f"{sheet.path}, row {row}: {text!r:.60} is no list of labels. Expected their names "
            "alone, as ['dog', 'rain'] or dog;rain"
        )


def _check_whole_recordings(sheet: Sheet, result: TableEvents, columns: Mapping[str, int]) -> None:
    """Refuses a table whose times may stand in columns of other names, as `start_sample`.

    Notes the columns that are not read.
    """
    files = [row.files for row in result.rows if row.label]
    unread = []
    for number, title in enumerate(sheet.header):
        texts = [cells[number] for _, cells in sheet.rows if cells[number]]
        if texts and number not in columns.values():
            unread.append((title, texts))
    if titles := [title for title, _ in unread if title]:  # an index of pandas has none
        result.left_out.append((1, f"the columns {', '.join(titles)} are not read"))
    times = [title for title, texts in unread if all(map(is_time, texts))]
    numeric = [title for title, texts in unread if all(map(is_number, texts))]
    of_titles = re.findall(r"[A-Z]?[^\W\d_A-Z]+|[A-Z]+", " ".join(times))
    words = set(map(str.casefold, of_titles))
    onset, offset, duration = (set(" ".join(_NAMES[name]).split()) for name in _TIMES)
    if words & (onset | _LIKE_ONSET) and words & (offset | duration | _LIKE_OFFSET):
        raise _make_error(
            sheet,
            f"times in a unit or a column that is not read, in {times}: expected seconds or ms",
        )
    if len(set(files)) < len(files) and len(numeric) + ("duration" in columns) > 1:
        raise _make_error(
            sheet, f"no onset and offset, but several rows a file and numbers in {numeric}"
        )


def _make_error(sheet: Sheet, what: str) -> UserError:
    return UserError(
        f"{sheet.path}, row 1: {what}. Found the columns {', '.join(sheet.header)}; expected "
        "filename,onset,offset,label, or filename,labels. Rename them, say which is which with "
        "--columns='filename=...,label=...', also onset and offset (--config.data.columns), or "
        "move the file away if it is about something else"
    )
