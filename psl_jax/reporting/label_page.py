"""A page to judge soft labels by ear before anything is trained on them.

For some clips: what is heard, the log-mel spectrogram, the weak labels, the soft labels over time
and, where they are known, the true events.
"""

import dataclasses
import pathlib

import numpy as np

from psl_jax.audio.segments import SAMPLE_RATE, Segmentation
from psl_jax.data.clip_index import ClipIndex, Event
from psl_jax.data.soft_labels import SoftLabels
from psl_jax.data.source import Source
from psl_jax.reporting import audio_examples, result_tables, run_page
from psl_jax.runtime import progress

# How clips are chosen, in words.
RULES = {
    "classes": "classes take turns, in an order drawn with seed {seed}, and each gives one of its "
    "clips that is not chosen yet",
    "even": "evenly over the split, in its order",
}

_ROWS = 8  # classes shown of a clip, and more only where it has more labels
_WRITTEN_VALUES = 12  # segments up to which their values are written in them


@dataclasses.dataclass(frozen=True)
class Cell:
    """A stretch of a row: from and width in percent of the clip, and the soft label there."""

    left: float
    width: float
    value: float
    tip: str


@dataclasses.dataclass(frozen=True)
class ClassRow:
    """A class of a clip over time."""

    name: str
    weak: bool
    cells: list[Cell]
    events: list[tuple[float, float, str]]  # from and width in percent, what a pointer shows


@dataclasses.dataclass(frozen=True)
class ClipView:
    """All that the macro `labelled_clip` draws of one clip."""

    id: str
    seconds: float
    weak: list[str]
    audio: str  # URLs of data
    mel: str
    rows: list[ClassRow]
    ticks: list[tuple[float, str]]
    written: bool  # whether there is room for values in the cells
    annotated: bool  # whether its true events are known


def write_page(
    path: pathlib.Path, source: Source, labels: SoftLabels, clips: np.ndarray, rule: str
) -> pathlib.Path:
    """Writes one self-contained page of `clips` [n] (numbers, ascending) and returns its path.

    rule: how they were chosen, in words.
    """
    index = labels.index
    values = labels.gather(clips)
    views = []
    read = progress.track(source.read_whole(clips), len(clips), "clip", "draw")
    for number, (clip, audio) in enumerate(zip(clips.tolist(), read, strict=True)):
        views.append(view(index, clip, audio, values[number], labels.segmentation))
    context = {
        "title": f"Soft labels of {index.split}",
        "tiles": _tiles(labels, clips),
        "clips": views,
        "rule": rule,
        "where": labels.directory.name,
        "origin": labels.manifest.get("origin", {}).get("kind", "made by a teacher"),
        "digest": labels.manifest.get("teacher_digest", ""),
        "knows_events": bool(index.annotated[clips].any()),
    }
    return run_page.render("labels.html.jinja", path, context)


def choose(index: ClipIndex, samples: int, seed: int, how: str) -> np.ndarray:
    """Numbers of up to `samples` clips, ascending, by one of RULES."""
    samples = min(samples, len(index))
    if how == "even":
        return np.unique(np.linspace(0, len(index) - 1, samples).astype(np.int64))
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(index))
    rank = np.empty(len(index), np.int64)
    rank[shuffled] = np.arange(len(index))
    owner = np.repeat(np.arange(len(index)), np.diff(index.label_offsets))
    order = np.lexsort((rank[owner], index.label_values))
    ends = np.cumsum(np.bincount(index.label_values, minlength=index.num_classes))
    queues = [list(part) for part in np.split(owner[order], ends[:-1])]
    turns = [queues[k] for k in rng.permutation(index.num_classes)]
    chosen: set[int] = set()
    while len(chosen) < samples and any(turns):
        for queue in turns:
            while queue and queue[0] in chosen:
                queue.pop(0)
            if queue and len(chosen) < samples:
                chosen.add(int(queue.pop(0)))
    for clip in shuffled:  # clips without labels come last
        if len(chosen) == samples:
            break
        chosen.add(int(clip))
    return np.array(sorted(chosen), np.int64)


def view(
    index: ClipIndex, clip: int, audio: np.ndarray, values: np.ndarray, segmentation: Segmentation
) -> ClipView:
    """One clip, drawn: its number, audio int16 [samples] and soft labels [segments, classes]."""
    seconds = len(audio) / SAMPLE_RATE
    values = values[: int(segmentation.count_segments(len(audio)))].astype(np.float32)
    weak = set(index.label_values[slice(*index.label_offsets[clip : clip + 2])].tolist())
    events = index.list_events(clip)
    rows = [
        ClassRow(
            index.classes[label],
            label in weak,
            _cells(values[:, label], segmentation, seconds),
            [_stretch(event, seconds) for event in events if event[2] == label],
        )
        for label in _shown(values, weak | {event[2] for event in events})
    ]
    return ClipView(
        id=str(index.ids[clip]),
        seconds=seconds,
        weak=[index.classes[label] for label in sorted(weak)],
        audio=audio_examples.url("audio/flac", audio_examples.flac(audio)),
        mel=audio_examples.url(
            "image/png", audio_examples.png(*audio_examples.spectrogram_of(audio))
        ),
        rows=rows,
        ticks=[(100 * time / seconds, f"{time:g}") for time in audio_examples.ticks(seconds)],
        written=len(values) <= _WRITTEN_VALUES,
        annotated=bool(index.annotated[clip]),
    )


def _shown(values: np.ndarray, always: set[int]) -> list[int]:
    """Classes that have a row: those that are `always` shown and the highest, by their peaks."""
    peaks = values.max(axis=0)
    order = np.argsort(-peaks, kind="stable").tolist()
    others = [label for label in order if label not in always][: max(_ROWS - len(always), 0)]
    return [label for label in order if label in always or label in others]


def _cells(values: np.ndarray, segmentation: Segmentation, seconds: float) -> list[Cell]:
    """A cell for each segment; of overlapping ones a hop wide, about their middles."""
    onsets, offsets = segmentation.compute_times(np.arange(len(values)))
    hop = segmentation.hop_samples / SAMPLE_RATE
    spread = max(segmentation.seconds - hop, 0) / 2
    cells = []
    for number, value in enumerate(values.tolist()):
        onset, offset = onsets[number], offsets[number]
        low = min(onset + spread, seconds) if number else 0.0
        high = min(offset - (spread if number < len(values) - 1 else 0), seconds)
        tip = f"{onset:g} to {min(offset, seconds):.4g} s: {value:.3f}"
        cells.append(Cell(100 * low / seconds, 100 * max(high - low, 0) / seconds, value, tip))
    return cells


def _stretch(event: Event, seconds: float) -> tuple[float, float, str]:
    onset, offset, _ = event
    low, high = min(onset, seconds), min(offset, seconds)
    tip = f"sounds from {onset:.2f} to {offset:.2f} s"
    return 100 * low / seconds, 100 * (high - low) / seconds, tip


def _tiles(labels: SoftLabels, clips: np.ndarray) -> list[tuple[str, str, str, str]]:
    index, segmentation = labels.index, labels.segmentation
    hop = segmentation.hop_seconds
    every = "" if hop is None else f"one every {hop:g} s"
    return [
        ("clips here", result_tables.count(len(clips)), "", f"of {len(index):,} in {index.split}"),
        ("classes", result_tables.count(index.num_classes), "", f"up to {_ROWS} shown of a clip"),
        ("segments of", f"{segmentation.seconds:g}", "s", every),
    ]
