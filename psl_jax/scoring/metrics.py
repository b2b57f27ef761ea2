"""Ranking metrics and label statistics: gather everything once, then rank.

Pure NumPy and SciPy. Truth is multi-hot [clips, classes], or negative where it is unknown: such a
clip is left out for that class. Scores are any finite numbers of the same shape (only their order
matters), and tied scores are never broken by chance or by position.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy import special

from psl_jax.data.clip_index import clip_ids_sha256
from psl_jax.runtime.errors import UserError

PER_CLASS_HEADER = ("class", "AP", "AUC", "num_positives")

# A mean AUC of 0 or 1 would make d' infinite; held this far inside, |d'| is at most 7.36.
AUC_MARGIN = 1e-7

_PAIRS_AT_ONCE = 8192
_COLUMNS_AT_ONCE = 64


# --- Per class ------------------------------------------------------------------------------


def average_precision(truth: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Average precision of each class, as scikit-learn defines it: float64 [classes].

    sum_n (R_n - R_{n-1}) P_n over the distinct scores n: clips with equal scores enter together.
    NaN for a class without positives, or that is unknown in all other clips. Shapes
    [clips, classes]; UserError on non-finite scores.
    """
    return _compute_ap_and_auc(*_check_arrays(truth, scores))[0]


def tabulate_classes(
    truth: np.ndarray, scores: np.ndarray, classes: Sequence[str], ids: Sequence[Any] | None = None
) -> list[tuple[str, float | None, float | None, int]]:
    """Rows (class, AP, AUC, num_positives) in class order, see PER_CLASS_HEADER.

    What is undefined (no positives; for AUC also no negatives) is None, an empty CSV field.
    """
    truth, scores, known = _check_arrays(truth, scores, ids)
    ap, auc = _compute_ap_and_auc(truth, scores, known)

    def as_json(value: float) -> float | None:
        return None if np.isnan(value) else float(value)

    return [
        (str(name), as_json(p), as_json(a), int(n))
        for name, p, a, n in zip(classes, ap, auc, truth.sum(axis=0), strict=True)
    ]


