"""The teacher's soft labels for a split, written shard by shard; and how good they are."""

import pathlib
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from psl_jax.audio.segments import SAMPLE_RATE, Segmentation
from psl_jax.data import batches
from psl_jax.data.clip_index import ClipIndex
from psl_jax.data.label_manifest import LabelRule
from psl_jax.data.soft_labels import SoftLabels, SoftLabelWriter
from psl_jax.data.source import Source
from psl_jax.runtime import distributed, files, parallel, progress
from psl_jax.runtime.paths import remove_tree
from psl_jax.scoring import label_rates, label_windows, metrics
from psl_jax.scoring.scorer import SegmentScorer

SCORES = "scores"  # folder of the teacher's own labels, until those of fitted rates are whole
CALIBRATION = "calibration.json"


class TaughtBy(NamedTuple):
    """Whose labels they are.

    Attributes:
      digest: of the teacher.
      described: what the manifest says of each teacher.
      weak: bool [classes], those which no teacher knows and which keep their weak labels; or None.
    """

    digest: str
    described: list[dict[str, Any]] | None = None
    weak: np.ndarray | None = None


def relabel(
    scorer: SegmentScorer,
    source: Source,
    segmentation: Segmentation,
    directory: pathlib.Path,
    *,
    teacher: TaughtBy,
    batch_size: int,
    file_format: str = "tfrecord",
    rule: LabelRule | None = None,
) -> None:
    """Writes the soft labels of every clip of `source` that has none yet.

    rule: how they are made of the scores, by default each segment's own are its labels; that
    padding counts must have been told to the scorer, and with `rule.heard` it scores frames.
    Shards are dealt out to the processes; each is written to a temporary name and renamed when
    whole, so a killed relabeling goes on where it was. Raises UserError where `directory` holds
    labels of another teacher, segment length, rule or data set.
    """
    rule = rule or LabelRule()

    def writer_of(folder: pathlib.Path, rule: LabelRule) -> SoftLabelWriter:
        return SoftLabelWriter(
            folder,
            source.index,
            segmentation,
            teacher_digest=teacher.digest,
            format=file_format,
            rule=rule,
            teachers=teacher.described,
            uses_weak_labels=teacher.weak is not None,
        )

    writer = writer_of(directory, rule)
    if rule.calibrate == "none":
        _score_missing(scorer, source, writer, rule, teacher.weak, batch_size)
        return
    if writer.missing:  # the rates are those of all clips, so all are scored first
        scores = LabelRule(rule.overlap, count_padding=rule.count_padding, heard=rule.heard)
        kept = writer_of(directory / SCORES, scores)
        _score_missing(scorer, source, kept, scores, teacher.weak, batch_size)
        parallel.wait_for_all(f"scores in {directory}")
        labels = SoftLabels.open(kept.directory, source.index, segmentation, teacher.digest)
        _write_calibrated(labels, writer, rule, teacher.weak)
    parallel.wait_for_all(f"labels in {directory}")
    if jax.process_index() == 0:
        remove_tree(directory / SCORES, ignore_errors=True)


