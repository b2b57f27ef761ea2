"""Figures as files: a CSV of the numbers, and a PNG where matplotlib is installed."""

import csv
import importlib.util
import pathlib
from collections.abc import Sequence
from typing import Any

from psl_jax.reporting import plots
from psl_jax.reporting.drawing import dashes
from psl_jax.reporting.plots import Figure
from psl_jax.runtime import files

FOLDER = "figures"
NO_PICTURES = "PNGs need matplotlib: pip install 'psl_jax[plot]'"

# Those of the page by daylight, see templates/report.css.
COLOURS = ("#0072b2", "#d55e00", "#008a65", "#b5468b", "#bb8200", "#6d7681")
_SOFT, _RULE = "#59616b", "#dfe3e7"
_NAME_ROOM = 34  # characters of a name beside a row


def can_draw() -> bool:
    """Whether there is matplotlib."""
    return importlib.util.find_spec("matplotlib") is not None


def write(folder: pathlib.Path, figures: Sequence[Figure]) -> bool:
    """Writes FIGURE.csv and FIGURE.png of each; returns whether there are PNGs."""
    drawn = can_draw()
    for figure in figures:
        with files.atomic_open(folder / f"{figure.name}.csv", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(figure.plot.rows())
        if drawn:
            save(draw(figure), folder / f"{figure.name}.png")
    return drawn


def save(picture: Any, path: pathlib.Path, dpi: int = 150) -> None:
    """Writes a matplotlib figure as a PNG on white."""
    with files.atomic_open(path, "wb") as file:
        picture.savefig(file, format="png", dpi=dpi)


def draw(figure: Figure) -> Any:
    """A matplotlib figure."""
    from matplotlib.figure import Figure as Canvas

    plot = figure.plot
    rows = len(plot.bars) if isinstance(plot, plots.Bars) else 0
    rows = len(plot.drawn().names) if isinstance(plot, plots.Dots) else rows
    canvas = Canvas(figsize=(6.6, max(1.3 + 0.3 * rows, 2.6) if rows else 4), layout="constrained")
    axes = canvas.subplots()
    axes.set_title(plain(figure.title), loc="left", fontsize=11, fontweight="bold")
    axes.tick_params(labelsize=9, colors=_SOFT, length=0)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_SOFT)
    axes.set_xlabel(plot.x_label)
    if isinstance(plot, plots.Bars):
        _bars(axes, plot)
    elif isinstance(plot, plots.Dots):
        _dots(axes, plot.drawn())
    else:
        axes.grid(axis="y", color=_RULE)
        axes.set_ylabel(plot.y_label)
        if isinstance(plot, plots.Lines):
            _lines(axes, plot)
        else:
            _columns(axes, plot)
    if plot.legend():
        _legend(canvas, axes, len(plot.legend()))
    return canvas


def _legend(canvas: Any, axes: Any, entries: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    columns = min(entries, 2 if max(map(len, labels)) > 16 else 4)
    canvas.legend(
        handles, labels, loc="outside lower left", ncols=columns, fontsize=9, frameon=False
    )


def _lines(axes: Any, plot: plots.Lines) -> None:
    for series in plot.series:
        lengths = [float(d) / 2 for d in dashes(series.colour).split()]
        style = (0, tuple(lengths)) if series.dashed and lengths else "-"
        axes.plot(
            *zip(*series.points, strict=True),
            color=colour(series.colour),
            linestyle=style,
            linewidth=1 if series.faint else 1.8,
            alpha=0.5 if series.faint else 1,
            marker="o" if len(series.points) <= 12 and not series.faint else None,
            markersize=4,
            label=plain(series.name),
        )
    if plot.log_y:
        axes.set_yscale("log")


def _columns(axes: Any, plot: plots.Columns) -> None:
    width = 0.8 / len(plot.series)
    for k, (name, values, number) in enumerate(plot.series):
        places = [c + (k + 0.5) * width - 0.4 for c in range(len(plot.categories))]
        bars = axes.bar(places, values, 0.93 * width, color=colour(number), label=plain(name))
        if plot.show_values:
            axes.bar_label(bars, [plot.form(v) for v in values], fontsize=9, padding=2)
    axes.set_xticks(range(len(plot.categories)), [plain(c) for c in plot.categories])


def _bars(axes: Any, plot: plots.Bars) -> None:
    axes.grid(axis="x", color=_RULE)
    for row, bar in enumerate(plot.bars):
        if bar.value is None:
            axes.text(0, row, " not scored", va="center", fontsize=9, color=_SOFT)
        else:
            drawn = axes.barh(row, bar.value, 0.6, color=colour(bar.colour))
            axes.bar_label(drawn, [plot.form(bar.value)], padding=4, fontsize=9, fontweight="bold")
    marks = [(b.reference, row) for row, b in enumerate(plot.bars) if b.reference is not None]
    if marks:
        style = {"marker": "D", "color": "white", "edgecolors": "black", "zorder": 3}
        axes.scatter(*zip(*marks, strict=True), label="paper", **style)
    axes.set_yticks(range(len(plot.bars)), [plain(_short(bar.name)) for bar in plot.bars])
    axes.invert_yaxis()
    axes.margins(x=0.12)


def _dots(axes: Any, plot: plots.Dots) -> None:
    axes.grid(axis="both", color=_RULE)
    axes.axvline(0, color=_SOFT, linewidth=1)
    for series in plot.series:
        known = [(v, row) for row, v in enumerate(series.values) if v is not None]
        if not known:
            continue
        ink = colour(series.colour)
        values, rows = zip(*known, strict=True)
        if len(plot.series) == 1:
            axes.hlines(rows, 0, values, color=ink, linewidth=2)
        face = ink if series.filled else "white"
        axes.scatter(
            values, rows, 34, face, edgecolors=ink, linewidths=1.6, label=plain(series.name),
            zorder=3,
        )  # fmt: skip
    axes.set_yticks(range(len(plot.names)), [plain(_short(name)) for name in plot.names])
    axes.set_ylim(len(plot.names) - 0.5, -0.5)


def colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def plain(text: str) -> str:
    """Keeps matplotlib from reading dollar signs as mathematics."""
    return text.replace("$", r"\$")


def _short(name: str) -> str:
    return name if len(name) <= _NAME_ROOM else name[: _NAME_ROOM - 1] + "…"
