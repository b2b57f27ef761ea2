"""The figures of runs and suites: curves of training, experiments side by side, soft labels."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from psl_jax.reporting import figures
from psl_jax.reporting.figures import Bar, Figure, Series
from psl_jax.training.metric_log import LOSS, VALIDATION_MAP

_MOST_POINTS = 100  # of a curve of losses
_MAX_LABELS = 9  # clips with more labels are counted together

# The baseline and the teacher keep their colours in every figure; the students share the others.
_WEAK, _TEACHER, _STUDENTS = 1, 5, (0, 2, 3, 4)

Curve = list[tuple[float, float]]  # (step, value)
Logs = Mapping[str, Sequence[Mapping[str, Any]]]


def read_curve(log: Sequence[Mapping[str, Any]], name: str) -> Curve:
    """Reads (step, value) of the lines that hold a finite `name`."""
    values = [(line["step"], line.get(name)) for line in log]
    return [(step, v) for step, v in values if isinstance(v, int | float) and math.isfinite(v)]


def choose_colours(names: Sequence[str]) -> dict[str, int]:
    """Chooses a number for each: of a colour, and a line style where colours come again."""
    students = [name for name in names if name not in ("weak", "teacher")]
    chosen = {
        name: _STUDENTS[i % len(_STUDENTS)] + len(figures.COLOURS) * (i // len(_STUDENTS))
        for i, name in enumerate(students)
    }
    return {name: chosen.get(name, _WEAK if name == "weak" else _TEACHER) for name in names}


# --- Training -------------------------------------------------------------------------------


def make_training_figures(log: Sequence[Mapping[str, Any]], best: Curve) -> list[Figure]:
    """Makes the figures of loss, and of validation mAP with the checkpoints `best` marked."""
    drawn = []
    if loss := read_curve(log, LOSS):
        note = "Binary cross-entropy, a mean over classes."
        if len(loss) > _MOST_POINTS:
            note += " Each point is a mean over the steps before it."
        drawn.append(_make_loss_figure([Series("loss", condense(loss))], note))
    if scores := _to_percent(read_curve(log, VALIDATION_MAP)):
        note = "The marked checkpoints are averaged into the final model."
        line = Series("mAP", scores, 2, _to_percent(best))
        drawn.append(_make_map_figure("Validation mAP", note, [line]))
    return drawn


_draw_over_steps = partial(figures.draw_lines, x_label="training step")


def _make_map_figure(title: str, note: str, lines: Sequence[Series]) -> Figure:
    """Makes the figure of validation mAPs in percent over the training steps."""
    plot = partial(_draw_over_steps, series=lines, y_label="mAP (%)")
    return Figure("validation", title, note, plot)


def _make_loss_figure(lines: Sequence[Series], note: str) -> Figure:
    """Makes the figure of losses; its axis is logarithmic where they fall far."""
    values = [value for line in lines for _, value in line.points]
    log_y = min(values) > 0 and max(values) / min(values) > 8
    y_label = "loss (logarithmic)" if log_y else "loss"
    plot = partial(_draw_over_steps, series=lines, y_label=y_label, log_y=log_y)
    return Figure("loss", "Training loss", note, plot)


def _to_percent(points: Curve) -> Curve:
    return [(step, 100 * value) for step, value in points]


def condense(points: Curve) -> Curve:
    """Averages neighbours of a curve of more than _MOST_POINTS, each mean at its last step."""
    if len(points) <= _MOST_POINTS:
        return points
    groups = np.array_split(np.array(points), _MOST_POINTS)
    return [(float(group[-1, 0]), float(group[:, 1].mean())) for group in groups]


# --- Experiments of a suite -----------------------------------------------------------------------


def make_comparison(
    experiments: Sequence[Mapping[str, Any]], paper: Mapping[str, float]
) -> list[Figure]:
    """Makes bars of mAP, with the paper's numbers marked where they are given."""
    if not any(e.get("mAP") is not None for e in experiments):
        return []
    colour = choose_colours([e["name"] for e in experiments])
    bars = [
        Bar(
            e["name"],
            None if e.get("mAP") is None else 100 * e["mAP"],
            colour[e["name"]],
            100 * paper[e["name"]] if paper.get(e["name"]) is not None else None,
        )
        for e in experiments
    ]
    plot = partial(figures.draw_bars, bars=bars, x_label="mAP (%)")
    height = 70 + max(32 * len(bars), 64)
    return [Figure("mean_average_precision", "mAP on the evaluation set", "", plot, height)]


