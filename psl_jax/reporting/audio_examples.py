"""Clips to look at and to listen to: truth, weak labels, soft labels and a student's output.

They lie in a folder of their own beside the report, sounds as FLAC and the rest in one JSON file:
a report can be made again without the data. Pages hold pictures and sounds as data URLs.
"""

import base64
import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import soundfile

from psl_jax.audio.segments import SAMPLE_RATE, by_ticks, flatten
from psl_jax.data.clip_index import ClipIndex
from psl_jax.data.soft_labels import SoftLabels
from psl_jax.data.source import Source
from psl_jax.runtime import files
from psl_jax.tagging import spectrogram
from psl_jax.tagging.tagger import Tagger
from psl_jax.tagging.windowing import FRAME_SECONDS

FOLDER, ABOUT = "clips", "clips.json"
NUM_CLIPS = 5
MOST_SECONDS = 30.0  # of a clip that are shown: five of them keep a report under 10 MB
MOST_CLASSES = 5
_LIKELY = 0.5  # a class that some label or output gives so much is shown


class Output(NamedTuple):
    """What labels or a student give over time: values [n, classes] between edges [n + 1] (s)."""

    name: str
    kind: str  # soft or student
    values: np.ndarray
    edges: np.ndarray


def choose_evenly(num_clips: int) -> np.ndarray:
    """Chooses clips evenly spread over a split, in its order: numbers, int64, ascending."""
    return np.unique(np.linspace(0, num_clips - 1, min(NUM_CLIPS, num_clips)).astype(np.int64))


def write(
    folder: pathlib.Path,
    source: Source,
    labels: Mapping[str, SoftLabels],
    student: str,
    tagger: Tagger,
) -> None:
    """Writes some clips of `source`, with the outputs of `student`, a `tagger`.

    labels: the soft labels of `source`'s clips, by their name.
    """
    index = source.index
    lengths = [soft_labels.segmentation.seconds for soft_labels in labels.values()]
    names = {
        key: f"soft {length:g} s" if lengths.count(length) == 1 else f"soft, {key}"
        for key, length in zip(labels, lengths, strict=True)
    }
    clips = choose_evenly(len(index))
    described: list[dict[str, Any]] = []
    for clip, whole in zip(clips.tolist(), source.read_whole(clips), strict=True):
        audio = whole[: round(MOST_SECONDS * SAMPLE_RATE)]
        sound = f"clip{len(described) + 1}.flac"
        samples, rate = flatten(audio)
        with files.atomic_open(folder / sound, "wb") as file:  # every browser plays FLAC
            soundfile.write(file, samples, rate, format="FLAC", subtype="PCM_16")
        outputs = [
            make_soft_output(soft_labels, names[key], clip, len(audio))
            for key, soft_labels in labels.items()
        ]
        tags = tagger.tag(samples, rate)
        columns = [tagger.labels.index(name) for name in index.classes]
        edges = FRAME_SECONDS * (np.arange(len(tags.frame_times) + 1) - 0.5)
        outputs.append(Output(student, "student", tags.frame_scores[:, columns], edges))
        described.append(describe_clip(clip, index, audio, outputs) | {"sound": sound})
    about = {"split": index.split, "num_clips": len(index), "student": student, "clips": described}
    files.write_json(folder / ABOUT, about)


def read(folder: pathlib.Path) -> dict[str, Any] | None:
    """Reads what `write` wrote; None where there is nothing.

    Each clip has its sound and its spectrogram as data URLs, `flac` and `png`.
    """
    if not (folder / ABOUT).exists():
        return None
    about: dict[str, Any] = files.read_json(folder / ABOUT)
    for clip in about["clips"]:
        sound = (folder / clip["sound"]).read_bytes()
        audio = by_ticks(*soundfile.read(io.BytesIO(sound), dtype="int16"))
        clip["flac"] = _make_url("audio/flac", sound)
        clip["png"] = _make_url("image/png", draw_png(audio))
    return about