def _score_missing(
    scorer: SegmentScorer,
    source: Source,
    writer: SoftLabelWriter,
    rule: LabelRule,
    keeps_weak: np.ndarray | None,
    batch_size: int,
) -> None:
    index, segmentation, directory = source.index, writer.segmentation, writer.directory
    shards = _own_shards(writer)
    count, process = jax.process_count(), jax.process_index()
    for shard in shards:
        if index.shard_sizes[shard] == 0:
            writer.write_shard(shard, [])
    if not index.shard_sizes[shards].any():
        return
    clips = np.concatenate([_clips_of(index, shard) for shard in shards])
    windows = label_windows.windows_of(segmentation, rule, index.clip_samples / SAMPLE_RATE)
    size = scorer.fitting(batch_size, windows.seconds)
    feed = batches.eval_batches(source, windows, batch_size=size, clips=clips)
    collector = _ClipCollector(index, windows, int(windows.counts(index.num_samples[clips]).max()))
    audio_seconds = index.num_samples[clips].sum(dtype=np.int64) / SAMPLE_RATE
    start = time.perf_counter()
    description = f"relabel {segmentation.seconds:g} s"
    with progress.bar(len(clips), "clip", description, show=process == 0) as bar:
        for batch, probabilities in scorer(feed):
            done, rows = collector.add(batch, probabilities)
            if label_windows.are_heard(rule):
                lengths = index.num_samples[done]
                rows = label_windows.labels_of(rows, windows, segmentation, lengths)
            writer.add(done, finished_labels(rows, index.weak_labels(done), rule, keeps_weak))
            bar.update(len(done))
    elapsed = time.perf_counter() - start
    share = f" (process {process} of {count})" if count > 1 else ""
    print(
        f"relabeled {len(clips)} clips{share} in {elapsed:.1f} s: {audio_seconds / elapsed:.0f} "
        f"times real time; soft labels in {directory}"
    )


def _own_shards(writer: SoftLabelWriter) -> list[int]:
    """The missing shards that this process is to write; all processes come here.

    Dealt out as the first process finds them before anybody writes: by their numbers, what a dead
    process left would fall to few.
    """
    missing = distributed.exchange(writer.missing)[0]
    return dealt(missing, jax.process_index(), jax.process_count())


def dealt(missing: Sequence[int], process: int, count: int) -> list[int]:
    """The shards among the `missing`, the same for all, that fall to one of `count` processes."""
    return list(missing[process::count])


def finished_labels(
    scores: np.ndarray,
    weak: np.ndarray,
    rule: LabelRule,
    keeps_weak: np.ndarray | None = None,
    shift: np.ndarray | None = None,
) -> np.ndarray:
    """Labels [clips, segments, classes] of a teacher's scores, which may be overwritten.

    weak: [clips, classes]; keeps_weak: bool [classes], those that have no score; shift: see
    `label_rates`.
    """
    rows = scores if shift is None else label_rates.shifted(scores, shift)
    if rule.prior:
        rows = with_prior(rows, weak[:, None], rule.prior, rule.prior_recall)
    if keeps_weak is not None:
        rows[..., keeps_weak] = weak[:, None, keeps_weak]
    return rows


def _write_calibrated(
    scores: SoftLabels, writer: SoftLabelWriter, rule: LabelRule, keeps_weak: np.ndarray | None
) -> None:
    """Labels of stored scores, with each class's rate fitted; all processes fit the same."""
    index = scores.index
    shift = _fitted_shift(scores, rule)
    if jax.process_index() == 0:
        found = dict(zip(index.classes, shift.tolist(), strict=True))
        files.write_json(writer.directory / CALIBRATION, {"logit_shift": found})
    for shard in _own_shards(writer):
        _, rows, counts = scores.read_shard(shard)
        weak = index.weak_labels(_clips_of(index, shard))
        labels = finished_labels(rows.astype(np.float32), weak, rule, keeps_weak, shift)
        writer.write_shard(shard, [row[:n] for row, n in zip(labels, counts, strict=True)])


def _fitted_shift(scores: SoftLabels, rule: LabelRule) -> np.ndarray:
    """float64 [classes]; see `LabelRule.calibrate`."""
    index, by_clip = scores.index, rule.calibrate == "clip_rate"
    logits, weights = [], []
    rate, total = np.zeros(index.num_classes), 0
    for shard in range(len(index.shard_sizes)):
        if not index.shard_sizes[shard]:
            continue
        _, rows, counts = scores.read_shard(shard)
        weak = index.weak_labels(_clips_of(index, shard))
        if by_clip:
            chosen, times = rows.max(axis=1), np.ones(len(rows))  # zeros after a clip's end
        else:
            chosen, times = rows[np.arange(rows.shape[1]) < counts[:, None]], counts
        rate += (weak > 0).T @ times
        total += int(times.sum())
        values, counted = label_rates.counted(label_rates.logits_of(chosen))
        logits.append(values)
        weights.append(counted)
    if not total:
        return rate
    return label_rates.fit_shift(np.concatenate(logits), np.concatenate(weights), rate / total)


