"""Clips of `listening` as pictures: spectrogram above, labels and output over time below."""

import base64
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from psl_jax.reporting import media, pictures

LANE_COLOURS = {"truth": "#16191d", "weak": pictures.COLOURS[1], "soft": pictures.COLOURS[0]}
_STUDENT = pictures.COLOURS[2]


def write(folder: pathlib.Path, about: Mapping[str, Any]) -> None:
    """Writes clip1.png and so on; needs matplotlib. about: what `listening.read` gives."""
    for number, clip in enumerate(about["clips"], 1):
        pictures.save(draw(clip), folder / f"clip{number}.png", dpi=100)


def draw(clip: Mapping[str, Any]) -> Any:
    """A matplotlib figure of a clip."""
    from matplotlib.figure import Figure as Canvas

    lanes = sum(len(entry["lanes"]) for entry in clip["classes"])
    height = 0.19 * lanes + 0.36 * len(clip["classes"])
    canvas = Canvas(figsize=(7.4, 1.8 + height), layout="constrained")
    ratios = (1.0, max(height, 0.3))
    above, below = canvas.subplots(2, 1, sharex=True, height_ratios=ratios)
    _spectrogram(above, clip)
    _lanes(below, clip)
    for axes in (above, below):
        axes.tick_params(labelsize=8.5, length=0)
        for side in axes.spines.values():
            side.set_visible(False)
    return canvas


def _spectrogram(axes: Any, clip: Mapping[str, Any]) -> None:
    from matplotlib.colors import ListedColormap

    mel = np.frombuffer(base64.b64decode(clip["mel"]), np.uint8).reshape(-1, clip["bands"])
    axes.imshow(
        mel.T,
        cmap=ListedColormap(media.palette() / 255),
        vmin=0,
        vmax=255,
        extent=(0, len(mel) * clip["column_seconds"], 0, clip["bands"]),
        origin="lower",
        aspect="auto",
        interpolation="nearest",
    )
    axes.set_yticks([])
    axes.set_ylabel("mel bands", fontsize=9)


def _lanes(axes: Any, clip: Mapping[str, Any]) -> None:
    """The lanes of each class, from above."""
    place, names, places = 0.0, [], []  # in rows, downwards
    for entry in clip["classes"]:
        title = pictures.plain(entry["name"])
        axes.text(0, place + 0.9, title, fontsize=9.5, fontweight="bold", va="bottom")
        place += 1.5
        for lane in entry["lanes"]:
            ink = LANE_COLOURS.get(lane["kind"], _STUDENT)
            axes.barh(place, clip["seconds"], 0.72, color="#f0f2f4")
            for onset, offset, value in lane["spans"]:
                axes.barh(place, offset - onset, 0.72, left=onset, color=ink, alpha=value)
            names.append(pictures.plain(lane["name"]))
            places.append(place)
            place += 1
        place += 0.3
    axes.set_yticks(places, names)
    axes.set_ylim(max(place, 1), 0)
    axes.set_xlim(0, clip["seconds"])
    axes.set_xlabel("time (s)", fontsize=9)
