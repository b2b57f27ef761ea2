"""How far scores can be read as probabilities: the reliability diagram and its error."""

import dataclasses

import numpy as np

from psl_jax.runtime.errors import UserError

BINS = 10


@dataclasses.dataclass(frozen=True)
class Reliability:
    """Scores in `BINS` equally wide bins from 0 to 1, the upper edge belonging to the last.

    Attributes:
      counts: int64 [bins], pairs of a clip and a class whose score lies there.
      scores: float64 [bins], their mean score; NaN in an empty bin.
      shares: float64 [bins], the share of them whose clip has the class; NaN in an empty bin.
    """

    counts: np.ndarray
    scores: np.ndarray
    shares: np.ndarray

    @property
    def error(self) -> float:
        """Expected calibration error: mean of |score - share| over the bins, by their counts."""
        used = self.counts > 0
        gaps = np.abs(self.scores - self.shares)[used]
        return float(np.average(gaps, weights=self.counts[used]))


def compute_reliability(truth: np.ndarray, scores: np.ndarray, bins: int = BINS) -> Reliability:
    """Of all pairs of a clip and a class together; truth multi-hot and scores [clips, classes].

    Guo et al., On calibration of modern neural networks (ICML 2017), each class as a problem of
    its own. UserError where there is nothing, or a score is no probability.
    """
    hit, score = np.ravel(truth) > 0, np.ravel(scores).astype(np.float64)
    if hit.shape != score.shape or not len(score):
        raise UserError(f"no calibration of {np.shape(scores)} scores and {np.shape(truth)} labels")
    if not (score.min() >= 0 and score.max() <= 1):
        raise UserError(f"scores from {score.min():g} to {score.max():g} are no probabilities")
    number = np.minimum((score * bins).astype(np.int64), bins - 1)
    counts = np.bincount(number, minlength=bins)
    some = np.where(counts > 0, counts, np.nan)
    return Reliability(
        counts,
        np.bincount(number, score, minlength=bins) / some,
        np.bincount(number, hit, minlength=bins) / some,
    )
