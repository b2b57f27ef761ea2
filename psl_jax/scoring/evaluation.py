"""Clip scores, kept so that an evaluation that is killed goes on, and their metrics."""

import itertools
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from psl_jax.audio.segments import MIN_SEGMENT_SECONDS, SAMPLE_RATE, Segmentation
from psl_jax.data import batches
from psl_jax.data.batches import process_clips
from psl_jax.data.clip_index import ClipIndex
from psl_jax.data.segment_loader import Batch
from psl_jax.data.shard_arrays import ShardArrays
from psl_jax.data.source import Source
from psl_jax.data.whole_clips import WholeClips, whole_clip_batches
from psl_jax.runtime import distributed, files, parallel, progress
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import path_of, remove_tree
from psl_jax.scoring import metrics
from psl_jax.scoring.event_metrics import EventResults
from psl_jax.scoring.scorer import Scorer, SegmentScorer

SCORES = "scores.npz"
METRICS = "metrics.json"
PER_CLASS = "per_class.csv"
MANIFEST = "evaluation.json"
_PARTS = "parts"  # folder of the shards

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
) -> np.ndarray:
    """Scores of all clips: the mean over a clip's segments (paper, section 3.3).

    See `score_batches`. Returns float32 [clips, classes], on every process.
    """
    counts = segmentation.count_segments(source.index.num_samples)
    shares = process_clips(counts, jax.process_count())
    clips = shares[jax.process_index()]
    scored = score_batches(scorer, source, segmentation, batch_size, clips, description)
    means = compute_clip_means(scored, source.index, segmentation, clips)
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


