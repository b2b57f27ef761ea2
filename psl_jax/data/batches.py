"""Batches of segments for training and evaluation, from any source of clips. Pure NumPy."""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from psl_jax.audio.segments import Segmentation
from psl_jax.data import sampling as sampling_lib
from psl_jax.data.clip_index import ClipIndex
from psl_jax.data.sampling import SEQUENTIAL_WINDOW_CLIPS, WINDOW_CLIPS, Window
from psl_jax.data.soft_labels import SoftLabels
from psl_jax.data.sources import LoadedWindow, Source, made_ahead
from psl_jax.data.time_shift import TimeShift, reflect_end, roll_rows

# audio        int16 [B, segment_samples], after the clip's end its reflection and zeros
# num_samples  int32 [B], samples of the segment that lie inside the clip
# labels       float32 [B, classes]
# weight       float32 [B], 1, or 0 for the rows that fill up the last batch
# clip         int32 [B], number in the index, -1 for filling
# segment      int32 [B], number in the clip
Batch = dict[str, np.ndarray]
# shift        int32 [B], samples by which the segment is to be rolled
ENTRIES = ("clip", "segment", "num_samples", "shift")


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
    window_clips: int = WINDOW_CLIPS,
    shift: TimeShift | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """Batches without end. `batch_size` is this process's share of the batch.

    Batches straddle epochs, so that each segment is seen exactly once an epoch ("uniform").
    The labels are `alpha * soft + (1 - alpha) * weak` (BCE is linear in its target), and the clip's
    weak labels where there are no `soft_labels`. Starting at `start_step` gives the batches that a
    run from step 0 would see from there on; windows before it are not read. shift: rolls the audio.
    Memory: two windows, see `read_labelled`. Raises UserError for data that cannot be read.
    """
    windows = _windows_from(
        source.index,
        segmentation,
        start_step * batch_size,
        seed=seed,
        sampling=sampling,
        window_clips=window_clips,
        process_index=process_index,
        process_count=process_count,
    )
    builder = BatchBuilder(source.index, segmentation, batch_size, alpha)
    steps = itertools.count(start_step)
    for loaded, soft in read_labelled(source, windows, soft_labels):
        for batch in builder.add(loaded, soft):
            if shift is not None:
                lengths = batch["num_samples"]
                roll_rows(batch["audio"], lengths, shift.draw(next(steps), process_index, lengths))
            yield batch


def read_labelled(
    source: Source, windows: Iterable[Window], soft_labels: SoftLabels | None
) -> Iterator[tuple[LoadedWindow, np.ndarray | None]]:
    """Windows of `source` with the soft labels of their clips, or None where there are none.

    The labels, float16 [n, segments, classes] with zeros after a clip's last segment, are read in
    a thread of their own while the window before is used, and are not written again. Memory:
    what `Source.read` takes and two windows' labels, 2 x window_clips x segments x classes x
    2 bytes each (22 MB for 2048 clips of 10 s, 2 s segments and 527 classes).
    """
    if soft_labels is None:
        for loaded in source.read(windows):
            yield loaded, None
        return
    windows, again = itertools.tee(windows)

    def gather(window: Window) -> np.ndarray:
        return soft_labels.gather(window.clips)

    gathered = made_ahead(gather, again)
    with contextlib.closing(gathered):
        yield from zip(source.read(windows), gathered, strict=True)


def train_entries(
    index: ClipIndex,
    segmentation: Segmentation,
    *,
    batch_size: int,
    start_step: int = 0,
    shift: TimeShift | None = None,
    process_index: int = 0,
    **order: Any,
) -> Iterator[Batch]:
    """What `train_batches` is made of, without audio and labels: ENTRIES.

    `order` is the rest of its settings: seed, sampling, window_clips, process_count.
    """
    rest = np.empty((0, 2), np.int32)  # clip, segment
    steps, order = itertools.count(start_step), order | {"process_index": process_index}
    for window in _windows_from(index, segmentation, start_step * batch_size, **order):
        position, segment = window.entries.T
        entries = np.stack([window.clips[position].astype(np.int32), segment], axis=1)
        rest = np.concatenate([rest, entries])
        while len(rest) >= batch_size:
            (clip, segment), rest = rest[:batch_size].T, rest[batch_size:]
            valid = segmentation.valid_samples(index.num_samples[clip], segment)
            shifts = np.zeros(batch_size, np.int32)
            if shift is not None:
                shifts = shift.draw(next(steps), process_index, valid)
            yield dict(zip(ENTRIES, (clip, segment, valid, shifts), strict=True))


