"""The tags of a waveform, and the events in its scores over time."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from psl_jax.networks.class_lists import near_names
from psl_jax.networks.trained_model import DEFAULT_THRESHOLD
from psl_jax.runtime.errors import UserError
from psl_jax.tagging.windowing import FRAME_SECONDS

_Rows = TypeVar("_Rows", float, np.ndarray)
_CLASSES_AT_ONCE = 64
_MAX_MEDIAN_FILTER = 9999  # rows, nearly an hour


@dataclasses.dataclass(frozen=True)
class EventSettings:
    """Settings that define an event. Raises UserError for values out of range."""

    # An event lasts while the score is at least this: one number, or one for each class.
    threshold: float | tuple[float, ...] = DEFAULT_THRESHOLD
    # Length of the median filter of the scores, an odd number of rows (of 0.32 s); 1: no filter.
    median_filter: int = 1

    def __post_init__(self) -> None:
        thresholds = self.threshold if isinstance(self.threshold, tuple) else (self.threshold,)
        for threshold in thresholds:
            check_number("threshold", threshold)
            if not 0 < threshold <= 1:
                raise UserError(f"threshold is {threshold:g}, expected more than 0 and at most 1")
        check_number("median_filter", self.median_filter)
        if not 1 <= self.median_filter <= _MAX_MEDIAN_FILTER or self.median_filter % 2 != 1:
            raise UserError(
                f"median_filter is {self.median_filter}, expected an odd number of rows: 1, 3, 5, "
                f"… up to {_MAX_MEDIAN_FILTER}"
            )

    def get_threshold_by_class(self, labels: Sequence[str]) -> dict[str, float]:
        """Returns the thresholds of the classes by their names."""
        threshold = self.threshold
        values = threshold if isinstance(threshold, tuple) else (threshold,) * len(labels)
        return dict(zip(labels, values, strict=True))

    def change(
        self,
        labels: Sequence[str],
        threshold: float | None = None,
        by_name: Mapping[str, float] | None = None,
        median_filter: int | None = None,
    ) -> "EventSettings":
        """Returns these settings of the classes `labels` with what is given in place of their own.

        threshold: that of all classes; by_name: those of some. Raises UserError for another class.
        """
        thresholds = self.get_threshold_by_class(labels)
        if threshold is not None:
            thresholds = dict.fromkeys(labels, threshold)
        for name in by_name or {}:
            if name not in thresholds:
                raise UserError(
                    f"threshold: {str(name)[:100]!r} is none of the {len(labels)} classes"
                    f"{near_names(name, labels)}"
                )
        return EventSettings(
            tuple((thresholds | dict(by_name or {})).values()),
            self.median_filter if median_filter is None else median_filter,
        )


def check_number(name: str, value: Any) -> None:
    """Raises UserError, naming the argument, where its value is no number."""
    try:
        if isinstance(value, str | bytes):
            raise TypeError("a text")
        float(value)
    except (OverflowError, TypeError, ValueError) as error:
        raise UserError(f"{name} is {value!r:.60}, expected a number") from error


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
    thresholds = np.broadcast_to(np.asarray(settings.threshold, np.float32), len(labels))
    events = []
    for first in range(0, len(labels), _CLASSES_AT_ONCE):  # rows of hours may lie on disk
        scores = smooth_rows(rows[:, first : first + _CLASSES_AT_ONCE], settings.median_filter)
        above = scores >= thresholds[first : first + scores.shape[1]]
        is_above = np.pad(above, ((1, 1), (0, 0)))
        edges = np.diff(is_above.astype(np.int8), axis=0).T  # [classes, rows + 1]
        (classes, starts), (_, stops) = np.nonzero(edges > 0), np.nonzero(edges < 0)
        runs = zip(classes.tolist(), starts.tolist(), stops.tolist(), strict=True)
        for label, start, stop in runs:
            onset, offset = max(compute_row_start(start), 0.0), compute_row_start(stop)
            # The last row reaches to the end.
            offset = seconds if stop == len(rows) else min(offset, seconds)
            peak_score = float(scores[start:stop, label].max())
            events.append(Event(onset, offset, labels[first + label], peak_score))
    return sorted(events)


def compute_row_start(row: _Rows) -> _Rows:
    """Computes the seconds at which a row begins: half a row before its time."""
    return (row - 0.5) * FRAME_SECONDS


def smooth_rows(rows: np.ndarray, median_filter: int) -> np.ndarray:
    """Smooths the rows [n, classes] of a recording; the first and the last one repeat beyond it."""
    if median_filter == 1:
        return rows
    from scipy import ndimage  # slow to import, and seldom needed

    return np.asarray(ndimage.median_filter(rows, (int(median_filter), 1), mode="nearest"))


def rank_classes(values: np.ndarray, k: int) -> list[int]:
    """Returns the `k` classes of the highest values [classes], the highest first."""
    classes: list[int] = np.argsort(-values, kind="stable")[:k].tolist()
    return classes


@dataclasses.dataclass(frozen=True)
class Tags:
    """The tags of a waveform.

    Attributes:
      labels: names of the classes.
      scores: float32 [classes], probabilities for the whole waveform: means over frames or
        segments.
      frame_scores: float32 [frames, classes], probabilities over time.
      frame_times: [frames], seconds from the start at which each frame is centred: 0, 0.32, ...
      seconds: length of the waveform.
      thresholds: [classes], the lowest score with which `events` counts a class as present.
      embedding, frame_embeddings: float32 [channels] and [frames, channels], where they were asked
        for: the output of the network's last layer before the classes.
      median_filter: rows of the median filter that `events` applies first; 1: none.
    """

    labels: tuple[str, ...]
    scores: np.ndarray
    frame_scores: np.ndarray
    frame_times: np.ndarray
    seconds: float
    thresholds: tuple[float, ...] = ()
    embedding: np.ndarray | None = None
    frame_embeddings: np.ndarray | None = None
    median_filter: int = 1

    def __repr__(self) -> str:
        best = ", ".join(f"{label} {score:.2f}" for label, score in self.top(3))
        return f"<Tags of {self.seconds:.1f} s, {len(self.labels)} classes: {best}, ...>"

    @functools.cached_property
    def peaks(self) -> np.ndarray:
        """The highest score over time of each class: float32 [classes]."""
        return np.asarray(self.frame_scores.max(axis=0))

    def top(self, k: int = 5) -> list[tuple[str, float]]:
        """Returns the `k` best (label, score), the best first."""
        return [(self.labels[i], float(self.scores[i])) for i in rank_classes(self.scores, k)]

    def events(
        self,
        threshold: float | Mapping[str, float] | None = None,
        *,
        median_filter: int | None = None,
    ) -> list[Event]:
        """Finds events (onset and offset in seconds, label, score); see EventSettings.

        threshold: one for all classes, or by name for some; the other classes, or all where it is
        None, have the model's (`psl-jax thresholds`), 0.5 where none were tuned. median_filter: by
        default that with which the model's thresholds were tuned.
        """
        settings = EventSettings(self.thresholds or DEFAULT_THRESHOLD, self.median_filter)
        if isinstance(threshold, Mapping):
            settings = settings.change(self.labels, None, threshold, median_filter)
        else:
            settings = settings.change(self.labels, threshold, None, median_filter)
        return find_events(self.frame_scores, settings, self.labels, self.seconds)
