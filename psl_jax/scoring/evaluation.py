"""Clip scores and their metrics."""

import os
import pathlib
from typing import Any

import jax
import numpy as np

from psl_jax.audio.segments import MIN_SEGMENT_SECONDS, SAMPLE_RATE, Segmentation
from psl_jax.data import batches
from psl_jax.data.clip_index import ClipIndex
from psl_jax.data.sampling import process_clips
from psl_jax.data.sources import Source
from psl_jax.runtime import files, parallel, progress
from psl_jax.scoring import metrics
from psl_jax.scoring.scorer import SegmentScorer

SCORES = "scores.npz"
METRICS = "metrics.json"
PER_CLASS = "per_class.csv"


def evaluation_segmentation(
    index: ClipIndex, seconds: float | None, shortest_seconds: float = MIN_SEGMENT_SECONDS
) -> Segmentation:
    """Segments of `seconds`, or for None the whole (zero-padded) clip as one segment."""
    length = index.clip_samples / SAMPLE_RATE if seconds is None else seconds
    return Segmentation(length, shortest_seconds=shortest_seconds)


def score_clips(
    scorer: SegmentScorer,
    source: Source,
    segmentation: Segmentation,
    batch_size: int,
    description: str | None = None,
) -> np.ndarray:
    """Scores of all clips: the mean over a clip's segments (paper, section 3.3).

    batch_size counts the segments a process scores at a time, see `Scorer.fitting`. With a
    description a bar shows the progress. Returns float32 [clips, classes], on every process.
    """
    index = source.index
    share = jax.process_index(), jax.process_count()
    shares = process_clips(index, segmentation, share[1])
    own = shares[share[0]]
    first = int(own[0]) if len(own) else 0
    totals = np.zeros((len(own), index.num_classes), np.float64)
    feed = batches.eval_batches(
        source,
        segmentation,
        batch_size=scorer.fitting(batch_size, segmentation.seconds),
        process_index=share[0],
        process_count=share[1],
    )
    show = description is not None and share[0] == 0
    with progress.bar(len(own), "clip", description, show=show) as bar:
        for batch, probabilities in scorer(feed):
            np.add.at(totals, batch["clip"] - first, probabilities)
            bar.update(int((batch["segment"] == 0).sum()))
    counts = segmentation.counts(index.num_samples[own])
    means = (totals / counts[:, None]).astype(np.float32)
    return parallel.gather_rows(means, [len(clips) for clips in shares])


def mean_average_precision(scores: np.ndarray, index: ClipIndex) -> float:
    """mAP of clip scores against the weak labels."""
    return metrics.mean_average_precision(index.weak_labels(), scores)


def write_results(
    run_dir: str | os.PathLike, index: ClipIndex, scores: np.ndarray, more: dict[str, Any]
) -> dict[str, Any]:
    """Writes scores.npz, per_class.csv and metrics.json; returns what the last holds.

    `more` is added to the metrics.
    """
    folder, truth = pathlib.Path(run_dir), index.weak_labels()
    with files.atomic_open(folder / SCORES, "wb") as file:
        np.savez(
            file,
            ids=np.asarray(index.ids, np.str_),
            classes=np.asarray(index.classes, np.str_),
            scores=scores,
            targets=truth.astype(np.uint8),
        )
    rows = metrics.per_class(truth, scores, index.classes, index.ids.tolist())
    files.write_csv(folder / PER_CLASS, metrics.PER_CLASS_HEADER, rows)
    summary = metrics.summarize(truth, scores, index.ids.tolist()) | more
    files.write_json(folder / METRICS, summary)
    return summary


def read_scores(run_dir: str | os.PathLike) -> dict[str, np.ndarray] | None:
    """What `write_results` kept: ids, classes, scores, targets. None where it is not all there."""
    path = pathlib.Path(run_dir) / SCORES
    if not path.exists():
        return None
    with np.load(path) as stored:
        found = {name: stored[name] for name in stored.files}
    return found if "targets" in found else None  # earlier versions kept none
