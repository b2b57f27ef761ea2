"""Tunes a threshold for each class to the best F1 on a labelled split.

Where the split has true events, F1 counts rows (frames of 0.32 s). A row has a class if an event of
it fills at least half of the row, or at least half of the event lies in the row. Clips without
annotated events (see `ClipIndex.annotated`) do not count. Where a split has labels of whole clips
only, F1 counts clips: a clip has a class if its highest row reaches the threshold. A clip does not
count for the classes that are unknown in it. Scores are counted in bins, so that memory does not
grow with the split.
"""

from typing import NamedTuple

import numpy as np
from scipy import special

from psl_jax.audio.segments import SAMPLE_RATE
from psl_jax.data.clip_index import ClipIndex
from psl_jax.data.source import Source
from psl_jax.networks.trained_model import DEFAULT_THRESHOLD
from psl_jax.tagging.event_evaluation import score_clips
from psl_jax.tagging.tagger import Tagger
from psl_jax.tagging.windowing import FRAME_SECONDS

# Evenly spaced logits: models of many classes may give no score above 0.01.
CANDIDATES = np.array([float(f"{p:.4g}") for p in special.expit(np.arange(-7.0, 7.01, 0.05))])
# Rows of the filter by default: the best of those measured in docs/RESULTS.md.
MEDIAN_FILTER = 7
FEW_CLIPS = 5  # the threshold of a class with so many clips, or fewer, is uncertain


class Counts:
    """Counts the scores of each class in each bin: all, and those where the class is present."""

    def __init__(self, num_classes: int):
        self.all = np.zeros((num_classes, len(CANDIDATES) + 1), np.int64)
        self.true = np.zeros_like(self.all)

    def add(self, scores: np.ndarray, truth: np.ndarray) -> None:
        """Adds scores [n, classes] and their truth [n, classes], negative where it is unknown."""
        bins = np.searchsorted(
            CANDIDATES.astype(np.float32), scores.astype(np.float32), side="right"
        )
        classes = np.broadcast_to(np.arange(len(self.all)), bins.shape)
        np.add.at(self.all, (classes, bins), truth >= 0)
        np.add.at(self.true, (classes, bins), truth > 0)

    def compute_f1(self) -> np.ndarray:
        """Computes F1 [classes, candidates] at each threshold; 0 where nothing is true or found."""
        return _compute_f1(self.true, self.all)

    @property
    def num_true(self) -> np.ndarray:
        """Number of true rows or clips of each class [classes]."""
        return np.asarray(self.true.sum(axis=1))


def _compute_f1(true_counts: np.ndarray, all_counts: np.ndarray) -> np.ndarray:
    """Computes F1 [classes, candidates] of counts [classes, bins]."""
    hits, num_found = (x[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:] for x in (true_counts, all_counts))
    num_true = true_counts.sum(axis=1, keepdims=True)
    return np.asarray(2 * hits / np.maximum(num_true + num_found, 1))


class TuningResult(NamedTuple):
    """The result of tuning; arrays are [classes]."""

    unit: str  # "rows" or "clips", what F1 counts
    num_true: np.ndarray  # how many of them have each class
    thresholds: np.ndarray
    f1: np.ndarray  # with the thresholds
    f1_default: np.ndarray  # with DEFAULT_THRESHOLD
    common: float  # threshold that is best for all classes together; those without clips get it

    @property
    def has_clips(self) -> np.ndarray:
        """Whether the split has each class: bool [classes]."""
        return self.num_true > 0


def tune(counts: Counts, unit: str) -> TuningResult:
    """Finds the threshold of best F1 for each class; of equally good ones the middle one."""
    f1 = counts.compute_f1()
    best = [_choose_best(of_class) for of_class in f1]
    of_all = (x.sum(axis=0, keepdims=True) for x in (counts.true, counts.all))
    common = _choose_best(_compute_f1(*of_all)[0])
    thresholds = np.where(counts.num_true > 0, best, common)
    default = np.full(len(best), DEFAULT_THRESHOLD)
    f1_with, f1_default = (  # each threshold is in CANDIDATES
        f1[np.arange(len(f1)), np.searchsorted(CANDIDATES, values - 1e-9)]
        for values in (thresholds, default)
    )
    return TuningResult(unit, counts.num_true, thresholds, f1_with, f1_default, common)


def _choose_best(f1: np.ndarray) -> float:
    places = np.flatnonzero(f1 == f1.max())
    return float(CANDIDATES[places[len(places) // 2]])


def count_scores(tagger: Tagger, source: Source, median_filter: int = 1) -> Counts:
    """Scores a split with the tagger's classes, and counts its rows or its clips."""
    index, counts_rows = source.index, choose_unit(source.index) == "rows"
    clips = np.flatnonzero(index.annotated) if counts_rows else np.arange(len(index))
    counts = Counts(index.num_classes)
    for clip, rows in score_clips(tagger, source, clips, median_filter, description="thresholds"):
        if counts_rows:
            counts.add(rows, compute_true_rows(index, clip, len(rows)))
        else:
            peaks = rows.max(axis=0, keepdims=True)
            counts.add(peaks, index.weak_labels(np.array([clip])))
    return counts


def choose_unit(index: ClipIndex) -> str:
    """Returns the unit of F1 on a split: "rows" where it has events, else "clips"."""
    return "rows" if index.annotated.any() else "clips"


def compute_true_rows(index: ClipIndex, clip: int, num_rows: int) -> np.ndarray:
    """Tells in which of a clip's `num_rows` rows each class is present: int8 [rows, classes].

    A class that is unknown in the clip is -1 in all of them.
    """
    centres = FRAME_SECONDS * np.arange(num_rows)
    starts, stops = centres - FRAME_SECONDS / 2, centres + FRAME_SECONDS / 2
    starts[0] = 0.0
    stops[-1] = max(index.num_samples[clip] / SAMPLE_RATE, starts[-1])
    truth = np.zeros((num_rows, index.num_classes), np.int8)
    for onset, offset, label in index.list_events(clip):
        overlaps = np.minimum(offset, stops) - np.maximum(onset, starts)
        min_overlaps = np.minimum((stops - starts) / 2, (offset - onset) / 2)
        truth[:, label] |= (overlaps > 0) & (overlaps >= min_overlaps - 1e-6)
    truth[:, index.unknown_labels(np.array([clip]))[0]] = -1
    return truth