def make_soft_output(labels: SoftLabels, name: str, clip: int, num_samples: int) -> Output:
    """Makes the output of a clip's soft labels, of the segments that begin in `num_samples`."""
    segmentation = labels.segmentation
    count = int(segmentation.count_segments(num_samples))
    onsets, offsets = segmentation.compute_times(np.arange(count))  # each up to the next one
    values = labels.gather(np.array([clip]))[0, :count].astype(np.float32)
    return Output(name, "soft", values, np.append(onsets, offsets[-1]))


def describe_clip(
    clip: int, index: ClipIndex, audio: np.ndarray, outputs: Sequence[Output]
) -> dict[str, Any]:
    """Describes a clip as JSON: the lanes of its classes, each with spans (onset, offset, value).

    Classes are those of its labels and events and, if there are fewer than MOST_CLASSES, others
    whose outputs reach _LIKELY.
    """
    seconds = len(audio) / SAMPLE_RATE
    has_label = index.weak_labels(np.array([clip]))[0] > 0
    events = [
        (onset, min(offset, seconds), label)
        for onset, offset, label in index.list_events(clip)
        if onset < seconds
    ]
    is_certain = has_label | np.isin(np.arange(index.num_classes), [event[2] for event in events])
    highest = np.max([output.values.max(axis=0) for output in outputs], axis=0)
    shown = np.flatnonzero(is_certain | (highest >= _LIKELY)).tolist()
    shown.sort(key=lambda label: (not is_certain[label], -highest[label]))
    num_shown = max(MOST_CLASSES, int(is_certain.sum()))
    classes = []
    for label in shown[:num_shown]:
        lanes = [_make_lane("weak label", "weak", [(0.0, seconds, 1.0)] * int(has_label[label]))]
        if index.annotated[clip]:
            of_class = [(onset, offset, 1.0) for onset, offset, k in events if k == label]
            lanes.insert(0, _make_lane("truth", "truth", of_class))
        for output in outputs:
            spans = _make_spans(output.edges, output.values[:, label], seconds)
            lanes.append(_make_lane(output.name, output.kind, spans))
        classes.append({"name": index.classes[label], "lanes": lanes})
    return {
        "id": str(index.ids[clip]),
        "seconds": seconds,
        "whole_seconds": float(index.num_samples[clip]) / SAMPLE_RATE,
        "classes": classes,
        "classes_left_out": max(len(shown) - num_shown, 0),
    }


def _make_lane(name: str, kind: str, spans: Sequence[tuple[float, float, float]]) -> dict[str, Any]:
    return {"name": name, "kind": kind, "spans": spans}


def _make_spans(
    edges: np.ndarray, values: np.ndarray, seconds: float
) -> list[tuple[float, float, float]]:
    """Makes spans of values [n] between edges [n + 1], as far as the clip is shown."""
    edges = np.round(np.clip(edges, 0, seconds), 3).tolist()
    return [
        (onset, offset, round(max(float(value), 0), 3))  # unknown: as absent
        for onset, offset, value in zip(edges[:-1], edges[1:], values, strict=True)
        if offset > onset
    ]


_COLUMNS = 600  # of a spectrogram
_HEIGHT, _DPI = 1.28, 100  # inches, pixels an inch
_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300)  # seconds between two ticks


def draw_png(audio: np.ndarray) -> bytes:
    """Draws the spectrogram of int16 [ticks, ...] as a PNG without axes, a pixel a column."""
    from matplotlib.figure import Figure

    picture = spectrogram.Spectrogram(_COLUMNS)
    picture.add(audio)
    decibels, column_seconds = picture.finish()
    canvas = Figure(figsize=(len(decibels) / _DPI, _HEIGHT))
    axes = canvas.add_axes((0, 0, 1, 1))
    spectrogram.draw_spectrogram(axes, decibels, column_seconds)
    axes.set_axis_off()
    file = io.BytesIO()
    canvas.savefig(file, format="png", dpi=_DPI)
    return file.getvalue()


def _make_url(mime_type: str, content: bytes) -> str:
    return f"data:{mime_type};base64,{base64.b64encode(content).decode()}"


def ticks(seconds: float) -> list[float]:
    """Chooses the times below a clip: round ones from 0, seven at most up to half an hour."""
    step = next((step for step in _STEPS if seconds / step <= 6), _STEPS[-1])
    return [round(k * step, 3) for k in range(int(seconds / step + 1e-9) + 1)]
