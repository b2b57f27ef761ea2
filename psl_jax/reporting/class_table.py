"""The classes of a suite: each experiment's average precision side by side."""

import csv
import dataclasses
import math
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from psl_jax.runtime.errors import UserError
from psl_jax.scoring.event_metrics import EVENT_METRICS

PER_CLASS = "per_class.csv"


@dataclasses.dataclass(frozen=True)
class ClassRow:
    """A class; APs are in 0 to 1, None where the class has no positive."""

    name: str
    positives: int
    gain: float | None  # of the best experiment over the reference
    ap: Mapping[str, float | None]  # by experiment


@dataclasses.dataclass(frozen=True)
class ClassTable:
    """Rows by falling gain, those without one last."""

    experiments: Sequence[str]
    best: str
    reference: str
    rows: Sequence[ClassRow]


def read_classes(path: pathlib.Path) -> list[dict[str, Any]]:
    """Rows {class, AP, AUC, num_positives} of a run's per_class.csv; [] where there is none.

    Where events were evaluated each row has their metrics, too.
    """
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        try:
            return [
                {
                    "class": row["class"],
                    "AP": _float(row["AP"]),
                    "AUC": _float(row["AUC"]),
                    "num_positives": int(row["num_positives"]),
                }
                | {key: _float(row[key]) for key in EVENT_METRICS if key in row}
                for row in csv.DictReader(file)
            ]
        except (KeyError, ValueError, TypeError) as error:
            raise UserError(
                f"{path} is damaged ({error!r}); expected the columns class, AP, AUC, "
                "num_positives. Run the evaluation again."
            ) from error


def _float(text: str) -> float | None:
    value = float(text) if text else math.nan
    return None if math.isnan(value) else value


def class_table(
    runs: Mapping[str, Sequence[pathlib.Path]], best: str | None, reference: str
) -> ClassTable | None:
    """The table of experiments, each with the folders of its runs: APs are means over these.

    None where no run was evaluated. Classes are those of the best experiment, or else of the first
    that was evaluated; those of other data are left out.
    """
    rows_by_name = {
        name: each
        for name, folders in runs.items()
        if any(each := [read_classes(folder / PER_CLASS) for folder in folders])
    }
    if not rows_by_name:
        return None
    of_each = {
        n: [row["class"] for row in next(filter(None, each))] for n, each in rows_by_name.items()
    }
    wanted = of_each.get(best or "", next(iter(of_each.values())))
    rows_by_name = {name: each for name, each in rows_by_name.items() if of_each[name] == wanted}
    ap = {name: _means(rows) for name, rows in rows_by_name.items()}
    rows = []
    for row in next(each for each in next(iter(rows_by_name.values())) if each):
        values = {name: ap[name].get(row["class"]) for name in ap}
        ours, theirs = values.get(best or ""), values.get(reference)
        is_gain = ours is not None and theirs is not None and best != reference
        gain = ours - theirs if is_gain and ours is not None and theirs is not None else None
        rows.append(ClassRow(row["class"], row["num_positives"], gain, values))
    rows.sort(key=lambda row: (row.gain is None, -(row.gain or 0), row.name))
    return ClassTable(list(rows_by_name), best or "", reference, rows)


def _means(runs: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, float | None]:
    """AP of each class: its mean over the runs that have one."""
    values: dict[str, list[float]] = {}
    for rows in runs:
        for row in rows:
            values.setdefault(row["class"], [])
            if row["AP"] is not None:
                values[row["class"]].append(row["AP"])
    return {name: statistics.fmean(each) if each else None for name, each in values.items()}
