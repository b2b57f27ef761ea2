"""Computes soft labels of other segments than those that were labelled."""

import numpy as np

from psl_jax.audio.segments import Segmentation
from psl_jax.data.soft_labels import SoftLabels, SoftLabelWriter
from psl_jax.runtime import progress
from psl_jax.runtime.errors import UserError

_BLOCK = 256  # segments at a time: those of an hour times its frames would not fit into memory


def _compute_bounds(
    segmentation: Segmentation, num_segments: int, num_samples: int
) -> tuple[np.ndarray, np.ndarray]:
    """Computes the first and past-the-last sample of a clip's segments, without padding."""
    begin = np.arange(num_segments) * segmentation.hop_samples
    return begin, np.minimum(begin + segmentation.segment_samples, num_samples)


def _compute_means(
    values: np.ndarray, first: np.ndarray, last: np.ndarray, begin: np.ndarray, end: np.ndarray
) -> np.ndarray:
    """Computes means of values [intervals, classes] over segments: float32 [segments, classes].

    A value holds over the samples [first, last) of its interval, which weighs as many samples as it
    shares with the segment [begin, end). Intervals may overlap.
    """
    segment_means = np.empty((len(begin), values.shape[-1]), np.float32)
    for start in range(0, len(begin), _BLOCK):
        block = slice(start, start + _BLOCK)
        shared_samples = np.minimum(end[block, None], last) - np.maximum(begin[block, None], first)
        weights = np.maximum(shared_samples, 0).astype(np.float32)
        segment_means[block] = (weights / weights.sum(axis=1, keepdims=True)) @ values
    return segment_means


def check_no_gaps(labels: Segmentation) -> None:
    """Raises UserError where the labels leave parts of a clip without a label."""
    if labels.hop_samples > labels.segment_samples:
        raise UserError(
            f"labels of {labels.seconds:g} s, one every {labels.hop_seconds:g} s, leave gaps: of "
            "what lies between them nothing is known"
        )


def write_resegmented(labels: SoftLabels, writer: SoftLabelWriter) -> None:
    """Writes the labels of the writer's segments, shard by shard.

    A segment gets the mean of the labels that it overlaps, weighted by the time that they share.
    The last label of a clip holds until the clip ends.
    """
    index, shards = labels.index, writer.missing
    for shard in progress.track(shards, len(shards), "shard", "cut"):
        _, values, counts = labels.read_shard(shard)
        lengths = index.num_samples[slice(*index.shard_offsets[shard : shard + 2])]
        segment_counts = writer.segmentation.count_segments(lengths)
        clip_labels = []
        for clip, num_samples in enumerate(lengths):
            first, last = _compute_bounds(labels.segmentation, counts[clip], num_samples)
            last[-1] = num_samples
            begin, end = _compute_bounds(writer.segmentation, segment_counts[clip], num_samples)
            segment_labels = _compute_means(values[clip, : counts[clip]], first, last, begin, end)
            clip_labels.append(segment_labels.astype(np.float16))
        writer.write_shard(shard, np.concatenate(clip_labels))
