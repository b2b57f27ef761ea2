"""Finds events in scores over time: median filter, two thresholds, onsets and offsets.

It works on rows as they come, so that recordings of many hours need no more memory than short ones.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from psl_jax.networks.trained_model import DEFAULT_THRESHOLD
from psl_jax.runtime.errors import UserError
from psl_jax.tagging.windowing import FRAME_SECONDS

_Rows = TypeVar("_Rows", float, np.ndarray)


@dataclasses.dataclass(frozen=True)
class EventSettings:
    """Settings that define an event.

    Attributes:
      threshold: an event has a score of at least this somewhere: one number, or one for each class.
      low_threshold: an event extends as far as scores stay at or above this (hysteresis), or above
        its class's threshold where that is lower; by default the threshold.
      median_filter: length in rows (of 0.32 s) of the median filter that is applied to the scores
        first; odd; 1: no filter.

    Raises UserError for values out of range.
    """

    threshold: float | tuple[float, ...] = DEFAULT_THRESHOLD
    low_threshold: float | None = None
    median_filter: int = 1

    def __post_init__(self) -> None:
        thresholds = self.threshold if isinstance(self.threshold, tuple) else (self.threshold,)
        for threshold in thresholds:
            if not 0 < threshold <= 1:
                raise UserError(f"threshold is {threshold:g}, expected more than 0 and at most 1")
        if self.low_threshold is not None and not 0 < self.low_threshold <= max(thresholds):
            raise UserError(
                f"low_threshold is {self.low_threshold:g}, expected more than 0 and at most the "
                f"threshold, {max(thresholds):g}"
            )
        if self.median_filter < 1 or self.median_filter % 2 == 0:
            raise UserError(
                f"median_filter is {self.median_filter}, expected an odd number of rows: 1, 3, 5, …"
            )

    def get_thresholds(self, num_classes: int) -> np.ndarray:
        """Returns the thresholds of the classes, float32 [classes], as scores are."""
        return np.broadcast_to(np.asarray(self.threshold, np.float32), num_classes)

    def get_low_thresholds(self, num_classes: int) -> np.ndarray:
        """Returns the lowest score inside an event of each class: [classes]."""
        thresholds = self.get_thresholds(num_classes)
        return (
            thresholds
            if self.low_threshold is None
            else np.minimum(thresholds, np.float32(self.low_threshold))
        )


class Event(NamedTuple):
    """An event of the class `label` from `onset` to `offset` (seconds).

    `score` is that of its highest row.
    """

    onset: float
    offset: float
    label: str
    score: float


class EventFinder:
    """Finds the events in rows [*, classes], which come in blocks of any size."""

    def __init__(self, settings: EventSettings, labels: Sequence[str]):
        """labels: names of the classes."""
        self.settings, self._labels = settings, labels
        num_classes = len(labels)
        self._high, self._low = (
            settings.get_thresholds(num_classes),
            settings.get_low_thresholds(num_classes),
        )
        self._median = _MedianFilter(settings.median_filter)
        self._num_rows = 0
        self._onsets = np.full(num_classes, -1)  # row where the open run of a class began
        self._peak_scores = np.zeros(num_classes)
        self._events: list[tuple[int, int, int, float]] = []

    def add(self, rows: np.ndarray) -> None:
        self._scan(self._median.add(rows))

    def finish(self, seconds: float) -> list[Event]:
        """Returns the events of a recording of `seconds`, by onset. Add no rows after this."""
        self._scan(self._median.finish())
        for label in np.flatnonzero(self._onsets >= 0):
            self._close(int(label), self._num_rows)
        return sorted(
            Event(
                max(compute_row_start(start), 0.0),
                # The last row reaches to the end.
                seconds if stop == self._num_rows else min(compute_row_start(stop), seconds),
                self._labels[label],
                score,
            )
            for start, stop, label, score in self._events
        )

    def _scan(self, rows: np.ndarray) -> None:
        if not len(rows):
            return
        is_above = rows >= self._low
        is_open = self._onsets >= 0
        changes = np.concatenate([(is_above[0] != is_open)[None], is_above[1:] != is_above[:-1]])
        has_changed = changes.any(axis=0)
        stays_open = is_open & ~has_changed  # most open classes: we update them all at once
        if stays_open.any():
            self._peak_scores[stays_open] = np.maximum(
                self._peak_scores[stays_open], rows[:, stays_open].max(axis=0)
            )
        for label in np.flatnonzero(has_changed).tolist():
            self._scan_class(label, rows[:, label], np.flatnonzero(changes[:, label]))
        self._num_rows += len(rows)

    def _scan_class(self, label: int, scores: np.ndarray, changes: np.ndarray) -> None:
        """Follows the runs above the low threshold, which begin or end at the rows `changes`."""
        start = 0
        for row in [*changes.tolist(), len(scores)]:
            if self._onsets[label] >= 0:
                if row > start:
                    self._peak_scores[label] = max(
                        self._peak_scores[label], scores[start:row].max()
                    )
                if row < len(scores):
                    self._close(label, self._num_rows + row)
            elif row < len(scores):
                self._onsets[label], self._peak_scores[label] = self._num_rows + row, 0.0
            start = row

    def _close(self, label: int, stop: int) -> None:
        peak_score = float(self._peak_scores[label])
        if peak_score >= self._high[label]:
            self._events.append((int(self._onsets[label]), stop, label, peak_score))
        self._onsets[label] = -1


def compute_row_start(row: _Rows) -> _Rows:
    """Computes the seconds at which a row begins: half a row before its time."""
    return (row - 0.5) * FRAME_SECONDS


def smooth_rows(rows: np.ndarray, settings: EventSettings) -> np.ndarray:
    """The rows [n, classes] of a whole recording as the events are found in them."""
    smoother = _MedianFilter(settings.median_filter)
    return np.concatenate([smoother.add(rows), smoother.finish()])


class _MedianFilter:
    """Computes the median of `size` rows around each; the first and last row repeat at the ends."""

    def __init__(self, size: int):
        self.half = size // 2
        self._waiting_rows: np.ndarray | None = None  # rows whose neighbours are still to come

    def add(self, rows: np.ndarray) -> np.ndarray:
        if not self.half or not len(rows):
            self._waiting_rows = rows[:0] if self._waiting_rows is None else self._waiting_rows
            return rows
        if self._waiting_rows is None or not len(self._waiting_rows):
            self._waiting_rows = np.repeat(rows[:1], self.half, axis=0)
        self._waiting_rows = np.concatenate([self._waiting_rows, rows])
        filtered = self._filter(self._waiting_rows)
        self._waiting_rows = self._waiting_rows[max(len(self._waiting_rows) - 2 * self.half, 0) :]
        return filtered

    def finish(self) -> np.ndarray:
        if self._waiting_rows is None or not self.half or not len(self._waiting_rows):
            return np.zeros((0, 0)) if self._waiting_rows is None else self._waiting_rows[:0]
        return self._filter(
            np.concatenate(
                [self._waiting_rows, np.repeat(self._waiting_rows[-1:], self.half, axis=0)]
            )
        )

    def _filter(self, rows: np.ndarray) -> np.ndarray:
        if len(rows) <= 2 * self.half:
            return rows[:0]
        from scipy import ndimage  # slow to import, and seldom needed

        size = (2 * self.half + 1, 1)
        filtered = ndimage.median_filter(rows, size, mode="nearest")
        return np.asarray(filtered[self.half : len(rows) - self.half])
