"""Fits a classifier of the data's own classes to a tagger's scores: FILE.npz of `psl-jax fit`.

Its features are the logits of all classes of a tagger. Where these are hundreds, they hold about
all that its last layer contains (EfficientAT's mn: 527 of 512 values), also about classes that it
has no name for.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from psl_jax.runtime import files, progress
from psl_jax.runtime.errors import UserError
from psl_jax.scoring import metrics
from psl_jax.teachers.teacher import Teacher, is_path, map_scores

FORMAT = 1
_MIN_PROBABILITY = 3e-8  # for a stored 0: half of float16's smallest number
PENALTIES = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3)
FOLDS = 5
_MAX_STEPS = 100  # steps of L-BFGS for each penalty
_TOLERANCE = 1e-3  # L-BFGS stops at a gradient of this norm
_MIN_DEVIATION = 1e-3  # least standard deviation by which a feature is divided


@dataclasses.dataclass(frozen=True)
class Classifier:
    """Logistic regression: sigmoid(features @ kernel + bias)."""

    kernel: np.ndarray  # float32 [features, classes]
    bias: np.ndarray  # float32 [classes]

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
    """Writes FILE.npz. tagger: its kind, place and digest; fitted_to: facts about the data."""
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
    except (OSError, *files.NPZ_ERRORS) as error:
        raise UserError(
            f"{path}: expected a file that psl-jax fit wrote ({error or type(error).__name__})"
        ) from error
    if metadata.get("format") != FORMAT or len(metadata["teachers"]) > 1:
        raise UserError(
            f"{path}: format {metadata.get('format')!r} with {len(metadata.get('teachers', []))} "
            f"taggers, and this version reads {FORMAT} with one: fit it again"
        )
    return metadata, classifier


def _open_tagger(
    path: str, tagger: dict[str, str], load_tagger: Callable[[str, str], Teacher]
) -> Teacher:
    """Opens a tagger where the file says, or else one of the same name beside the file."""
    kind, where = tagger["kind"], tagger["where"]
    if is_path(kind, where) and not os.path.exists(where):
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


# --- Fitting --------------------------------------------------------------------------------------


class FitResult(NamedTuple):
    """A classifier of all clips, its penalty, and the held-out mAP of each penalty tried."""

    classifier: Classifier
    penalty: float
    held_out: dict[float, float]


def fit(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    penalties: Sequence[float] = PENALTIES,
    num_folds: int = FOLDS,
) -> FitResult:
    """Fits a logistic regression for each class to features [clips, features].

    Args:
      features: features of any scale; they are standardised first.
      labels: 0 or 1, [clips, classes]; negative where they are unknown, and do not count.
      penalties: the loss is the mean cross-entropy plus half a penalty times the squared norm of a
        class's weights. They are tried from the largest down until the mAP on held-out clips falls,
        and the best is taken.
      num_folds: number of folds of the clips; each fold is held out once.
    """
    mean = features.mean(axis=0, dtype=np.float64)
    deviation = np.maximum(features.std(axis=0, dtype=np.float64), _MIN_DEVIATION)
    scaled = ((features - mean) / deviation).astype(np.float32)
    fold_of_clip = np.random.default_rng(0).permutation(len(features)) % num_folds
    training_weights = [(fold_of_clip != number).astype(np.float32) for number in range(num_folds)]
    data = jax.device_put((scaled, labels.astype(np.float32)))
    fold_values = [_make_start(labels[weight > 0], scaled.shape[1]) for weight in training_weights]
    scores, held_out = np.zeros(labels.shape, np.float32), {}
    descending = sorted(penalties, reverse=True)
    with progress.bar(len(descending), "penalty", "fit") as bar:
        for penalty in descending:
            for number, weight in enumerate(training_weights):
                fold_values[number] = _solve(fold_values[number], *data, weight, penalty)
                scores[weight == 0] = _make_classifier(fold_values[number])(scaled[weight == 0])
            bar.update(1)
            held_out[penalty] = metrics.mean_average_precision(labels, scores)
            if held_out[penalty] < max(held_out.values()):
                bar.update(len(descending) - len(held_out))  # weaker ones are not tried
                break
    best = max(held_out, key=held_out.__getitem__)
    start = _make_start(labels, scaled.shape[1])
    classifier = _make_classifier(_solve(start, *data, np.ones(len(labels), np.float32), best))
    kernel = classifier.kernel / deviation[:, None]
    bias = classifier.bias - mean @ kernel
    return FitResult(Classifier(kernel.astype(np.float32), bias.astype(np.float32)), best, held_out)


def _make_start(labels: np.ndarray, num_features: int) -> np.ndarray:
    """Makes a start [features + 1, classes] that predicts each class's frequency."""
    num_clips, num_classes = labels.shape
    is_known = labels >= 0
    count = np.maximum(is_known.sum(axis=0, dtype=labels.dtype), 1)
    frequencies = np.clip(
        (labels * is_known).sum(axis=0) / count, 0.5 / num_clips, 1 - 0.5 / num_clips
    )
    start = np.zeros((num_features + 1, num_classes), np.float32)
    start[-1] = np.log(frequencies / (1 - frequencies))
    return start


def _make_classifier(values: np.ndarray | jax.Array) -> Classifier:
    array = np.asarray(values, np.float64)
    return Classifier(array[:-1], array[-1])


@jax.jit
def _solve(
    start: jax.Array, features: jax.Array, labels: jax.Array, weight: jax.Array, penalty: float
) -> jax.Array:
    """Fits kernel and bias [features + 1, classes] to the clips with weight 1, by L-BFGS."""
    solver = optax.lbfgs()

    def loss(values: jax.Array) -> jax.Array:
        """The mean cross-entropy of the clips plus the penalty, summed over classes."""
        kernel, bias = values[:-1], values[-1]
        logits = jnp.matmul(features, kernel, precision=jax.lax.Precision.HIGHEST) + bias
        entropies = optax.sigmoid_binary_cross_entropy(logits, labels)
        entropy: jax.Array = jnp.where(labels >= 0, entropies, 0).sum(axis=1)
        return weight @ entropy / weight.sum() + penalty / 2 * jnp.square(kernel).sum()

    value_and_gradient = optax.value_and_grad_from_state(loss)

    def step(carry: Any) -> Any:
        values, state = carry
        value, gradient = value_and_gradient(values, state=state)
        arguments = {"value": value, "grad": gradient, "value_fn": loss}
        updates, state = solver.update(gradient, state, values, **arguments)
        return optax.apply_updates(values, updates), state

    def should_continue(carry: Any) -> Any:
        state = carry[1]
        num_steps, gradient = (optax.tree.get(state, name) for name in ("count", "grad"))
        return (num_steps == 0) | (
            (num_steps < _MAX_STEPS) & (optax.tree.norm(gradient) > _TOLERANCE)
        )

    return jax.lax.while_loop(should_continue, step, (start, solver.init(start)))[0]
