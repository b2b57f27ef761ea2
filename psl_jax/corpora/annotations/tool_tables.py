"""Tables of Audacity, Raven and ELAN, and those that BirdNET writes in their form."""

import re
import urllib.parse
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from psl_jax.corpora.annotations.cells import Row, Sheet
from psl_jax.corpora.annotations.table_events import (
    Hints,
    TableEvents,
    TableRow,
    Times,
    is_number,
    read_score,
)
from psl_jax.runtime.errors import UserError

# --- Audacity -----------------------------------------------------------------------------------

# A label and its score: psl-jax tag --format=audacity writes dog 0.85, others write dog;0.85.
_SCORED_LABEL = re.compile(r"(\S.*?)[ ;:|(]+([01]?\.\d+)\)?")


def is_audacity(rows: list[Row]) -> bool:
    """Whether the first line begins with a time, with a tab behind it."""
    return bool(rows) and len(rows[0][1]) > 1 and is_number(rows[0][1][0])


def read_audacity(path: str, rows: list[Row]) -> TableEvents:
    """Onset, offset and label a line; lines that begin with a backslash hold frequencies.

    A line without an end marks a point. A quote is part of the label. Raises UserError.
    """
    result = TableEvents(path, "Audacity")
    lines = [(row, cells) for row, cells in rows if cells[0] != "\\"]
    times = Times(path, ((row, cell) for row, cells in lines for cell in cells[:2]))
    scores = [read_score(cells[3]) if len(cells) == 4 else None for _, cells in lines]
    is_birdnet = None not in scores
    scored = [_SCORED_LABEL.fullmatch(cells[-1]) for _, cells in lines]
    are_scored = 2 * sum(map(bool, scored)) > len(lines)  # people may have added labels without
    for (row, cells), score in zip(lines, scores, strict=True):
        if len(cells) > 3 and not is_birdnet:
            raise UserError(f"{path}, row {row}: {len(cells)} cells, expected onset, offset, label")
        if re.search(r"\.\d{9}$", cells[0]):
            raise UserError(
                f"{path}, row {row}: a layer of Sonic Visualiser, not labels of Audacity: its "
                "second column may be a value or a duration. Write a table with the columns "
                "filename,onset,offset,label"
            )
        onset = times.seconds(row, cells[0])
        if len(cells) > 1 and is_number(cells[1]):
            offset, label = times.seconds(row, cells[1]), "".join(cells[2:3])
        elif len(cells) > 2 and cells[1]:
            raise UserError(f"{path}, row {row}: {cells[1]!r} is no time")
        else:
            offset, label = onset, cells[-1] if len(cells) > 1 else ""
        if is_birdnet:  # "Scientific, Common", later "Scientific_Common"; not birds_singing
            label = re.sub("^[A-Z][^,_]*(?:, |_)", "", label)
        if are_scored and (match := _SCORED_LABEL.fullmatch(label)):
            label, score = match[1], read_score(match[2])
        result.add(TableRow((), label, row, onset, offset, score=score))
    result.drop_repeated_rows()
    return result


# --- Raven --------------------------------------------------------------------------------------

BEGIN, END, OFFSET = "begin time (s)", "end time (s)", "file offset (s)"
_FILE = ("begin path", "begin file")  # the first that is there
# Columns that Raven writes by itself, besides measurements, which end in a unit in parentheses.
_OWN = {"selection", "view", "channel", "begin file", "begin path", "end file", "end path"}
_OWN |= {
    f"{end} {what}" for end in ("begin", "end") for what in ("date", "clock time", "date time")
}
_OWN |= {"begin hour", "occupancy", "sound file", "length", "selection count"}
_REMARKS = {"note", "notes", "comment", "comments", "annotator", "observer", "analyst", "reviewer"}
_REMARKS |= {"confidence", "score", "quality", "rating", "date", "time", "species code"}
_LABELS = {"annotation", "annotations", "label", "labels", "class", "species", "common name"}


def is_raven(header: list[str]) -> bool:
    return {"selection", BEGIN} <= {name.casefold() for name in header}


