"""How often a teacher's labels say that something sounds: a shift of its logits by class.

A teacher that was trained on other data may rank well and yet say 0.05 where something sounds. The
shift of a class is fitted so that its mean label is the rate of the weak labels, which is the one
thing that the data tells of how often a class sounds.
"""

import numpy as np

LEAST = 3e-8  # of a probability: half of float16's smallest number, which a stored 0 stands for
CALIBRATIONS = ("none", "rate", "clip_rate")
_FAR = 40.0  # a shift of more would be needed only where all is 0 or 1
_STEPS = 60  # of bisection


def logits_of(probabilities: np.ndarray) -> np.ndarray:
    """float64, finite also for 0 and 1."""
    p = np.clip(np.asarray(probabilities, np.float64), LEAST, 1 - LEAST)
    return np.log(p) - np.log1p(-p)


def shifted(probabilities: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """sigmoid(logit + shift [classes]), of the type of `probabilities` [..., classes]."""
    values = logits_of(probabilities) + shift
    return (1 / (1 + np.exp(-values))).astype(probabilities.dtype)


def fit_shift(logits: np.ndarray, weights: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """The shift of each class with which mean(sigmoid(logit + shift)) is `rate`: float64 [classes].

    Args:
      logits: [n, classes].
      weights: [n], of the mean.
      rate: [classes] in 0 to 1. For 0 and 1, which no shift reaches, half a row of n is taken.
    """
    total = max(float(weights.sum()), 1.0)
    wanted = np.clip(rate, 0.5 / total, 1 - 0.5 / total)
    low, high = np.full(logits.shape[1], -_FAR), np.full(logits.shape[1], _FAR)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        mean = weights @ (1 / (1 + np.exp(-(logits + middle)))) / weights.sum()
        low, high = np.where(mean < wanted, middle, low), np.where(mean < wanted, high, middle)
    return (low + high) / 2


def counted(logits: np.ndarray, bins: int = 512) -> tuple[np.ndarray, np.ndarray]:
    """Quantiles [bins, classes] of logits [n, classes], and how many rows each stands for [bins].

    What a fit needs of more rows than fit into memory; exact where n is at most `bins`.
    """
    if len(logits) <= bins:
        return logits, np.ones(len(logits))
    order = np.sort(logits, axis=0)
    edges = np.linspace(0, len(order), bins + 1).round().astype(int)
    means = np.add.reduceat(order, edges[:-1], axis=0) / np.diff(edges)[:, None]
    return means, np.diff(edges).astype(np.float64)
