"""Holds the tags of a waveform: scores over time, events, embeddings."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from psl_jax.networks.class_lists import near_names
from psl_jax.networks.trained_model import DEFAULT_THRESHOLD
from psl_jax.runtime.errors import UserError
from psl_jax.tagging.events import Event, EventSettings, find_events


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

    def top(self, k: int = 5) -> list[tuple[str, float]]:
        """Returns the `k` best (label, score), the best first."""
        order = np.argsort(-self.scores, kind="stable")[:k]
        return [(self.labels[i], float(self.scores[i])) for i in order]

    def events(
        self,
        threshold: float | Mapping[str, float] | None = None,
        *,
        low_threshold: float | None = None,
        median_filter: int | None = None,
    ) -> list[Event]:
        """Finds events (onset and offset in seconds, label, score); see EventSettings.

        threshold: one for all classes, or by name for some; the other classes, or all where it is
        None, have the model's (`psl-jax thresholds`), 0.5 where none were tuned. median_filter: by
        default that with which the model's thresholds were tuned.
        """
        settings = EventSettings(
            self._resolve_thresholds(threshold),
            low_threshold,
            self.median_filter if median_filter is None else median_filter,
        )
        return find_events(self.frame_scores, settings, self.labels, self.seconds)

    def _resolve_thresholds(
        self, thresholds: float | Mapping[str, float] | None
    ) -> float | tuple[float, ...]:
        if thresholds is not None and not isinstance(thresholds, Mapping):
            return thresholds
        model_thresholds = self.thresholds or (DEFAULT_THRESHOLD,) * len(self.labels)
        by_name = dict(zip(self.labels, model_thresholds, strict=True))
        if unknown := [name for name in thresholds or {} if name not in by_name]:
            suggestion = near_names(unknown[0], self.labels)
            raise UserError(
                f"threshold: {unknown[0]!r} is none of the {len(self.labels)} classes{suggestion}"
            )
        return tuple((by_name | dict(thresholds or {})).values())
