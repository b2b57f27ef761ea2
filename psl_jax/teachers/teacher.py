"""Defines a teacher, which turns waveforms into scores of segments."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from psl_jax.data.segment_loader import Batch
from psl_jax.networks.class_lists import Columns
from psl_jax.runtime import files
from psl_jax.runtime.errors import UserError
from psl_jax.scoring.scorer import SegmentScorer

AUDIOSET_SECONDS = 10.0  # taggers of AudioSet are trained on clips of this length


@dataclasses.dataclass(frozen=True)
class ScoringOptions:
    """Options of a scorer.

    Attributes:
      dtype: data type that a network in JAX or PyTorch computes in.
      num_devices: number of devices; None: all of this process.
      count_padding: scores the padding after a clip's end as audio, of zeros.
    """

    dtype: str = "float32"
    num_devices: int | None = None
    count_padding: bool = False


class Teacher(Protocol):
    """Attributes:
    name: name for messages.
    classes: names of its classes, in the order of its scores.
    rate: sample rate of its input in Hz; audio of another rate is resampled.
    context_seconds: length of its input; None: any. Longer segments have the mean of several.
    segment_seconds: length of the audio that it was trained on.
    digest: hash of all that its scores depend on.
    """

    @property
    def name(self) -> str: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def rate(self) -> int: ...
    @property
    def context_seconds(self) -> float | None: ...
    @property
    def segment_seconds(self) -> float: ...
    @property
    def digest(self) -> str: ...

    def describe(self) -> list[dict[str, Any]]:
        """Returns the JSON entries of a manifest, one for each teacher."""

    def summarize(self) -> str:
        """Returns a line about it for a plan."""

    def make_scorer(self, running: ScoringOptions) -> SegmentScorer:
        """Makes a scorer of segments on this process's devices."""


def make_description(teacher: Teacher, kind: str) -> dict[str, Any]:
    """Makes the entry of a teacher in a manifest."""
    return {
        "kind": kind,
        "name": teacher.name,
        "digest": teacher.digest,
        "classes": len(teacher.classes),
        "rate": teacher.rate,
    }


@dataclasses.dataclass(frozen=True)
class MappedTeacher:
    """A teacher whose scores are mapped to the data's classes.

    Attributes:
      teacher: the teacher with its own classes.
      classes: the data's classes.
      columns: for each class of the data those of the teacher, whose maximum is its score; () for
        none, which scores 0.
    """

    teacher: Teacher
    classes: tuple[str, ...]
    columns: Columns

    @property
    def name(self) -> str:
        return self.teacher.name

    @property
    def rate(self) -> int:
        return self.teacher.rate

    @property
    def context_seconds(self) -> float | None:
        return self.teacher.context_seconds

    @property
    def segment_seconds(self) -> float:
        return self.teacher.segment_seconds

    @property
    def digest(self) -> str:
        columns = [list(entry) for entry in self.columns]
        return files.json_digest([self.teacher.digest, list(self.classes), columns])

    @property
    def has_class(self) -> np.ndarray:
        """Whether the teacher has each of the data's classes: bool [classes]."""
        return np.array([bool(len(entry)) for entry in self.columns])

    def describe(self) -> list[dict[str, Any]]:
        num_known = int(self.has_class.sum())
        return [entry | {"mapped_classes": num_known} for entry in self.teacher.describe()]

    def summarize(self) -> str:
        return f"{self.teacher.summarize()}, {int(self.has_class.sum())} of them mapped"

    def make_scorer(self, running: ScoringOptions) -> SegmentScorer:
        return _MappedScorer(self.teacher.make_scorer(running), self)


class _MappedScorer:
    def __init__(self, scorer: SegmentScorer, mapped: MappedTeacher):
        self._scorer, self._name = scorer, mapped.name
        self._columns = mapped.columns

    @property
    def where(self) -> str:
        return self._scorer.where

    def fitting(self, batch_size: int, seconds: float) -> int:
        return self._scorer.fitting(batch_size, seconds)

    def __call__(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, np.ndarray]]:
        for batch, scores in self._scorer(batches):
            check_scores(scores, self._name)
            yield batch, take_columns(scores, self._columns)


def take_columns(scores: np.ndarray, columns: Columns) -> np.ndarray:
    """Maps scores [..., teacher's classes] to the data's classes; a class without any scores 0."""
    mapped_scores = np.zeros((*scores.shape[:-1], len(columns)), np.float32)
    for number, teacher_columns in enumerate(columns):
        if len(teacher_columns) == 1:
            mapped_scores[..., number] = scores[..., teacher_columns[0]]
        elif teacher_columns:
            mapped_scores[..., number] = scores[..., list(teacher_columns)].max(axis=-1)
    return mapped_scores


def refuse_other_types(running: ScoringOptions, name: str) -> None:
    """Raises UserError for another data type than that of a teacher that has no choice."""
    if running.dtype != "float32":
        raise UserError(
            f"{name} computes in float32 alone, not in {running.dtype}: leave out --dtype, in an "
            "experiment config.relabel.dtype"
        )


def check_scores(scores: np.ndarray, name: str) -> None:
    """Raises UserError where scores are not probabilities."""
    if not np.isfinite(scores).all():
        raise UserError(f"{name} gives NaN or infinite scores: its labels would be worthless")
    if scores.size and not (scores.min() >= -1e-6 and scores.max() <= 1 + 1e-6):
        raise UserError(
            f"{name} gives scores from {scores.min():g} to {scores.max():g}, which are no "
            'probabilities: say outputs = "logits" in its description, or apply a sigmoid'
        )


def make_quiet_noise(num_samples: int, num_classes: int, num_rows: int = 2) -> Batch:
    """Makes a batch of faint noise to try a teacher with."""
    audio = np.random.default_rng(0).integers(-300, 300, (num_rows, num_samples)).astype(np.int16)
    return {
        "audio": audio,
        "num_samples": np.full(num_rows, num_samples, np.int32),
        "labels": np.zeros((num_rows, num_classes), np.float32),
        "weight": np.ones(num_rows, np.float32),
        "clip": np.arange(num_rows, dtype=np.int32),
        "segment": np.zeros(num_rows, np.int32),
    }


def is_identity(columns: Columns, teacher_classes: Sequence[str]) -> bool:
    """Tells whether the data has exactly the teacher's classes, in its order."""
    return [tuple(numbers) for numbers in columns] == [
        (number,) for number in range(len(teacher_classes))
    ]
