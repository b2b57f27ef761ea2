"""Clips of `audio_examples` as figures: spectrogram above, labels and output over time below."""

import pathlib
from collections.abc import Mapping
from typing import Any

from psl_jax.reporting import figures
from psl_jax.tagging import spectrogram

LANE_COLOURS = {
    "truth": figures.INK,
    "weak": figures.COLOURS[1],
    "soft": figures.COLOURS[0],
    "student": figures.COLOURS[2],
}


def write(folder: pathlib.Path, about: Mapping[str, Any]) -> None:
    """Writes clip1.png and so on. about: what `audio_examples.read` gives."""
    with figures.style():
        for number, clip in enumerate(about["clips"], 1):
            figures.save(draw(clip), folder / f"clip{number}.png", dpi=100)


def draw(clip: Mapping[str, Any]) -> Any:
    """A matplotlib figure of a clip."""
    from matplotlib.figure import Figure as Canvas

    lanes = sum(len(entry["lanes"]) for entry in clip["classes"])
    height = 0.19 * lanes + 0.36 * len(clip["classes"])
    canvas = Canvas(figsize=(7.4, 1.8 + height))
    above, below = canvas.subplots(2, 1, sharex=True, height_ratios=(1.0, max(height, 0.3)))
    spectrogram.draw_spectrogram(above, clip["decibel"], clip["column_seconds"])
    _lanes(below, clip)
    for axes in (above, below):
        axes.tick_params(labelsize=8.5)
        axes.spines[:].set_visible(False)
    return canvas


def _lanes(axes: Any, clip: Mapping[str, Any]) -> None:
    """The lanes of each class, from above."""
    place, names, places = 0.0, [], []  # in rows, downwards
    for entry in clip["classes"]:
        axes.text(0, place + 0.9, entry["name"], fontsize=9.5, fontweight="bold", va="bottom")
        place += 1.5
        for lane in entry["lanes"]:
            ink = LANE_COLOURS[lane["kind"]]
            axes.barh(place, clip["seconds"], 0.72, color="#f0f2f4")
            for onset, offset, value in lane["spans"]:
                axes.barh(place, offset - onset, 0.72, left=onset, color=ink, alpha=value)
            names.append(lane["name"])
            places.append(place)
            place += 1
        place += 0.3
    axes.set_yticks(places, names)
    axes.set_ylim(max(place, 1), 0)
    axes.set_xlim(0, clip["seconds"])
    axes.set_xlabel("time (s)", fontsize=9)
