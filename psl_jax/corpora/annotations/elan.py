"""ELAN's tab-delimited text."""

import re
import urllib.parse
from collections.abc import Sequence

from psl_jax.corpora.annotations.cells import Row
from psl_jax.corpora.annotations.table_events import TableEvents, TableRow
from psl_jax.runtime.errors import UserError

_MEDIA = re.compile(r'"?#file:(?://)?(?P<file>.*?) -- offset: (?P<offset>-?\d+)')
_FORMS = {
    "clock": re.compile(r"\d+:\d\d:\d\d[.,]\d+"),
    "seconds": re.compile(r"\d+[.,]\d+"),
    "milliseconds": re.compile(r"\d+"),
}
_HEADER_FORMS = re.compile(r"hh:mm:ss\.ms|ss\.msec|\bmsec\b")


def is_elan(rows: list[Row]) -> bool:
    """Whether the file names its media, has ELAN's header, or clock times behind a tier."""
    first = rows[0][1] if rows else []
    return bool(first) and (
        first[0].lstrip('"').startswith("#file:")
        or (len(first) > 2 and any(_HEADER_FORMS.search(cell) for cell in first))
        or (len(first) > 3 and any(_FORMS["clock"].fullmatch(cell) for cell in first))
    )


def read_elan(path: str, rows: list[Row]) -> TableEvents:
    """The annotations of all tiers; the label is the annotation.

    Begin, end and duration stand there in one to three forms each, so columns are found by the
    form of their times. Raises UserError where they cannot be told apart.
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
    begin, end, first_after, has_duration = _time_columns(path, lines)
    after = range(first_after, width)
    if after and all(line[after[-1]].lower().endswith(".eaf") for _, line in lines):
        # Of several files in one table: the name of each, and perhaps its path.
        names = [i for i in after if all(cells[i].lower().endswith(".eaf") for _, cells in lines)]
        after = range(first_after, names[0])
    else:
        names = []
    if not after or (len(after) > 1 and not header):
        found = f"{len(after)} columns after the times" if after else "no column after the times"
        raise UserError(f"{path}, row {lines[0][0]}: {found}, expected one with the annotations")
    previous: dict[str, float] = {}
    for row, cells in lines:
        onset, offset = _seconds(cells[begin]), _seconds(cells[end])
        if not has_duration and begin > 0 and onset < previous.get(cells[0], 0) - 0.002:
            raise UserError(
                f"{path}, row {row}: overlaps the one before in its tier. Are the columns begin "
                "and end? Export begin, end and duration"
            )
        previous[cells[0]] = offset
        where = tuple(re.sub(r"\.eaf$", "", cells[names[0]], flags=re.I) for _ in names[:1])
        labels = [cells[i] for i in after if cells[i]] or [""]
        for label in labels:
            result.add(TableRow(where or tuple(files), label, row, onset, offset))
    result.drop_repeated_rows()
    return result


def _time_columns(path: str, lines: Sequence[Row]) -> tuple[int, int, int, bool]:
    """Columns of begin and end, the one after the times, and whether there is a duration."""
    width = len(lines[0][1])
    forms: list[str] = []
    for column in range(width):
        cells = [cells[column] for _, cells in lines]
        found = [name for name, form in _FORMS.items() if all(map(form.fullmatch, cells))]
        forms.append(found[0] if found else "")
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
