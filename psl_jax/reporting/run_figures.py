"""The figures of a run, and what all figures share: curves of a log, colours of experiments."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from psl_jax.reporting import figures
from psl_jax.reporting.figures import Caption, Figure, Series
from psl_jax.training.metric_log import LEARNING_RATE, LOSS, VALIDATION_MAP

_MAX_POINTS = 500

# The baseline and the teacher keep their colours in every figure; the students share the others.
_WEAK, _TEACHER, _STUDENTS = 1, 5, (0, 2, 3, 4)

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
        name: _STUDENTS[i % len(_STUDENTS)] + len(figures.COLOURS) * (i // len(_STUDENTS))
        for i, name in enumerate(students)
    }
    return {name: chosen.get(name, _WEAK if name == "weak" else _TEACHER) for name in names}


# --- Training -------------------------------------------------------------------------------


def training(log: Sequence[Mapping[str, Any]], best: Curve) -> list[Figure]:
    """Loss, validation mAP with the checkpoints `best` marked, learning rate if it changes."""
    drawn = []
    if loss := curve(log, LOSS):
        smooth = smoothed(loss)
        lines = [Series("loss", thinned(smooth))]
        note = "Binary cross-entropy, a mean over classes."
        if smooth != loss:
            lines.insert(0, Series("as logged", thinned(loss), faint=True))
            note += " Smoothed; faint: as logged."
        drawn.append(loss_figure(lines, note))
    if scores := _percents(curve(log, VALIDATION_MAP)):
        note = "The marked checkpoints are averaged into the final model."
        line = Series("mAP", scores, 2, _percents(best))
        drawn.append(map_figure("Validation mAP", note, [line]))
    rate = curve(log, LEARNING_RATE)
    if len({value for _, value in rate}) > 1:
        line = Series("learning rate", thinned(rate))
        drawn.append(
            figures.lines(
                Caption("learning_rate", "Learning rate"),
                [line],
                x_label="training step",
                y_label="learning rate",
            )
        )
    return drawn


def map_figure(title: str, note: str, lines: Sequence[Series]) -> Figure:
    """Validation mAPs in percent over the training steps."""
    return figures.lines(
        Caption("validation", title, note), lines, x_label="training step", y_label="mAP (%)"
    )


def loss_figure(lines: Sequence[Series], note: str) -> Figure:
    """Losses over the training steps, on a logarithmic axis where they fall far."""
    values = [value for line in lines for _, value in line.points]
    log_y = min(values) > 0 and max(values) / min(values) > 8
    return figures.lines(
        Caption("loss", "Training loss", note),
        lines,
        x_label="training step",
        y_label="loss (logarithmic)" if log_y else "loss",
        log_y=log_y,
    )


def _percents(points: Curve) -> Curve:
    return [(step, 100 * value) for step, value in points]


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
    tenths = np.minimum([int(10 * row["AP"]) for row in scored], 9)
    histogram = figures.columns(
        Caption("ap_histogram", "How AP is distributed"),
        [f"{10 * k}–{10 * k + 10}" for k in range(10)],
        [("classes", np.bincount(tenths, minlength=10).tolist(), 0)],
        x_label="AP (%)",
        y_label="classes",
        form="{:g}".format,
    )
    positives = figures.scatter(
        Caption("ap_over_positives", "AP and how common a class is", "One dot a class."),
        [(row["class"], row["num_positives"], 100 * row["AP"]) for row in scored],
        x_label="clips with the class (logarithmic)",
        y_label="AP (%)",
    )
    return [histogram, positives]
