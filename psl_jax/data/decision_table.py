"""The table of people's decisions on whether a class sounds in a segment.

It has a line for each decision, in the order in which they were made. Of one person the last
decision on the same seconds of a recording counts; the line `undo` takes back the one before it.
`corrections` merges the tables of several people into labels.
"""

import collections
import csv
import datetime
import io
import os
import threading
from collections.abc import Iterable
from typing import NamedTuple

from psl_jax.runtime import csv_files
from psl_jax.runtime.errors import UserError

YES, NO, UNSURE, UNDO = "yes", "no", "unsure", "undo"
DECISIONS = (YES, NO, UNSURE, UNDO)
OTHERS = "*"  # as label: all other classes
OTHERS_DECISIONS = (NO, UNDO)  # on that label
RANDOM = "random"  # as `chosen`


class Decision(NamedTuple):
    """A line of the table."""

    filename: str  # clip id, or name of a recording
    onset: float  # seconds in it
    offset: float
    label: str
    decision: str  # one of DECISIONS
    who: str  # who decided
    when: str = ""  # in UTC; the order of the lines counts, not this
    chosen: str = ""  # why the person was asked: RANDOM, or anything else

    @property
    def subject(self) -> tuple[str, float, float, str, str]:
        """What an undo takes back: a decision on the same by the same person."""
        return self.filename, self.onset, self.offset, self.label, self.who


def read_decisions(path: str | os.PathLike[str]) -> list[Decision]:
    """Reads a table. Raises UserError, naming the line, where something else stands in it."""
    decisions = []
    for line, row in csv_files.read_rows(path, Decision._fields[:7]):
        if row["decision"] == "decision":  # of two tables that were put one after the other
            continue
        try:
            onset, offset = (csv_files.parse_number(row[name]) for name in ("onset", "offset"))
        except ValueError:
            onset = offset = 0.0
        if not 0 <= onset < offset < float("inf"):
            raise UserError(
                f"{path}, line {line}: {row['onset']!r:.20} to {row['offset']!r:.20}, expected "
                "onset and offset in seconds"
            )
        if row["decision"] not in DECISIONS:
            raise UserError(
                f"{path}, line {line}: the decision is {row['decision']!r:.20}, expected one of "
                f"{', '.join(DECISIONS)}. Correct the line, or delete it"
            )
        if row["label"] == OTHERS and row["decision"] not in OTHERS_DECISIONS:
            raise UserError(
                f"{path}, line {line}: {row['decision']} to the label {OTHERS}, all other classes, "
                "which only a no can be about. Correct the line, or delete it"
            )
        texts = {name: row.get(name, "") for name in ("label", "decision", "who", "when", "chosen")}
        decisions.append(Decision(row["filename"], onset, offset, **texts))
    return decisions


def drop_undone(decisions: Iterable[Decision]) -> list[Decision]:
    """Returns the decisions that stand, in their order."""
    standing: dict[int, Decision] = {}
    by_subject: dict[object, list[int]] = collections.defaultdict(list)
    for number, decision in enumerate(decisions):
        numbers = by_subject[decision.subject]
        if decision.decision != UNDO:
            standing[number] = decision
            numbers.append(number)
        elif numbers:
            del standing[numbers.pop()]
    return list(standing.values())


class DecisionTable:
    """Appends a person's decisions to a table; each is on the disk when `append` returns."""

    def __init__(self, path: str | os.PathLike[str], who: str):
        """Raises UserError where the file is none, or cannot be written."""
        self.path, self.who = path, " ".join(who.split())
        self._lock = threading.RLock()  # an undo looks up and appends
        try:
            # A file is made with the first decision.
            exists = os.path.exists(path) and os.path.getsize(path) > 0
            self.decisions = read_decisions(path) if exists else []
            self._num_columns = _count_columns(path) if exists else len(Decision._fields)
            folder = os.path.dirname(path) or "."
            os.makedirs(folder, exist_ok=True)
            if not os.access(path if exists else folder, os.W_OK):
                raise PermissionError("no permission to write")
        except OSError as error:
            raise UserError(f"decisions cannot be stored in {path}: {error}") from error

    def append(
        self,
        *,
        filename: str,
        onset: float,
        offset: float,
        label: str,
        decision: str,
        chosen: str = "",
    ) -> Decision:
        """Stores a decision of this moment. Raises OSError.

        The table's last decision is not stored again: where the answer to a request was lost, the
        person repeats it.
        """
        with self._lock:
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
            times = round(onset, 3), round(offset, 3)
            made = Decision(filename, *times, label, decision, self.who, now, chosen)
            last = self.decisions[-1] if self.decisions else None
            if decision != UNDO and last and last._replace(when=now, chosen=chosen) == made:
                return last
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            with open(self.path, "ab+") as file:
                if not file.tell():
                    writer.writerow(Decision._fields)
                elif file.seek(-1, os.SEEK_END) and file.read() != b"\n":
                    text.write("\n")
                writer.writerow(made[: self._num_columns])
                file.write(text.getvalue().encode())
                file.flush()
                os.fsync(file.fileno())
            self.decisions.append(made)
        return made

    def undo(self) -> Decision | None:
        """Takes back and returns the person's last decision that stands, if any. Raises OSError."""
        with self._lock:
            standing = [d for d in drop_undone(self.decisions) if d.who == self.who]
            if not standing:
                return None
            fields = standing[-1]._asdict() | {"decision": UNDO}
            self.append(**{k: v for k, v in fields.items() if k not in ("who", "when")})
            return standing[-1]


def _count_columns(path: str | os.PathLike[str]) -> int:
    """How many fields the lines of a table have; UserError where `append` cannot write them."""
    with open(path, encoding="utf-8-sig") as file:
        header = file.readline().strip()
    for count in (len(Decision._fields), len(Decision._fields) - 1):  # `chosen` may lack
        if header == ",".join(Decision._fields[:count]):
            return count
    raise UserError(
        f"{path} begins with {header!r:.80}, expected {','.join(Decision._fields)}: no line can "
        "be added to it. Give another file, and both as config.corrections"
    )