def read_raven(sheet: Sheet, hints: Hints) -> TableEvents:
    """The selections of a table: each once, whatever the number of views that show it.

    Over several files Begin Time counts on from the first: the place is File Offset. Raises
    UserError.
    """
    path, header = sheet.path, [name.casefold() for name in sheet.header]
    if END not in header:
        raise UserError(f"{path}: a selection table without the column End Time (s)")
    result = TableEvents(path, "Raven", header=sheet.header)
    label_column = _find_label_column(sheet, hints)
    place = {name: number for number, name in reversed(list(enumerate(header)))}

    def find_cell(cells: list[str], *names: str) -> str:
        return next(filter(None, (cells[place[name]] for name in names if name in place)), "")

    columns = [place[name] for name in (BEGIN, END, OFFSET) if name in place]
    filled = []
    for row, cells in sheet.rows:
        if cells[place[BEGIN]] or cells[place[END]]:
            filled.append((row, cells))
        else:
            result.left_out.append((row, "no times"))
    times = Times(
        path, ((row, cells[i]) for row, cells in filled for i in columns), sheet.separator
    )
    if OFFSET not in place:
        files = {find_cell(cells, *_FILE).casefold() for _, cells in filled}
        if len(files) > 1:
            raise UserError(
                f"{path}: a table over {len(files)} files ({', '.join(sorted(files)[:3])}) without "
                "the column File Offset (s), so that no time can be placed in its file. Add the "
                "column in Raven and save the table again"
            )
    # (file, selection, onset, offset) -> row, view, label and cells of what shows it, one a view
    shown: dict[tuple[Any, ...], list[tuple[int, str, str, list[str]]]] = defaultdict(list)
    for row, cells in filled:
        onset, offset = (times.seconds(row, cells[place[name]]) for name in (BEGIN, END))
        if OFFSET in place:
            start = times.seconds(row, cells[place[OFFSET]])
            onset, offset = start, start + offset - onset
        label = hints.label if label_column is None else cells[label_column]
        key = find_cell(cells, *_FILE), find_cell(cells, "selection"), onset, offset
        shown[key].append((row, find_cell(cells, "view"), label, cells))
    for (file, selection, onset, offset), rows in shown.items():
        first: dict[str, tuple[int, list[str]]] = {}  # row and cells by label
        for row, _, label, cells in rows:
            if label:
                first.setdefault(label, (row, cells))
        if len(first) > 1 and len({view for _, view, *_ in rows}) > 1:
            raise UserError(
                f"{path}, row {rows[-1][0]}: selection {selection} is called "
                f"{' and '.join(map(repr, first))} in its views. Give it one label"
            )
        if not first:
            result.left_out += [(row, f"no label (selection {selection})") for row, *_ in rows]
        for label, (row, cells) in first.items():
            score = read_score(find_cell(cells, "score", "confidence"))
            files_of_row = (file,) if file else ()
            result.add(TableRow(files_of_row, label, row, onset, offset, score=score))
    return result


def _find_label_column(sheet: Sheet, hints: Hints) -> int | None:
    """The number of the column with the labels; None where the user gives the label of all."""
    path, header = sheet.path, sheet.header
    title = hints.columns.get("label")
    if title is not None and title in header:
        return header.index(title)
    candidates = []
    for number, name in enumerate(header):
        key, texts = name.casefold(), {cells[number] for _, cells in sheet.rows} - {""}
        is_own = key in _OWN | _REMARKS or re.search(r"\(.*\)$", key)
        if texts and not is_own and (key in _LABELS or not all(map(is_number, texts))):
            candidates.append(number)
    if len(candidates) == 1:
        return candidates[0]
    if len(candidates) > 1:
        names = ", ".join(header[number] for number in candidates)
        raise UserError(
            f"{path}: which column holds the labels, {names}? Say so: "
            f"--columns='label={header[candidates[0]]}' (--config.data.columns)"
        )
    if hints.label or not sheet.rows:
        return None
    raise UserError(
        f"{path}, row 1: no column holds labels, only {', '.join(filter(None, header))}. Add a "
        "column in Raven, or say what all selections are: --config.data.event_label=NAME"
    )


# --- ELAN ---------------------------------------------------------------------------------------

_MEDIA = re.compile(r'"?#file:(?://)?(?P<file>.*?) -- offset: (?P<offset>-?\d+)')
_FORMS = {
    "clock": re.compile(r"\d+:\d\d:\d\d[.,]\d+"),
    "seconds": re.compile(r"\d+[.,]\d+"),
    "milliseconds": re.compile(r"\d+"),
}
_HEADER_FORMS = re.compile(r"hh:mm:ss\.ms|ss\.msec|\bmsec\b")
_DURATION = re.compile("d(u[ru]|au)", re.IGNORECASE)  # its title begins so: duration, Dauer, duur


