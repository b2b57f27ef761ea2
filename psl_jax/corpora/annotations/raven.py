"""Raven's selection tables, and those that BirdNET writes in their form."""

import re
from collections import defaultdict
from typing import Any

from psl_jax.corpora.annotations.cells import Sheet
from psl_jax.corpora.annotations.table_events import (
    Hints,
    TableEvents,
    TableRow,
    Times,
    is_number,
    read_score,
)
from psl_jax.runtime.errors import UserError

BEGIN, END, OFFSET = "begin time (s)", "end time (s)", "file offset (s)"
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
    UserError where it is missing, and where it is not clear which column holds the labels.
    """
    path, header = sheet.path, [name.casefold() for name in sheet.header]
    if END not in header:
        raise UserError(f"{path}: a selection table without the column End Time (s)")
    result = TableEvents(path, "Raven", header=sheet.header)
    label_column = _label_column(sheet, hints)
    place = {name: number for number, name in reversed(list(enumerate(header)))}
    columns = [place[name] for name in (BEGIN, END, OFFSET) if name in place]
    filled = []
    for row, cells in sheet.rows:
        if cells[place[BEGIN]] or cells[place[END]]:
            filled.append((row, cells))
        else:
            result.left_out.append((row, "no times"))
    times = Times(path, ((row, cells[i]) for row, cells in filled for i in columns))
    file_column = next((place[n] for n in ("begin path", "begin file") if n in place), None)
    if file_column is not None and OFFSET not in place:
        files = {_base_name(cells[file_column]) for _, cells in filled}
        if len(files) > 1:
            raise UserError(
                f"{path}: a table over {len(files)} files ({', '.join(sorted(files)[:3])}) without "
                "the column File Offset (s), so that no time can be placed in its file. Add the "
                "column in Raven and save the table again"
            )
    score_column = next((place[n] for n in ("score", "confidence") if n in place), None)
    scores: dict[int, float | None] = {}
    # (file, selection, onset, offset) -> the rows that show it, one a view
    shown: dict[tuple[Any, ...], list[tuple[int, str, str]]] = defaultdict(list)
    for row, cells in filled:
        onset, offset = (times.seconds(row, cells[place[name]]) for name in (BEGIN, END))
        if OFFSET in place:
            start = times.seconds(row, cells[place[OFFSET]])
            onset, offset = start, start + offset - onset
        file = cells[file_column] if file_column is not None else ""
        label = hints.label if label_column is None else cells[label_column]
        view = cells[place["view"]] if "view" in place else ""
        key = file, cells[place["selection"]], onset, offset
        shown[key].append((row, view, label))
        scores[row] = None if score_column is None else read_score(cells[score_column])
    for (file, selection, onset, offset), rows in shown.items():
        recording = (file,) if file else ()
        labels = dict.fromkeys(label for _, _, label in rows if label)
        views = {view for _, view, _ in rows}
        if len(labels) > 1 and len(views) > 1:
            raise UserError(
                f"{path}, row {rows[-1][0]}: selection {selection} is called "
                f"{' and '.join(map(repr, labels))} in its views. Give it one label"
            )
        if not labels:
            result.left_out += [(row, f"no label (selection {selection})") for row, _, _ in rows]
        for label in labels:
            first = next(row for row, _, text in rows if text == label)
            result.add(TableRow(recording, label, first, onset, offset, score=scores[first]))
    return result


def _label_column(sheet: Sheet, hints: Hints) -> int | None:
    """The number of the column with the labels; None where the user gives the label of all."""
    path, header = sheet.path, sheet.header
    told = hints.columns.get("label")
    if told is not None and told in header:
        return header.index(told)
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


def _base_name(path: str) -> str:
    return re.split(r"[\\/]", path)[-1].casefold()
