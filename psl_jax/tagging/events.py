"""Finds events in scores over time: median filter, two thresholds, onsets and offsets."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from psl_jax.networks.trained_model import DEFAULT_THRESHOLD
from psl_jax.runtime.errors import UserError
from psl_jax.tagging.windowing import FRAME_SECONDS

_Rows = TypeVar("_Rows", float, np.ndarray)
_CLASSES_AT_ONCE = 64


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

    def get_threshold_by_class(self, labels: Sequence[str]) -> dict[str, float]:
        """Returns the thresholds of the classes by their names."""
        threshold = self.threshold
        values = threshold if isinstance(threshold, tuple) else (threshold,) * len(labels)
        return dict(zip(labels, values, strict=True))

    def get_thresholds(self, num_classes: int) -> np.ndarray:
        """Returns the thresholds of the classes, float32 [classes], as scores are."""
        return np.broadcast_to(np.asarray(self.threshold, np.float32), num_classes)

    def get_low_thresholds(self, num_classes: int) -> np.ndarray:
        """Returns the lowest score inside an event of each class: [classes]."""
        low_threshold = 1.0 if self.low_threshold is None else self.low_threshold
        thresholds = self.get_thresholds(num_classes)
        return np.asarray(np.minimum(thresholds, np.float32(low_threshold)))


class Event(NamedTuple):
    """An event of the class `label` from `onset` to `offset` (seconds).

    `score` is that of its highest row.
    """

    onset: float
    offset: float
    label: str
    score: float


def find_events(
    rows: np.ndarray, settings: EventSettings, labels: Sequence[str], seconds: float
) -> list[Event]:
    """Finds the events of a recording of `seconds`, by onset, in its scores [rows, classes]."""
    high, low = settings.get_thresholds(len(labels)), settings.get_low_thresholds(len(labels))
    events = []
    for first in range(0, len(labels), _CLASSES_AT_ONCE):  # rows of hours may lie on disk
        scores = smooth_rows(rows[:, first : first + _CLASSES_AT_ONCE], settings)
        is_above = np.pad(scores >= low[first : first + scores.shape[1]], ((1, 1), (0, 0)))
        edges = np.diff(is_above.astype(np.int8), axis=0).T  # [classes, rows + 1]
        (classes, starts), (_, stops) = np.nonzero(edges > 0), np.nonzero(edges < 0)
        runs = zip(classes.tolist(), starts.tolist(), stops.tolist(), strict=True)
        for label, start, stop in runs:
            peak_score = float(scores[start:stop, label].max())
            if peak_score >= high[first + label]:
                onset, offset = max(compute_row_start(start), 0.0), compute_row_start(stop)
                # The last row reaches to the end.
                offset = seconds if stop == len(rows) else min(offset, seconds)
                events.append(Event(onset, offset, labels[first + label], peak_score))
    return sorted(events)


def compute_row_start(row: _Rows) -> _Rows:
    """Computes the seconds at which a row begins: half a row before its time."""
    return (row - 0.5) * FRAME_SECONDS


def smooth_rows(rows: np.ndarray, settings: EventSettings) -> np.ndarray:
    """Smooths the rows [n, classes] of a recording; the first and the last one repeat beyond it."""
    if settings.median_filter == 1:
        return rows
    from scipy import ndimage  # slow to import, and seldom needed

    size = (settings.median_filter, 1)
    return np.asarray(ndimage.median_filter(rows, size, mode="nearest"))
