"""Audacity's label tracks, and those that BirdNET writes in their form."""

import re

from psl_jax.corpora.annotations.cells import Row
from psl_jax.corpora.annotations.table_events import (
    TableEvents,
    TableRow,
    Times,
    is_number,
    read_score,
)
from psl_jax.runtime.errors import UserError


def is_audacity(rows: list[Row]) -> bool:
    """Whether the first line begins with a time, with a tab behind it."""
    return bool(rows) and len(rows[0][1]) > 1 and is_number(rows[0][1][0])


def read_audacity(path: str, rows: list[Row]) -> TableEvents:
    """Onset, offset and label a line; lines that begin with a backslash hold frequencies.

    A line without an end marks a point. A quote is part of the label. Raises UserError for lines of
    another form, as Sonic Visualiser writes them.
    """
    result = TableEvents(path, "Audacity")
    lines = [(row, cells) for row, cells in rows if cells[0] != "\\"]
    times = Times(path, ((row, cell) for row, cells in lines for cell in cells[:2]))
    scores = [read_score(cells[3]) if len(cells) == 4 else None for _, cells in lines]
    is_birdnet = None not in scores
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
        if is_birdnet:  # "Scientific, Common", later "Scientific_Common"
            label = re.split(", |_", label, maxsplit=1)[-1]
        result.add(TableRow((), label, row, onset, offset, score=score))
    result.drop_repeated_rows()
    return result