def _compute_ap_and_auc(
    truth: np.ndarray, scores: np.ndarray, known: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(AP [classes], AUC [classes]). Sorts each class once and looks its positives up in it.

    The AUC counts a tie one half, and is NaN for a class without positives or without negatives.
    """
    num_classes = truth.shape[1]
    ap, auc = np.full(num_classes, np.nan), np.full(num_classes, np.nan)
    for c, (column, truth_column) in enumerate(zip(_columns(scores), truth.T, strict=True)):
        if known is not None:
            column, truth_column = column[known[:, c]], truth_column[known[:, c]]
        is_partial = len(column) < len(truth)
        positive, num_clips = np.sort(column[truth_column]), len(column)
        num_positives, num_negatives = len(positive), num_clips - len(positive)
        if not num_positives or (is_partial and not num_negatives):
            continue
        everything = np.sort(column)
        below, below_positive = (np.searchsorted(x, positive) for x in (everything, positive))
        ap[c] = np.mean((num_positives - below_positive) / (num_clips - below))
        if num_negatives:
            upto = np.searchsorted(everything, positive, "right")
            upto -= np.searchsorted(positive, positive, "right")
            beaten = 0.5 * ((below - below_positive) + upto)  # negatives; a tie is half a win
            auc[c] = beaten.mean() / num_negatives
    return ap, auc


def _columns(scores: np.ndarray) -> Iterator[np.ndarray]:
    """The columns of `scores` as contiguous arrays, transposed a block at a time."""
    for start in range(0, scores.shape[1], _COLUMNS_AT_ONCE):
        yield from np.ascontiguousarray(scores[:, start : start + _COLUMNS_AT_ONCE].T)


# --- Over classes or clips ------------------------------------------------------------------


def mean_average_precision(truth: np.ndarray, scores: np.ndarray) -> float:
    """mAP: mean of the average precision over the classes that have positives.

    UserError when no class has one.
    """
    return mean_over_scored_classes(average_precision(truth, scores))


def d_prime(auc: float) -> float:
    """sqrt(2) * Phi^-1(AUC), the AUC held within AUC_MARGIN of 0 and 1 so that d' is finite."""
    return float(np.sqrt(2.0) * special.ndtri(np.clip(auc, AUC_MARGIN, 1.0 - AUC_MARGIN)))


def lwlrap(truth: np.ndarray, scores: np.ndarray) -> float:
    """Label-weighted label-ranking average precision (FSDKaggle2019).

    For each (clip, label) pair the precision of that clip's ranking down to the label; the mean
    over all pairs, so that every label weighs the same. A tied class counts as ranked above, as
    in scikit-learn's `label_ranking_average_precision_score`. Classes that are unknown in a clip
    are not in its ranking. UserError without any label.
    """
    truth, scores, known = _check_arrays(truth, scores)
    clip, label = np.nonzero(truth)
    if not len(clip):
        raise UserError("lwlrap needs at least one label, but no clip has any.")
    total = 0.0
    for start in range(0, len(clip), _PAIRS_AT_ONCE):
        row = clip[start : start + _PAIRS_AT_ONCE]
        at_least = scores[row] >= scores[row, label[start : start + _PAIRS_AT_ONCE], None]
        if known is not None:
            at_least &= known[row]
        rank = np.count_nonzero(at_least, axis=1)
        total += np.sum(np.count_nonzero(at_least & truth[row], axis=1) / rank)
    return float(total / len(clip))


def map_at_3(truth: np.ndarray, scores: np.ndarray) -> float:
    """mAP@3 (FSDKaggle2018): 1/rank of the true class if in the top three, mean over clips.

    A tied class counts as ranked above. UserError unless every clip has exactly one label.
    """
    truth, scores, _ = _check_arrays(truth, scores)
    several = np.flatnonzero(truth.sum(axis=1) != 1)
    if len(several):
        raise UserError(
            f"mAP@3 needs exactly one label a clip, but {len(several)} clips have none or several "
            f"(the first is number {several[0]}). Use mAP or lwlrap for such data."
        )
    true_score = scores[np.arange(len(truth)), truth.argmax(axis=1), None]
    rank = np.count_nonzero(scores >= true_score, axis=1)
    return float(np.mean(np.where(rank <= 3, 1.0 / rank, 0.0)))


def summarize(truth: np.ndarray, scores: np.ndarray, ids: Sequence[Any]) -> dict[str, Any]:
    """The numbers of an evaluation, ready for JSON.

    `truth` and `scores` are [clips, classes], `ids` the clip ids. Means are over the classes with
    positives; `AUC` and `d_prime` are None where no such class has a negative (a single clip);
    `mAP_at_3` is there where each clip has exactly one label.
    UserError when no class has a positive, or naming the first clip whose scores are not finite.
    """
    labels = truth
    truth, scores, known = _check_arrays(labels, scores, ids)
    ap, auc = _compute_ap_and_auc(truth, scores, known)
    mean_ap = mean_over_scored_classes(ap)
    mean_auc = None if np.isnan(auc).all() else float(np.nanmean(auc))
    # Of few classes the best three hold the true one anyway.
    single = known is None and truth.shape[1] > 3 and (truth.sum(axis=1) == 1).all()
    return {
        "mAP": mean_ap,
        **({"mAP_at_3": map_at_3(truth, scores)} if single else {}),
        "d_prime": None if mean_auc is None else d_prime(mean_auc),
        "AUC": mean_auc,
        "lwlrap": lwlrap(labels, scores),
        "num_clips": len(truth),
        "num_classes_scored": int(np.count_nonzero(~np.isnan(ap))),
        "num_classes_without_positives": int(np.count_nonzero(np.isnan(ap))),
        **({} if known is None else {"num_unknown_labels": int(np.count_nonzero(~known))}),
        "clip_ids_sha256": clip_ids_sha256(ids),
    }


# --- Quality of labels ----------------------------------------------------------------------


LABEL_THRESHOLD = 0.5  # above which a segment's soft label counts as one
COVERAGE_BINS = ("0", "(0, ¼]", "(¼, ½]", "(½, ¾]", "(¾, 1)", "1")


def count_labels(soft: np.ndarray, counts: np.ndarray, weak: np.ndarray) -> np.ndarray:
    """Soft labels, weak ones, and both, of each clip: int64 [3, n].

    A clip has a soft label of a class if any of its segments has it.

    soft [n, segments, classes], counts [n] valid segments, weak [n, classes].
    """
    valid = np.arange(soft.shape[1]) < np.asarray(counts)[:, None]
    has_soft = ((soft > LABEL_THRESHOLD) & valid[..., None]).any(axis=1)
    has_weak = np.asarray(weak) > 0
    labels = (has_soft, has_weak, has_soft & has_weak)
    return np.stack([has_label.sum(axis=1) for has_label in labels])


def summarize_labels(label_counts: np.ndarray) -> dict[str, Any]:
    """Label statistics of clips (paper, Section 4.3, Figures 2 and 3), as JSON.

    `labels_per_clip`: clips with 0, 1, 2, … labels; shares are in 0 to 1. The coverage of a clip
    with weak labels is the share of these that it also has as soft ones.

    label_counts: [3, clips] of `count_labels`. UserError without clips.
    """
    soft, weak, both = label_counts
    if not len(soft):
        raise UserError("There are no clips to take label statistics of.")
    labels = {"soft": soft, "weak": weak}
    coverage = both[weak > 0] / weak[weak > 0]
    bins = np.ceil(coverage * 4) + (coverage == 1)
    return {
        "threshold": LABEL_THRESHOLD,
        "num_clips": len(soft),
        "labels_per_clip": {name: np.bincount(n).tolist() for name, n in labels.items()},
        "mean_labels": {name: float(n.mean()) for name, n in labels.items()},
        "share_without_labels": {name: float(np.mean(n == 0)) for name, n in labels.items()},
        "coverage": {
            "num_clips": len(coverage),
            "mean": float(coverage.mean()) if len(coverage) else None,
            "bins": list(COVERAGE_BINS),
            "clips": np.bincount(bins.astype(int), minlength=6).tolist(),
        },
    }


def _check_arrays(
    truth: np.ndarray, scores: np.ndarray, ids: Sequence[Any] | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """(truth bool, scores float, known bool) of one shape; known is None where all labels are.

    ValueError for other shapes and soft labels; UserError on non-finite scores.
    """
    truth, scores = np.asarray(truth), np.asarray(scores)
    if truth.ndim != 2 or truth.shape != scores.shape:
        raise ValueError(
            f"truth and scores must both be [clips, classes], got {truth.shape} and {scores.shape}"
        )
    known = None
    if truth.dtype != bool:
        known, hard = truth >= 0, truth > 0
        if not np.array_equal(hard[known], truth[known]):
            raise ValueError("truth must be 0 or 1: soft labels cannot be ranked against")
        truth = hard
    if scores.dtype == np.float16:
        scores = scores.astype(np.float32)  # the same numbers, but they sort quickly
    finite = np.isfinite(scores).all(axis=1)
    if not finite.all():
        first = int(np.argmin(finite))
        name = f"number {first}" if ids is None else repr(str(ids[first]))
        raise UserError(
            f"The scores of clip {name} are not finite, nor are those of "
            f"{np.count_nonzero(~finite) - 1} other clips. Has training diverged, or does the "
            "audio hold NaN samples?"
        )
    return truth, scores, None if known is None or known.all() else known


def mean_over_scored_classes(ap: np.ndarray) -> float:
    """Mean of average precisions over the classes that have one; UserError where none has."""
    if np.isnan(ap).all():
        raise UserError(
            f"None of the {len(ap)} classes has a positive (or, where labels are unknown, none has "
            "a negative) in what is evaluated, so there is no mAP. Check the split and its labels."
        )
    return float(np.nanmean(ap))
