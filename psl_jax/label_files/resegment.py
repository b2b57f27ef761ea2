"""Soft labels of other segments than those that were labelled, such as of a teacher's frames."""

import numpy as np

from psl_jax.audio.overlap_means import bounds, means
from psl_jax.audio.segments import Segmentation
from psl_jax.data.soft_labels import SoftLabels, SoftLabelWriter
from psl_jax.runtime import progress
from psl_jax.runtime.errors import UserError


def check(labels: Segmentation) -> None:
    """Raises UserError where labels say nothing of some of a clip."""
    if labels.hop_samples > labels.segment_samples:
        raise UserError(
            f"labels of {labels.seconds:g} s, one every {labels.hop_seconds:g} s, leave gaps: of "
            "what lies between them nothing is known"
        )


def cut(labels: SoftLabels, writer: SoftLabelWriter) -> None:
    """Writes, shard by shard, the labels of the writer's segments.

    A segment has the mean of the labels that hold in it, weighted by the time that they share. What
    follows a clip's last label has that label, too.
    """
    index, shards = labels.index, writer.missing
    for shard in progress.track(shards, len(shards), "shard", "cut"):
        _, values, counts = labels.read_shard(shard)
        lengths = index.num_samples[slice(*index.shard_offsets[shard : shard + 2])]
        wanted = writer.segmentation.counts(lengths)
        rows = []
        for clip, length in enumerate(lengths):
            first, last = bounds(labels.segmentation, counts[clip], length)
            last[-1] = length
            begin, end = bounds(writer.segmentation, wanted[clip], length)
            found = means(values[clip, : counts[clip]], first, last, begin, end)
            rows.append(found.astype(np.float16))
        writer.write_shard(shard, rows)
