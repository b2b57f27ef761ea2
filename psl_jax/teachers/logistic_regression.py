"""Logistic regressions on a teacher's logits, their penalty chosen by clips that are held out."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from psl_jax.runtime import progress
from psl_jax.scoring import metrics
from psl_jax.teachers.fitted_teacher import Classifier

PENALTIES = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3)
FOLDS = 5
_STEPS = 100  # of L-BFGS at most, for each penalty
_TOLERANCE = 1e-3  # of the gradient's norm
_DEVIATION = 1e-3  # at least, of a feature


class Fitted(NamedTuple):
    """A classifier, and how it was chosen.

    Attributes:
      classifier: fitted to all clips.
      penalty: its own.
      held_out: for each penalty that was tried the mAP of clips that were held out.
    """

    classifier: Classifier
    penalty: float
    held_out: dict[float, float]


def fit(
    features: np.ndarray,
    labels: np.ndarray,
    penalties: Sequence[float] = PENALTIES,
    folds: int = FOLDS,
    seed: int = 0,
) -> Fitted:
    """A logistic regression for each class on features [clips, features].

    Args:
      features: of any scale; they are standardised first.
      labels: 0 or 1, [clips, classes].
      penalties: half of one times the squared norm of a class's weights is added to the mean
        cross-entropy. From the largest down they are tried until clips held out are ranked worse
        (mAP), and the best is taken.
      folds: that the clips are dealt out to; each is held out once.
      seed: of the dealing.
    """
    mean = features.mean(axis=0, dtype=np.float64)
    deviation = np.maximum(features.std(axis=0, dtype=np.float64), _DEVIATION)
    scaled = ((features - mean) / deviation).astype(np.float32)
    fold = np.random.default_rng(seed).permutation(len(features)) % folds
    seen = [(fold != number).astype(np.float32) for number in range(folds)]
    data = jax.device_put((scaled, labels.astype(np.float32)))
    starts = [_start(labels[weight > 0], scaled.shape[1]) for weight in seen]
    scores, held_out = np.zeros(labels.shape, np.float32), {}
    ordered = sorted(penalties, reverse=True)
    with progress.bar(len(ordered), "penalty", "fit") as bar:
        for penalty in ordered:
            for number, weight in enumerate(seen):
                starts[number] = _solved(starts[number], *data, weight, penalty)
                scores[weight == 0] = _classifier(starts[number])(scaled[weight == 0])
            bar.update(1)
            held_out[penalty] = metrics.mean_average_precision(labels, scores)
            if held_out[penalty] < max(held_out.values()):
                bar.update(len(ordered) - len(held_out))  # weaker ones are not tried
                break
    best = max(held_out, key=lambda penalty: held_out[penalty])
    start = _start(labels, scaled.shape[1])
    chosen = _classifier(_solved(start, *data, np.ones(len(labels), np.float32), best))
    kernel = chosen.kernel / deviation[:, None]
    bias = chosen.bias - mean @ kernel
    return Fitted(Classifier(kernel.astype(np.float32), bias.astype(np.float32)), best, held_out)


def _start(labels: np.ndarray, features: int) -> np.ndarray:
    """[features + 1, classes]: nothing but each class's rate."""
    clips, classes = labels.shape
    rate = np.clip(labels.mean(axis=0), 0.5 / clips, 1 - 0.5 / clips)
    start = np.zeros((features + 1, classes), np.float32)
    start[-1] = np.log(rate / (1 - rate))
    return start


def _classifier(values: np.ndarray | jax.Array) -> Classifier:
    found = np.asarray(values, np.float64)
    return Classifier(found[:-1], found[-1])


@jax.jit
def _solved(
    start: jax.Array, features: jax.Array, labels: jax.Array, weight: jax.Array, penalty: float
) -> jax.Array:
    """Kernel and bias [features + 1, classes] of the clips with weight 1, by L-BFGS."""
    solver = optax.lbfgs()

    def loss(values: jax.Array) -> jax.Array:
        return _loss(values, features, labels, weight, penalty)

    known = optax.value_and_grad_from_state(loss)

    def step(carry):
        values, state = carry
        value, slope = known(values, state=state)
        more = {"value": value, "grad": slope, "value_fn": loss}
        updates, state = solver.update(slope, state, values, **more)
        return optax.apply_updates(values, updates), state

    def goes_on(carry):
        state = carry[1]
        count, slope = (optax.tree.get(state, name) for name in ("count", "grad"))
        return (count == 0) | ((count < _STEPS) & (optax.tree.norm(slope) > _TOLERANCE))

    return jax.lax.while_loop(goes_on, step, (start, solver.init(start)))[0]


def _loss(
    values: jax.Array, features: jax.Array, labels: jax.Array, weight: jax.Array, penalty: float
) -> jax.Array:
    """Mean cross-entropy of the clips and the penalty, summed over classes."""
    kernel, bias = values[:-1], values[-1]
    logits = jnp.matmul(features, kernel, precision=jax.lax.Precision.HIGHEST) + bias
    entropy = optax.sigmoid_binary_cross_entropy(logits, labels).sum(axis=1)
    return weight @ entropy / weight.sum() + penalty / 2 * jnp.square(kernel).sum()
