"""Several teachers as one: the weighted mean of their probabilities or of their logits."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from psl_jax.data.segment_loader import Batch
from psl_jax.runtime import files, parallel
from psl_jax.runtime.errors import UserError
from psl_jax.teachers.teacher import Running, Teacher, check_scores

MEANS = ("probabilities", "logits")
_LEAST = 1e-7  # of a probability, whose logit is to be finite


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """See `Teacher`.

    Attributes:
      teachers: with the data's classes.
      weights: float64 [teachers, classes]; 0 where a teacher lacks a class. A class that all lack
        scores 0.
      mean: of "probabilities" or "logits".
    """

    teachers: tuple[Teacher, ...]
    weights: np.ndarray
    mean: str = "probabilities"

    def __post_init__(self) -> None:
        for one in self.teachers:
            if one.classes != self.classes:
                raise UserError(
                    f"{one.name} has other classes than {self.teachers[0].name}: an ensemble needs "
                    "the same classes in the same order, or a class_map for each"
                )

    @property
    def classes(self) -> tuple[str, ...]:
        return self.teachers[0].classes

    @property
    def name(self) -> str:
        return "+".join(one.name for one in self.teachers)

    @property
    def rate(self) -> int:
        return max(one.rate for one in self.teachers)

    @property
    def context(self) -> float | None:
        return None

    @property
    def segment_seconds(self) -> float:
        return self.teachers[0].segment_seconds

    @property
    def digest(self) -> str:
        parts = [one.digest for one in self.teachers]
        return files.json_digest([parts, np.asarray(self.weights).tolist(), self.mean])

    def described(self) -> list[dict[str, Any]]:
        return [
            entry | {"weight": float(weights.max()), "mean": self.mean}
            for one, weights in zip(self.teachers, self.weights, strict=True)
            for entry in one.described()
        ]

    def words(self) -> str:
        parts = " + ".join(
            f"{weights.max():g} x [{one.words()}]"
            for one, weights in zip(self.teachers, self.weights, strict=True)
        )
        return f"mean of {self.mean}: {parts}"

    def scorer(self, running: Running) -> "_EnsembleScorer":
        return _EnsembleScorer(self, running)


class SideBySide:
    """Several teachers on the same batches; each hears them with a scorer of its own."""

    def __init__(self, teachers: Sequence[Teacher], running: Running):
        self._names = [teacher.name for teacher in teachers]
        self._scorers = [teacher.scorer(running) for teacher in teachers]

    @property
    def where(self) -> str:
        return ", ".join(dict.fromkeys(scorer.where for scorer in self._scorers))

    def fitting(self, batch_size: int, seconds: float) -> int:
        size = max(scorer.fitting(batch_size, seconds) for scorer in self._scorers)
        for scorer in self._scorers:  # all on the same devices, whose multiple is one for all
            size = scorer.fitting(size, seconds)
        return size

    def each(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, list[np.ndarray]]]:
        """(batch, scores [real rows, its classes] of each teacher), checked."""
        if len(self._scorers) == 1:  # which computes ahead by itself
            for batch, scores in self._scorers[0](batches):
                check_scores(scores, self._names[0])
                yield batch, [scores]
            return
        for batch in parallel.prefetch(batches, lambda one: one):
            found, real = [], batch
            for scorer, name in zip(self._scorers, self._names, strict=True):
                ((real, scores),) = scorer([batch])
                check_scores(scores, name)
                found.append(scores)
            yield real, found


class _EnsembleScorer(SideBySide):
    def __init__(self, ensemble: Ensemble, running: Running):
        super().__init__(ensemble.teachers, running)
        self._ensemble = ensemble

    def __call__(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, np.ndarray]]:
        for batch, scores in self.each(batches):
            yield batch, mean_of(np.stack(scores), self._ensemble.weights, self._ensemble.mean)


def mean_of(scores: np.ndarray, weights: np.ndarray, mean: str) -> np.ndarray:
    """Scores [teachers, n, classes] with weights [teachers, classes]: float32 [n, classes]."""
    total = weights.sum(axis=0)
    shares = (weights / np.where(total > 0, total, 1))[:, None]
    values = scores.astype(np.float64)
    if mean == "logits":
        values = np.clip(values, _LEAST, 1 - _LEAST)
        values = np.log(values) - np.log1p(-values)
    result = (shares * values).sum(axis=0)
    if mean == "logits":
        result = 1 / (1 + np.exp(-result))
    return np.where(total > 0, result, 0).astype(np.float32)
