"""What one table says, whichever tool wrote it, and the ways in which numbers are written."""

import dataclasses
import math
import os
import re
from collections.abc import Iterable, Mapping

from psl_jax.runtime.errors import UserError

NOTHING = "nocall"  # BirdNET's label of a recording in which it found nothing
UNSURE = "?"

_PLAIN_NUMBER = re.compile(r"[-+]?\d+(?:[eE][-+]?\d+)?")
_WITH_POINT = re.compile(r"[-+]?(?:\d*\.\d+|\d+\.|\d{1,3}(?:,\d{3})+\.\d+)(?:[eE][-+]?\d+)?")
_WITH_COMMA = re.compile(r"[-+]?(?:\d*,\d+|\d{1,3}(?:\.\d{3})+,\d+)")
_LIKE_THOUSANDS = re.compile(r"[1-9]\d{0,2},\d{3}")
_CLOCK = re.compile(r"(?:(\d+):(?=[0-5]?\d:))?(\d{1,2}):([0-5]?\d(?:[.,]\d+)?)")


@dataclasses.dataclass(frozen=True)
class Hints:
    """What the user says of the tables."""

    # filename, onset, offset, duration, label -> the name of that column
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    label: str = ""  # of every event, where a table has no column of labels
    group_column: str = ""  # whose values are kept for each recording


@dataclasses.dataclass(frozen=True, slots=True)
class TableRow:
    """An event, or what a whole recording holds."""

    files: tuple[str, ...]  # names of the recording; none: as the table itself is called
    label: str  # or the cell of labels of a whole recording, empty: it holds nothing
    row: int  # line of the file, from 1
    onset: float = 0.0  # seconds in the recording
    offset: float = math.inf  # the same as the onset where the table marks a point
    has_times: bool = True  # whether it is an event
    # The confidence that a tagger wrote beside the event; None: no number from 0 to 1.
    score: float | None = dataclasses.field(default=None, compare=False)
    annotated_classes: str = ""  # the cell: classes of which all events are annotated
    group: str = ""  # value of the hints' group column
    table: str = ""  # the file, relative to the recordings' folder, as soon as that is known

    @property
    def is_unsure(self) -> bool:
        """Whether it is an event of which somebody is not sure."""
        return self.has_times and self.label.endswith(UNSURE)


@dataclasses.dataclass
class TableEvents:
    """What a table says."""

    path: str
    kind: str  # the tool, for messages
    rows: list[TableRow] = dataclasses.field(default_factory=list)
    left_out: list[tuple[int, str]] = dataclasses.field(default_factory=list)  # row, reason
    nothing_in: list[tuple[int, str]] = dataclasses.field(default_factory=list)  # row, reason
    separator: str = ""  # between its columns, where it is text
    header: list[str] = dataclasses.field(default_factory=list)  # titles, where there are any

    def add(self, row: TableRow) -> None:
        """Takes a row, or notes why it is no event. Raises UserError for impossible times."""
        if row.onset < 0 or row.offset < row.onset:
            raise UserError(
                f"{self.path}, row {row.row}: an event from {row.onset:g} to {row.offset:g} s. "
                "Expected seconds from 0 on, and the end after the beginning"
            )
        if not row.has_times:
            if not row.label:
                self.nothing_in.append((row.row, "no label, so no class sounds in this recording"))
        elif not row.label:
            self.left_out.append((row.row, "no label"))
            return
        elif row.label.casefold() == NOTHING:
            self.nothing_in.append((row.row, f"{NOTHING} stands for nothing found"))
            row = dataclasses.replace(row, label="", onset=0.0, offset=math.inf, has_times=False)
        elif row.is_unsure:
            self.left_out.append((row.row, f"the label {row.label} says that it is unsure"))
        self.rows.append(row)

    def drop_repeated_rows(self) -> None:
        """Leaves out rows that are the very same in everything but their place."""
        first: dict[TableRow, int] = {}
        for row in self.rows:
            same = dataclasses.replace(row, row=0)
            if same not in first:
                first[same] = row.row
            elif row.label:  # others are told already
                self.left_out.append((row.row, f"the same row as {first[same]} again"))
        self.rows = [dataclasses.replace(row, row=number) for row, number in first.items()]


class Times:
    """Reads the times of one table, which all have the same decimal sign: 1,500 or 1.500."""

    def __init__(
        self, path: str | os.PathLike[str], cells: Iterable[tuple[int, str]], separator: str = "\t"
    ):
        """cells: (row, text) of all times. Raises UserError where the decimal sign is not clear."""
        self._path = path
        first: dict[str, tuple[int, str]] = {}
        all_like_thousands = True
        for row, text in cells:
            sign = _find_decimal_sign(text)
            if sign:
                first.setdefault(sign, (row, text))
            if sign == ",":
                all_like_thousands = all_like_thousands and bool(_LIKE_THOUSANDS.fullmatch(text))
        if len(first) == 2:
            (row, text), (other_row, other) = first.values()
            raise UserError(
                f"{path}: row {row} has {text!r} and row {other_row} {other!r}. Is the decimal "
                "sign a point or a comma? Write all times in one way"
            )
        if "," in first and separator == "," and all_like_thousands:
            row, text = first[","]
            raise UserError(
                f"{path}, row {row}: is {text!r} one and a half or a thousand? Write the decimal "
                "sign as a point"
            )
        self._has_comma = "," in first

    def seconds(self, row: int, text: str) -> float:
        """A number of seconds, or h:mm:ss and mm:ss. Raises UserError."""
        if clock := _CLOCK.fullmatch(text):
            hours, minutes, seconds = clock.groups()
            return int(hours or 0) * 3600 + int(minutes) * 60 + float(seconds.replace(",", "."))
        if is_number(text):
            plain = text.replace(".", "").replace(",", ".") if self._has_comma else text
            return float(plain.replace(",", ""))
        raise UserError(
            f"{self._path}, row {row}: {text!r} is no time: expected seconds, as 1.5, h:mm:ss, "
            "or an empty cell for none"
        )


def _find_decimal_sign(text: str) -> str:
    if _WITH_POINT.fullmatch(text):
        return "."
    return "," if _WITH_COMMA.fullmatch(text) else ""


def read_score(text: str) -> float | None:
    """The number from 0 to 1 that a cell holds, with either decimal sign; None for another one."""
    if not re.fullmatch(r"\d*[.,]?\d+(?:[eE]-?\d+)?|\d+[.,]", text):
        return None
    score = float(text.replace(",", "."))
    return score if score <= 1 else None


def is_time(text: str) -> bool:
    """Whether a cell is a number, or begins with h:mm:ss or mm:ss."""
    return is_number(text) or bool(_CLOCK.match(text))


def is_number(text: str) -> bool:
    """Whether a cell is a number with either decimal sign."""
    return bool(_PLAIN_NUMBER.fullmatch(text) or _find_decimal_sign(text))
