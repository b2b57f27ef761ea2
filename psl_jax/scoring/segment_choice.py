"""Chooses the segments that a person decides on: the most useful first, and some at random.

A decision is useful where it is likely to change a label. Let p be the label of a segment, with the
class's threshold at 0.5, and q the score of the trained model. Where the class sounds with
probability m = (p + q) / 2, a decision changes the label by m (1 - p) + (1 - m) p in the mean. That
is most where scores are near the threshold, or where the two are at odds.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from psl_jax.data.batches import whole_pass
from psl_jax.data.decision_table import RANDOM
from psl_jax.data.segment_loader import Segments
from psl_jax.networks.trained_model import Model
from psl_jax.runtime import progress
from psl_jax.scoring.scorer import Gives, Scorer

USEFUL, SIMILAR = "useful", "similar"
MOST_CANDIDATES = 20_000  # segments that are scored, drawn at random from more
_MOST_CHOSEN = 2_000  # segments
_MOST_ASKED = 8  # classes of a segment
_LEAST_LIKELY = 0.1  # probability from which a class is asked for
_AT_ONCE = 10  # segments that are chosen before classes are weighted anew


class ChosenSegment(NamedTuple):
    """A segment to decide on."""

    number: int  # in the split
    classes: tuple[int, ...]  # that are asked for, the most useful first
    chosen: str  # RANDOM, USEFUL or SIMILAR
    present: tuple[int, ...] = ()  # of the classes those whose label reaches the threshold


def draw_candidates(num_segments: int) -> np.ndarray:
    """Numbers of the segments that are scored, ascending."""
    if num_segments <= MOST_CANDIDATES:
        return np.arange(num_segments)
    rng = np.random.default_rng(0)
    return np.sort(rng.choice(num_segments, MOST_CANDIDATES, replace=False))


def score_segments(
    model: Model, segments: Segments, numbers: np.ndarray, gives: Gives = "scores"
) -> np.ndarray:
    """Scores [n, classes], or mean embeddings [n, channels], of segments `numbers` [n]: float32."""
    front_end = model.info.front_end
    scorer = Scorer(model.folded, front_end, gives=gives)
    size = scorer.fitting(0, segments.segmentation.seconds)
    parts = [(segments, numbers[i : i + size], size) for i in range(0, len(numbers), size)]
    rows = []
    with progress.bar(len(numbers), "segment", "score") as bar:
        for batch, values in scorer(whole_pass(segments.source, parts)):
            if gives == "embeddings":
                counts = model.folded.output_frames(front_end.num_frames(batch["num_samples"]))
                inside = np.arange(values.shape[1]) < counts[:, None]
                values = np.sum(values * inside[..., None], axis=1) / counts[:, None]
            rows.append(values)
            bar.update(len(values))
    return np.concatenate(rows)


def choose_useful(
    numbers: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    *,
    thresholds: np.ndarray,
    random_share: float,
) -> list[ChosenSegment]:
    """Orders segments `numbers` [n] by use, with a share at random.

    Args:
      scores: of the trained model, [n, classes].
      labels: that are to be corrected, [n, classes].
      thresholds: [classes].
      random_share: of the segments, from 0 to 1.
    """
    shift = special.logit(thresholds)
    label, score = (
        special.expit(special.logit(np.clip(x, 1e-6, 1 - 1e-6)) - shift) for x in (labels, scores)
    )
    mean = (label + score) / 2
    useful = mean * (1 - label) + (1 - mean) * label
    weights = 1 / np.sqrt(mean.sum(axis=0))  # a rare class needs its few segments
    rng = np.random.default_rng(0)
    at_random = rng.permutation(len(numbers)).tolist()
    in_order = _order_by_use(useful, weights).tolist()
    chosen: list[ChosenSegment] = []
    taken: set[int] = set()
    while len(taken) < min(len(numbers), _MOST_CHOSEN):
        is_random = rng.random() < random_share
        queue = at_random if is_random else in_order
        row = next((row for row in queue if row not in taken), None)
        if row is None:
            break
        taken.add(row)
        classes = _choose_classes(useful[row] * weights, np.maximum(label[row], score[row]))
        present = tuple(k for k in classes if label[row, k] >= 0.5)
        how = RANDOM if is_random else USEFUL
        chosen.append(ChosenSegment(int(numbers[row]), classes, how, present))
    return chosen


def choose_similar(
    numbers: np.ndarray, embeddings: np.ndarray, example: np.ndarray, label: int
) -> list[ChosenSegment]:
    """Orders segments `numbers` [n] by the cosine of their embeddings and the example's [channels].

    embeddings: [n, channels].
    """
    norms = np.linalg.norm(embeddings, axis=1) * np.linalg.norm(example)
    nearness = embeddings @ example / np.maximum(norms, 1e-9)
    order = np.argsort(-nearness, kind="stable")[:_MOST_CHOSEN]
    return [ChosenSegment(int(number), (label,), SIMILAR) for number in numbers[order]]


def _order_by_use(useful: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Rows of useful [n, classes], the most useful first: int64 [at most _MOST_CHOSEN].

    Each time, those of classes that were often chosen count less.
    """
    left = np.ones(len(useful), bool)
    order: list[int] = []
    asked = np.zeros(len(weights))
    while left.any() and len(order) < _MOST_CHOSEN:
        value = np.where(left, useful @ (weights / np.sqrt(1 + asked)), -1)
        best = np.argsort(-value, kind="stable")[: min(_AT_ONCE, int(left.sum()))]
        left[best] = False
        order += best.tolist()
        asked += useful[best].sum(axis=0)
    return np.array(order)


def _choose_classes(value: np.ndarray, likely: np.ndarray) -> tuple[int, ...]:
    """The classes to ask for: those that may sound, the most useful first."""
    order: Sequence[int] = np.argsort(-value, kind="stable").tolist()
    return tuple(k for k in order if likely[k] >= _LEAST_LIKELY)[:_MOST_ASKED] or (order[0],)
