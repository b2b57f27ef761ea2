"""Metrics of events with times: PSDS, and F1 of segments and of events with collars.

A tagger's scores over time are steps. The events at a threshold are the runs of steps that reach
it, so each possible event is one at the thresholds of a range: above the score on either side of
it, up to the lowest score inside. Scores of 0 are no events. Clips whose events nobody wrote down
do not count (see `ClipIndex.annotated`), nor do the classes that are unknown in a clip, nor those
without a true event.

Reference: Bilen et al., "A framework for the robust evaluation of sound event detection" (ICASSP
2020), for all thresholds exactly as in Ebbers et al., "Threshold-independent evaluation of sound
event detection scores" (ICASSP 2022); Mesaros et al., "Metrics for polyphonic sound event
detection" (2016) for F1.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from psl_jax.audio.segments import SAMPLE_RATE
from psl_jax.data.clip_index import ClipIndex

COLLAR_SECONDS = 0.2  # of onsets; of offsets this or a fifth of the event's length
OFFSET_SHARE = 0.2
SEGMENT_SECONDS = 1.0
MAX_FALSE_POSITIVES = 100.0  # an hour
_DECIMALS = 6  # of seconds: borders that meet exactly must not depend on rounding

# Their keys in metrics.json and per_class.csv, and how they are called.
EVENT_METRICS = {
    "PSDS1": "PSDS1",
    "PSDS2": "PSDS2",
    "segment_F1": "segment F1",
    "event_F1": "event F1",
}


class StepScores(NamedTuple):
    """Scores over time of a clip: edges [n + 1] in seconds, scores [n, classes] between them."""

    edges: np.ndarray
    scores: np.ndarray


@dataclasses.dataclass(frozen=True)
class PsdsSettings:
    """What PSDS tolerates (Bilen et al.): shares of lengths, and weights of what goes wrong."""

    dtc: float  # share of a detection that true events of its class must cover
    gtc: float  # share of a true event that such detections must cover
    cttc: float = 1.0  # share of another detection that another class covers in a confusion
    alpha_ct: float = 0.0  # weight of confusions beside false positives


PSDS = {
    "PSDS1": PsdsSettings(dtc=0.7, gtc=0.7),
    "PSDS2": PsdsSettings(dtc=0.1, gtc=0.1, cttc=0.3, alpha_ct=0.5),
}


class EventResults(NamedTuple):
    """Means over the classes with events, and each class's values: None where it has none."""

    summary: dict[str, Any]
    classes: dict[str, list[float | None]]


class _Events(NamedTuple):
    """Events of one class, by clip: arrays [n]."""

    clip: np.ndarray
    onset: np.ndarray
    offset: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        return np.asarray(self.offset - self.onset)

    def select(self, chosen: np.ndarray) -> "_Events":
        return _Events(*(array[chosen] for array in self))


class _Candidates(NamedTuple):
    """All possible events of one class: each is one where `low` < threshold <= `high`."""

    events: _Events
    low: np.ndarray
    high: np.ndarray


def evaluate_events(
    scores: Sequence[StepScores], index: ClipIndex, thresholds: np.ndarray
) -> EventResults:
    """Evaluates the scores over time of all clips of a split, in its order, by its true events.

    thresholds: [classes], for F1; PSDS needs none. Raises ValueError for a split without events.
    """
    if index.event_values is None or not len(index.event_values):
        raise ValueError(f"split {index.split!r} has no events")
    clips = np.flatnonzero(index.annotated)
    truth = _true_events(index)
    seconds = index.num_samples[clips] / SAMPLE_RATE
    is_known = ~index.unknown_labels(clips)
    steps = _Steps([scores[clip] for clip in clips.tolist()], is_known)
    num_segments = np.ceil(seconds / SEGMENT_SECONDS).astype(int)
    values: dict[str, list[float | None]] = {name: [None] * len(truth) for name in EVENT_METRICS}
    curves: dict[str, list[np.ndarray]] = {name: [] for name in PSDS}
    for label, true in enumerate(truth):
        if not len(true.clip):
            continue
        candidates = steps.find_candidates(label)
        threshold = np.float32(thresholds[label])
        chosen = (candidates.low < threshold) & (threshold <= candidates.high)
        found = candidates.events.select(chosen)
        values["segment_F1"][label] = _compute_segment_f1(true, found, num_segments)
        values["event_F1"][label] = _compute_event_f1(true, found)
        known_seconds = float(seconds[is_known[:, label]].sum())
        for name, settings in PSDS.items():
            curve = _compute_curve(candidates, truth, label, settings, known_seconds)
            values[name][label] = _compute_area([curve])
            curves[name].append(curve)
    summary: dict[str, Any] = {name: _compute_area(curves[name]) for name in PSDS}
    for name in ("segment_F1", "event_F1"):
        summary[name] = float(np.mean([value for value in values[name] if value is not None]))
    summary |= {"num_event_clips": len(clips), "num_events": sum(len(t.clip) for t in truth)}
    return EventResults(summary, values)


