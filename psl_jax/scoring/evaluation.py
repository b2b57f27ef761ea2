"""Clip scores and their metrics."""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from psl_jax.audio.segments import MIN_SEGMENT_SECONDS, SAMPLE_RATE, Segmentation
from psl_jax.data import batches
from psl_jax.data.batches import WholeClips, process_clips, whole_clip_batches
from psl_jax.data.clip_index import ClipIndex
from psl_jax.data.segment_loader import Batch
from psl_jax.data.source import Source
from psl_jax.runtime import files, parallel, progress
from psl_jax.runtime.errors import DamagedFileError
from psl_jax.runtime.paths import path_of
from psl_jax.scoring import metrics
from psl_jax.scoring.event_metrics import EventResults
from psl_jax.scoring.scorer import Scorer, SegmentScorer

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
    description: str | None = None,
) -> Iterator[tuple[Batch, np.ndarray]]:
    """Yields (batch, probabilities [rows, classes]) of all segments of `clips`, ascending numbers.

    batch_size counts the rows a process scores at a time, see `Scorer.fitting`. With a description
    a bar shows the progress of the first process.
    """

    def size(seconds: float, count: int) -> int:
        rows = scorer.fitting(batch_size, seconds)
        return min(rows, scorer.fitting(max(count, 1), seconds))

    if isinstance(segmentation, WholeClips):
        feed = whole_clip_batches(source, segmentation, clips, size)
        padded = segmentation.padded
        scored = scorer(feed, padded) if isinstance(scorer, Scorer) else scorer(feed)
    else:
        rows = scorer.fitting(batch_size, segmentation.seconds)
        scored = scorer(batches.eval_batches(source, segmentation, batch_size=rows, clips=clips))
    show = description is not None and jax.process_index() == 0
    with progress.bar(len(clips), "clip", description, show=show) as bar:
        for batch, probabilities in scored:
            yield batch, probabilities
            bar.update(int((batch["segment"] == 0).sum()))


def score_clips(
    scorer: SegmentScorer,
    source: Source,
    segmentation: AnySegmentation,
    batch_size: int,
    description: str | None = None,
    *,
    num_classes: int | None = None,
) -> np.ndarray:
    """Scores of all clips: the mean over a clip's segments (paper, section 3.3).

    See `score_batches`; num_classes: of the scorer, default those of the data. Returns float32
    [clips, classes], on every process.
    """
    return compute_clip_means(
        source.index,
        segmentation,
        lambda clips: score_batches(scorer, source, segmentation, batch_size, clips, description),
        num_classes=num_classes or source.index.num_classes,
    )


def compute_clip_means(
    index: ClipIndex,
    segmentation: AnySegmentation,
    score: Callable[[np.ndarray], Iterable[tuple[Batch, np.ndarray]]],
    *,
    num_classes: int,
) -> np.ndarray:
    """Means over the segments of all clips: float32 [clips, classes], on every process.

    score: yields (batch, probabilities [rows, classes]) of the segments of this process's clips.
    """
    counts = segmentation.count_segments(index.num_samples)
    shares = process_clips(counts, jax.process_count())
    clips = shares[jax.process_index()]
    totals = np.zeros((len(clips), num_classes), np.float64)
    for batch, probabilities in score(clips):
        np.add.at(totals, batch["clip"] - clips[0], probabilities)
    means = (totals / counts[clips, None]).astype(np.float32)
    return parallel.gather_rows(means, [len(share) for share in shares])


# --- Results --------------------------------------------------------------------------------------


def write_results(
    run_dir: str | os.PathLike[str],
    index: ClipIndex,
    scores: np.ndarray | None,
    more: dict[str, Any],
    events: EventResults | None = None,
) -> dict[str, Any]:
    """Writes scores.npz, per_class.csv and metrics.json; returns what the last holds.

    scores: None for a split without labels, which has no metrics. `more` and the results of events
    are added to the metrics.
    """
    folder, truth = path_of(run_dir), index.weak_labels()
    arrays: dict[str, Any] = {
        "ids": np.asarray(index.ids, np.str_),
        "classes": np.asarray(index.classes, np.str_),
    }
    header = (*metrics.PER_CLASS_HEADER, *(events.classes if events else ()))
    rows: list[tuple[Any, ...]] = []
    summary: dict[str, Any] = {
        "mAP": None,
        "num_clips": len(index),
        "clip_ids_sha256": index.ids_sha256,
    }
    if scores is not None:
        targets = truth.astype(np.int8 if index.has_unknown else np.uint8)
        arrays |= {"scores": scores, "targets": targets}
        of_classes = metrics.tabulate_classes(truth, scores, index.classes, index.ids.tolist())
        values = zip(*events.classes.values(), strict=True) if events else itertools.repeat(())
        rows = [(*row, *of_class) for row, of_class in zip(of_classes, values, strict=False)]
        summary = metrics.summarize(truth, scores, index.ids.tolist())
    with files.atomic_open(folder / SCORES, "wb") as file:
        np.savez(file, **arrays)
    files.write_csv(folder / PER_CLASS, header, rows)
    summary |= more | (events.summary if events else {})
    files.write_json(folder / METRICS, summary)
    return summary


def read_scores(run_dir: str | os.PathLike[str]) -> dict[str, np.ndarray] | None:
    """What `write_results` kept: ids, classes, scores, targets.

    None where it is not all there, or no target is known. Raises DamagedFileError.
    """
    path = path_of(run_dir) / SCORES
    if not path.exists():
        return None
    try:
        with path.open("rb") as file, np.load(file) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except files.NPZ_ERRORS as error:
        raise DamagedFileError(
            f"{path} is damaged ({error}): evaluate again by the command that made it"
        ) from error
    targets = arrays.get("targets")  # earlier versions kept none
    return arrays if targets is not None and (targets >= 0).any() else None
