"""Events from scores over time: median filter, two thresholds, onsets and offsets.

Works on rows as they come, so that recordings of many hours need no more memory than short ones.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from psl_jax.networks.trained_model import DEFAULT_THRESHOLD
from psl_jax.runtime.errors import UserError
from psl_jax.tagging.windowing import FRAME_SECONDS


@dataclasses.dataclass(frozen=True)
class EventSettings:
    """What makes an event.

    Attributes:
      threshold: an event has a score of at least this somewhere: one number, or one for each class.
      low_threshold: and reaches as far as scores stay at or above this (hysteresis), or above its
        class's threshold where that is lower; by default the threshold.
      median_filter: rows (of 0.32 s) over which scores are first median-filtered; odd, 1: none.

    Raises UserError for values out of range.
    """

    threshold: float | tuple[float, ...] = DEFAULT_THRESHOLD
    low_threshold: float | None = None
    median_filter: int = 1

    def __post_init__(self) -> None:
        each = self.threshold if isinstance(self.threshold, tuple) else (self.threshold,)
        for threshold in each:
            if not 0 < threshold <= 1:
                raise UserError(f"threshold is {threshold:g}, expected more than 0 and at most 1")
        if self.low_threshold is not None and not 0 < self.low_threshold <= max(each):
            raise UserError(
                f"low_threshold is {self.low_threshold:g}, expected more than 0 and at most the "
                f"threshold, {max(each):g}"
            )
        if self.median_filter < 1 or self.median_filter % 2 == 0:
            raise UserError(
                f"median_filter is {self.median_filter}, expected an odd number of rows: 1, 3, 5, …"
            )

    def high(self, num_classes: int) -> np.ndarray:
        """The thresholds of the classes: [classes], of the type of scores."""
        return np.broadcast_to(np.asarray(self.threshold, np.float32), num_classes)

    def low(self, num_classes: int) -> np.ndarray:
        """How far down the events of each class reach: [classes]."""
        high = self.high(num_classes)
        return (
            high if self.low_threshold is None else np.minimum(high, np.float32(self.low_threshold))
        )


class Event(NamedTuple):
    """`label`, a class's name, from `onset` to `offset` (seconds); `score`: its highest row's."""

    onset: float
    offset: float
    label: str
    score: float


class EventFinder:
    """Finds the events in rows [*, classes] of the regular grid that come in blocks of any size."""

    def __init__(self, settings: EventSettings, labels: Sequence[str]):
        """labels: names of the classes."""
        self.settings, self._labels = settings, labels
        num_classes = len(labels)
        self._high, self._low = settings.high(num_classes), settings.low(num_classes)
        self._median = _MedianFilter(settings.median_filter)
        self._seen = 0
        self._onsets = np.full(num_classes, -1)  # row where the open run of a class began
        self._peaks = np.zeros(num_classes)
        self._events: list[tuple[int, int, int, float]] = []

    def add(self, rows: np.ndarray) -> None:
        self._scan(self._median.add(rows))

    def finish(self, seconds: float) -> list[Event]:
        """The events of a recording of `seconds`, by onset. Nothing can be added after this."""
        self._scan(self._median.finish())
        for label in np.flatnonzero(self._onsets >= 0):
            self._close(int(label), self._seen)
        return sorted(
            Event(
                max(_edge(start), 0.0),
                # The last row reaches to the end.
                seconds if stop == self._seen else min(_edge(stop), seconds),
                self._labels[label],
                score,
            )
            for start, stop, label, score in self._events
        )

    def _scan(self, rows: np.ndarray) -> None:
        if not len(rows):
            return
        above = rows >= self._low
        begun = self._onsets >= 0
        changes = np.concatenate([(above[0] != begun)[None], above[1:] != above[:-1]])
        changed = changes.any(axis=0)
        steady = begun & ~changed  # most of what is open: all such classes at once
        if steady.any():
            self._peaks[steady] = np.maximum(self._peaks[steady], rows[:, steady].max(axis=0))
        for label in np.flatnonzero(changed).tolist():
            self._scan_class(label, rows[:, label], np.flatnonzero(changes[:, label]))
        self._seen += len(rows)

    def _scan_class(self, label: int, scores: np.ndarray, changes: np.ndarray) -> None:
        """Follows the runs above the low threshold, which begin or end at the rows `changes`."""
        start = 0
        for at in [*changes.tolist(), len(scores)]:
            if self._onsets[label] >= 0:
                if at > start:
                    self._peaks[label] = max(self._peaks[label], scores[start:at].max())
                if at < len(scores):
                    self._close(label, self._seen + at)
            elif at < len(scores):
                self._onsets[label], self._peaks[label] = self._seen + at, 0.0
            start = at

    def _close(self, label: int, stop: int) -> None:
        peak = float(self._peaks[label])
        if peak >= self._high[label]:
            self._events.append((int(self._onsets[label]), stop, label, peak))
        self._onsets[label] = -1


def _edge(row: int) -> float:
    """Where a row begins, in seconds: half a row before its time."""
    return (row - 0.5) * FRAME_SECONDS


class _MedianFilter:
    """Median over `size` rows around each; the first and last row continue past the ends."""

    def __init__(self, size: int):
        self.half = size // 2
        self._held: np.ndarray | None = None  # rows whose neighbours are still to come

    def add(self, rows: np.ndarray) -> np.ndarray:
        if not self.half or not len(rows):
            self._held = rows[:0] if self._held is None else self._held
            return rows
        if self._held is None or not len(self._held):
            self._held = np.repeat(rows[:1], self.half, axis=0)
        self._held = np.concatenate([self._held, rows])
        filtered = self._filtered(self._held)
        self._held = self._held[max(len(self._held) - 2 * self.half, 0) :]
        return filtered

    def finish(self) -> np.ndarray:
        if self._held is None or not self.half or not len(self._held):
            return np.zeros((0, 0)) if self._held is None else self._held[:0]
        return self._filtered(
            np.concatenate([self._held, np.repeat(self._held[-1:], self.half, axis=0)])
        )

    def _filtered(self, rows: np.ndarray) -> np.ndarray:
        if len(rows) <= 2 * self.half:
            return rows[:0]
        from scipy import ndimage  # slow to import, and seldom needed

        size = (2 * self.half + 1, 1)
        return ndimage.median_filter(rows, size, mode="nearest")[self.half : len(rows) - self.half]
