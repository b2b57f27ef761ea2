"""Draws a plot of a recording: its spectrogram, and below it the best tags over time."""

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from psl_jax.runtime import files
from psl_jax.tagging import spectrogram
from psl_jax.tagging.file_tagging import FileTags
from psl_jax.tagging.output_formats import format_clock, make_printable
from psl_jax.tagging.windowing import FRAME_SECONDS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUM_TAGS = 12
_LABEL_ROOM = 32
_EVENT = "#d55e00"


def plot_file(
    tags: FileTags, path: str | os.PathLike[str], decibels: np.ndarray, column_seconds: float
) -> None:
    """Writes a PNG of a file's tags, see `draw_tags`."""
    import matplotlib

    with matplotlib.rc_context({"text.parse_math": False}), files.atomic_open(path, "wb") as file:
        draw_tags(tags, decibels, column_seconds).savefig(file, format="png", dpi=150)


def draw_tags(tags: FileTags, decibels: np.ndarray, column_seconds: float) -> "Figure":
    """Draws `tags` under a spectrogram [columns, 64] in dB; returns a matplotlib figure.

    It shows the tags with the highest scores over time. A bar under a row marks an event.
    """
    from matplotlib.figure import Figure

    classes = tags.rank_classes(tags.peaks, NUM_TAGS)
    height = 2.6 + 0.27 * len(classes)
    figure = Figure(figsize=(11, height), layout="constrained")
    top_axes, bottom_axes = figure.subplots(
        2, 1, sharex=True, height_ratios=(1.7, 0.27 * len(classes))
    )
    spectrogram.draw_spectrogram(top_axes, decibels, column_seconds)
    top_axes.tick_params(labelsize=8.5, bottom=False)
    image = _draw_heat(bottom_axes, tags, classes)
    colour_bar = figure.colorbar(image, ax=bottom_axes, pad=0.012, aspect=18, label="score")
    colour_bar.outline.set_visible(False)
    title = f"{os.path.basename(make_printable(tags.input.path))}  ·  {format_clock(tags.seconds)}"
    top_axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    top_axes.set_title("orange: events", loc="right", fontsize=9, color=_EVENT)
    bottom_axes.set_xlim(0, tags.seconds)
    bottom_axes.set_xlabel("time (s)" if tags.seconds < 60 else "time (min:s)")
    return figure


def _draw_heat(axes: Any, tags: FileTags, classes: list[int]) -> Any:
    scores = tags.heatmap[:, classes].T  # [tags, rows]
    scores = np.concatenate([scores, scores[:, -1:]], axis=1)  # the last row reaches to the end
    start, stop = np.array([0, scores.shape[1]]) * tags.heatmap_row_seconds - FRAME_SECONDS / 2
    highest = next(limit for limit in (0.1, 0.2, 0.5, 1.0) if scores.max() <= limit or limit == 1)
    image = axes.imshow(
        scores,
        cmap="Blues",
        vmin=0,
        vmax=highest,
        extent=(start, stop, len(classes), 0),
        aspect="auto",
        interpolation="nearest",
    )
    names = [tags.labels[i] for i in classes]
    for event in tags.events:
        if event.label in names:
            row = names.index(event.label) + 0.93
            times = [event.onset, event.offset]
            axes.plot(times, [row, row], color=_EVENT, linewidth=2.2, solid_capstyle="butt")
    axes.set_yticks(np.arange(len(classes)) + 0.5, [_shorten(tags.labels[i]) for i in classes])
    axes.hlines(np.arange(1, len(classes)), 0, tags.seconds, color="white", linewidth=1.5)
    axes.tick_params(labelsize=8.5, left=False)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    return image


def _shorten(label: str) -> str:
    return label if len(label) <= _LABEL_ROOM else label[: _LABEL_ROOM - 1] + "…"
