"""The tables of a suite: its experiments, for terminal and HTML report, its labels, its classes."""

import csv
import dataclasses
import math
import pathlib
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from psl_jax.runtime.errors import UserError
from psl_jax.scoring.evaluation import PER_CLASS
from psl_jax.scoring.event_metrics import EVENT_METRICS

MISSING = "–"


@dataclasses.dataclass(frozen=True)
class Table:
    """Cells as text, a row an experiment; `numeric` says which columns align right."""

    header: list[str]
    numeric: list[bool]
    rows: list[list[str]]


Column = tuple[str, bool, Callable[[Mapping[str, Any]], str]]  # header, numeric, cell of a row


def format_percent(value: float | None, decimals: int = 2) -> str:
    return MISSING if value is None else f"{100 * value:.{decimals}f}"


def format_decimal(value: float | None, decimals: int = 3) -> str:
    return MISSING if value is None else f"{value:.{decimals}f}"


def format_spread(value: float | None) -> str:
    """A standard deviation in points, to stand behind its mean; empty where there is none."""
    return "" if value is None else f" ± {100 * value:.2f}"


def format_count(value: float | None) -> str:
    return MISSING if value is None else f"{value:,.0f}"


def format_duration(seconds: float) -> str:
    """42 s, 1 min 35 s, 25 min, 2 h 13 min."""
    minutes, rest_seconds = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest_seconds} s"
    hours, left = divmod(minutes, 60)
    if hours:
        return f"{hours} h {left:02d} min"
    return f"{minutes} min {rest_seconds:02d} s" if minutes < 10 else f"{round(seconds / 60)} min"


def _format_segments(row: Mapping[str, Any]) -> str:
    """Their length, and of those that overlap how far one is from the next."""
    seconds, hop = row.get("segment_seconds"), row.get("hop_seconds")
    length = MISSING if seconds is None else f"{seconds:g} s"
    return f"{length} every {hop:g}" if hop and hop != seconds else length


NOT_TOLD_APART = "not told apart"


def format_interval(limits: Mapping[str, float]) -> str:
    """Of a difference in mAP, in points; in words where it holds 0."""
    text = f"{100 * limits['low']:+.2f} to {100 * limits['high']:+.2f}"
    return text if excludes_zero(limits) else f"{text}, {NOT_TOLD_APART}"


def excludes_zero(limits: Mapping[str, float]) -> bool:
    return not limits["low"] <= 0 <= limits["high"]


def list_notes(experiments: Sequence[Mapping[str, Any]]) -> list[str]:
    """What to know before believing the figures: "names: note", each note once."""
    by_note: dict[str, list[str]] = {}
    for experiment in experiments:
        for note in experiment.get("notes", ()):
            by_note.setdefault(note, []).append(experiment["name"])
    every = len(experiments)
    return [
        f"{'all experiments' if len(names) == every > 1 else ', '.join(names)}: {note}"
        for note, names in by_note.items()
    ]


# How they are called, by their keys in metrics.json; MEASURES are in percent.
MEASURES = {"mAP": "mAP", "mAP_at_3": "mAP@3", "lwlrap": "lwlrap"}
METRICS = MEASURES | {"AUC": "AUC", "d_prime": "d'"} | EVENT_METRICS


def list_metrics(
    metrics: Mapping[str, Any], percent_decimals: int = 2
) -> Iterator[tuple[str, float, str]]:
    """Yields (name, value, the value as text) of those metrics of a metrics.json that are known."""
    for key, name in METRICS.items():
        if (value := metrics.get(key)) is not None:
            text = format_decimal(value)
            if key in MEASURES:
                text = f"{format_percent(value, percent_decimals)} %"
            yield name, value, text


def measure_of(results: Mapping[str, Any], name: str) -> str:
    """What an experiment is measured by: a key of MEASURES."""
    measures: Mapping[str, str] = results.get("measures") or {}
    return measures.get(name, "mAP")


def reference_of(results: Mapping[str, Any], name: str) -> str:
    """The experiment that another one is held against."""
    references: Mapping[str, str] = results.get("references") or {}
    return references.get(name, name if references else results.get("reference", "weak"))


def _compare(experiment: Mapping[str, Any], results: Mapping[str, Any]) -> dict[str, Any]:
    """Compares an experiment with its reference and with the paper: fields of its row."""
    name = experiment["name"]
    measure, reference = measure_of(results, name), reference_of(results, name)
    value, reported = experiment.get(measure), (results.get("paper") or {}).get(name)
    others = (e.get(measure) for e in results["experiments"] if e["name"] == reference)
    fields = {
        "paper": reported,
        "paper_d_prime": (results.get("paper_d_prime") or {}).get(name),
        # An interval is of mAP.
        "interval": experiment.get("over_reference")
        if name != "teacher" and measure == "mAP"
        else None,
    }
    if value is not None:
        other = next(others, None)
        if other is not None and name not in (reference, "teacher"):
            points = f"{100 * (value - other):+.2f}"
            fields["gain"] = points + format_spread(experiment.get("gain_spread"))
        if reported is not None:
            fields["over_paper"] = f"{100 * (value - reported):+.2f}"
    if results.get("measures"):
        fields |= {"measure": MEASURES[measure], "value": value}
    return fields


