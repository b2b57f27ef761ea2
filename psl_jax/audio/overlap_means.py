"""Means over time of values that hold over stretches of a clip."""

import numpy as np

from psl_jax.audio.segments import Segmentation

_BLOCK = 256  # segments at a time: an hour of them times its frames would not fit into memory


def bounds(
    segmentation: Segmentation, count: int, num_samples: int
) -> tuple[np.ndarray, np.ndarray]:
    """First and past-the-last sample of the first `count` segments of a clip, padding left out."""
    begin = np.arange(count) * segmentation.hop_samples
    return begin, np.minimum(begin + segmentation.segment_samples, num_samples)


def means(
    values: np.ndarray, first: np.ndarray, last: np.ndarray, begin: np.ndarray, end: np.ndarray
) -> np.ndarray:
    """Means over each [begin, end) of values [..., parts, classes] that hold over [first, last).

    A part weighs as many samples as it shares; parts may overlap.

    Returns float32 [..., segments, classes].
    """
    out = np.empty((*values.shape[:-2], len(begin), values.shape[-1]), np.float32)
    for start in range(0, len(begin), _BLOCK):
        rows = slice(start, start + _BLOCK)
        shared = np.minimum(end[rows, None], last) - np.maximum(begin[rows, None], first)
        weights = np.maximum(shared, 0).astype(np.float32)
        out[..., rows, :] = (weights / weights.sum(axis=1, keepdims=True)) @ values
    return out