def _windows_from(
    index: ClipIndex, segmentation: Segmentation, skip: int, *, process_count: int = 1, **order: Any
) -> Iterator[Window]:
    """The windows of all epochs, less the first `skip` entries of this process."""
    size = sampling_lib.epoch_size(index, segmentation, process_count)
    first_epoch, left = divmod(skip, max(size, 1))
    for epoch in itertools.count(first_epoch):
        for window in sampling_lib.epoch_windows(
            index, segmentation, epoch=epoch, process_count=process_count, **order
        ):
            if left >= len(window.entries):
                left -= len(window.entries)
            else:
                yield dataclasses.replace(window, entries=window.entries[left:], epoch=epoch)
                left = 0


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
    window_clips: int = SEQUENTIAL_WINDOW_CLIPS,
    clips: np.ndarray | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """Every segment of every clip once, in index order; no clip is dropped.

    The last batch is filled up with silent rows of weight 0 and clip -1. Each process takes a
    contiguous part of the clips, and all make `eval_batch_count` batches, if need be of weight 0;
    with `clips` (numbers in ascending order) just those are covered.
    Labels are those of `train_batches`.
    """
    if clips is None:
        clips = sampling_lib.process_clips(source.index, segmentation, process_count)[process_index]
        count = eval_batch_count(source.index, segmentation, batch_size, process_count)
    else:
        segments = segmentation.counts(source.index.num_samples[clips]).sum(dtype=np.int64)
        count = -(-int(segments) // batch_size)
    windows = sampling_lib.sequential_windows(
        source.index, segmentation, window_clips=window_clips, clips=clips
    )
    builder = BatchBuilder(source.index, segmentation, batch_size, alpha)
    made = 0
    for loaded, soft in read_labelled(source, windows, soft_labels):
        for batch in builder.add(loaded, soft):
            yield batch
            made += 1
    for _ in range(count - made):
        yield builder.rest()


def eval_batch_count(
    index: ClipIndex, segmentation: Segmentation, batch_size: int, process_count: int = 1
) -> int:
    """Batches that `eval_batches` makes on each process."""
    counts = segmentation.counts(index.num_samples)
    parts = sampling_lib.process_clips(index, segmentation, process_count)
    return max(-(-int(counts[part].sum(dtype=np.int64)) // batch_size) for part in parts)


class BatchBuilder:
    """Copies the entries of windows into batches; a batch may begin in one and end in the next."""

    def __init__(self, index: ClipIndex, segmentation: Segmentation, size: int, alpha: float = 1.0):
        if size < 1:
            raise ValueError(f"batch size {size}")
        self.index, self.segmentation, self.size, self.alpha = index, segmentation, size, alpha
        self.batch = self._empty()
        self.filled = 0

    def add(
        self,
        loaded: LoadedWindow,
        soft: np.ndarray | None,
        entries: np.ndarray | None = None,
    ) -> Iterator[Batch]:
        """Yields the batches that become full; keeps nothing of the window.

        entries: int [n, 2], default the window's own.
        """
        weak = self.index.weak_labels(loaded.window.clips)
        entries, start = loaded.window.entries if entries is None else entries, 0
        while start < len(entries):
            part = entries[start : start + self.size - self.filled]
            self._copy(loaded, soft, weak, part)
            start += len(part)
            self.filled += len(part)
            if self.filled == self.size:
                yield self._take()

    def rest(self) -> Batch:
        """The last, partly or wholly empty batch, filled up with rows of weight 0."""
        rows = slice(self.filled, self.size)
        for value in self.batch.values():
            value[rows] = 0
        # Silence of full length: a mean over no samples would be NaN, which no weight removes.
        self.batch["num_samples"][rows] = self.segmentation.segment_samples
        self.batch["clip"][rows] = -1
        return self._take()

    def _take(self) -> Batch:
        batch, self.batch, self.filled = self.batch, self._empty(), 0
        return batch

    def _empty(self) -> Batch:
        """A new batch each time: devices may still be reading the last one."""
        size = self.size
        return {
            "audio": np.empty((size, self.segmentation.segment_samples), np.int16),
            "num_samples": np.empty(size, np.int32),
            "labels": np.empty((size, self.index.num_classes), np.float32),
            "weight": np.empty(size, np.float32),
            "clip": np.empty(size, np.int32),
            "segment": np.empty(size, np.int32),
        }

    def _copy(
        self,
        loaded: LoadedWindow,
        soft: np.ndarray | None,
        weak: np.ndarray,
        entries: np.ndarray,
    ) -> None:
        rows = slice(self.filled, self.filled + len(entries))
        position, segment = entries[:, 0], entries[:, 1]
        clip = loaded.window.clips[position]
        valid = self.segmentation.valid_samples(self.index.num_samples[clip], segment)
        audio = self.batch["audio"][rows]
        self._copy_audio(audio, loaded, position, segment, valid)
        for row in np.flatnonzero(valid < self.segmentation.segment_samples):
            reflect_end(audio[row], int(valid[row]))
        if soft is None or self.alpha == 0:
            self.batch["labels"][rows] = weak[position]
        else:
            self.batch["labels"][rows] = soft[position, segment]
            if self.alpha != 1:
                self.batch["labels"][rows] *= self.alpha
                self.batch["labels"][rows] += (1 - self.alpha) * weak[position]
        self.batch["num_samples"][rows] = valid
        self.batch["weight"][rows] = 1
        self.batch["clip"][rows] = clip
        self.batch["segment"][rows] = segment

    def _copy_audio(
        self,
        out: np.ndarray,
        loaded: LoadedWindow,
        position: np.ndarray,
        segment: np.ndarray,
        valid: np.ndarray,
    ) -> None:
        """Copies segment `segment[i]` of row `position[i]`, `valid[i]` samples, to `out[i]`."""
        window, size = loaded.window, self.segmentation.segment_samples
        places = window.offsets[position] - window.starts[position]
        places = places + segment.astype(np.int64) * self.segmentation.hop_samples
        if not (places % size).any() and len(loaded.audio) % size == 0:
            # All in one call: each row of its own would wait for the threads that read ahead to
            # let go of the interpreter. What follows a clip's end is zero in the window as well.
            segments = loaded.audio.reshape(-1, size)
            # mode: "raise" copies once more
            np.take(segments, places // size, axis=0, out=out, mode="clip")
            return
        for row, at, length in zip(out, places.tolist(), valid.tolist(), strict=True):
            row[:length] = loaded.audio[at : at + length]
            row[length:] = 0
