"""Means over time of values that hold over stretches of a clip."""

import numpy as np

from psl_jax.audio.segments import Segmentation


def bounds(
    segmentation: Segmentation, count: int, num_samples: int
) -> tuple[np.ndarray, np.ndarray]:
    """First and past-the-last sample of the first `count` segments of a clip, padding left out."""
    begin = np.arange(count) * segmentation.hop_samples
    return begin, np.minimum(begin + segmentation.segment_samples, num_samples)


def means(
    values: np.ndarray, first: np.ndarray, last: np.ndarray, begin: np.ndarray, end: np.ndarray
) -> np.ndarray:
    """Means over each [begin, end) of values [parts, classes] that hold over [first, last).

    A part weighs as many samples as it shares; parts may overlap. By the integral of all parts from
    0 on, so that an hour of frames takes no more memory than a few times its values.

    Returns float64 [segments, classes].
    """
    wide = np.concatenate([values, np.ones((len(values), 1))], axis=1, dtype=np.float64)

    def integral(at: np.ndarray) -> np.ndarray:
        return _ramps(wide, first, at) - _ramps(wide, last, at)

    total = integral(end) - integral(begin)
    return total[:, :-1] / total[:, -1:]


def _ramps(slopes: np.ndarray, starts: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Sum over parts of slope * max(at - start, 0): [at, classes]."""
    order = np.argsort(starts, kind="stable")
    slopes, starts, none = slopes[order], starts[order], np.zeros((1, slopes.shape[1]))
    slope = np.concatenate([none, np.cumsum(slopes, axis=0)])
    offset = np.concatenate([none, np.cumsum(slopes * starts[:, None], axis=0)])
    begun = np.searchsorted(starts, at)
    return at[:, None] * slope[begun] - offset[begun]
