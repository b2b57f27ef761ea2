"""Clips to look at and to listen to: truth, weak labels, soft labels and a student's output.

They lie in a folder of their own beside the report, sounds as FLAC and the rest in one JSON file:
a report can be made again without the data. Pages hold pictures and sounds as data URLs.
"""

import base64
import dataclasses
import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import soundfile

from psl_jax.audio.segments import SAMPLE_RATE, flatten
from psl_jax.data.clip_index import ClipIndex
from psl_jax.data.soft_labels import SoftLabels
from psl_jax.data.source import Source
from psl_jax.reporting import figures
from psl_jax.runtime import files
from psl_jax.tagging import spectrogram
from psl_jax.tagging.spectrogram import compute_spectrogram, draw_spectrogram
from psl_jax.tagging.tagger import Tagger
from psl_jax.tagging.windowing import FRAME_SECONDS

FOLDER, ABOUT = "clips", "clips.json"
NUM_CLIPS = 5
MOST_SECONDS = 30.0  # of a clip that are shown: five of them keep a report under 10 MB
MOST_CLASSES = 5
_LIKELY = 0.5  # a class that some label or output gives so much is shown

Span = tuple[float, float, float]  # onset and offset in seconds, value in 0 to 1


@dataclasses.dataclass(frozen=True)
class Lane:
    """What one source says of a class over time; kind: truth, weak, soft or student."""

    name: str
    kind: str
    spans: Sequence[Span]


def chosen(num_clips: int, count: int = NUM_CLIPS) -> np.ndarray:
    """Numbers of clips evenly spread over a split, in its order: int64, ascending."""
    return np.unique(np.linspace(0, num_clips - 1, min(count, num_clips)).astype(np.int64))


def write(
    folder: pathlib.Path,
    source: Source,
    labels: Mapping[str, SoftLabels],
    student: str,
    tagger: Tagger,
) -> None:
    """Writes the clips of `source` that `chosen` takes, as `student`, a `tagger`, hears them.

    labels: the soft labels of `source`'s clips, by their name.
    """
    index = source.index
    hearers = _Hearers(labels, student, tagger)
    clips = chosen(len(index))
    described: list[dict[str, Any]] = []
    for clip, whole in zip(clips.tolist(), source.read_whole(clips), strict=True):
        audio = whole[: round(MOST_SECONDS * SAMPLE_RATE)]
        sound = f"clip{len(described) + 1}.flac"
        with files.atomic_open(folder / sound, "wb") as file:
            file.write(flac(audio))
        described.append(_describe(clip, index, audio, hearers) | {"sound": sound})
    about = {"split": index.split, "num_clips": len(index), "student": student, "clips": described}
    files.write_json(folder / ABOUT, about)


def read(folder: pathlib.Path) -> dict[str, Any] | None:
    """What `write` wrote, or None.

    Each clip also has its spectrogram, `decibel` float32 [columns, 64] with one column every
    `column_seconds`, and as data URLs its sound and spectrogram, `flac` and `png`.
    """
    if not (folder / ABOUT).exists():
        return None
    about: dict[str, Any] = files.read_json(folder / ABOUT)
    for clip in about["clips"]:
        sound = (folder / clip["sound"]).read_bytes()
        audio, _ = soundfile.read(io.BytesIO(sound), dtype="int16")
        decibel, column_seconds = spectrogram_of(audio)
        clip |= {
            "flac": url("audio/flac", sound),
            "decibel": decibel,
            "column_seconds": column_seconds,
            "png": url("image/png", png(decibel, column_seconds)),
        }
    return about


def _describe(
    clip: int, index: ClipIndex, audio: np.ndarray, hearers: "_Hearers"
) -> dict[str, Any]:
    """A clip as JSON: the lanes of the classes that anything says of it."""
    seconds = len(audio) / SAMPLE_RATE
    weak = index.weak_labels(np.array([clip]))[0] > 0
    events = [
        (onset, min(offset, seconds), label)
        for onset, offset, label in index.list_events(clip)
        if onset < seconds
    ]
    certain = weak | np.isin(np.arange(index.num_classes), [event[2] for event in events])
    lane_values = hearers.hear(clip, index, audio)
    highest = np.max([values.max(axis=0) for values, _, _, _ in lane_values], axis=0)
    shown = np.flatnonzero(certain | (highest >= _LIKELY)).tolist()
    shown.sort(key=lambda c: (not certain[c], -highest[c]))
    classes = []
    for c in shown[:MOST_CLASSES]:
        lanes = [Lane("weak label", "weak", [(0.0, seconds, 1.0)] if weak[c] else [])]
        if index.annotated[clip]:
            of_class = [(on, off, 1.0) for on, off, label in events if label == c]
            lanes.insert(0, Lane("truth", "truth", of_class))
        for values, edges, name, lane_kind in lane_values:
            lanes.append(Lane(name, lane_kind, _spans(edges, values[:, c], seconds)))
        classes.append({"name": index.classes[c], "lanes": [dataclasses.asdict(x) for x in lanes]})
    return {
        "id": str(index.ids[clip]),
        "seconds": seconds,
        "whole_seconds": float(index.num_samples[clip]) / SAMPLE_RATE,
        "classes": classes,
        "classes_left_out": max(len(shown) - MOST_CLASSES, 0),
    }