def make_curve_figures(logs: Logs, whose: str = "") -> list[Figure]:
    """Makes the figures of validation mAP and loss of all runs; `whose` ends the notes."""
    colour = choose_colours(list(logs))
    drawn = []
    scores = {name: _to_percent(read_curve(log, VALIDATION_MAP)) for name, log in logs.items()}
    if lines := _make_series(scores, colour):
        note = (
            "Against the weak labels of the validation split: flattering for an experiment that "
            f"was trained on these.{whose}"
        )
        drawn.append(_make_map_figure("Validation mAP while training", note, lines))
    losses = {name: condense(read_curve(log, LOSS)) for name, log in logs.items()}
    if lines := _make_series(losses, colour):
        note = (
            "Binary cross-entropy. Against labels of different kinds it does not say "
            f"which experiment is better.{whose}"
        )
        drawn.append(_make_loss_figure(lines, note))
    return drawn


def _make_series(points: Mapping[str, list[Any]], colour: Mapping[str, int]) -> list[Series]:
    return [Series(name, line, colour[name]) for name, line in points.items() if line]


# --- Soft labels ----------------------------------------------------------------------------------


_draw_shares = partial(figures.draw_columns, y_label="clips (%)")


def make_label_figures(qualities: Mapping[str, Mapping[str, Any]]) -> list[Figure]:
    """Makes figures 2 and 3 of the paper, of {name: label quality}."""
    statistics = {n: q["statistics"] for n, q in qualities.items() if q.get("statistics")}
    return [_make_labels_per_clip(statistics), _make_coverage(statistics)] if statistics else []


def _make_labels_per_clip(statistics: Mapping[str, Mapping[str, Any]]) -> Figure:
    colour = choose_colours(list(statistics))
    first = next(iter(statistics.values()))
    counts = {"weak": first["labels_per_clip"]["weak"]}
    counts |= {name: s["labels_per_clip"]["soft"] for name, s in statistics.items()}
    length = min(max(map(len, counts.values())), _MAX_LABELS + 2)
    shares = {name: _compute_shares(values, length) for name, values in counts.items()}
    categories = [str(k) for k in range(length)]
    if any(len(values) > length for values in counts.values()):
        categories[-1] = f"≥{length - 1}"
    none = ", ".join(f"{name} {values[0]:.1f} %" for name, values in shares.items())
    note = (
        "Figure 2 of the paper. A class counts if any segment of the clip exceeds "
        f"{first['threshold']:g}. Clips without a label: {none}."
    )
    series = [(name, values, colour.get(name, _WEAK)) for name, values in shares.items()]
    plot = partial(_draw_shares, categories=categories, series=series, x_label="labels a clip")
    return Figure("labels_per_clip", "Labels per clip", note, plot)


def _compute_shares(values: Sequence[int], length: int) -> list[float]:
    head = [*values[: length - 1], sum(values[length - 1 :])]
    head += [0] * (length - len(head))
    return [100 * v / max(sum(values), 1) for v in head]


def _make_coverage(statistics: Mapping[str, Mapping[str, Any]]) -> Figure:
    colour = choose_colours(list(statistics))
    some = next(iter(statistics.values()))
    first = some["coverage"]
    series = [
        (name, _compute_shares(s["coverage"]["clips"], len(first["bins"])), colour[name])
        for name, s in statistics.items()
    ]
    note = f"Figure 3 of the paper, over the {first['num_clips']:,.0f} clips that have weak labels."
    x_label = "share of a clip's weak labels that the soft ones confirm"
    plot = partial(_draw_shares, categories=first["bins"], series=series, x_label=x_label)
    return Figure("label_coverage", "Label coverage", note, plot)
