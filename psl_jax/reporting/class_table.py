"""The classes of a suite: each experiment's average precision side by side."""

import csv
import dataclasses
import math
import pathlib
import statistics
from collections.abc import Iterable, Mapping, Sequence
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
    """Reads {class, AP, AUC, num_positives} of each row of a run's per_class.csv, if there is one.

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
    """Makes the table of experiments, each with the folders of its runs: APs are means over these.

    None where no run was evaluated. Classes are those of the best experiment, or else of the first
    that was evaluated; experiments and runs with others are left out.
    """
    tables = {
        name: list(filter(None, (read_classes(folder / PER_CLASS) for folder in folders)))
        for name, folders in runs.items()
    }
    tables = {name: of_runs for name, of_runs in tables.items() if of_runs}
    if not tables:
        return None
    classes = {name: _list_names(of_runs[0]) for name, of_runs in tables.items()}
    shown = classes.get(best or "", next(iter(classes.values())))
    ap = {
        name: [
            _mean(row["AP"] for row in rows)
            for rows in zip(*(rows for rows in of_runs if _list_names(rows) == shown), strict=True)
        ]
        for name, of_runs in tables.items()
        if classes[name] == shown
    }
    first_rows = tables[next(iter(ap))][0]
    rows = []
    for number, name in enumerate(shown):
        values = {experiment: means[number] for experiment, means in ap.items()}
        ours, theirs, gain = values.get(best or ""), values.get(reference), None
        if best != reference and ours is not None and theirs is not None:
            gain = ours - theirs
        rows.append(ClassRow(name, first_rows[number]["num_positives"], gain, values))
    rows.sort(key=lambda row: (row.gain is None, -(row.gain or 0), row.name))
    return ClassTable(list(ap), best or "", reference, rows)


def _list_names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [row["class"] for row in rows]


def _mean(values: Iterable[float | None]) -> float | None:
    scored_values = [value for value in values if value is not None]
    return statistics.fmean(scored_values) if scored_values else None