def collect_shards(
    scored_batches: Iterable[tuple[Batch, np.ndarray]],
    starts: np.ndarray,
    row_of: Callable[[Batch], np.ndarray],
    counts: np.ndarray | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (shard, its scores [rows, classes]) as soon as all of a shard are there.

    Args:
      starts: int64 [shards + 1], the first row of each shard, and the number of all rows.
      row_of: the rows of a batch's segments, among those of all shards.
      counts: [rows] segments of each row, which gets their mean: float32; None: one each, float16.
    """
    begun: dict[int, tuple[np.ndarray, int]] = {}  # few at a time: clips come nearly in order
    for batch, probabilities in scored_batches:
        rows = row_of(batch)
        shard_of_row = np.searchsorted(starts, rows, "right") - 1
        for shard in np.unique(shard_of_row).tolist():
            begin, end = starts[shard : shard + 2].tolist()
            if shard not in begun:
                dtype = np.float16 if counts is None else np.float64
                begun[shard] = np.zeros((end - begin, probabilities.shape[1]), dtype), 0
            values, num_scores = begun.pop(shard)
            inside = shard_of_row == shard
            num_scores += int(inside.sum())
            if counts is None:
                values[rows[inside] - begin] = probabilities[inside]
                expected = end - begin
            else:
                np.add.at(values, rows[inside] - begin, probabilities[inside])
                expected = int(counts[begin:end].sum())
            if num_scores < expected:
                begun[shard] = values, num_scores
            elif counts is None:
                yield shard, values
            else:
                yield shard, (values / counts[begin:end, None]).astype(np.float32)


def deal_shards(missing: Sequence[int]) -> list[int]:
    """The shards among the `missing` that fall to this process; all processes come here.

    Dealt out as the first process finds them before anybody writes: by their numbers, what a dead
    process left would fall to few.
    """
    shards: Sequence[int] = distributed.exchange(missing)[0]
    return list(shards[jax.process_index() :: jax.process_count()])


# --- Scores of clips, kept shard by shard ---------------------------------------------------------


class StoredScores:
    """A folder with the scores of the shards of a split that are finished: `arrays`."""

    def __init__(self, folder: pathlib.Path, index: ClipIndex, made_with: dict[str, Any]):
        """made_with: what the scores depend on. Raises UserError where the folder has others."""
        self.folder, self.index = folder, index
        manifest = files.as_json(
            made_with
            | {
                "ids_in_order": files.json_digest(index.ids.tolist()),
                "shard_sizes": files.json_digest(index.shard_sizes.tolist()),
                "labels_sha256": index.labels_sha256,
                "audio_sha256": None if index.audio_digests is None else index.audio_sha256,
            }
        )
        path = folder / MANIFEST
        self.begun = path.exists()
        others = [name for name in ("metrics.json", "config.json") if (folder / name).exists()]
        if others and not self.begun:
            raise UserError(f"{folder} holds {others[0]} of something else. Give another --out")
        stored = files.read_json(path) if self.begun else manifest
        differing = sorted(k for k in {*stored, *manifest} if stored.get(k) != manifest.get(k))
        if differing:
            lines = [f"  {k}: {stored.get(k)!r} there, {manifest.get(k)!r} now" for k in differing]
            raise UserError(
                f"{folder} holds another evaluation:\n" + "\n".join(lines) + "\nGive another --out"
            )
        self.manifest = manifest
        # float32: in float16 many small scores would be equal, and ranks are what is measured.
        sizes = index.shard_sizes.tolist()
        self.arrays = ShardArrays(folder / _PARTS, "scores", sizes, None, np.float32)

    def read(self) -> np.ndarray:
        """float32 [clips, classes] of all shards, in order."""
        shards = np.flatnonzero(self.index.shard_sizes).tolist()
        nothing = np.zeros((0, self.index.num_classes), np.float32)
        return np.concatenate([nothing, *map(self.arrays.read, shards)])

    def forget(self) -> None:
        """Deletes the parts, once all is written elsewhere."""
        remove_tree(self.folder / _PARTS, ignore_errors=True)


def score_missing(
    scorer: SegmentScorer,
    source: Source,
    segmentation: AnySegmentation,
    stored: StoredScores,
    batch_size: int,
    description: str,
) -> None:
    """Scores the clips of all shards that are missing: a clip's score is its segments' mean.

    Shards are dealt out to the processes, which come back when all are done.
    """
    if jax.process_index() == 0:
        stored.folder.mkdir(parents=True, exist_ok=True)
        files.write_json(stored.folder / MANIFEST, stored.manifest)
    index, shards = source.index, deal_shards(stored.arrays.missing)
    ranges = [np.arange(*index.shard_offsets[shard : shard + 2]) for shard in shards]
    clips = np.concatenate([np.zeros(0, np.int64), *ranges])
    if len(clips):
        counts = segmentation.count_segments(index.num_samples)
        scored = score_batches(scorer, source, segmentation, batch_size, clips, description)
        for shard, scores in collect_shards(
            scored, index.shard_offsets, lambda batch: batch["clip"], counts
        ):
            stored.arrays.write(shard, scores)
    parallel.wait_for_all("evaluation scored")


# --- Results --------------------------------------------------------------------------------------


def mean_average_precision(scores: np.ndarray, index: ClipIndex) -> float:
    """mAP of clip scores against the weak labels."""
    return metrics.mean_average_precision(index.weak_labels(), scores)


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
    arrays = {"ids": np.asarray(index.ids, np.str_), "classes": np.asarray(index.classes, np.str_)}
    header = (*metrics.PER_CLASS_HEADER, *(events.classes if events else ()))
    rows: list[tuple[Any, ...]] = []
    summary = {"mAP": None, "num_clips": len(index), "clip_ids_sha256": index.ids_sha256}
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

    None where it is not all there, or no target is known.
    """
    path = path_of(run_dir) / SCORES
    if not path.exists():
        return None
    with path.open("rb") as file, np.load(file) as stored:
        arrays = {name: stored[name] for name in stored.files}
    targets = arrays.get("targets")  # earlier versions kept none
    return arrays if targets is not None and (targets >= 0).any() else None