def _true_events(index: ClipIndex) -> list[_Events]:
    """The true events of each class; clips are numbered among the annotated ones."""
    assert index.event_offsets is not None
    assert index.event_times is not None and index.event_values is not None
    counts = np.diff(index.event_offsets)[index.annotated]
    clip = np.repeat(np.arange(len(counts)), counts)
    onset, offset = index.event_times.astype(np.float64).T
    every = _Events(clip, onset, offset)
    classes = (every.select(index.event_values == label) for label in range(index.num_classes))
    return [_join_overlapping(events) for events in classes]


def _join_overlapping(events: _Events) -> _Events:
    """Makes one event of those of a clip that overlap or touch: no score can tell them apart."""
    if not len(events.clip):
        return events
    events = events.select(np.lexsort((events.onset, events.clip)))
    later = events.clip * (2 * events.offset.max() + 1)  # clips one behind the other
    latest = np.maximum.accumulate(later + events.offset)
    first = np.flatnonzero(np.append(True, (later + events.onset)[1:] > latest[:-1]))
    offset = np.maximum.reduceat(events.offset, first)
    return _Events(events.clip[first], events.onset[first], offset)


class _Steps:
    """The scores of several clips, one behind the other, with a step of -inf after each."""

    def __init__(self, clips: Sequence[StepScores], is_known: np.ndarray):
        """is_known: bool [clips, classes], the others have no events."""
        gap = np.full((1, clips[0].scores.shape[1]), -np.inf, np.float32)
        lengths = [len(edges) for edges, _ in clips]
        self._clip = np.repeat(np.arange(len(clips)), lengths)
        self._starts = np.concatenate([edges for edges, _ in clips])
        self._scores = np.concatenate([part for _, scores in clips for part in (scores, gap)])
        self._is_known = is_known

    def find_candidates(self, label: int) -> _Candidates:
        """Finds the possible events of a class."""
        is_heard = (self._scores[:, label] > 0) & self._is_known[self._clip, label]
        scores = np.where(is_heard, self._scores[:, label], -np.inf)
        before = _find_previous(scores, np.greater)
        after = len(scores) - 1 - _find_previous(scores[::-1], np.greater_equal)[::-1]
        # Of equal lowest scores in a run the first stands for it.
        lowest = np.flatnonzero((scores > -np.inf) & (scores[before] != scores))
        before, after = before[lowest], after[lowest]
        events = _Events(self._clip[lowest], self._starts[before + 1], self._starts[after])
        return _Candidates(events, np.maximum(scores[before], scores[after]), scores[lowest])


def _find_previous(scores: np.ndarray, skips: np.ufunc) -> np.ndarray:
    """The last step before each that is not skipped, -1 where there is none: int64 [n].

    skips(a, b): whether a step of score a is passed over by one of score b.
    """
    previous = np.arange(-1, len(scores) - 1)
    while (jumps := np.flatnonzero((previous >= 0) & skips(scores[previous], scores))).size:
        # What lies between a step and its previous one so far is passed over by both.
        previous[jumps] = previous[previous[jumps]]
    return previous


