"""Computes means over time of values that hold over intervals of a clip."""

import numpy as np

from psl_jax.audio.segments import Segmentation

_BLOCK = 256  # segments at a time: those of an hour times its frames would not fit into memory


def compute_bounds(
    segmentation: Segmentation, num_segments: int, num_samples: int
) -> tuple[np.ndarray, np.ndarray]:
    """Computes the first and past-the-last sample of a clip's segments, without padding."""
    begin = np.arange(num_segments) * segmentation.hop_samples
    return begin, np.minimum(begin + segmentation.segment_samples, num_samples)


def compute_means(
    values: np.ndarray, first: np.ndarray, last: np.ndarray, begin: np.ndarray, end: np.ndarray
) -> np.ndarray:
    """Computes means over segments [begin, end) of values that hold over intervals [first, last).

    An interval weighs as many samples as it shares with the segment; intervals may overlap.

    Args:
      values: values of the intervals [..., intervals, classes].
      first, last: their first and past-the-last samples.
      begin, end: those of the segments.

    Returns float32 [..., segments, classes].
    """
    segment_means = np.empty((*values.shape[:-2], len(begin), values.shape[-1]), np.float32)
    for start in range(0, len(begin), _BLOCK):
        block = slice(start, start + _BLOCK)
        shared_samples = np.minimum(end[block, None], last) - np.maximum(begin[block, None], first)
        weights = np.maximum(shared_samples, 0).astype(np.float32)
        segment_means[..., block, :] = (weights / weights.sum(axis=1, keepdims=True)) @ values
    return segment_means
