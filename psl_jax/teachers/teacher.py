"""A teacher: whatever turns waveforms into scores of segments."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from psl_jax.data.segment_loader import Batch
from psl_jax.networks.class_lists import Columns
from psl_jax.runtime import files
from psl_jax.runtime.errors import UserError
from psl_jax.scoring.scorer import SegmentScorer

AUDIOSET_SECONDS = 10.0  # what taggers of AudioSet are trained on


@dataclasses.dataclass(frozen=True)
class Running:
    """How a teacher is run.

    Attributes:
      dtype: of a network's maps, where it is one of JAX.
      num_devices: None for all of this process.
      count_padding: padding after a clip's end is audio like any other, of zeros.
    """

    dtype: str = "float32"
    num_devices: int | None = None
    count_padding: bool = False


class Teacher(Protocol):
    """Attributes:
    name: for people.
    classes: in the order of its scores.
    rate: samples a second that it hears; the data's 16 kHz are resampled.
    context: seconds that it hears at a time; None: any. Longer segments are the mean of several.
    segment_seconds: of the audio that it was trained on.
    digest: of all that its scores depend on.
    """

    @property
    def name(self) -> str: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def rate(self) -> int: ...
    @property
    def context(self) -> float | None: ...
    @property
    def segment_seconds(self) -> float: ...
    @property
    def digest(self) -> str: ...

    def described(self) -> list[dict[str, Any]]:
        """What a manifest says of it: an entry for each teacher, as JSON."""

    def words(self) -> str:
        """What a plan says of it, in a line."""

    def scorer(self, running: Running) -> SegmentScorer:
        """What scores segments on this process's devices."""


def description(teacher: Teacher, kind: str) -> dict[str, Any]:
    """The entry of a teacher of one kind in a manifest."""
    return {
        "kind": kind,
        "name": teacher.name,
        "digest": teacher.digest,
        "classes": len(teacher.classes),
        "rate": teacher.rate,
    }


@dataclasses.dataclass(frozen=True)
class Mapped:
    """A teacher's scores as those of the data's classes.

    Attributes:
      teacher: the one with classes of its own.
      classes: the data's.
      columns: for each of them those of the teacher's of which it has the maximum; () for none,
        which scores 0.
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
    def context(self) -> float | None:
        return self.teacher.context

    @property
    def segment_seconds(self) -> float:
        return self.teacher.segment_seconds

    @property
    def digest(self) -> str:
        columns = [list(one) for one in self.columns]
        return files.json_digest([self.teacher.digest, list(self.classes), columns])

    @property
    def has_class(self) -> np.ndarray:
        """bool [classes]: which of the data's it knows."""
        return np.array([bool(len(one)) for one in self.columns])

    def described(self) -> list[dict[str, Any]]:
        known = int(self.has_class.sum())
        return [one | {"mapped_classes": known} for one in self.teacher.described()]

    def words(self) -> str:
        return f"{self.teacher.words()}, {int(self.has_class.sum())} of them mapped"

    def scorer(self, running: Running) -> SegmentScorer:
        return _MappedScorer(self.teacher.scorer(running), self)


class _MappedScorer:
    def __init__(self, scorer: SegmentScorer, mapped: Mapped):
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
            yield batch, selected(scores, self._columns)


def selected(scores: np.ndarray, columns: Columns) -> np.ndarray:
    """Scores [..., classes of the teacher] as those of the data; 0 for a class without any."""
    out = np.zeros((*scores.shape[:-1], len(columns)), np.float32)
    for number, places in enumerate(columns):
        if len(places) == 1:
            out[..., number] = scores[..., places[0]]
        elif places:
            out[..., number] = scores[..., list(places)].max(axis=-1)
    return out


def check_scores(scores: np.ndarray, name: str) -> None:
    """Raises UserError where scores are no probabilities."""
    if not np.isfinite(scores).all():
        raise UserError(f"{name} gives NaN or infinite scores: its labels would be worthless")
    if scores.size and not (scores.min() >= -1e-6 and scores.max() <= 1 + 1e-6):
        raise UserError(
            f"{name} gives scores from {scores.min():g} to {scores.max():g}, which are no "
            'probabilities: say outputs = "logits" in its description, or apply a sigmoid'
        )


def silence(samples: int, classes: int, rows: int = 2) -> Batch:
    """A batch to try a teacher with: faint noise."""
    audio = np.random.default_rng(0).integers(-300, 300, (rows, samples)).astype(np.int16)
    return {
        "audio": audio,
        "num_samples": np.full(rows, samples, np.int32),
        "labels": np.zeros((rows, classes), np.float32),
        "weight": np.ones(rows, np.float32),
        "clip": np.arange(rows, dtype=np.int32),
        "segment": np.zeros(rows, np.int32),
    }


def is_identity(columns: Columns, theirs: Sequence[str]) -> bool:
    """Whether the data has just the teacher's classes, in its order."""
    return [tuple(one) for one in columns] == [(number,) for number in range(len(theirs))]
