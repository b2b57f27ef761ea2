"""A threshold for each class, of best F1 on a split whose truth is known.

Where the split has true events, F1 counts rows (frames of 0.32 s): a row is one of a class where an
event of it fills at least half of the row, or lies in it with at least half of its length. Clips
whose events nobody wrote down (see `ClipIndex.annotated`) are left out. Where there are labels of
whole clips alone it counts clips: one has events of a class if its highest row reaches the
threshold. Scores are counted in bins, so that memory does not grow with the split.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage, special

from psl_jax.audio.segments import SAMPLE_RATE
from psl_jax.data.clip_index import ClipIndex
from psl_jax.data.source import Source
from psl_jax.networks.trained_model import DEFAULT_THRESHOLD, Thresholds
from psl_jax.runtime import progress
from psl_jax.tagging.tagger import Scored, Tagger
from psl_jax.tagging.windowing import FRAME_SECONDS

# What is tried: evenly spaced logits, as models of many classes may give no more than 0.01.
TRIED = np.array([float(f"{p:.4g}") for p in special.expit(np.arange(-7.0, 7.01, 0.05))])
_READ_AT_ONCE = 256  # clips
FEW = 5  # clips of a class or fewer: its threshold is uncertain


class Counts:
    """How often each class has a score of each bin: over all, and where it is truly there."""

    def __init__(self, num_classes: int):
        self.all = np.zeros((num_classes, len(TRIED) + 1), np.int64)
        self.true = np.zeros_like(self.all)

    def add(self, scores: np.ndarray, truth: np.ndarray) -> None:
        """scores [n, classes], truth bool [n, classes]."""
        bins = np.searchsorted(TRIED.astype(np.float32), scores.astype(np.float32), side="right")
        classes = np.broadcast_to(np.arange(len(self.all)), bins.shape)
        np.add.at(self.all, (classes, bins), 1)
        np.add.at(self.true, (classes, bins), truth)

    def f1(self, true: np.ndarray | None = None, every: np.ndarray | None = None) -> np.ndarray:
        """F1 [classes, tried] at each threshold; 0 where nothing is true or found.

        true, every: counts [classes, bins] to take instead of these.
        """
        true, every = (self.true, self.all) if true is None or every is None else (true, every)
        hits, found = (x[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:] for x in (true, every))
        return 2 * hits / np.maximum(true.sum(axis=1, keepdims=True) + found, 1)

    @property
    def num_true(self) -> np.ndarray:
        """[classes]."""
        return self.true.sum(axis=1)

    def together(self) -> np.ndarray:
        """F1 [tried] of all classes' counts together."""
        return self.f1(*(x.sum(axis=0, keepdims=True) for x in (self.true, self.all)))[0]


class Tuned(NamedTuple):
    """What was found.

    kind: "rows" or "clips", what F1 counts; num_true: [classes], how many truly have each class.
    thresholds, f1, f1_default: [classes], the thresholds, F1 with them, and with DEFAULT_THRESHOLD.
    common: the threshold that is best for all classes together, which those get that have none.
    """

    kind: str
    num_true: np.ndarray
    thresholds: np.ndarray
    f1: np.ndarray
    f1_default: np.ndarray
    common: float

    @property
    def known(self) -> np.ndarray:
        """bool [classes]: which of them the split has."""
        return self.num_true > 0

    def as_thresholds(self, tuned_on: dict[str, Any]) -> Thresholds:
        return Thresholds(tuple(map(float, self.thresholds)), tuned_on)


def tune(counts: Counts, kind: str) -> Tuned:
    """The threshold of best F1 for each class; of several as good, the middle one."""
    f1 = counts.f1()
    best = np.array([_middle(np.flatnonzero(row == row.max())) for row in f1])
    common = float(TRIED[_middle(np.flatnonzero((t := counts.together()) == t.max()))])
    known = counts.num_true > 0
    thresholds = np.where(known, TRIED[best], common)
    at_default = f1_at(counts, np.full(len(f1), DEFAULT_THRESHOLD))
    return Tuned(kind, counts.num_true, thresholds, f1_at(counts, thresholds), at_default, common)


def f1_at(counts: Counts, thresholds: np.ndarray) -> np.ndarray:
    """F1 [classes] with the thresholds [classes], each of which is one that was tried."""
    places = np.searchsorted(TRIED, thresholds - 1e-9)
    return counts.f1()[np.arange(len(thresholds)), places]


def _middle(places: np.ndarray) -> int:
    return int(places[len(places) // 2])


def count(tagger: Tagger, source: Source, median_filter: int = 1, bar: bool = False) -> Counts:
    """The counts of a split, whose classes are the tagger's: of its rows, or of its clips."""
    index, of_rows = source.index, kind_of(source.index) == "rows"
    clips = np.flatnonzero(index.annotated) if of_rows else np.arange(len(index))
    counts = Counts(index.num_classes)
    with progress.bar(len(clips), "clip", "thresholds", show=bar) as shown:
        for clip, rows in clip_rows(tagger, source, clips):
            if median_filter > 1:
                rows = ndimage.median_filter(rows, (median_filter, 1), mode="nearest")
            if of_rows:
                counts.add(rows, true_rows(index, clip, len(rows)))
            else:
                peaks = rows.max(axis=0, keepdims=True)
                counts.add(peaks, index.weak_labels(np.array([clip])) > 0)
            shown.update()
    return counts


def kind_of(index: ClipIndex) -> str:
    """What F1 counts on a split: "rows" where it has events, else "clips"."""
    return "rows" if index.annotated.any() else "clips"


def clip_rows(
    tagger: Tagger, source: Source, wanted: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    """(clip, float32 [rows, classes]) of each of `wanted` (ascending), scores as `tag` has them."""
    segmentation = tagger.segmentation()
    for first in range(0, len(wanted), _READ_AT_ONCE):
        clips = wanted[first : first + _READ_AT_ONCE]
        audio = list(source.read_whole(clips))
        blocks = [lambda waveform=waveform: iter([waveform]) for waveform in audio]
        rows: dict[int, list[np.ndarray]] = {i: [] for i in range(len(audio))}
        for item in tagger.run(blocks, segmentation):
            assert isinstance(item, Scored), item  # what is in memory can be read
            rows[item.source].append(item.rows)
            if item.is_last:
                yield int(clips[item.source]), np.concatenate(rows.pop(item.source))


def true_rows(index: ClipIndex, clip: int, count: int) -> np.ndarray:
    """In which of a clip's `count` rows each class is heard: bool [count, classes]."""
    assert index.event_offsets is not None
    assert index.event_times is not None and index.event_values is not None
    own = slice(*index.event_offsets[clip : clip + 2])
    centres = FRAME_SECONDS * np.arange(count)
    starts, stops = centres - FRAME_SECONDS / 2, centres + FRAME_SECONDS / 2
    starts[0] = 0.0
    stops[-1] = max(index.num_samples[clip] / SAMPLE_RATE, starts[-1])
    truth = np.zeros((count, index.num_classes), bool)
    for (onset, offset), label in zip(
        index.event_times[own].astype(float), index.event_values[own], strict=True
    ):
        inside = np.minimum(offset, stops) - np.maximum(onset, starts)
        enough = np.minimum((stops - starts) / 2, (offset - onset) / 2)
        truth[:, label] |= (inside > 0) & (inside >= enough - 1e-6)
    return truth
