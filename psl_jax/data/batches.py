"""Batches of segments for training and evaluation: an order of numbers, loaded ahead by threads."""

import itertools
from collections.abc import Iterator
from functools import partial

import numpy as np

from psl_jax.audio.segments import Segmentation
from psl_jax.data import sampling as sampling_lib
from psl_jax.data.clip_index import ClipIndex
from psl_jax.data.segment_loader import Batch, Segments
from psl_jax.data.soft_labels import SoftLabels
from psl_jax.data.source import Source
from psl_jax.data.time_shift import TimeShift, roll_rows
from psl_jax.runtime.ordered_map import ordered_map

LOADERS = 4  # threads; they mostly wait for the disk, or for memory


def train_batches(
    source: Source,
    segmentation: Segmentation,
    *,
    batch_size: int,
    seed: int,
    sampling: str = "uniform",
    start_step: int = 0,
    soft_labels: SoftLabels | None = None,
    alpha: float = 1.0,
    window_clips: int = sampling_lib.WINDOW_CLIPS,
    shift: TimeShift | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """Batches without end. `batch_size` is this process's share of the batch.

    Batches straddle epochs, so that each segment is seen exactly once an epoch ("uniform").
    Starting at `start_step` gives the batches that a run from step 0 would see from there on;
    nothing before it is read. shift: rolls the audio. Records are not verified. Memory: the
    batches that are loaded ahead. Raises UserError for data that cannot be read.
    """
    segments = Segments(source, segmentation, soft_labels, alpha)
    orders = sampling_lib.training_order(
        source.index,
        segmentation,
        batch_size=batch_size,
        start_step=start_step,
        seed=seed,
        sampling=sampling,
        window_clips=window_clips,
        process_index=process_index,
        process_count=process_count,
    )

    def load(step: int, numbers: np.ndarray) -> Batch:
        batch = segments.load(numbers)
        if shift is not None:
            lengths = batch["num_samples"]
            roll_rows(batch["audio"], lengths, shift.draw(step, process_index, lengths))
        return batch

    steps = zip(itertools.count(start_step), orders, strict=False)
    yield from ordered_map(lambda item: load(*item), steps, LOADERS, ahead=1)


def steps_per_epoch(
    index: ClipIndex, segmentation: Segmentation, batch_size: int, process_count: int = 1
) -> float:
    """Batches of `batch_size` per process in an epoch: a fraction, as batches straddle epochs."""
    return sampling_lib.epoch_size(index, segmentation, process_count) / batch_size


def eval_batches(
    source: Source,
    segmentation: Segmentation,
    *,
    batch_size: int,
    soft_labels: SoftLabels | None = None,
    alpha: float = 1.0,
    clips: np.ndarray | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """Every segment of every clip once, in index order; no clip is dropped. Records are verified.

    The last batch is filled up with silent rows of weight 0 and clip -1. Each process takes a
    contiguous part of the clips, and all make `eval_batch_count` batches, if need be of weight 0;
    with `clips` (numbers in ascending order) just those are covered. Labels: see `Segments`.
    """
    segments = Segments(source, segmentation, soft_labels, alpha)
    count = 0
    if clips is None:
        clips = process_clips(source.index, segmentation, process_count)[process_index]
        count = eval_batch_count(source.index, segmentation, batch_size, process_count)
    numbers = segments.of_clips(clips)
    count = count or -(-len(numbers) // batch_size)
    parts = (numbers[i * batch_size : (i + 1) * batch_size] for i in range(count))
    yield from ordered_map(
        partial(segments.load, size=batch_size, verify=True), parts, LOADERS, ahead=1
    )


def eval_batch_count(
    index: ClipIndex, segmentation: Segmentation, batch_size: int, process_count: int = 1
) -> int:
    """Batches that `eval_batches` makes on each process."""
    counts = segmentation.counts(index.num_samples)
    parts = process_clips(index, segmentation, process_count)
    return max(-(-int(counts[part].sum(dtype=np.int64)) // batch_size) for part in parts)


def process_clips(
    index: ClipIndex, segmentation: "sampling_lib.Counting", process_count: int
) -> list[np.ndarray]:
    """Clip numbers of each process: contiguous, complete, with about equally many segments."""
    ends = np.cumsum(segmentation.counts(index.num_samples), dtype=np.int64)
    total = ends[-1] if len(ends) else 0
    cuts = np.searchsorted(ends, total * np.arange(1, process_count) // process_count, "right")
    return np.split(np.arange(len(index)), cuts)