def _field(key: str, form: Callable[[Any], str] = str) -> Callable[[Mapping[str, Any]], str]:
    def format_cell(row: Mapping[str, Any]) -> str:
        return MISSING if row.get(key) is None else form(row[key])

    return format_cell


def make_suite_table(results: Mapping[str, Any]) -> Table:
    """Makes the table of a results.json; columns in which nothing is known are left out.

    So is the number of evaluated clips when it is the same for all: see `describe_clips`.
    """
    rows = [dict(row) | _compare(row, results) for row in results.get("experiments", [])]
    if len({row.get("num_clips") for row in rows}) <= 1:
        for row in rows:
            row["num_clips"] = None
    over = "gain" if results.get("references") else f"vs {results.get('reference', 'weak')}"
    columns: list[Column] = [
        ("experiment", False, _field("name")),
        ("labels", False, _field("label")),
        ("segment", True, _format_segments),
        (
            "mAP %",
            True,
            lambda row: format_percent(row.get("mAP")) + format_spread(row.get("mAP_spread")),
        ),
        ("measure", False, _field("measure")),
        ("value %", True, _field("value", format_percent)),
        (over, True, _field("gain")),
        ("95 %", True, _field("interval", format_interval)),
        ("paper %", True, _field("paper", format_percent)),
        ("vs paper", True, _field("over_paper")),
        ("d'", True, _field("d_prime", format_decimal)),
        ("paper d'", True, _field("paper_d_prime", format_decimal)),
        ("AUC", True, _field("AUC", format_decimal)),
        ("lwlrap", True, _field("lwlrap", format_decimal)),
        ("mAP@3 %", True, _field("mAP_at_3", format_percent)),
        *((name, True, _field(key, format_decimal)) for key, name in EVENT_METRICS.items()),
        ("clips", True, _field("train_clips", format_count)),
        ("segments", True, _field("train_segments", format_count)),
        ("eval clips", True, _field("num_clips", format_count)),
        ("steps", True, _field("steps", format_count)),
        ("time", True, _field("seconds", format_duration)),
    ]
    return _make_table(columns, rows)


def make_quality_table(qualities: Mapping[str, Mapping[str, Any]]) -> Table | None:
    """Makes the table of label sets: agreement with the true events, and how many labels.

    qualities: what label_quality.json holds, by experiment; None for none.
    """
    if not qualities:
        return None
    rows = [_flatten_quality(name, quality) for name, quality in qualities.items()]
    statistics = next((row["statistics"] for row in rows if row.get("statistics")), None)
    if statistics:  # the weak labels are the same for every segment length
        rows.insert(0, _flatten_quality("weak", {"statistics": statistics}, "weak"))
    columns: list[Column] = [
        ("labels", False, _field("name")),
        ("segment", True, _format_segments),
        ("mAP %", True, _field("soft_map", format_percent)),
        ("weak mAP %", True, _field("weak_map", format_percent)),
        ("per clip", True, _field("mean_labels", lambda value: format_decimal(value, 2))),
        (
            "no label %",
            True,
            _field("share_without_labels", lambda value: format_percent(value, 1)),
        ),
    ]
    return _make_table(columns, rows)


def _flatten_quality(name: str, quality: Mapping[str, Any], kind: str = "soft") -> dict[str, Any]:
    segment_map, statistics = quality.get("segment_mAP") or {}, quality.get("statistics") or {}
    return dict(quality) | {
        "name": name,
        "soft_map": segment_map.get("soft"),
        "weak_map": segment_map.get("weak"),
        "mean_labels": (statistics.get("mean_labels") or {}).get(kind),
        "share_without_labels": (statistics.get("share_without_labels") or {}).get(kind),
    }


def _make_table(columns: Sequence[Column], items: Sequence[Mapping[str, Any]]) -> Table:
    cells = [[cell(item) for item in items] for _, _, cell in columns]
    kept = [i for i, column in enumerate(cells) if i == 0 or set(column) - {MISSING, ""}]
    return Table(
        header=[columns[i][0] for i in kept],
        numeric=[columns[i][1] for i in kept],
        rows=[[cells[i][row] for i in kept] for row in range(len(items))],
    )


