"""Batches for training and whole passes, of segments or of whole clips, loaded ahead."""

import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from psl_jax.audio.segments import REFLECTED_SAMPLES, SAMPLE_RATE, Segmentation
from psl_jax.data.clip_index import ClipIndex
from psl_jax.data.segment_loader import Batch, Reader, Segments, reflect_end
from psl_jax.data.source import ClipStream, Source
from psl_jax.data.training_order import TrainingOrder
from psl_jax.runtime.ordered_map import ordered_map

# Threads that load batches. They pass Python's lock to each other for every segment: on two cores
# one thread is twice as fast as four. From a bucket they mostly wait.
LOCAL_LOADERS = max(1, min(4, (os.cpu_count() or 1) // 2))
REMOTE_LOADERS = 4


@dataclasses.dataclass(frozen=True)
class TimeShift:
    """Rolls each segment with `probability` by up to `fraction` of its length, either way.

    It is made where batches are put together: there it is a copy of each row, while a TPU would
    gather the samples of one row after the other.
    """

    probability: float
    fraction: float
    seed: int

    def draw(self, step: int, process_index: int, num_samples: np.ndarray) -> np.ndarray:
        """int32 [batch]: by how many samples to shift segments of num_samples [batch] in a step."""
        rng = np.random.default_rng((self.seed, step, process_index))
        shifted = rng.random(len(num_samples)) < self.probability
        reach = np.floor(self.fraction * num_samples).astype(np.int64)
        return np.where(shifted, rng.integers(-reach, reach + 1), 0).astype(np.int32)


def roll_rows(audio: np.ndarray, num_samples: np.ndarray, shifts: np.ndarray) -> None:
    """Rolls the first num_samples[i] of audio[i] by shifts[i], in place; [batch, samples]."""
    for i in np.flatnonzero(shifts):
        row, length = audio[i], int(num_samples[i])
        row[:length] = np.roll(row[:length], shifts[i], axis=0)
        reflect_end(row, length)


def train_batches(
    segments: Segments, order: TrainingOrder, *, start_step: int = 0, shift: TimeShift | None = None
) -> Iterator[Batch]:
    """Batches without end; from `start_step` on those of a run that began at step 0.

    Records are verified where they are streamed, and not otherwise. Memory: the batches that are
    loaded ahead; see `ClipStream`. Raises UserError for data that cannot be read.
    """
    source = segments.source
    read, num_loaders = source.read, _count_loaders(source)
    if order.streamed and order.sampling == "uniform" and source.can_stream:
        epochs = order.epochs(segments, start_step)
        stream = ClipStream(source, (segments.places(numbers)[0] for numbers in epochs))
        read, num_loaders = stream.read, 1

    def load(item: tuple[int, np.ndarray]) -> Batch:
        step, numbers = item
        batch = segments.load(numbers, read=read)
        if shift is not None:
            lengths = batch["num_samples"]
            roll_rows(batch["audio"], lengths, shift.draw(step, order.process_index, lengths))
        return batch

    items = zip(itertools.count(start_step), order.batches(segments, start_step), strict=False)
    yield from ordered_map(load, items, num_loaders, ahead=1)


def eval_batches(
    source: Source, segmentation: Segmentation, *, batch_size: int, clips: np.ndarray | None = None
) -> Iterator[Batch]:
    """Every segment of every clip (default: of all) once, in index order; records are verified.

    The last batch is filled up with silent rows of weight 0 and clip -1.
    """
    segments = Segments(source, segmentation)
    numbers = segments.of_clips(np.arange(len(source.index)) if clips is None else clips)
    parts = [numbers[low : low + batch_size] for low in range(0, len(numbers), batch_size)]
    yield from whole_pass(source, [(segments, part, batch_size) for part in parts])


def whole_pass(
    source: Source, parts: Sequence[tuple[Segments, np.ndarray, int]]
) -> Iterator[Batch]:
    """The batches of (segments, numbers, rows), whose clips about ascend; records are verified."""
    read: Reader = functools.partial(read_verified, source)
    num_loaders = _count_loaders(source)
    if source.is_streamed and source.can_stream:
        clips = [segments.places(numbers)[0] for segments, numbers, _ in parts]
        stream = ClipStream(source, [np.concatenate(clips)] if clips else [])
        read, num_loaders = stream.read, 1

    def load(part: tuple[Segments, np.ndarray, int]) -> Batch:
        segments, numbers, num_rows = part
        return segments.load(numbers, num_rows, read)

    yield from ordered_map(load, parts, num_loaders, ahead=1)


def _count_loaders(source: Source) -> int:
    return REMOTE_LOADERS if source.is_remote else LOCAL_LOADERS


def read_verified(
    source: Source, clips: np.ndarray, starts: np.ndarray, counts: np.ndarray, rows: np.ndarray
) -> None:
    """`Source.read` by way of whole records, which are verified; clips ascend."""
    whole, begins = np.unique(clips, return_index=True)
    ends = np.append(begins, len(clips))[1:]
    read = source.read_whole(whole)
    for begin, end, samples in zip(begins.tolist(), ends.tolist(), read, strict=True):
        for row in range(begin, end):
            rows[row, : counts[row]] = samples[starts[row] : starts[row] + counts[row]]


def process_clips(num_segments: np.ndarray, process_count: int) -> list[np.ndarray]:
    """Clip numbers of each process: contiguous, complete, with about equally many segments.

    num_segments: of each clip [clips].
    """
    ends = np.cumsum(num_segments, dtype=np.int64)
    total = ends[-1] if len(ends) else 0
    cuts = np.searchsorted(ends, total * np.arange(1, process_count) // process_count, "right")
    return np.split(np.arange(len(ends)), cuts)


# --- Whole clips of any length, each padded to one of a few lengths -------------------------------

RATIO = 1.5  # of one length to the next: of clips of all lengths about a fifth is padding
SHORTEST_SECONDS = 0.5
# A length of its own has to spare so much padding: compiling its program takes seconds.
LEAST_SPARED_SECONDS = 600.0
# Batches that are not full are scored after so many clips, so that no clip waits for the end.
CLIPS_BETWEEN = 4096


@dataclasses.dataclass(frozen=True)
class WholeClips:
    """Each clip in one pass, padded to the next of `lengths`, in samples, ascending.

    Beside `Segmentation` the other way to cut clips for scoring: each is one segment.
    """

    lengths: tuple[int, ...]
    padded: frozenset[int]  # those of which some clip is shorter

    @classmethod
    def of(
        cls, index: ClipIndex, least_spared_seconds: float = LEAST_SPARED_SECONDS
    ) -> "WholeClips":
        """The lengths for a split: the longest clip's, and that over RATIO, RATIO squared, ...

        Those that would spare less than `least_spared_seconds` of padding are left out.
        """
        samples = index.num_samples.astype(np.int64)
        shortest = round(SHORTEST_SECONDS * SAMPLE_RATE)
        longest = max(index.clip_samples, shortest)
        if _needed(samples, [longest]).max(initial=0) > longest:
            longest += REFLECTED_SAMPLES
        lengths = [longest]
        while lengths[-1] / RATIO >= shortest:
            lengths.append(round(lengths[-1] / RATIO))
        lengths.reverse()
        upto = np.searchsorted(np.sort(_needed(samples, lengths)), lengths, "right")  # that fit
        kept: list[int] = []
        begin = 0  # of the clips that have no length yet
        for place, length in enumerate(lengths):
            # The length that they would get instead: the next that more clips need.
            others = [x for x, n in zip(lengths, upto, strict=True) if n > upto[place]]
            spared = (upto[place] - begin) * ((others[0] if others else 0) - length) / SAMPLE_RATE
            if not others or spared > least_spared_seconds:
                kept.append(length)
                begin = int(upto[place])
            if not others:
                break
        padded = np.asarray(kept)[np.searchsorted(kept, _needed(samples, kept))]
        return cls(tuple(kept), frozenset(padded[padded > samples].tolist()))

    @property
    def segment_samples(self) -> int:
        """Of the longest clip."""
        return self.lengths[-1]

    @property
    def seconds(self) -> float:
        """Of the longest clip."""
        return self.segment_samples / SAMPLE_RATE

    def count_segments(self, num_samples: np.ndarray) -> np.ndarray:
        """Passes that clips of `num_samples` [...] take: int32 [...], 1 each."""
        return np.ones(np.shape(num_samples), np.int32)

    def number_of(self, num_samples: np.ndarray) -> np.ndarray:
        """Which of `lengths` clips of `num_samples` [...] are padded to: int64 [...]."""
        return np.searchsorted(self.lengths, _needed(num_samples, self.lengths))


def _needed(num_samples: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
    """Samples that clips need: where they are not one of `lengths`, also what is reflected."""
    alike = np.isin(num_samples, lengths)
    return np.asarray(num_samples, np.int64) + np.where(alike, 0, REFLECTED_SAMPLES)


def whole_clip_batches(
    source: Source, whole: WholeClips, clips: np.ndarray, batch_size: Callable[[float, int], int]
) -> Iterator[Batch]:
    """Each of `clips` (numbers, ascending) once, in a batch of clips of its length.

    batch_size(seconds, clips of that length): of the batches of a length. The last ones, and one of
    each length every CLIPS_BETWEEN clips, are filled up with rows of weight 0.
    """
    lengths = whole.number_of(source.index.num_samples[clips])
    segments, sizes = {}, {}
    for k in np.unique(lengths).tolist():
        seconds = whole.lengths[k] / SAMPLE_RATE
        segments[k] = Segments(source, Segmentation(seconds))
        sizes[k] = batch_size(seconds, int((lengths == k).sum()))
    batches = []  # last clip, length, clips
    for low in range(0, len(clips), CLIPS_BETWEEN):
        stretch = slice(low, low + CLIPS_BETWEEN)
        for k, size in sizes.items():
            alike = clips[stretch][lengths[stretch] == k]
            for begin in range(0, len(alike), size):
                batch_clips = alike[begin : begin + size]
                batches.append((batch_clips[-1], k, batch_clips))
    batches.sort(key=lambda batch: batch[0])  # so that clips are read about in order

    numbers = [(segments[k], segments[k].firsts[chosen], sizes[k]) for _, k, chosen in batches]
    yield from whole_pass(source, numbers)
