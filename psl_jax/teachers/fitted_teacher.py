"""A classifier of the data's own classes on the scores of other taggers: FILE.npz of `psl-jax fit`.

Its features are the logits of all classes of one or more teachers. The logits of a tagger with
hundreds of classes hold about all that its last layer contains (EfficientAT's mn: 527 of 512
values), also about classes that it has no name for.
"""

import dataclasses
import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from psl_jax.data.segment_loader import Batch
from psl_jax.runtime import files
from psl_jax.runtime.errors import UserError
from psl_jax.teachers.ensemble import ParallelScorers
from psl_jax.teachers.teacher import ScoringOptions, Teacher

FORMAT = 1
_MIN_PROBABILITY = 3e-8  # for a stored 0: half of float16's smallest number


def compute_logits(probabilities: np.ndarray) -> np.ndarray:
    """Computes logits, float64, finite also for probabilities of 0 and 1."""
    p = np.clip(np.asarray(probabilities, np.float64), _MIN_PROBABILITY, 1 - _MIN_PROBABILITY)
    return np.log(p) - np.log1p(-p)


@dataclasses.dataclass(frozen=True)
class Classifier:
    """Logistic regression: sigmoid(features @ kernel + bias).

    Attributes:
      kernel: float32 [features, classes].
      bias: float32 [classes].
    """

    kernel: np.ndarray
    bias: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Computes probabilities [n, classes] of features [n, features], in their type."""
        return np.asarray(1 / (1 + np.exp(-(features @ self.kernel + self.bias))))


def compute_features(scores: np.ndarray) -> np.ndarray:
    """Computes the logits of probabilities [n, classes of all teachers], float32."""
    return compute_logits(scores).astype(np.float32)


class JoinedScorer(ParallelScorers):
    """Joins the scores of several teachers to [n, classes of all]: see `SegmentScorer`."""

    def __call__(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, np.ndarray]]:
        for batch, scores in self.score_all(batches):
            yield batch, np.concatenate(scores, axis=1)


@dataclasses.dataclass(frozen=True)
class FittedTeacher:
    """See `Teacher`.

    Attributes:
      teachers: teachers whose logits are its features.
      fitted_to: facts about the data that it was fitted to.
    """

    name: str
    classes: tuple[str, ...]
    teachers: tuple[Teacher, ...]
    classifier: Classifier
    segment_seconds: float
    fitted_to: dict[str, Any]

    context_seconds = None

    @property
    def rate(self) -> int:
        return max(teacher.rate for teacher in self.teachers)

    @property
    def digest(self) -> str:
        arrays = hashlib.sha256(self.classifier.kernel.tobytes() + self.classifier.bias.tobytes())
        return files.json_digest(
            [[teacher.digest for teacher in self.teachers], arrays.hexdigest()]
        )

    def describe(self) -> list[dict[str, Any]]:
        fitted = {"kind": "fitted", "name": self.name, "digest": self.digest}
        fitted_entry = {"fitted": fitted | {"classes": len(self.classes)} | self.fitted_to}
        return [entry | fitted_entry for teacher in self.teachers for entry in teacher.describe()]

    def summarize(self) -> str:
        parts = " and ".join(f"[{teacher.summarize()}]" for teacher in self.teachers)
        return f"{self.name}: {len(self.classes)} classes fitted to the logits of {parts}"

    def make_scorer(self, running: ScoringOptions) -> "_FittedScorer":
        return _FittedScorer(JoinedScorer(self.teachers, running), self.classifier)


class _FittedScorer:
    def __init__(self, scorer: JoinedScorer, classifier: Classifier):
        self._scorer, self._classifier = scorer, classifier
        self.where, self.fitting = scorer.where, scorer.fitting

    def __call__(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, np.ndarray]]:
        for batch, scores in self._scorer(batches):
            yield batch, self._classifier(compute_features(scores)).astype(np.float32)


# --- Its file -----------------------------------------------------------------------------------


def save(
    path: str | os.PathLike[str],
    classifier: Classifier,
    *,
    classes: Sequence[str],
    parts: Sequence[dict[str, str]],
    segment_seconds: float,
    fitted_to: dict[str, Any],
) -> None:
    """Writes FILE.npz. parts: kind, where and digest of each teacher, in their order."""
    metadata = {
        "format": FORMAT,
        "classes": list(classes),
        "teachers": list(parts),
        "segment_seconds": segment_seconds,
        "fitted_to": fitted_to,
    }
    with files.atomic_open(path, "wb") as file:
        np.savez(
            file,
            kernel=classifier.kernel.astype(np.float32),
            bias=classifier.bias.astype(np.float32),
            about=np.array(json.dumps(metadata)),
        )


def load(path: str, load_part: Callable[[str, str], Teacher]) -> FittedTeacher:
    """Reads the teacher in FILE.npz; load_part opens a teacher of its features by kind and where.

    Raises UserError, also where one of them is missing or has changed.
    """
    metadata, classifier = _read_file(path)
    teachers = tuple(_open_part(path, part, load_part) for part in metadata["teachers"])
    num_features = sum(len(part.classes) for part in teachers)
    if classifier.kernel.shape != (num_features, len(metadata["classes"])):
        raise UserError(
            f"{path}: a kernel of {list(classifier.kernel.shape)} is for other teachers: they have "
            f"{num_features} classes. Fit it again"
        )
    return FittedTeacher(
        os.path.splitext(os.path.basename(path))[0],
        tuple(metadata["classes"]),
        teachers,
        classifier,
        float(metadata["segment_seconds"]),
        metadata["fitted_to"],
    )


def _read_file(path: str) -> tuple[dict[str, Any], Classifier]:
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
            metadata = json.loads(str(stored["about"]))
            classifier = Classifier(stored["kernel"], stored["bias"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path}: expected a file that psl-jax fit wrote ({error or type(error).__name__})"
        ) from error
    if metadata.get("format") != FORMAT:
        raise UserError(
            f"{path} has format {metadata.get('format')!r}, and this version reads {FORMAT}: fit "
            "it again"
        )
    return metadata, classifier


def _open_part(
    path: str, part: dict[str, str], load_part: Callable[[str, str], Teacher]
) -> Teacher:
    """Opens a teacher where the file says, or else one of the same name beside the file."""
    kind, where = part["kind"], part["where"]
    if kind not in ("python", "transformers") and not os.path.exists(where):
        neighbour = os.path.join(os.path.dirname(path), os.path.basename(where))
        if not os.path.exists(neighbour):
            raise UserError(
                f"{path} hears {kind}:{where}, which is not there: put it back, or beside {path}"
            )
        where = neighbour
    teacher = load_part(kind, where)
    if teacher.digest != part["digest"]:
        raise UserError(
            f"{path} was fitted to {kind}:{where} with digest {part['digest']}, which has "
            f"{teacher.digest} now: put that one back, or fit again"
        )
    return teacher
