"""The figures of the reports: which numbers go into which chart, and what is said beside it."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from psl_jax.reporting import drawing, tables
from psl_jax.training.metric_log import LEARNING_RATE, LOSS, VALIDATION_MAP

_MAX_POINTS = 500
_MAX_LABELS = 9  # clips with more labels are counted together

# The baseline and the teacher keep their colours in every chart; the students share the others.
_WEAK, _TEACHER, _STUDENTS = 1, 5, (0, 2, 3, 4)


@dataclasses.dataclass(frozen=True)
class Figure:
    title: str
    note: str
    svg: Markup
    legend: str = ""  # HTML


Curve = list[tuple[int, float]]


def curve(log: Sequence[Mapping[str, Any]], name: str) -> Curve:
    """(step, value) of the lines that hold a finite `name`."""
    return [(line["step"], line[name]) for line in log if _is_number(line.get(name))]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def colours(names: Sequence[str]) -> dict[str, int]:
    students = [name for name in names if name not in ("weak", "teacher")]
    chosen = {name: _STUDENTS[i % len(_STUDENTS)] for i, name in enumerate(students)}
    return {name: chosen.get(name, _WEAK if name == "weak" else _TEACHER) for name in names}


# --- Training -------------------------------------------------------------------------------


def training(log: Sequence[Mapping[str, Any]], best: Curve) -> list[Figure]:
    """Loss, validation mAP with the checkpoints `best` marked, learning rate if it changes."""
    figures = []
    loss = curve(log, LOSS)
    if loss:
        figures.append(_loss(loss))
    scores = [(step, 100 * value) for step, value in curve(log, VALIDATION_MAP)]
    if scores:
        marks = [(step, 100 * value) for step, value in best]
        svg = drawing.line_chart(
            [drawing.Series("mAP", scores, 2, marks)],
            label="Validation mAP over the training steps",
            x_label="training step",
            y_label="mAP (%)",
        )
        number = {1: "one", 2: "two", 3: "three", 4: "four"}.get(len(best), str(len(best)))
        legend = drawing.legend([("mAP", 2, "line"), (f"best {number}", 2, "diamond")])
        note = "The marked checkpoints are averaged into the final model."
        figures.append(Figure("Validation mAP", note, svg, legend))
    rate = curve(log, LEARNING_RATE)
    if len({value for _, value in rate}) > 1:
        svg = drawing.line_chart(
            [drawing.Series("learning rate", _thinned(rate), 0)],
            label="Learning rate over the training steps",
            x_label="training step",
            y_label="learning rate",
        )
        figures.append(Figure("Learning rate", "", svg))
    return figures


def _loss(loss: Curve) -> Figure:
    positive = [value for _, value in loss if value > 0]
    log_y = len(positive) == len(loss) and max(positive) / min(positive) > 8
    smooth = _smoothed(loss)
    series = [drawing.Series("loss", _thinned(smooth), 0)]
    if smooth != loss:
        series.insert(0, drawing.Series("as logged", _thinned(loss), 0, faint=True))
    svg = drawing.line_chart(
        series,
        label="Training loss over the training steps",
        x_label="training step",
        y_label="loss (logarithmic)" if log_y else "loss",
        log_y=log_y,
    )
    note = "Binary cross-entropy, a mean over classes."
    if smooth != loss:
        note += " Smoothed; faint: as logged."
    return Figure("Training loss", note, svg)


def _smoothed(points: Curve) -> Curve:
    """Centred running mean over a thirtieth of the curve; short curves stay as they are."""
    reach = len(points) // 60
    if not reach:
        return points
    values = np.array([v for _, v in points], np.float64)
    total = np.concatenate([[0.0], np.cumsum(values)])
    here = np.arange(len(values))
    low, high = np.maximum(here - reach, 0), np.minimum(here + reach + 1, len(values))
    means = (total[high] - total[low]) / (high - low)
    return [(step, float(m)) for (step, _), m in zip(points, means, strict=True)]


def _thinned(points: Curve) -> Curve:
    if len(points) <= _MAX_POINTS:
        return points
    chosen = np.unique(np.linspace(0, len(points) - 1, _MAX_POINTS).astype(int))
    return [points[i] for i in chosen]


# --- Classes --------------------------------------------------------------------------------


def classes(rows: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """How AP is distributed and how it depends on the number of positives.

    Only where there are enough classes to see something.
    """
    scored = [row for row in rows if row["AP"] is not None]
    if len(scored) < 20:
        return []
    deciles = np.minimum([int(10 * row["AP"]) for row in scored], 9)
    histogram = drawing.grouped_bars(
        [f"{10 * k}–{10 * k + 10}" for k in range(10)],
        [("classes", np.bincount(deciles, minlength=10).tolist(), 0)],
        label="Number of classes by average precision",
        x_label="AP (%)",
        y_label="classes",
        form=lambda v: f"{v:g}",
    )
    positives = drawing.scatter(
        [(row["num_positives"], 100 * row["AP"], row["class"]) for row in scored],
        label="Average precision of each class over its number of positive clips",
        x_label="clips with the class (logarithmic)",
        y_label="AP (%)",
    )
    return [
        Figure("How AP is distributed", "", histogram),
        Figure("AP and how common a class is", "One dot a class.", positives),
    ]


# --- Suites ---------------------------------------------------------------------------------


def comparison(
    experiments: Sequence[Mapping[str, Any]], paper: Mapping[str, float]
) -> list[Figure]:
    """Bars of mAP, with the paper's numbers marked where they are given."""
    if not any(e.get("mAP") is not None for e in experiments):
        return []
    colour = colours([e["name"] for e in experiments])
    bars = [
        drawing.Bar(
            e["name"],
            None if e.get("mAP") is None else 100 * e["mAP"],
            colour[e["name"]],
            100 * paper[e["name"]] if paper.get(e["name"]) is not None else None,
        )
        for e in experiments
    ]
    svg = drawing.bar_chart(
        bars, label="mAP of each experiment", x_label="mAP (%)", form=lambda v: f"{v:.2f}"
    )
    marked = any(bar.reference is not None for bar in bars)
    legend = drawing.legend([("paper", 0, "reference")]) if marked else Markup()
    return [Figure("mAP on the evaluation set", "", svg, legend)]


