"""How far a difference in mAP may be chance: the paired bootstrap over the evaluated clips.

Clips are drawn again with replacement, the same ones for all that is compared; the interval holds
the middle 95 % of the differences, moved so that their mean is the difference of all clips: a clip
that is drawn twice helps itself up, which raises the mAP of rare classes in every resample. It says
what other clips of the same kind would do to the difference, not what other seeds of the training
would.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from psl_jax.runtime.errors import UserError

LEVEL = 0.95
_MOST_RESAMPLES, _LEAST_RESAMPLES = 1000, 200
_WORK = 2e9  # clips x classes x resamples


class Interval(NamedTuple):
    """A difference in mAP, and where the middle 95 % of its resamples lie."""

    difference: float
    low: float
    high: float


def compute_difference(
    folds: Sequence[tuple[np.ndarray, Sequence[np.ndarray], Sequence[np.ndarray]]],
) -> Interval:
    """The mAP of an experiment less that of its reference: a mean over folds and seeds.

    folds: (truth, scores, scores of the reference) of each: truth multi-hot [clips, classes]; those
    of each seed, of that shape; seed number k is paired with number k of the reference.

    Clips and seeds are drawn together. A resample draws the clips of each fold by themselves, the
    same for all seeds, and then as many seeds as there are, with replacement, for all folds
    together. Its difference is the mean m over all seeds on these clips, and k - m more, k being
    the mean over the drawn seeds, stretched by sqrt(S / (S - 1)): S seeds drawn from S vary by that
    factor too little. The interval says what other clips of the same kind and other seeds would do;
    of two or three seeds it knows as little as these do.
    """
    size = sum(truth.size for truth, *_ in folds)
    maps: tuple[list[np.ndarray], list[np.ndarray]] = [], []  # of each fold [seeds, 1 + resamples]
    for number, (truth, *pair) in enumerate(folds):
        counts = _draw_whole_and_resamples(truth, size, seed=1000 * number)
        for of_folds, scores in zip(maps, pair, strict=True):
            of_seeds = [compute_resampled_maps(truth, values, counts) for values in scores]
            of_folds.append(np.stack(of_seeds))
    ours, theirs = (np.mean(of_folds, axis=0) for of_folds in maps)
    differences = ours - theirs
    difference = differences[:, 0].mean()
    low, high = _find_interval(difference, _resample_seeds(differences[:, 1:]))
    return Interval(float(difference), low, high)


def _find_interval(value: float, resamples: np.ndarray) -> tuple[float, float]:
    """Where the middle LEVEL of the resamples lies, moved so that their mean is the value."""
    tails = 100 * (1 - LEVEL) / 2
    low, high = np.nanpercentile(resamples, [tails, 100 - tails])
    centre = value - np.nanmean(resamples)
    return float(low + centre), float(high + centre)


def _resample_seeds(values: np.ndarray) -> np.ndarray:
    """Means over drawn seeds: [seeds, resamples] -> [resamples]; see `compute_difference`."""
    mean: np.ndarray = values.mean(axis=0)
    count = len(values)
    if count == 1:
        return mean
    weights = draw_counts(count, values.shape[1], seed=1).T / count
    drawn: np.ndarray = (weights * values).sum(axis=0)
    stretched: np.ndarray = mean + (drawn - mean) * np.sqrt(count / (count - 1))
    return stretched


def _draw_whole_and_resamples(truth: np.ndarray, size: int, seed: int) -> np.ndarray:
    """uint8 [1 + resamples, clips]: each clip once, then how often a resample has it."""
    resamples = int(np.clip(_WORK / max(size, 1), _LEAST_RESAMPLES, _MOST_RESAMPLES))
    whole = np.ones((1, len(truth)), np.uint8)
    return np.concatenate([whole, draw_counts(len(truth), resamples, seed)])


def draw_counts(clips: int, resamples: int, seed: int) -> np.ndarray:
    """uint8 [resamples, clips]: how often each clip was drawn."""
    rng = np.random.default_rng(seed)
    return np.stack(
        [np.bincount(rng.integers(0, clips, clips), minlength=clips) for _ in range(resamples)]
    ).astype(np.uint8)


def compute_resampled_maps(truth: np.ndarray, scores: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """mAP of the clips as often as they were `drawn` [resamples, clips]: float64 [resamples].

    Each is `metrics.mean_average_precision` of the clips so often repeated, without a sort for
    each; NaN where no class was left a positive. Clips of negative truth, which is unknown, are
    left out for that class.
    """
    if truth.shape != scores.shape or drawn.shape[1] != len(truth):
        raise UserError(f"{truth.shape} labels and {scores.shape} scores are not of the same clips")
    total, classes = np.zeros(len(drawn)), np.zeros(len(drawn))
    drawn = np.ascontiguousarray(drawn.T)  # [clips, resamples]
    for labels, column in zip(truth.T, scores.T, strict=True):
        positive, known = labels > 0, np.flatnonzero(labels >= 0)
        if not positive.any():
            continue
        order = known[np.argsort(-column[known], kind="stable")]
        ranked = column[order]
        places = np.flatnonzero(positive[order])
        # Equal scores enter together: a positive counts what there is up to the last of them.
        last = np.searchsorted(-ranked, -ranked[places], "right") - 1
        ends, end_of = np.unique(last, return_inverse=True)
        starts = np.concatenate([[0], ends[:-1] + 1])
        upto = drawn[order[: ends[-1] + 1]]
        seen = np.cumsum(np.add.reduceat(upto, starts, axis=0, dtype=np.int32), axis=0)
        weights = upto[places].astype(np.int32)
        positives = np.cumsum(weights, axis=0)[np.searchsorted(places, ends, "right") - 1]
        precision = (positives / np.maximum(seen, 1))[end_of]
        count = weights.sum(axis=0)
        average = (weights * precision).sum(axis=0) / np.maximum(count, 1)
        is_scored = count > 0
        if len(known) < len(labels):  # as `metrics.average_precision` is defined
            is_scored &= drawn[labels == 0].any(axis=0) | ~drawn[labels < 0].any(axis=0)
        total += np.where(is_scored, average, 0)
        classes += is_scored
    return np.where(classes > 0, total / np.maximum(classes, 1), np.nan)


def compute_map_interval(truth: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """Where the middle 95 % of a mAP lie over resamples of the clips, moved as differences are.

    truth: multi-hot [clips, classes]; scores of the same shape.
    """
    counts = _draw_whole_and_resamples(truth, truth.size, seed=0)
    maps = compute_resampled_maps(truth, scores, counts)
    low, high = _find_interval(maps[0], maps[1:])
    return max(low, 0.0), min(high, 1.0)
