"""A classifier of the data's own classes on the scores of other taggers: FILE.npz of `psl-jax fit`.

Its features are the logits of all classes of a tagger. Where these are hundreds, they hold about
all that its last layer contains (EfficientAT's mn: 527 of 512 values), also about classes that it
has no name for.
"""

import dataclasses
import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from psl_jax.runtime import files
from psl_jax.runtime.errors import UserError
from psl_jax.teachers.teacher import Teacher, map_scores

FORMAT = 1
_MIN_PROBABILITY = 3e-8  # for a stored 0: half of float16's smallest number


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
    """Computes the logits, finite, of probabilities [n, classes of the tagger]: float32."""
    p = np.clip(np.asarray(scores, np.float64), _MIN_PROBABILITY, 1 - _MIN_PROBABILITY)
    return (np.log(p) - np.log1p(-p)).astype(np.float32)


def save(
    path: str | os.PathLike[str],
    classifier: Classifier,
    *,
    classes: Sequence[str],
    tagger: dict[str, str],
    segment_seconds: float,
    fitted_to: dict[str, Any],
) -> None:
    """Writes FILE.npz.

    Args:
      tagger: its kind, where it is, and its digest.
      fitted_to: facts about the data.
    """
    metadata = {
        "format": FORMAT,
        "classes": list(classes),
        "teachers": [tagger],
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


def load(path: str, load_tagger: Callable[[str, str], Teacher]) -> Teacher:
    """Reads the teacher in FILE.npz; load_tagger opens the tagger of a kind, and where it is.

    Raises UserError, also where the tagger is missing or has changed.
    """
    metadata, classifier = _read_file(path)
    classes = tuple(metadata["classes"])
    tagger = _open_tagger(path, metadata["teachers"][0], load_tagger)
    num_features = len(tagger.classes)
    if classifier.kernel.shape != (num_features, len(classes)):
        raise UserError(
            f"{path}: a kernel of {list(classifier.kernel.shape)} is for another tagger: this one "
            f"has {num_features} classes. Fit it again"
        )

    name = os.path.splitext(os.path.basename(path))[0]
    arrays_hash = hashlib.sha256(classifier.kernel.tobytes() + classifier.bias.tobytes())
    digest = files.json_digest([[tagger.digest], arrays_hash.hexdigest()])
    fitted = {"kind": "fitted", "name": name, "digest": digest, "classes": len(classes)}
    return map_scores(
        tagger,
        lambda scores: classifier(compute_features(scores)).astype(np.float32),
        name=name,
        classes=classes,
        digest=digest,
        entry=tagger.entry | {"fitted": fitted | metadata["fitted_to"]},
        summary=f"{name}: {len(classes)} classes fitted to the logits of [{tagger.summary}]",
        segment_seconds=float(metadata["segment_seconds"]),
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
    if len(metadata["teachers"]) > 1:
        raise UserError(f"{path} was fitted to several taggers, expected one: fit it again")
    return metadata, classifier


def _open_tagger(
    path: str, tagger: dict[str, str], load_tagger: Callable[[str, str], Teacher]
) -> Teacher:
    """Opens a tagger where the file says, or else one of the same name beside the file."""
    kind, where = tagger["kind"], tagger["where"]
    if kind not in ("python", "transformers") and not os.path.exists(where):
        where = os.path.join(os.path.dirname(path), os.path.basename(where))
        if not os.path.exists(where):
            raise UserError(
                f"{path} needs {kind}:{tagger['where']}, which is not there: put it back, or "
                f"beside {path}"
            )
    teacher = load_tagger(kind, where)
    if teacher.digest != tagger["digest"]:
        raise UserError(
            f"{path} was fitted to {kind}:{where} with digest {tagger['digest']}, which has "
            f"{teacher.digest} now: put that one back, or fit again"
        )
    return teacher
