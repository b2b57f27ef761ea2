"""Computes soft labels of other segments than those that were labelled."""

import numpy as np

from psl_jax.audio.overlap_means import compute_bounds, compute_means
from psl_jax.audio.segments import Segmentation
from psl_jax.data.soft_labels import SoftLabels, SoftLabelWriter
from psl_jax.runtime import progress
from psl_jax.runtime.errors import UserError


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
            first, last = compute_bounds(labels.segmentation, counts[clip], num_samples)
            last[-1] = num_samples
            begin, end = compute_bounds(writer.segmentation, segment_counts[clip], num_samples)
            segment_labels = compute_means(values[clip, : counts[clip]], first, last, begin, end)
            clip_labels.append(segment_labels.astype(np.float16))
        writer.write_shard(shard, clip_labels)