def _pair(events: _Events, others: _Events) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All pairs in the same clip: numbers in `events` and in `others`, and seconds of overlap."""
    first = np.searchsorted(others.clip, events.clip, "left")
    counts = np.searchsorted(others.clip, events.clip, "right") - first
    i = np.repeat(np.arange(len(counts)), counts)
    j = np.arange(len(i)) + np.repeat(first - np.cumsum(counts) + counts, counts)
    overlap = np.minimum(events.offset[i], others.offset[j])
    overlap -= np.maximum(events.onset[i], others.onset[j])
    return i, j, np.maximum(overlap, 0.0)


def _covers(seconds: np.ndarray, share: float, lengths: np.ndarray) -> np.ndarray:
    return np.asarray(np.round(seconds, _DECIMALS) >= np.round(share * lengths, _DECIMALS))


def _compute_curve(
    candidates: _Candidates,
    truth: Sequence[_Events],
    label: int,
    settings: PsdsSettings,
    seconds: float,
) -> np.ndarray:
    """The ROC of one class: [2, n], effective false positives an hour and true positive rates.

    Both rise; the first point is (0, 0). seconds: length of all clips.
    """
    events, lengths, true = candidates.events, candidates.events.lengths, truth[label]
    found, of_true, overlap = _pair(events, true)
    is_relevant = _covers(np.bincount(found, overlap, len(lengths)), settings.dtc, lengths)
    # How much each event adds to the effective false positives while it is one.
    cost = np.where(is_relevant, 0.0, 3600 / seconds)
    others = [other for k, other in enumerate(truth) if k != label and len(other.clip)]
    if settings.alpha_ct:
        for other in others:
            i, _, covered = _pair(events, other)
            confused = _covers(np.bincount(i, covered, len(lengths)), settings.cttc, lengths)
            weight = settings.alpha_ct * 3600 / len(others) / other.lengths.sum()
            cost += np.where(confused & ~is_relevant, weight, 0.0)
    levels, hits = _count_hits(
        candidates, true, np.stack([found, of_true]), overlap * is_relevant[found], settings.gtc
    )
    # As the threshold falls, an event begins to be one at its `high`, and ceases to be at `low`.
    levels = np.concatenate([levels, candidates.high, candidates.low])
    steps = np.zeros((2, len(levels)))
    steps[0, len(hits) :] = np.concatenate([cost, -cost])
    steps[1, : len(hits)] = hits / max(len(true.clip), 1)
    order = np.argsort(-levels, kind="stable")
    is_last = _differ(levels[order], -1) & (levels[order] > -np.inf)
    curve = np.cumsum(steps[:, order], axis=1)[:, is_last]
    curve = np.concatenate([np.zeros((2, 1)), np.round(curve, 9)], axis=1)
    curve = curve[:, np.lexsort((curve[1], curve[0]))]
    return np.stack([curve[0], np.maximum.accumulate(curve[1])])


def _count_hits(
    candidates: _Candidates, true: _Events, pairs: np.ndarray, overlap: np.ndarray, share: float
) -> tuple[np.ndarray, np.ndarray]:
    """Thresholds at which true events begin (+1) or cease (-1) to be found: two arrays [n].

    pairs: numbers of candidates and of true events [2, pairs]; overlap: seconds of each.
    """
    found, of_true = pairs[:, overlap > 0]
    overlap = np.tile(overlap[overlap > 0], 2)
    levels = np.concatenate([candidates.high[found], candidates.low[found]])
    overlap[len(found) :] *= -1
    of_true = np.tile(of_true, 2)
    order = np.lexsort((-levels, of_true))
    levels, of_true = levels[order], of_true[order]
    totals = np.cumsum(overlap[order])
    # A candidate ceases where a longer one begins: all of one threshold count together.
    is_last = _differ(levels, -1) | _differ(of_true, -1)
    levels, of_true, totals = levels[is_last], of_true[is_last], totals[is_last]
    is_first = _differ(of_true, 1)
    before = np.concatenate([[0.0], totals[_differ(of_true, -1)]])  # of the true events before
    base = before[np.cumsum(is_first) - 1]
    is_hit = _covers(totals - base, share, true.lengths[of_true]).astype(int)
    return levels, is_hit - np.where(is_first, 0, np.roll(is_hit, 1))


def _differ(values: np.ndarray, shift: int) -> np.ndarray:
    """Whether each differs from the one before (shift 1) or after it (-1), as the ends do."""
    result: np.ndarray = values != np.roll(values, shift)
    result[0 if shift > 0 else -1 :][:1] = True
    return result


def _compute_area(curves: Sequence[np.ndarray]) -> float:
    """PSDS: the area under the mean less the standard deviation over classes, as a share of 1."""
    grid = np.unique(np.concatenate([curve[0] for curve in curves]))
    grid = grid[grid <= MAX_FALSE_POSITIVES]
    rates = [curve[1, np.searchsorted(curve[0], grid, "right") - 1] for curve in curves]
    effective = np.maximum(np.mean(rates, axis=0) - np.std(rates, axis=0), 0.0)
    widths = np.diff(np.append(grid, MAX_FALSE_POSITIVES))
    return float((effective * widths).sum() / MAX_FALSE_POSITIVES)


def _compute_segment_f1(true: _Events, found: _Events, num_segments: np.ndarray) -> float:
    """F1 of the segments of 1 s in which a class truly is and was found."""
    is_true, is_found = (_mark_segments(events, num_segments) for events in (true, found))
    return float(2 * (is_true & is_found).sum() / (is_true.sum() + is_found.sum()))


def _mark_segments(events: _Events, num_segments: np.ndarray) -> np.ndarray:
    """In which segments a class is, those of all clips one behind the other: bool [segments]."""
    ends = np.cumsum(num_segments)
    start = ends[events.clip] - num_segments[events.clip]
    first = start + np.floor(events.onset / SEGMENT_SECONDS).astype(int)
    stop = start + np.ceil(events.offset / SEGMENT_SECONDS).astype(int)
    changes = np.zeros(int(ends[-1]) + 1, int)
    np.add.at(changes, np.minimum(first, ends[events.clip]), 1)
    np.add.at(changes, np.minimum(stop, ends[events.clip]), -1)
    return np.asarray(np.cumsum(changes)[:-1] > 0)


def _compute_event_f1(true: _Events, found: _Events) -> float:
    """F1 of events, of which as many as possible are paired within the collars."""
    i, j, _ = _pair(true, found)
    collars = np.maximum(COLLAR_SECONDS, OFFSET_SHARE * true.lengths[i])
    meets = np.abs(true.onset[i] - found.onset[j]) <= COLLAR_SECONDS
    meets &= np.abs(true.offset[i] - found.offset[j]) <= collars
    graph = sparse.csr_array(
        (np.ones(meets.sum(), bool), (i[meets], j[meets])), (len(true.clip), len(found.clip))
    )
    matched = sparse.csgraph.maximum_bipartite_matching(graph, perm_type="column") >= 0
    return float(2 * matched.sum() / (len(true.clip) + len(found.clip)))
