"""The teacher's soft labels for a split, written shard by shard; and how good they are."""

import pathlib
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from psl_jax.audio.segments import SAMPLE_RATE, Segmentation
from psl_jax.data.clip_index import ClipIndex
from psl_jax.data.label_manifest import LabelRule
from psl_jax.data.segment_loader import Batch
from psl_jax.data.soft_labels import SoftLabels, SoftLabelWriter
from psl_jax.data.source import Source
from psl_jax.runtime import distributed
from psl_jax.scoring import metrics
from psl_jax.scoring.evaluation import score_batches
from psl_jax.scoring.scorer import SegmentScorer


class TeacherIdentity(NamedTuple):
    """The teacher or teachers that made the labels."""

    digest: str
    descriptions: list[dict[str, Any]] | None = None  # of each teacher, in the manifest
    # bool [classes], those that no teacher knows and that keep their weak labels
    weak_classes: np.ndarray | None = None


def relabel(
    scorer: SegmentScorer,
    source: Source,
    segmentation: Segmentation,
    directory: pathlib.Path,
    *,
    teacher: TeacherIdentity,
    batch_size: int,
    rule: LabelRule | None = None,
    shards: Sequence[int] | None = None,
) -> None:
    """Writes the soft labels of every clip of `source` that has none yet.

    rule: how they are made; that padding counts must have been told to the scorer.
    shards: writes only what is missing of these; None: of all, with the other processes.
    Shards are dealt out to the processes; each is written to a temporary name and renamed when
    whole, so a killed relabeling goes on where it was. Raises UserError where `directory` holds
    labels of another teacher, segment length, rule or data set.
    """
    writer = SoftLabelWriter(
        directory,
        source.index,
        segmentation,
        teacher_digest=teacher.digest,
        rule=rule,
        teachers=teacher.descriptions,
        uses_weak_labels=teacher.weak_classes is not None,
    )
    missing = writer.missing
    chosen = deal_shards(missing) if shards is None else sorted(set(shards) & set(missing))
    if not chosen:
        return
    index, start = source.index, time.perf_counter()
    clips = np.concatenate([_clips_in_shard(index, shard) for shard in chosen])
    description = f"relabel {segmentation.seconds:g} s"
    scored = score_batches(scorer, source, segmentation, batch_size, clips, description)
    weak = teacher.weak_classes
    for shard, rows in collect_shards(scored, writer.firsts, index):
        if weak is not None:
            shard_clips = _clips_in_shard(index, shard)
            counts = segmentation.count_segments(index.num_samples[shard_clips])
            rows[:, weak] = np.repeat(index.weak_labels(shard_clips)[:, weak], counts, axis=0)
        writer.write_shard(shard, rows)
    elapsed, count = time.perf_counter() - start, jax.process_count()
    audio_seconds = index.num_samples[clips].sum(dtype=np.int64) / SAMPLE_RATE
    share = f" (process {jax.process_index()} of {count})" if count > 1 else ""
    print(
        f"relabeled {len(clips)} clips{share} in {elapsed:.1f} s: {audio_seconds / elapsed:.0f} "
        f"times real time; soft labels in {directory}"
    )


def deal_shards(missing: Sequence[int]) -> list[int]:
    """The shards among the `missing` that fall to this process; all processes come here.

    Dealt out as the first process finds them before anybody writes: by their numbers, what a dead
    process left would fall to few.
    """
    return list(distributed.exchange(missing)[0][jax.process_index() :: jax.process_count()])


def collect_shards(
    scored_batches: Iterable[tuple[Batch, np.ndarray]], firsts: np.ndarray, index: ClipIndex
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (shard, its scores float16 [segments, classes]) as soon as all of a shard are there.

    firsts: number of each clip's first segment, and of all segments: int64 [clips + 1].
    """
    starts = firsts[index.shard_offsets]
    begun: dict[int, tuple[np.ndarray, int]] = {}  # few at a time: clips come nearly in order
    for batch, probabilities in scored_batches:
        rows = firsts[batch["clip"]] + batch["segment"]
        shard_of_row = np.searchsorted(starts, rows, "right") - 1
        for shard in np.unique(shard_of_row).tolist():
            begin, end = starts[shard : shard + 2].tolist()
            if shard not in begun:
                begun[shard] = np.zeros((end - begin, probabilities.shape[1]), np.float16), 0
            values, num_scores = begun.pop(shard)
            inside = shard_of_row == shard
            values[rows[inside] - begin] = probabilities[inside]
            num_scores += int(inside.sum())
            if num_scores < end - begin:
                begun[shard] = values, num_scores
            else:
                yield shard, values


def measure_label_quality(
    labels: SoftLabels, index: ClipIndex, segmentation: Segmentation
) -> dict[str, Any]:
    """What the soft labels are worth: counts and coverage of labels (paper, figures 2 and 3) and,
    where the data has true events, the segment mAP of the soft and of the propagated weak labels.
    """
    label_counts = [np.zeros((3, 0), np.int64)]
    annotated: list[tuple[np.ndarray, ...]] = []  # truth, soft and weak labels of segments
    num_segments = 0
    for shard in range(len(index.shard_sizes)):  # of a large split no more fits into memory
        clips = _clips_in_shard(index, shard)
        _, soft, counts = labels.read_shard(shard)
        weak = index.weak_labels(clips)
        label_counts.append(metrics.count_labels(soft, counts, weak))
        num_segments += int(counts.sum())
        rows = index.annotated[clips]
        if rows.any():
            inside = np.arange(soft.shape[1]) < counts[rows, None]
            truth = index.segment_labels(segmentation, clips[rows]).astype(np.int8)
            truth -= index.unknown_labels(clips[rows])[:, None]
            propagated = np.repeat(weak[rows] > 0, counts[rows], axis=0)
            is_segment = np.arange(truth.shape[1]) < counts[rows, None]
            annotated.append((truth[is_segment], soft[rows][inside], propagated))
    statistics = metrics.summarize_labels(np.concatenate(label_counts, axis=1))
    result = {"num_segments": num_segments, "statistics": statistics}
    if annotated:
        truth, soft, weak = map(np.concatenate, zip(*annotated, strict=True))
        result["segment_mAP"] = {
            "soft": metrics.mean_average_precision(truth, soft),
            "weak": metrics.mean_average_precision(truth, weak),
        }
    return result | {
        "segment_seconds": segmentation.seconds,
        "hop_seconds": segmentation.hop_seconds or segmentation.seconds,
    }


def _clips_in_shard(index: ClipIndex, shard: int) -> np.ndarray:
    return np.arange(index.shard_offsets[shard], index.shard_offsets[shard + 1])