def with_prior(
    probabilities: np.ndarray, weak: np.ndarray, strength: float, recall: float
) -> np.ndarray:
    """A teacher's probabilities after what the clip's weak labels tell, by Bayes' rule.

    A weak label is taken for a noisy observation of each class: a class that sounds is labelled
    with probability `recall`, one that does not with recall * exp(-strength). So the odds of a
    labelled class are multiplied by exp(strength); those of others by (1 - recall) / (1 - recall *
    exp(-strength)), never less than 1 - recall: that a label is missing says the less the more of
    them are. A strength of 0 changes nothing, and neither does a clip without any label, which
    nobody may have labelled.

    Args:
      probabilities: [..., classes] in 0 to 1.
      weak: 0 or 1, broadcast against it.

    Returns an array like `probabilities`; 0 and 1 stay what they are.
    """
    false = recall * np.exp(-strength)
    ratio = np.where(weak > 0, np.exp(strength), (1 - recall) / (1 - false))
    ratio = np.where((weak > 0).any(axis=-1, keepdims=True), ratio, 1.0)
    wide = probabilities.astype(np.float64)
    return (wide * ratio / (wide * ratio + 1 - wide)).astype(probabilities.dtype)


class _ClipCollector:
    """Puts the segments of a clip together again; they arrive in order."""

    def __init__(self, index: ClipIndex, segmentation: Segmentation, segments: int):
        self.index, self.segmentation, self.segments = index, segmentation, segments
        self.clips = np.zeros(0, np.int64)
        self.rows: np.ndarray | None = None

    def add(self, batch: dict[str, np.ndarray], probabilities: np.ndarray):
        """Returns the clips that are complete now, and their [n, segments, (frames,) classes]."""
        clips = np.concatenate([self.clips, batch["clip"]])
        rows = probabilities
        if self.rows is not None:
            rows = np.concatenate([self.rows, probabilities])
        numbers, starts, found = np.unique(clips, return_index=True, return_counts=True)
        order = np.argsort(starts)
        numbers, starts, found = numbers[order], starts[order], found[order]
        whole = found == self.segmentation.counts(self.index.num_samples[numbers])
        done = numbers[whole]
        out = np.zeros((len(done), self.segments, *rows.shape[1:]), np.float32)
        for i, (start, count) in enumerate(zip(starts[whole], found[whole], strict=True)):
            out[i, :count] = rows[start : start + count]
        left = int(found[whole].sum())  # only the last clip can be incomplete
        self.clips, self.rows = clips[left:], rows[left:]
        return done, out


def label_quality(labels: SoftLabels, index: ClipIndex, segmentation: Segmentation) -> dict:
    """What the soft labels are worth: counts and coverage of labels (paper, figures 2 and 3) and,
    where the data has true events, the segment mAP of the soft and of the propagated weak labels,
    and their average precision of each class.
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
        by_class = {
            "soft": metrics.average_precision(truth, soft),
            "weak": metrics.average_precision(truth, weak),
        }
        result["segment_mAP"] = {kind: metrics.mean_scored(ap) for kind, ap in by_class.items()}
        result["segment_AP"] = {
            "classes": list(index.classes),
            "positives": truth.sum(axis=0).tolist(),  # segments
            **{k: [None if np.isnan(v) else float(v) for v in ap] for k, ap in by_class.items()},
        }
    return result | {
        "segment_seconds": segmentation.seconds,
        "hop_seconds": segmentation.hop_seconds or segmentation.seconds,
        "bytes": labels.num_bytes,
    }


def _clips_of(index: ClipIndex, shard: int) -> np.ndarray:
    return np.arange(index.shard_offsets[shard], index.shard_offsets[shard + 1])
