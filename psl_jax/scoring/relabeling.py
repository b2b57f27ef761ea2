"""The teacher's soft labels for a split, written shard by shard; and how good they are."""

import pathlib
import time

import jax
import numpy as np

from psl_jax.audio.segments import SAMPLE_RATE, Segmentation
from psl_jax.data import batches
from psl_jax.data.clip_index import ClipIndex
from psl_jax.data.soft_labels import SoftLabels, SoftLabelWriter
from psl_jax.data.sources import Source
from psl_jax.runtime import progress
from psl_jax.scoring import metrics
from psl_jax.scoring.scorer import Scorer


def relabel(
    scorer: Scorer,
    source: Source,
    segmentation: Segmentation,
    directory: pathlib.Path,
    *,
    teacher_digest: str,
    batch_size: int,
    file_format: str = "tfrecord",
) -> None:
    """Writes the soft labels of every clip of `source` that has none yet.

    Shards are dealt out to the processes; each is written to a temporary name and renamed when
    whole, so a killed relabeling goes on where it was. Raises UserError where `directory` holds
    labels of another teacher, segment length or data set.
    """
    index = source.index
    writer = SoftLabelWriter(
        directory, index, segmentation, teacher_digest=teacher_digest, format=file_format
    )
    # Dealt out by number: what is missing changes while others write.
    count, process = jax.process_count(), jax.process_index()
    shards = [shard for shard in writer.missing if shard % count == process]
    for shard in shards:
        if index.shard_sizes[shard] == 0:
            writer.write_shard(shard, [])
    if not index.shard_sizes[shards].any():
        return
    clips = np.concatenate([_clips_of(index, shard) for shard in shards])
    segments = int(segmentation.counts(index.num_samples[clips]).max())
    size = scorer.fitting(batch_size, segmentation.seconds)
    feed = batches.eval_batches(source, segmentation, batch_size=size, clips=clips)
    collector = _ClipCollector(index, segmentation, segments)
    audio_seconds = index.num_samples[clips].sum(dtype=np.int64) / SAMPLE_RATE
    start = time.perf_counter()
    description = f"relabel {segmentation.seconds:g} s"
    with progress.bar(len(clips), "clip", description, show=process == 0) as bar:
        for batch, probabilities in scorer(feed):
            done, rows = collector.add(batch, probabilities)
            writer.add(done, rows)
            bar.update(len(done))
    elapsed = time.perf_counter() - start
    share = f" (process {process} of {count})" if count > 1 else ""
    print(
        f"relabeled {len(clips)} clips{share} in {elapsed:.1f} s: {audio_seconds / elapsed:.0f} "
        f"times real time; soft labels in {directory}"
    )


class _ClipCollector:
    """Puts the segments of a clip together again; they arrive in order."""

    def __init__(self, index: ClipIndex, segmentation: Segmentation, segments: int):
        self.index, self.segmentation, self.segments = index, segmentation, segments
        self.clips = np.zeros(0, np.int64)
        self.rows = np.zeros((0, index.num_classes), np.float32)

    def add(self, batch: dict[str, np.ndarray], probabilities: np.ndarray):
        """Returns the clips that are complete now, and their [n, segments, classes]."""
        clips = np.concatenate([self.clips, batch["clip"]])
        rows = np.concatenate([self.rows, probabilities])
        numbers, starts, found = np.unique(clips, return_index=True, return_counts=True)
        order = np.argsort(starts)
        numbers, starts, found = numbers[order], starts[order], found[order]
        whole = found == self.segmentation.counts(self.index.num_samples[numbers])
        done = numbers[whole]
        out = np.zeros((len(done), self.segments, rows.shape[1]), np.float32)
        for i, (start, count) in enumerate(zip(starts[whole], found[whole], strict=True)):
            out[i, :count] = rows[start : start + count]
        left = int(found[whole].sum())  # only the last clip can be incomplete
        self.clips, self.rows = clips[left:], rows[left:]
        return done, out


def label_quality(labels: SoftLabels, index: ClipIndex, segmentation: Segmentation) -> dict:
    """What the soft labels are worth: counts and coverage of labels (paper, figures 2 and 3) and,
    where the data has true events, the segment mAP of the soft and of the propagated weak labels.
    """
    counter = metrics.LabelCounter()
    # A labelled clip without an event was not annotated: AudioSet has strong labels of some.
    known = None if index.event_offsets is None else np.diff(index.event_offsets) > 0
    scored: dict[str, list[np.ndarray]] = {"soft": [], "weak": [], "truth": []}
    num_segments = 0
    for shard in range(len(index.shard_sizes)):  # of a large split no more fits into memory
        clips = _clips_of(index, shard)
        _, soft, counts = labels.read_shard(shard)
        weak = index.weak_labels(clips)
        counter.add(soft, counts, weak)
        num_segments += int(counts.sum())
        if known is not None and known[clips].any():
            rows = known[clips]
            inside = np.arange(soft.shape[1]) < counts[rows, None]
            scored["soft"].append(soft[rows][inside])
            scored["weak"].append(np.repeat(weak[rows] > 0, counts[rows], axis=0))
            truth = index.segment_labels(segmentation, clips[rows])
            scored["truth"].append(truth[np.arange(truth.shape[1]) < counts[rows, None]])
    result = {"num_segments": num_segments, "statistics": counter.result()}
    if scored["truth"]:
        truth, soft, weak = (np.concatenate(scored[name]) for name in ("truth", "soft", "weak"))
        result["segment_mAP"] = {
            "soft": metrics.mean_average_precision(truth, soft),
            "weak": metrics.mean_average_precision(truth, weak),
        }
    return result | {"segment_seconds": segmentation.seconds}


def _clips_of(index: ClipIndex, shard: int) -> np.ndarray:
    return np.arange(index.shard_offsets[shard], index.shard_offsets[shard + 1])
