"""A picture of a recording: its spectrogram, and below it the best tags over time."""

import os

import numpy as np

from psl_jax.audio.decoding import decoded_blocks
from psl_jax.audio.segments import SAMPLE_RATE
from psl_jax.runtime import files
from psl_jax.runtime.errors import UserError
from psl_jax.tagging.spectrogram import spectrogram
from psl_jax.tagging.tagged_files import FileTags
from psl_jax.tagging.timeline import FRAME_SECONDS
from psl_jax.tagging.writing import clock, shown

NUM_TAGS = 12
_LABEL_ROOM = 32
_IMAGE = {"aspect": "auto", "interpolation": "nearest"}
_EVENT = "#d55e00"
_TIME_STEPS = (0.05, 0.1, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200)  # s
_MEL_TICKS = (125, 500, 1000, 2000, 4000)  # Hz


def require_matplotlib() -> None:
    """Raises UserError, saying what to do, where matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UserError("--plot needs matplotlib: pip install 'psl_jax[plot]'") from error


def plot_file(tags: FileTags, path: str | os.PathLike) -> None:
    """Writes a PNG of a file's tags; the file is read once more for its spectrogram."""
    decibel, step = spectrogram(lambda: decoded_blocks(tags.input.path))
    figure = draw(tags, decibel, step)
    with files.atomic_open(path, "wb") as file:
        figure.savefig(file, format="png", dpi=150)


def draw(tags: FileTags, decibel: np.ndarray, step: float):
    """A matplotlib figure of `tags` under a spectrogram [columns, 64] in dB, one every `step` s.

    The tags are those of the highest scores over time; a bar under a row marks an event.
    """
    from matplotlib.figure import Figure

    best = tags.ranked(tags.peaks, NUM_TAGS)
    height = 2.6 + 0.27 * len(best)
    figure = Figure(figsize=(11, height), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1.7, 0.27 * len(best)))
    _draw_spectrogram(above, decibel, step, tags.seconds)
    image = _draw_heat(below, tags, best)
    colour_bar = figure.colorbar(image, ax=below, pad=0.012, aspect=18, label="score")
    colour_bar.outline.set_visible(False)
    title = f"{os.path.basename(shown(tags.input.path))}  ·  {clock(tags.seconds)}"
    above.set_title(_plain(title), loc="left", fontsize=11, fontweight="bold")
    above.set_title("orange: events", loc="right", fontsize=9, color=_EVENT)
    below.set_xlim(0, tags.seconds)
    step = next((s for s in _TIME_STEPS if tags.seconds / s <= 12), 3600)
    below.set_xticks(np.arange(0, tags.seconds + step / 100, step))
    below.xaxis.set_major_formatter(lambda value, _: _tick(value, tags.seconds))
    below.set_xlabel("time (s)" if tags.seconds < 60 else "time (min:s)")
    return figure


def _draw_spectrogram(axes, decibel: np.ndarray, step: float, seconds: float) -> None:
    top, bands = decibel.max(), decibel.shape[1]
    axes.imshow(
        decibel.T,
        cmap="magma",
        vmin=top - 80,
        vmax=top,
        extent=(0, len(decibel) * step, 0, bands),
        origin="lower",  # the lowest band is the first row
        **_IMAGE,
    )
    axes.set_xlim(0, seconds)
    positions = [_mel_band(hertz, bands) for hertz in _MEL_TICKS]
    axes.set_yticks(positions, [f"{h / 1000:g}k" if h >= 1000 else f"{h}" for h in _MEL_TICKS])
    axes.set_ylabel("Hz")
    axes.tick_params(labelsize=8.5, bottom=False)


def _draw_heat(axes, tags: FileTags, best: list[int]):
    values = tags.heat[:, best].T  # [tags, rows]
    values = np.concatenate([values, values[:, -1:]], axis=1)  # the last row reaches to the end
    start, stop = np.array([0, values.shape[1]]) * tags.heat_seconds - FRAME_SECONDS / 2
    highest = next(limit for limit in (0.1, 0.2, 0.5, 1.0) if values.max() <= limit or limit == 1)
    image = axes.imshow(
        values, cmap="Blues", vmin=0, vmax=highest, extent=(start, stop, len(best), 0), **_IMAGE
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


def _mel_band(hertz: float, bands: int) -> float:
    """Where a frequency lies on an axis of `bands` mel bands from 0 to half the sample rate."""
    return bands * np.log10(1 + hertz / 700) / np.log10(1 + SAMPLE_RATE / 2 / 700)


def _tick(seconds: float, length: float) -> str:
    return f"{seconds:g}" if length < 60 else clock(seconds, 0)


def _short(label: str) -> str:
    return _plain(label if len(label) <= _LABEL_ROOM else label[: _LABEL_ROOM - 1] + "…")


def _plain(text: str) -> str:
    """Keeps matplotlib from reading dollar signs as mathematics."""
    return text.replace("$", r"\$")