def validation(logs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Figure]:
    """The validation curves of all runs in one chart."""
    colour = colours(list(logs))
    curves = {
        name: [(step, 100 * value) for step, value in curve(log, VALIDATION_MAP)]
        for name, log in logs.items()
    }
    curves = {name: points for name, points in curves.items() if points}
    if not curves:
        return []
    svg = drawing.line_chart(
        [
            drawing.Series(name, _thinned(points), colour[name], dashed=True)
            for name, points in curves.items()
        ],
        label="Validation mAP of all experiments over the training steps",
        x_label="training step",
        y_label="mAP (%)",
    )
    legend = drawing.legend([(name, colour[name], "dashed") for name in curves])
    note = (
        "Against the weak labels of the validation split: flattering for an experiment that was "
        "trained on these."
    )
    return [Figure("Validation mAP while training", note, svg, legend)]


# --- Labels ---------------------------------------------------------------------------------


def label_quality(qualities: Mapping[str, Mapping[str, Any]]) -> list[Figure]:
    """Segment mAP of the labels, labels per clip (Figure 2), coverage (Figure 3)."""
    figures = []
    measured = {n: q["segment_mAP"] for n, q in qualities.items() if q.get("segment_mAP")}
    if measured:
        figures.append(_segment_map(measured, qualities))
    statistics = {n: q["statistics"] for n, q in qualities.items() if q.get("statistics")}
    if statistics:
        figures += [_labels_per_clip(statistics), _coverage(statistics)]
    return figures


def _segment_map(measured: Mapping[str, Mapping], qualities: Mapping[str, Mapping]) -> Figure:
    names = [
        f"{name} ({tables.segment_length(qualities[name]['segment_seconds'])})"
        if qualities[name].get("segment_seconds") and len(measured) < 5
        else name
        for name in measured
    ]
    kinds = {"soft": ("soft labels of the teacher", 0), "weak": ("weak labels, propagated", _WEAK)}
    series = [
        (kind, [100 * (m.get(kind) or 0.0) for m in measured.values()], colour)
        for kind, (_, colour) in kinds.items()
    ]
    svg = drawing.grouped_bars(
        names,
        series,
        label="Segment mAP of soft and of weak labels against the true events",
        x_label="label set (length of its segments)",
        y_label="mAP (%)",
        form=lambda v: f"{v:.1f}",
        show_values=True,
    )
    note = "How well the labels themselves agree with the true events, segment by segment."
    legend = drawing.legend([(text, colour, "bar") for text, colour in kinds.values()])
    return Figure("The labels against the truth", note, svg, legend)


def _labels_per_clip(statistics: Mapping[str, Mapping[str, Any]]) -> Figure:
    colour = colours(list(statistics))
    first = next(iter(statistics.values()))
    counts = {"weak": first["labels_per_clip"]["weak"]}
    counts |= {name: s["labels_per_clip"]["soft"] for name, s in statistics.items()}
    length = min(max(map(len, counts.values())), _MAX_LABELS + 2)
    shares = {name: _shares(values, length) for name, values in counts.items()}
    categories = [str(k) for k in range(length)]
    if any(len(values) > length for values in counts.values()):
        categories[-1] = f"≥{length - 1}"
    svg = drawing.grouped_bars(
        categories,
        [(name, values, colour.get(name, _WEAK)) for name, values in shares.items()],
        label="Share of clips with each number of labels",
        x_label="labels a clip",
        y_label="clips (%)",
        form=lambda v: f"{v:.1f} %",
    )
    note = f"A class counts if any segment of the clip exceeds {first['threshold']:g}."
    legend = drawing.legend([(name, colour.get(name, _WEAK), "bar") for name in shares])
    return Figure("Labels per clip", note, svg, legend)


def _shares(values: Sequence[int], length: int) -> list[float]:
    head = [*values[: length - 1], sum(values[length - 1 :])]
    head += [0] * (length - len(head))
    return [100 * v / max(sum(values), 1) for v in head]


def _coverage(statistics: Mapping[str, Mapping[str, Any]]) -> Figure:
    colour = colours(list(statistics))
    first = next(iter(statistics.values()))["coverage"]
    series = [
        (name, _shares(s["coverage"]["clips"], len(first["bins"])), colour[name])
        for name, s in statistics.items()
    ]
    svg = drawing.grouped_bars(
        first["bins"],
        series,
        label="Share of clips by label coverage",
        x_label="share of a clip's weak labels that the soft ones confirm",
        y_label="clips (%)",
        form=lambda v: f"{v:.1f} %",
    )
    note = f"Over the {first['num_clips']:,} clips that have weak labels."
    legend = drawing.legend([(name, colour[name], "bar") for name in statistics])
    return Figure("Label coverage", note, svg, legend)
