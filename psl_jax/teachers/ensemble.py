"""Combines several teachers: the weighted mean of their probabilities or of their logits."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from psl_jax.data.segment_loader import Batch
from psl_jax.runtime import files, parallel
from psl_jax.runtime.errors import UserError
from psl_jax.teachers.teacher import ScoringOptions, Teacher, check_scores

MEANS = ("probabilities", "logits")
_MIN_PROBABILITY = 1e-7  # its logit is still finite


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """See `Teacher`.

    Attributes:
      teachers: teachers for the data's classes.
      weights: float64 [teachers, classes]; 0 where a teacher lacks a class. A class that all lack
        scores 0.
      mean: mean of "probabilities" or of "logits".
    """

    teachers: tuple[Teacher, ...]
    weights: np.ndarray
    mean: str = "probabilities"

    def __post_init__(self) -> None:
        for teacher in self.teachers:
            if teacher.classes != self.classes:
                raise UserError(
                    f"{teacher.name} has other classes than {self.teachers[0].name}: an ensemble "
                    "needs the same classes in the same order, or a class_map for each"
                )

    @property
    def classes(self) -> tuple[str, ...]:
        return self.teachers[0].classes

    @property
    def name(self) -> str:
        return "+".join(teacher.name for teacher in self.teachers)

    @property
    def rate(self) -> int:
        return max(teacher.rate for teacher in self.teachers)

    @property
    def context_seconds(self) -> float | None:
        return None

    @property
    def segment_seconds(self) -> float:
        return self.teachers[0].segment_seconds

    @property
    def digest(self) -> str:
        digests = [teacher.digest for teacher in self.teachers]
        return files.json_digest([digests, np.asarray(self.weights).tolist(), self.mean])

    def describe(self) -> list[dict[str, Any]]:
        return [
            entry | {"weight": float(weights.max()), "mean": self.mean}
            for teacher, weights in zip(self.teachers, self.weights, strict=True)
            for entry in teacher.describe()
        ]

    def summarize(self) -> str:
        digests = " + ".join(
            f"{weights.max():g} x [{teacher.summarize()}]"
            for teacher, weights in zip(self.teachers, self.weights, strict=True)
        )
        return f"mean of {self.mean}: {digests}"

    def make_scorer(self, running: ScoringOptions) -> "_EnsembleScorer":
        return _EnsembleScorer(self, running)


class ParallelScorers:
    """Scores the same batches with several teachers, each by a scorer of its own."""

    def __init__(self, teachers: Sequence[Teacher], running: ScoringOptions):
        self._names = [teacher.name for teacher in teachers]
        self._scorers = [teacher.make_scorer(running) for teacher in teachers]

    @property
    def where(self) -> str:
        return ", ".join(dict.fromkeys(scorer.where for scorer in self._scorers))

    def fitting(self, batch_size: int, seconds: float) -> int:
        size = max(scorer.fitting(batch_size, seconds) for scorer in self._scorers)
        for scorer in self._scorers:  # all on the same devices, whose multiple is one for all
            size = scorer.fitting(size, seconds)
        return size

    def score_all(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, list[np.ndarray]]]:
        """Yields (batch, checked scores [real rows, its classes] of each teacher)."""
        if len(self._scorers) == 1:  # it computes ahead by itself
            for batch, scores in self._scorers[0](batches):
                check_scores(scores, self._names[0])
                yield batch, [scores]
            return
        for batch in parallel.prefetch(batches, lambda batch: batch):
            all_scores, real_rows = [], batch
            for scorer, name in zip(self._scorers, self._names, strict=True):
                ((real_rows, scores),) = scorer([batch])
                check_scores(scores, name)
                all_scores.append(scores)
            yield real_rows, all_scores


class _EnsembleScorer(ParallelScorers):
    def __init__(self, ensemble: Ensemble, running: ScoringOptions):
        super().__init__(ensemble.teachers, running)
        self._ensemble = ensemble

    def __call__(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, np.ndarray]]:
        for batch, scores in self.score_all(batches):
            yield batch, compute_mean(np.stack(scores), self._ensemble.weights, self._ensemble.mean)


def compute_mean(scores: np.ndarray, weights: np.ndarray, mean: str) -> np.ndarray:
    """Averages scores [teachers, n, classes] with weights [teachers, classes]: [n, classes]."""
    total = weights.sum(axis=0)
    shares = (weights / np.where(total > 0, total, 1))[:, None]
    values = scores.astype(np.float64)
    if mean == "logits":
        values = np.clip(values, _MIN_PROBABILITY, 1 - _MIN_PROBABILITY)
        values = np.log(values) - np.log1p(-values)
    means = (shares * values).sum(axis=0)
    if mean == "logits":
        means = 1 / (1 + np.exp(-means))
    return np.where(total > 0, means, 0).astype(np.float32)