def is_elan(rows: list[Row]) -> bool:
    """Whether the file names its media, has ELAN's header, or clock times behind a tier."""
    first = rows[0][1] if rows else []
    return bool(first) and (
        first[0].lstrip('"').startswith("#file:")
        or (len(first) > 2 and any(_HEADER_FORMS.search(cell) for cell in first))
        or (len(first) > 3 and any(_FORMS["clock"].fullmatch(cell) for cell in first))
    )


def read_elan(path: str, rows: list[Row]) -> TableEvents:
    """The annotations of all tiers. Raises UserError where times cannot be told apart.

    Begin, end and duration stand there in one to three forms, by which columns are found.
    """
    result = TableEvents(path, "ELAN")
    files: list[str] = []
    while rows and rows[0][1][0].lstrip('"').startswith("#file:"):
        row, line = rows[0][0], "\t".join(rows[0][1])
        media = _MEDIA.match(line)
        if media is None or int(media["offset"]):
            raise UserError(
                f"{path}, row {row}: {line!r:.80}: expected a media file with offset 0, as the "
                "times of another offset are not those of the recording"
            )
        files += dict.fromkeys((media["file"], urllib.parse.unquote(media["file"])))
        rows = rows[1:]
    header: list[str] = []
    if rows and any(_HEADER_FORMS.search(cell) for cell in rows[0][1]):
        header, rows = rows[0][1], rows[1:]
    width = max((len(cells) for _, cells in rows), default=0)
    lines = [(row, [*cells, *[""] * width][:width]) for row, cells in rows]
    if not lines:
        return result
    begin, end, first_after, has_duration = _find_time_columns(path, lines)
    if not has_duration and any(map(_DURATION.match, header[begin:first_after])):
        raise UserError(f"{path}, row 1: a duration without begin or end. Export all three")
    after = range(first_after, width)
    # Of several files in one table: the name of each, and perhaps its path.
    names = [i for i in after if all(cells[i].lower().endswith(".eaf") for _, cells in lines)]
    if names:
        after = range(first_after, names[0])
    if not after or (len(after) > 1 and not header):
        what = f"{len(after)} columns after the times" if after else "no column after the times"
        raise UserError(f"{path}, row {lines[0][0]}: {what}, expected one with the annotations")
    previous: dict[str, float] = {}
    for row, cells in lines:
        onset, offset = _seconds(cells[begin]), _seconds(cells[end])
        if not has_duration and begin > 0 and onset < previous.get(cells[0], 0) - 0.002:
            raise UserError(
                f"{path}, row {row}: overlaps the one before in its tier. Are the columns begin "
                "and end? Export begin, end and duration"
            )
        previous[cells[0]] = offset
        of_row = [re.sub(r"\.eaf$", "", cells[i], flags=re.IGNORECASE) for i in names[:1]]
        labels = [cells[i] for i in after if cells[i]] or [""]
        for label in labels:
            result.add(TableRow(tuple(of_row or files), label, row, onset, offset))
    result.drop_repeated_rows()
    return result


def _find_time_columns(path: str, lines: Sequence[Row]) -> tuple[int, int, int, bool]:
    """Columns of begin and end, the one after the times, and whether there is a duration."""
    width = len(lines[0][1])
    forms: list[str] = []
    for column in range(width):
        cells = [cells[column] for _, cells in lines]
        matching = [name for name, form in _FORMS.items() if all(map(form.fullmatch, cells))]
        forms.append(matching[0] if matching else "")
    first = next((i for i in range(width) if forms[i]), width)
    stop = next((i for i in range(first, width) if not forms[i]), width)
    for count in (3, 2):  # begin, end and perhaps duration, each in the same forms
        for last in range(stop, first + count - 1, -1):
            size, remainder = divmod(last - first, count)
            group = forms[first : first + size]
            if remainder or len(set(group)) < size or forms[first:last] != group * count:
                continue
            begin, end, duration = first, first + size, first + 2 * size
            if count == 2 or all(
                abs(_seconds(c[begin]) + _seconds(c[duration]) - _seconds(c[end])) < 0.002
                for _, c in lines
            ):
                return begin, end, last, count == 3
    raise UserError(
        f"{path}, row {lines[0][0]}: the columns of begin, end and duration are not to be told "
        "apart. Export all three from ELAN, in the form ss.msec"
    )


def _seconds(text: str) -> float:
    if _FORMS["milliseconds"].fullmatch(text):
        return int(text) / 1000
    *clock, seconds = text.replace(",", ".").split(":")
    hours, minutes = map(int, clock or ("0", "0"))
    return hours * 3600 + minutes * 60 + float(seconds)
