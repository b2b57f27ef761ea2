"""Log-mel spectrograms of recordings of any length, in bounded memory; plots of tags below them."""

import os
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from psl_jax.audio.segments import SAMPLE_RATE
from psl_jax.networks.frontend import HOP, LogMel, num_frames
from psl_jax.runtime import files
from psl_jax.runtime.paths import make_printable
from psl_jax.tagging.events import rank_classes
from psl_jax.tagging.file_tagging import FileTags
from psl_jax.tagging.output_formats import format_clock, shorten
from psl_jax.tagging.windowing import FRAME_SECONDS, MaxPool, WindowCutter

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CHUNK_FRAMES = 1024
DYNAMIC_RANGE = 80.0  # dB that a drawing spans


class Spectrogram:
    """Computes the spectrogram of a recording that comes in blocks.

    Where there are more than `columns` columns, neighbours become their maximum.
    """

    def __init__(self, columns: int = 1200):
        self._pool = MaxPool(columns)
        self._cutter = WindowCutter(_CHUNK_FRAMES * HOP, _CHUNK_FRAMES * HOP)

    def add(self, block: np.ndarray) -> None:
        """Takes audio: int16, or float32 in [-1, 1]."""
        for _, samples in self._cutter.add(block):
            self._pool.add(_compute_chunk(samples))

    def finish(self) -> tuple[np.ndarray, float]:
        """Returns the columns in dB, float32 [n, 64], and the seconds from one to the next."""
        _, samples = self._cutter.finish()
        if len(samples):
            self._pool.add(_compute_chunk(samples))
        return self._pool.rows, self._pool.step * HOP / SAMPLE_RATE


def _compute_chunk(audio: np.ndarray) -> np.ndarray:
    """Computes log-mel frames, at most _CHUNK_FRAMES, with reflected audio at the ends."""
    padded = np.zeros((1, _CHUNK_FRAMES * HOP, *audio.shape[1:]), np.float32)
    padded[0, : len(audio)] = audio if audio.dtype == np.float32 else audio / np.float32(32768)
    return np.asarray(_compute_logmel(padded)[0])[: min(num_frames(len(audio)), _CHUNK_FRAMES)]


_compute_logmel = jax.jit(LogMel(top_db_over="none"))


def to_bytes(decibels: np.ndarray) -> np.ndarray:
    """Scales decibels to uint8: 255 is the loudest, 0 is DYNAMIC_RANGE below it, or less."""
    scaled = 1 + (decibels - decibels.max()) / DYNAMIC_RANGE
    return np.asarray(np.rint(255 * np.clip(scaled, 0, 1)), np.uint8)


def draw_spectrogram(axes: Any, decibels: np.ndarray, column_seconds: float) -> None:
    """Draws a spectrogram [columns, bands] in dB on matplotlib's axes: seconds and Hz."""
    import librosa.display

    columns, bands = decibels.shape
    # Between the centres of neighbouring bands, which are equally far apart on the mel scale.
    edges = librosa.mel_frequencies(2 * bands + 3, fmin=0, fmax=SAMPLE_RATE / 2, htk=True)[1::2]
    librosa.display.specshow(
        decibels.T,
        x_coords=column_seconds * np.arange(columns + 1),
        y_coords=edges,
        x_axis="time",
        y_axis="mel",
        cmap="magma",
        vmin=decibels.max() - DYNAMIC_RANGE,
        vmax=decibels.max(),
        ax=axes,
    )
    axes.set_xlabel("")


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

    classes = rank_classes(tags.peaks, NUM_TAGS)
    height = 2.6 + 0.27 * len(classes)
    figure = Figure(figsize=(11, height), layout="constrained")
    top_axes, bottom_axes = figure.subplots(
        2, 1, sharex=True, height_ratios=(1.7, 0.27 * len(classes))
    )
    draw_spectrogram(top_axes, decibels, column_seconds)
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
    pool = MaxPool()
    pool.add(tags.frame_scores[:, classes])
    scores = pool.rows.T  # [tags, rows]
    scores = np.concatenate([scores, scores[:, -1:]], axis=1)  # the last row reaches to the end
    start, stop = np.array([0, scores.shape[1]]) * pool.step * FRAME_SECONDS - FRAME_SECONDS / 2
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
    for event in tags.found_events:
        if event.label in names:
            row = names.index(event.label) + 0.93
            times = [event.onset, event.offset]
            axes.plot(times, [row, row], color=_EVENT, linewidth=2.2, solid_capstyle="butt")
    axes.set_yticks(
        np.arange(len(classes)) + 0.5, [shorten(tags.labels[i], _LABEL_ROOM) for i in classes]
    )
    axes.hlines(np.arange(1, len(classes)), 0, tags.seconds, color="white", linewidth=1.5)
    axes.tick_params(labelsize=8.5, left=False)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    return image