@dataclasses.dataclass(frozen=True)
class _Hearers:
    """What says something of a clip over time."""

    labels: Mapping[str, SoftLabels]
    student: str
    tagger: Tagger

    def hear(
        self, clip: int, index: ClipIndex, audio: np.ndarray
    ) -> list[tuple[np.ndarray, np.ndarray, str, str]]:
        """(values [n, classes], edges [n + 1] in seconds, name, kind) of labels and student."""
        lane_values = []
        lengths = [labels.segmentation.seconds for labels in self.labels.values()]
        for key, one in self.labels.items():
            segmentation = one.segmentation
            count = int(segmentation.count_segments(len(audio)))  # of what is shown
            onsets, offsets = segmentation.compute_times(np.arange(count))  # up to the next one
            alone = lengths.count(segmentation.seconds) == 1
            name = f"soft {segmentation.seconds:g} s" if alone else f"soft, {key}"
            values = one.gather(np.array([clip]))[0, :count].astype(np.float32)
            lane_values.append((values, np.append(onsets, offsets[-1]), name, "soft"))
        tags = self.tagger.tag(*flatten(audio))
        columns = [self.tagger.labels.index(name) for name in index.classes]
        edges = FRAME_SECONDS * (np.arange(len(tags.frame_times) + 1) - 0.5)
        lane_values.append((tags.frame_scores[:, columns], edges, self.student, "student"))
        return lane_values


def _spans(edges: np.ndarray, values: np.ndarray, seconds: float) -> list[Span]:
    """values [n] between edges [n + 1], as far as the clip is shown."""
    edges = np.round(np.clip(edges, 0, seconds), 3).tolist()
    return [
        (on, off, round(max(float(value), 0), 3))  # unknown: as absent
        for on, off, value in zip(edges[:-1], edges[1:], values, strict=True)
        if off > on
    ]


_COLUMNS = 600  # of a spectrogram
_HEIGHT, _DPI = 1.28, 100  # inches, pixels an inch
_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300)  # seconds between two ticks


def spectrogram_of(audio: np.ndarray) -> tuple[np.ndarray, float]:
    """The spectrogram in dB, float32 [columns, 64], of int16 [samples], and seconds a column."""
    return compute_spectrogram(lambda: iter([audio]), _COLUMNS)


def png(decibel: np.ndarray, column_seconds: float) -> bytes:
    """A spectrogram [columns, 64] in dB as a PNG without axes, a pixel a column."""
    from matplotlib.figure import Figure

    canvas = Figure(figsize=(len(decibel) / _DPI, _HEIGHT))
    axes = canvas.add_axes((0, 0, 1, 1))
    draw_spectrogram(axes, decibel, column_seconds)
    axes.set_axis_off()
    file = io.BytesIO()
    canvas.savefig(file, format="png", dpi=_DPI)
    return file.getvalue()


def flac(audio: np.ndarray) -> bytes:
    """int16 [samples] at 16 kHz without loss: every browser plays it, in time with the picture."""
    file = io.BytesIO()
    soundfile.write(file, *flatten(audio), format="FLAC", subtype="PCM_16")
    return file.getvalue()


def url(mime_type: str, content: bytes) -> str:
    """A data URL; kind: the content's MIME type."""
    return f"data:{mime_type};base64,{base64.b64encode(content).decode()}"


def ticks(seconds: float) -> list[float]:
    """Times to write below a clip: round ones from 0, seven at most up to half an hour."""
    step = next((step for step in _STEPS if seconds / step <= 6), _STEPS[-1])
    return [round(k * step, 3) for k in range(int(seconds / step + 1e-9) + 1)]


LANE_COLOURS = {
    "truth": figures.INK,
    "weak": figures.COLOURS[1],
    "soft": figures.COLOURS[0],
    "student": figures.COLOURS[2],
}


def write_figures(folder: pathlib.Path, about: Mapping[str, Any]) -> None:
    """Writes clip1.png and so on. about: what `read` gives."""
    with figures.style():
        for number, clip in enumerate(about["clips"], 1):
            figures.save(draw_clip(clip), folder / f"clip{number}.png", dpi=100)


def draw_clip(clip: Mapping[str, Any]) -> Any:
    """A matplotlib figure of a clip."""
    from matplotlib.figure import Figure as Canvas

    lanes = sum(len(entry["lanes"]) for entry in clip["classes"])
    height = 0.19 * lanes + 0.36 * len(clip["classes"])
    canvas = Canvas(figsize=(7.4, 1.8 + height))
    above, below = canvas.subplots(2, 1, sharex=True, height_ratios=(1.0, max(height, 0.3)))
    spectrogram.draw_spectrogram(above, clip["decibel"], clip["column_seconds"])
    _draw_lanes(below, clip)
    for axes in (above, below):
        axes.tick_params(labelsize=8.5)
        axes.spines[:].set_visible(False)
    return canvas


def _draw_lanes(axes: Any, clip: Mapping[str, Any]) -> None:
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
