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
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure as Canvas

    lanes = [(c["name"], lane) for c in clip["classes"] for lane in c["lanes"]]
    groups = len(clip["classes"])
    height = 0.19 * len(lanes) + 0.36 * groups
    canvas = Canvas(figsize=(7.4, 1.8 + height), layout="constrained")
    ratios = (1.0, max(height, 0.3))
    above, below = canvas.subplots(2, 1, sharex=True, height_ratios=ratios)
    mel = np.frombuffer(base64.b64decode(clip["mel"]), np.uint8).reshape(-1, clip["bands"])
    extent = (0, len(mel) * clip["column_seconds"], 0, clip["bands"])
    colours = ListedColormap(media.palette() / 255)
    above.imshow(
        mel.T,
        cmap=colours,
        vmin=0,
        vmax=255,
        extent=extent,
        origin="lower",
        aspect="auto",
        interpolation="nearest",
    )
    above.set_yticks([])
    above.set_ylabel("mel bands", fontsize=9)
    place, names, places = 0.0, [], []  # in rows, downwards
    for entry in clip["classes"]:
        title = pictures.plain(entry["name"])
        below.text(0, place + 0.9, title, fontsize=9.5, fontweight="bold", va="bottom")
        place += 1.5
        for lane in entry["lanes"]:
            ink = LANE_COLOURS.get(lane["kind"], _STUDENT)
            below.barh(place, clip["seconds"], 0.72, color="#f0f2f4")
            for onset, offset, value in lane["spans"]:
                below.barh(place, offset - onset, 0.72, left=onset, color=ink, alpha=value)
            names.append(pictures.plain(lane["name"]))
            places.append(place)
            place += 1
        place += 0.3
    below.set_yticks(places, names)
    below.set_ylim(max(place, 1), 0)
    below.set_xlim(0, clip["seconds"])
    below.set_xlabel("time (s)", fontsize=9)
    for axes in (above, below):
        axes.tick_params(labelsize=8.5, length=0)
        for side in axes.spines.values():
            side.set_visible(False)
    return canvas
