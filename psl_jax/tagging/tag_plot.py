"""A plot of a recording: its spectrogram, and below it the best tags over time."""

import os

import numpy as np

from psl_jax.runtime import files
from psl_jax.tagging import spectrogram
from psl_jax.tagging.file_tagging import FileTags
from psl_jax.tagging.output_formats import clock, shown
from psl_jax.tagging.windowing import FRAME_SECONDS

NUM_TAGS = 12
_LABEL_ROOM = 32
_EVENT = "#d55e00"


def plot_file(tags: FileTags, path: str | os.PathLike, decibel: np.ndarray, step: float) -> None:
    """Writes a PNG of a file's tags, see `draw`."""
    import matplotlib

    with matplotlib.rc_context({"text.parse_math": False}), files.atomic_open(path, "wb") as file:
        draw(tags, decibel, step).savefig(file, format="png", dpi=150)


def draw(tags: FileTags, decibel: np.ndarray, step: float):
    """A matplotlib figure of `tags` under a spectrogram [columns, 64] in dB, one every `step` s.

    The tags are those of the highest scores over time; a bar under a row marks an event.
    """
    from matplotlib.figure import Figure

    best = tags.ranked(tags.peaks, NUM_TAGS)
    height = 2.6 + 0.27 * len(best)
    figure = Figure(figsize=(11, height), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1.7, 0.27 * len(best)))
    spectrogram.draw(above, decibel, step)
    above.tick_params(labelsize=8.5, bottom=False)
    image = _draw_heat(below, tags, best)
    colour_bar = figure.colorbar(image, ax=below, pad=0.012, aspect=18, label="score")
    colour_bar.outline.set_visible(False)
    title = f"{os.path.basename(shown(tags.input.path))}  ·  {clock(tags.seconds)}"
    above.set_title(title, loc="left", fontsize=11, fontweight="bold")
    above.set_title("orange: events", loc="right", fontsize=9, color=_EVENT)
    below.set_xlim(0, tags.seconds)
    below.set_xlabel("time (s)" if tags.seconds < 60 else "time (min:s)")
    return figure


def _draw_heat(axes, tags: FileTags, best: list[int]):
    values = tags.heat[:, best].T  # [tags, rows]
    values = np.concatenate([values, values[:, -1:]], axis=1)  # the last row reaches to the end
    start, stop = np.array([0, values.shape[1]]) * tags.heat_seconds - FRAME_SECONDS / 2
    highest = next(limit for limit in (0.1, 0.2, 0.5, 1.0) if values.max() <= limit or limit == 1)
    image = axes.imshow(
        values,
        cmap="Blues",
        vmin=0,
        vmax=highest,
        extent=(start, stop, len(best), 0),
        aspect="auto",
        interpolation="nearest",
    )
    names = [tags.labels[i] for i in best]
    for event in tags.events:
        if event.label in names:
            row = names.index(event.label) + 0.93
            ends = [event.onset, event.offset]
            axes.plot(ends, [row, row], color=_EVENT, linewidth=2.2, solid_capstyle="butt")
    axes.set_yticks(np.arange(len(best)) + 0.5, [_short(tags.labels[i]) for i in best])
    axes.hlines(np.arange(1, len(best)), 0, tags.seconds, color="white", linewidth=1.5)
    axes.tick_params(labelsize=8.5, left=False)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    return image


def _short(label: str) -> str:
    return label if len(label) <= _LABEL_ROOM else label[: _LABEL_ROOM - 1] + "…"
