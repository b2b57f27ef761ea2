"""Clip scores and their metrics."""

import itertools
import os
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np

from psl_jax.audio.segments import MIN_SEGMENT_SECONDS, SAMPLE_RATE, Segmentation
from psl_jax.data import batches
from psl_jax.data.batches import process_clips
from psl_jax.data.clip_index import ClipIndex
from psl_jax.data.segment_loader import Batch
from psl_jax.data.source import Source
from psl_jax.data.whole_clips import WholeClips, whole_clip_batches
from psl_jax.runtime import files, parallel, progress
from psl_jax.runtime.paths import path_of
from psl_jax.scoring import metrics
from psl_jax.scoring.event_metrics import EventResults
from psl_jax.scoring.scorer import DeviceScorer, SegmentScorer

SCORES = "scores.npz"
METRICS = "metrics.json"
PER_CLASS = "per_class.csv"

AnySegmentation = Segmentation | WholeClips


def segmentation_for(
    index: ClipIndex,
    seconds: float | None,
    shortest_seconds: float = MIN_SEGMENT_SECONDS,
    count_padding: bool = False,
) -> AnySegmentation:
    """Segments of `seconds`, or for None the whole clip in one pass.

    count_padding: each whole clip is padded to the longest one, whose frames all count.
    """
    if seconds is None and not count_padding:
        return WholeClips.of(index)
    length = index.clip_samples / SAMPLE_RATE if seconds is None else seconds
    return Segmentation(length, shortest_seconds=shortest_seconds)


def score_batches(
    scorer: SegmentScorer,
    source: Source,
    segmentation: AnySegmentation,
    batch_size: int,
    clips: np.ndarray,
) -> Iterator[tuple[Batch, np.ndarray]]:
    """Yields (batch, probabilities [rows, classes]) of all segments of `clips`, ascending numbers.

    batch_size counts the rows a process scores at a time, see `Scorer.fitting`.
    """
    if isinstance(segmentation, WholeClips):

        def size(seconds: float, count: int) -> int:
            rows = scorer.fitting(batch_size, seconds)
            return min(rows, scorer.fitting(max(count, 1), seconds))

        feed = whole_clip_batches(source, segmentation, clips, size)
        if isinstance(scorer, DeviceScorer):
            return scorer(feed, segmentation.padded)
        return scorer(feed)
    rows = scorer.fitting(batch_size, segmentation.seconds)
    return scorer(batches.eval_batches(source, segmentation, batch_size=rows, clips=clips))


def score_clips(
    scorer: SegmentScorer,
    source: Source,
    segmentation: AnySegmentation,
    batch_size: int,
    description: str | None = None,
) -> np.ndarray:
    """Scores of all clips: the mean over a clip's segments (paper, section 3.3).

    batch_size: see `score_batches`. With a description a bar shows the progress. Returns float32
    [clips, classes], on every process.
    """
    index, process = source.index, jax.process_index()
    shares = process_clips(index, segmentation, jax.process_count())
    clips = shares[process]
    show = description is not None and process == 0
    with progress.bar(len(clips), "clip", description, show=show) as bar:

        def count_done() -> Iterator[tuple[Batch, np.ndarray]]:
            for batch, probabilities in score_batches(
                scorer, source, segmentation, batch_size, clips
            ):
                yield batch, probabilities
                bar.update(int((batch["segment"] == 0).sum()))

        means = compute_clip_means(count_done(), index, segmentation, clips)
    return parallel.gather_rows(means, [len(share) for share in shares])


def compute_clip_means(
    scored_batches: Iterable[tuple[Batch, np.ndarray]],
    index: ClipIndex,
    segmentation: AnySegmentation,
    clips: np.ndarray,
) -> np.ndarray:
    """Means over the segments of `clips`, consecutive numbers: float32 [clips, classes].

    scored_batches: (batch, probabilities [rows, classes]) of all of them.
    """
    first = int(clips[0]) if len(clips) else 0
    totals = np.zeros((len(clips), index.num_classes), np.float64)
    for batch, probabilities in scored_batches:
        np.add.at(totals, batch["clip"] - first, probabilities)
    counts = segmentation.count_segments(index.num_samples[clips])
    means: np.ndarray = (totals / counts[:, None]).astype(np.float32)
    return means


def mean_average_precision(scores: np.ndarray, index: ClipIndex) -> float:
    """mAP of clip scores against the weak labels."""
    return metrics.mean_average_precision(index.weak_labels(), scores)


def write_results(
    run_dir: str | os.PathLike[str],
    index: ClipIndex,
    scores: np.ndarray,
    more: dict[str, Any],
    events: EventResults | None = None,
) -> dict[str, Any]:
    """Writes scores.npz, per_class.csv and metrics.json; returns what the last holds.

    `more` and the results of events are added to the metrics.
    """
    folder, truth = path_of(run_dir), index.weak_labels()
    with files.atomic_open(folder / SCORES, "wb") as file:
        np.savez(
            file,
            ids=np.asarray(index.ids, np.str_),
            classes=np.asarray(index.classes, np.str_),
            scores=scores,
            targets=truth.astype(np.int8 if index.has_unknown else np.uint8),
        )
    rows = metrics.tabulate_classes(truth, scores, index.classes, index.ids.tolist())
    header = (*metrics.PER_CLASS_HEADER, *(events.classes if events else ()))
    values = zip(*events.classes.values(), strict=True) if events else itertools.repeat(())
    rows = [(*row, *of_class) for row, of_class in zip(rows, values, strict=False)]
    files.write_csv(folder / PER_CLASS, header, rows)
    summary = metrics.summarize(truth, scores, index.ids.tolist()) | more
    summary |= events.summary if events else {}
    files.write_json(folder / METRICS, summary)
    return summary


def write_nothing(run_dir: str | os.PathLike[str], index: ClipIndex, more: dict[str, Any]) -> None:
    """Writes the files of `write_results` for a split without labels: no scores, no metrics."""
    folder = path_of(run_dir)
    with files.atomic_open(folder / SCORES, "wb") as file:
        np.savez(file, ids=np.asarray(index.ids, np.str_), classes=np.array(index.classes))
    files.write_csv(folder / PER_CLASS, metrics.PER_CLASS_HEADER, [])
    summary = {"mAP": None, "num_clips": len(index), "clip_ids_sha256": index.ids_sha256}
    files.write_json(folder / METRICS, summary | more)


def read_scores(run_dir: str | os.PathLike[str]) -> dict[str, np.ndarray] | None:
    """What `write_results` kept: ids, classes, scores, targets.

    None where it is not all there, or no target is known.
    """
    path = path_of(run_dir) / SCORES
    if not path.exists():
        return None
    with path.open("rb") as file, np.load(file) as stored:
        arrays = {name: stored[name] for name in stored.files}
    targets = arrays.get("targets")  # earlier versions kept none
    return arrays if targets is not None and (targets >= 0).any() else None
