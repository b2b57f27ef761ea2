"""What one table says, whichever tool wrote it, and the ways in which numbers are written."""

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping

from psl_jax.runtime.errors import UserError

NOTHING = "nocall"  # BirdNET's label of a recording in which it found nothing
UNSURE = "?"

_PLAIN_NUMBER = re.compile(r"[-+]?\d+")
_WITH_POINT = re.compile(r"[-+]?(?:\d*\.\d+|\d+\.|\d{1,3}(?:,\d{3})+\.\d+)(?:[eE][-+]?\d+)?")
_WITH_COMMA = re.compile(r"[-+]?(?:\d*,\d+|\d{1,3}(?:\.\d{3})+,\d+)")
_LIKE_THOUSANDS = re.compile(r"[1-9]\d{0,2},\d{3}")
_CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:[.,]\d+)?)")


@dataclasses.dataclass(frozen=True)
class Hints:
    """What the user says of the tables.

    Attributes:
      columns: filename, onset, offset, duration, label -> the name of that column.
      label: of every event, where a table has no column of labels.
      group_column: a column whose values are kept for each recording.
    """

    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    label: str = ""
    group_column: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class EventRow:
    """An event.

    Attributes:
      files: how the table calls the recording, one of these; none: as the table itself is called.
      onset, offset: seconds in the recording; the same where the table marks a point.
      row: line of the file, from 1.
      table: the file, relative to the folder of the recordings, as soon as that is known.
      score: the confidence that a tagger wrote beside the event; None: no number from 0 to 1.
    """

    files: tuple[str, ...]
    onset: float
    offset: float
    label: str
    row: int
    table: str = ""
    score: float | None = dataclasses.field(default=None, compare=False)


@dataclasses.dataclass
class TableEvents:
    """What a table says.

    Attributes:
      kind: the tool, for messages.
      labels: (files, cell, row) of tables without times: labels of whole recordings.
      empty: (files, row) of recordings that hold no event.
      unsure: events of which somebody is not sure: their labels end with UNSURE.
      annotated_classes: (files, cell, row) of the column that names the classes of which all
        events are annotated.
      left_out: (row, reason) of what is no event.
      groups: (files, value of the hints' group column, row).
    """

    path: str
    kind: str
    events: list[EventRow] = dataclasses.field(default_factory=list)
    labels: list[tuple[tuple[str, ...], str, int]] = dataclasses.field(default_factory=list)
    empty: list[tuple[tuple[str, ...], int]] = dataclasses.field(default_factory=list)
    unsure: list[EventRow] = dataclasses.field(default_factory=list)
    annotated_classes: list[tuple[tuple[str, ...], str, int]] = dataclasses.field(
        default_factory=list
    )
    left_out: list[tuple[int, str]] = dataclasses.field(default_factory=list)
    groups: list[tuple[tuple[str, ...], str, int]] = dataclasses.field(default_factory=list)

    def add(self, event: EventRow) -> None:
        """Takes an event, or notes why it is none. Raises UserError for one that ends too early."""
        if event.onset < 0 or event.offset < event.onset:
            raise UserError(
                f"{self.path}, row {event.row}: an event from {event.onset:g} to "
                f"{event.offset:g} s. Expected seconds from 0 on, and the end after the beginning"
            )
        if not event.label:
            self.left_out.append((event.row, "no label"))
        elif event.label.casefold() == NOTHING:
            self.empty.append((event.files, event.row))
            self.left_out.append((event.row, f"{NOTHING} stands for nothing found"))
        elif event.label.endswith(UNSURE):
            self.unsure.append(event)
            self.left_out.append((event.row, f"the label {event.label} says that it is unsure"))
        else:
            self.events.append(event)

    def drop_repeated_rows(self) -> None:
        """Leaves out events that are the very same in everything but their row."""
        first: dict[EventRow, int] = {}
        for event in self.events:
            same = dataclasses.replace(event, row=0)
            if same in first:
                self.left_out.append((event.row, f"the same row as {first[same]} again"))
            else:
                first[same] = event.row
        self.events = [dataclasses.replace(event, row=row) for event, row in first.items()]


class Times:
    """Reads the times of one table, which all have the same decimal sign: 1,500 or 1.500."""

    def __init__(
        self, path: str | os.PathLike[str], cells: Iterable[tuple[int, str]], separator: str = "\t"
    ):
        """cells: (row, text) of all times; separator: of the table's columns.

        Raises UserError where both decimal signs are there, or it is not clear which it is.
        """
        self._path = path
        first: dict[str, tuple[int, str]] = {}
        all_like_thousands = True
        for row, text in cells:
            sign = _decimal_sign(text)
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
        if _PLAIN_NUMBER.fullmatch(text) or _decimal_sign(text):
            plain = text.replace(".", "").replace(",", ".") if self._has_comma else text
            return float(plain.replace(",", ""))
        raise UserError(f"{self._path}, row {row}: {text!r} is no time: expected seconds, as 1.5")


def _decimal_sign(text: str) -> str:
    if _WITH_POINT.fullmatch(text):
        return "."
    return "," if _WITH_COMMA.fullmatch(text) else ""


def read_score(text: str) -> float | None:
    """The number from 0 to 1 that a cell holds, with either decimal sign; None for another one."""
    if not re.fullmatch(r"\d*[.,]?\d+(?:[eE]-?\d+)?|\d+[.,]", text):
        return None
    score = float(text.replace(",", "."))
    return score if score <= 1 else None


def is_number(text: str) -> bool:
    """Whether a cell is a number with either decimal sign."""
    return bool(_PLAIN_NUMBER.fullmatch(text) or _decimal_sign(text))
