"""The figures of a suite that compare its experiments."""

from collections.abc import Mapping, Sequence
from typing import Any

from psl_jax.reporting import figures
from psl_jax.reporting.class_table import ClassTable
from psl_jax.reporting.figures import Bar, Caption, DotSeries, Figure, Series
from psl_jax.reporting.run_figures import colours, curve, loss_figure, map_figure, smoothed, thinned
from psl_jax.training.metric_log import LOSS, VALIDATION_MAP

Logs = Mapping[str, Sequence[Mapping[str, Any]]]


def comparison(
    experiments: Sequence[Mapping[str, Any]], paper: Mapping[str, float]
) -> list[Figure]:
    """Bars of mAP, with the paper's numbers marked where they are given."""
    if not any(e.get("mAP") is not None for e in experiments):
        return []
    colour = colours([e["name"] for e in experiments])
    bars = [
        Bar(
            e["name"],
            None if e.get("mAP") is None else 100 * e["mAP"],
            colour[e["name"]],
            100 * paper[e["name"]] if paper.get(e["name"]) is not None else None,
        )
        for e in experiments
    ]
    caption = Caption("mean_average_precision", "mAP on the evaluation set")
    return [figures.bars(caption, bars, x_label="mAP (%)", form="{:.2f}".format)]


def curves(logs: Logs, whose: str = "") -> list[Figure]:
    """Validation mAP and loss of all runs; `whose` ends the notes."""
    colour = colours(list(logs))
    drawn = []
    scores = {n: [(s, 100 * v) for s, v in curve(log, VALIDATION_MAP)] for n, log in logs.items()}
    if lines := _lines(scores, colour):
        note = (
            "Against the weak labels of the validation split: flattering for an experiment that "
            f"was trained on these.{whose}"
        )
        drawn.append(map_figure("Validation mAP while training", note, lines))
    losses = {name: smoothed(curve(log, LOSS)) for name, log in logs.items()}
    if lines := _lines(losses, colour):
        note = (
            "Binary cross-entropy, smoothed. Against labels of different kinds it does not say "
            f"which experiment is better.{whose}"
        )
        drawn.append(loss_figure(lines, note))
    return drawn


def _lines(points: Mapping[str, list[Any]], colour: Mapping[str, int]) -> list[Series]:
    return [
        Series(name, thinned(line), colour[name], dashed=True)
        for name, line in points.items()
        if line
    ]


def gains(table: ClassTable) -> list[Figure]:
    """What the best experiment gains over the reference in each class, sorted."""
    gained = [row for row in table.rows if row.gain is not None]
    if not gained:
        return []
    gained.sort(key=lambda row: (-(row.gain or 0), row.name))
    better = sum(1 for row in gained if (row.gain or 0) > 0)
    note = (
        f"AP of {table.best} less that of {table.reference}: {better} of {len(gained)} classes "
        "gain. A class of few clips moves by chance."
    )
    if len(gained) > (most := figures.MOST_ROWS):
        half = most // 2
        note += f" The {half} that gain most, and the {half} that gain least; all in the table."
    values = [100 * (row.gain or 0) for row in gained]
    return [
        figures.dots(
            Caption("class_gains", "Gain by class", note),
            [row.name for row in gained],
            [DotSeries(f"{table.best} over {table.reference}", values)],
            x_label="points of AP",
            form="{:+.1f}".format,
        )
    ]