def describe_other_clips(
    experiments: Sequence[Mapping[str, Any]], references: Mapping[str, str] | None = None
) -> str:
    """What to say when experiments were not evaluated on the same clips, else empty.

    references: the one that each is held against; those of other pairs may have other clips.
    """
    scored_experiments = [e for e in experiments if e.get("num_clips") is not None]
    if references:
        pairs = [
            [e for e in scored_experiments if e["name"] in pair] for pair in references.items()
        ]
        return next(filter(None, map(describe_other_clips, pairs)), "")
    hashes = {e["clip_ids_sha256"] for e in scored_experiments if e.get("clip_ids_sha256")}
    if len({e["num_clips"] for e in scored_experiments}) <= 1 and len(hashes) <= 1:
        return ""
    counts = ", ".join(f"{e['name']} {e['num_clips']:,}" for e in scored_experiments)
    return (
        "The experiments were evaluated on different clips, so their numbers cannot be compared "
        f"({counts})."
    )


def describe_clips(experiments: Sequence[Mapping[str, Any]]) -> str:
    """On how many clips everything was evaluated; empty if unknown or not the same."""
    scored_experiments = [e for e in experiments if e.get("num_clips") is not None]
    if not scored_experiments or describe_other_clips(experiments):
        return ""
    digest = scored_experiments[0].get("clip_ids_sha256")
    which = f" (SHA-256 of their ids: {digest[:12]}…)" if digest else ""
    return f"Evaluated on {scored_experiments[0]['num_clips']:,} clips{which}."


def format_table(results: Mapping[str, Any]) -> str:
    """The suite's results as aligned plain text for a terminal; mAP in percent."""
    experiments, references = results.get("experiments", []), results.get("references")
    parts = [
        format_plain(make_suite_table(results)),
        "" if references else describe_clips(experiments),
    ]
    if quality := make_quality_table(results.get("label_quality", {})):
        scored = " (mAP against the true events, segment by segment)"
        parts += [
            f"The labels themselves{scored * ('mAP %' in quality.header)}:",
            format_plain(quality),
        ]
    if different := describe_other_clips(experiments, references):
        parts.append(f"WARNING: {different}")
    return "\n\n".join(filter(None, parts))


def format_plain(table: Table) -> str:
    """A table as aligned text, with a line below its header."""
    lines = [table.header, *table.rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["─" * width for width in widths])
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, table.numeric, strict=True)
        ).rstrip()
        for line in lines
    )


# --- Classes --------------------------------------------------------------------------------------


class ClassRow(NamedTuple):
    """A class; APs are in 0 to 1, None where the class has no positive."""

    name: str
    positives: int
    gain: float | None  # of the best experiment over the reference
    ap: Mapping[str, float | None]  # by experiment


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
                    "AP": _parse_float(row["AP"]),
                    "AUC": _parse_float(row["AUC"]),
                    "num_positives": int(row["num_positives"]),
                }
                | {key: _parse_float(row[key]) for key in EVENT_METRICS if key in row}
                for row in csv.DictReader(file)
            ]
        except (KeyError, ValueError, TypeError) as error:
            raise UserError(
                f"{path} is damaged ({error!r}); expected the columns class, AP, AUC, "
                "num_positives. Run the evaluation again."
            ) from error


def _parse_float(text: str) -> float | None:
    value = float(text) if text else math.nan
    return None if math.isnan(value) else value


def make_class_table(
    runs: Mapping[str, Sequence[pathlib.Path]], best: str | None, reference: str
) -> list[ClassRow]:
    """Makes the rows of experiments, each with the folders of its runs: APs are means over these.

    Rows stand by falling gain, those without one last; there are none where no run was evaluated.
    Classes are those of the best experiment, or else of the first that was evaluated; experiments
    and runs with others are left out.
    """
    tables = {
        name: [rows for folder in folders if (rows := read_classes(folder / PER_CLASS))]
        for name, folders in runs.items()
    }
    in_order = (tables.get(best or "", []), *tables.values())
    first = next((of_runs[0] for of_runs in in_order if of_runs), [])
    shown = [row["class"] for row in first]
    ap: dict[str, list[float | None]] = {}
    for name, of_runs in tables.items():
        same = [rows for rows in of_runs if [row["class"] for row in rows] == shown]
        if same:
            ap[name] = [
                _compute_mean(row["AP"] for row in rows) for rows in zip(*same, strict=True)
            ]
    table = []
    for number, row in enumerate(first):
        values = {experiment: means[number] for experiment, means in ap.items()}
        ours, theirs, gain = values.get(best or ""), values.get(reference), None
        if best != reference and ours is not None and theirs is not None:
            gain = ours - theirs
        table.append(ClassRow(row["class"], row["num_positives"], gain, values))
    return sorted(table, key=lambda row: (row.gain is None, -(row.gain or 0), row.name))


def _compute_mean(values: Iterable[float | None]) -> float | None:
    scored_values = [value for value in values if value is not None]
    return statistics.fmean(scored_values) if scored_values else None
