"""Makes teachers of others: mapped to the data's classes, several side by side."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from psl_jax.data.label_manifest import LabelRule
from psl_jax.data.segment_loader import Batch
from psl_jax.networks.class_lists import Columns, select_columns
from psl_jax.runtime import files, parallel
from psl_jax.teachers.teacher import Teacher, check_scores

# Scores [n, its classes] of each teacher to [n, classes].
Combine = Callable[[Sequence[np.ndarray]], np.ndarray]


class CombinedScorer:
    """Scores the same batches with several teachers, and combines their checked scores.

    See `SegmentScorer`.
    """

    def __init__(self, teachers: Sequence[Teacher], combine: Combine, rule: LabelRule):
        self._names, self._combine = [teacher.name for teacher in teachers], combine
        self._scorers = [teacher.make_scorer(rule) for teacher in teachers]

    @property
    def where(self) -> str:
        return ", ".join(dict.fromkeys(scorer.where for scorer in self._scorers))

    def fitting(self, batch_size: int, seconds: float) -> int:
        size = max(scorer.fitting(batch_size, seconds) for scorer in self._scorers)
        for scorer in self._scorers:  # all on the same devices, whose multiple is one for all
            size = scorer.fitting(size, seconds)
        return size

    def __call__(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, np.ndarray]]:
        for batch, scores in self._score_all(batches):
            for values, name in zip(scores, self._names, strict=True):
                check_scores(values, name)
            yield batch, self._combine(scores)

    def _score_all(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, list[np.ndarray]]]:
        if len(self._scorers) == 1:  # it computes ahead by itself
            for batch, scores in self._scorers[0](batches):
                yield batch, [scores]
            return
        for batch in parallel.prefetch(batches, lambda batch: batch):
            results = [result for scorer in self._scorers for result in scorer([batch])]
            yield results[0][0], [scores for _, scores in results]


def combine(teachers: Sequence[Teacher], function: Combine, **changes: Any) -> Teacher:
    """Makes a teacher of others, like the first but for the `changes`."""
    values: dict[str, Any] = {
        "name": "+".join(teacher.name for teacher in teachers),
        "rate": max(teacher.rate for teacher in teachers),
        "open_scorer": functools.partial(CombinedScorer, tuple(teachers), function),
        "output": "sigmoid",
        "model": None,
    }
    return dataclasses.replace(teachers[0], **values | changes)


def map_classes(teacher: Teacher, classes: Sequence[str], columns: Columns) -> Teacher:
    """Maps a teacher's scores to the data's `classes`.

    columns: for each of them those of the teacher, whose maximum is its score; () for 0.
    """
    num_mapped = sum(len(column) > 0 for column in columns)
    return combine(
        [teacher],
        lambda scores: np.nan_to_num(select_columns(scores[0], columns), copy=False),
        classes=tuple(classes),
        digest=files.json_digest([teacher.digest, list(classes), [list(c) for c in columns]]),
        entries=[entry | {"mapped_classes": num_mapped} for entry in teacher.entries],
        summary=f"{teacher.summary}, {num_mapped} of them mapped",
    )


def join(teachers: Sequence[Teacher]) -> Teacher:
    """Makes a teacher of the classes of several, side by side."""
    return combine(
        teachers,
        lambda scores: np.concatenate(scores, axis=1),
        classes=tuple(name for teacher in teachers for name in teacher.classes),
        digest=files.json_digest([teacher.digest for teacher in teachers]),
        entries=[entry for teacher in teachers for entry in teacher.entries],
        summary=" and ".join(teacher.summary for teacher in teachers),
    )
