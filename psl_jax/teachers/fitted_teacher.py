"""A classifier of the data's own classes on what other taggers say: FILE.npz, by `psl-jax fit`.

Its features are the logits of all classes of one or more teachers. Those of a tagger with hundreds
of classes hold about all that its last layer knows (EfficientAT's mn: 527 of 512 values), also of
classes that it has no name for.
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
from psl_jax.teachers.ensemble import SideBySide
from psl_jax.teachers.teacher import Running, Teacher

FORMAT = 1
_LEAST = 3e-8  # of a probability: half of float16's smallest number, which a stored 0 stands for


def logits_of(probabilities: np.ndarray) -> np.ndarray:
    """float64, finite also for 0 and 1."""
    p = np.clip(np.asarray(probabilities, np.float64), _LEAST, 1 - _LEAST)
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
        """Probabilities [n, classes] of features [n, features], of their type."""
        return 1 / (1 + np.exp(-(features @ self.kernel + self.bias)))


def features_of(scores: np.ndarray) -> np.ndarray:
    """Logits of probabilities [n, classes of all teachers], float32."""
    return logits_of(scores).astype(np.float32)


class JoinedScorer(SideBySide):
    """The scores of several teachers side by side, [n, classes of all]: see `SegmentScorer`."""

    def __call__(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, np.ndarray]]:
        for batch, scores in self.each(batches):
            yield batch, np.concatenate(scores, axis=1)


@dataclasses.dataclass(frozen=True)
class FittedTeacher:
    """See `Teacher`.

    Attributes:
      teachers: those whose logits it hears.
      fitted_to: what the file says of its data.
    """

    name: str
    classes: tuple[str, ...]
    teachers: tuple[Teacher, ...]
    classifier: Classifier
    segment_seconds: float
    fitted_to: dict[str, Any]

    context = None

    @property
    def rate(self) -> int:
        return max(one.rate for one in self.teachers)

    @property
    def digest(self) -> str:
        arrays = hashlib.sha256(self.classifier.kernel.tobytes() + self.classifier.bias.tobytes())
        return files.json_digest([[one.digest for one in self.teachers], arrays.hexdigest()])

    def described(self) -> list[dict[str, Any]]:
        more = {"kind": "fitted", "name": self.name, "digest": self.digest}
        told = {"fitted": more | {"classes": len(self.classes)} | self.fitted_to}
        return [entry | told for one in self.teachers for entry in one.described()]

    def words(self) -> str:
        parts = " and ".join(f"[{one.words()}]" for one in self.teachers)
        return f"{self.name}: {len(self.classes)} classes fitted to the logits of {parts}"

    def scorer(self, running: Running) -> "_FittedScorer":
        return _FittedScorer(JoinedScorer(self.teachers, running), self.classifier)


class _FittedScorer:
    def __init__(self, scorer: JoinedScorer, classifier: Classifier):
        self._scorer, self._classifier = scorer, classifier
        self.where, self.fitting = scorer.where, scorer.fitting

    def __call__(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, np.ndarray]]:
        for batch, scores in self._scorer(batches):
            yield batch, self._classifier(features_of(scores)).astype(np.float32)


# --- its file -----------------------------------------------------------------------------------


def save(
    path: str | os.PathLike,
    classifier: Classifier,
    classes: Sequence[str],
    parts: Sequence[dict[str, str]],
    segment_seconds: float,
    fitted_to: dict[str, Any],
) -> None:
    """Writes FILE.npz. parts: kind, where and digest of each teacher, in their order."""
    about = {
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
            about=np.array(json.dumps(about)),
        )


def load(path: str, load_part: Callable[[str, str], Teacher]) -> FittedTeacher:
    """The teacher in FILE.npz; load_part: opens one of those that it hears, by kind and where.

    Raises UserError, also where one of them is not there or is another one by now.
    """
    about, classifier = _read(path)
    teachers = tuple(_part(path, one, load_part) for one in about["teachers"])
    features = sum(len(one.classes) for one in teachers)
    if classifier.kernel.shape != (features, len(about["classes"])):
        raise UserError(
            f"{path}: a kernel of {list(classifier.kernel.shape)} is for other teachers: they have "
            f"{features} classes. Fit it again"
        )
    return FittedTeacher(
        os.path.splitext(os.path.basename(path))[0],
        tuple(about["classes"]),
        teachers,
        classifier,
        float(about["segment_seconds"]),
        about["fitted_to"],
    )


def _read(path: str) -> tuple[dict[str, Any], Classifier]:
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
            about = json.loads(str(stored["about"]))
            classifier = Classifier(stored["kernel"], stored["bias"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path}: expected a file that psl-jax fit wrote ({error or type(error).__name__})"
        ) from error
    if about.get("format") != FORMAT:
        raise UserError(
            f"{path} has format {about.get('format')!r}, and this version reads {FORMAT}: fit it "
            "again"
        )
    return about, classifier


def _part(path: str, one: dict[str, str], load_part: Callable[[str, str], Teacher]) -> Teacher:
    """The teacher where the file says, or else of the same name beside the file."""
    kind, where = one["kind"], one["where"]
    if kind != "python" and not os.path.exists(where):
        beside = os.path.join(os.path.dirname(path), os.path.basename(where))
        if not os.path.exists(beside):
            raise UserError(
                f"{path} hears {kind}:{where}, which is not there: put it back, or beside {path}"
            )
        where = beside
    teacher = load_part(kind, where)
    if teacher.digest != one["digest"]:
        raise UserError(
            f"{path} was fitted to {kind}:{where} with digest {one['digest']}, which has "
            f"{teacher.digest} now: put that one back, or fit again"
        )
    return teacher
