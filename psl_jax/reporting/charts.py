"""The figures of the reports: which numbers go into which chart, and what is said beside it."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from psl_jax.reporting import drawing
from psl_jax.training.metric_log import LEARNING_RATE, LOSS, VALIDATION_MAP

_MAX_POINTS = 500

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
    """A number for each, of a colour and dashes; where colours come again the dashes are others."""
    students = [name for name in names if name not in ("weak", "teacher")]
    chosen = {
        name: _STUDENTS[i % len(_STUDENTS)] + drawing.NUM_COLOURS * (i // len(_STUDENTS))
        for i, name in enumerate(students)
    }
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
            [drawing.Series("learning rate", thinned(rate), 0)],
            label="Learning rate over the training steps",
            x_label="training step",
            y_label="learning rate",
        )
        figures.append(Figure("Learning rate", "", svg))
    return figures


def _loss(loss: Curve) -> Figure:
    positive = [value for _, value in loss if value > 0]
    log_y = len(positive) == len(loss) and max(positive) / min(positive) > 8
    smooth = smoothed(loss)
    series = [drawing.Series("loss", thinned(smooth), 0)]
    if smooth != loss:
        series.insert(0, drawing.Series("as logged", thinned(loss), 0, faint=True))
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


def smoothed(points: Curve) -> Curve:
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


def thinned(points: Curve) -> Curve:
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
