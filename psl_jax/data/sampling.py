"""The order of training: a pure function of (seed, epoch, process), computed with NumPy alone.

Draws ("balanced", "weighted") have an order of their own, and so has a split that fits in memory:
a permutation of all its segments. They are dealt to the processes one by one and read a segment at
a time, wherever it lies. A larger split is streamed: an epoch permutes the shards, lays their clips
out in that order and deals the resulting row of (clip, segment) entries to the processes in
contiguous stretches. A process reads its stretch in windows of whole shards (a shard larger than a
window is cut) and permutes the entries of each window. So an epoch streams every shard once, memory
holds no more than a few windows, and a resumed run finds its place by arithmetic, without having
read what it skips.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from psl_jax.audio.segments import Segmentation
from psl_jax.data import draws as draws_lib
from psl_jax.data.clip_index import ClipIndex
from psl_jax.runtime.errors import UserError

SAMPLINGS = ("uniform", "balanced", "weighted")
WINDOW_CLIPS = 2048
SEQUENTIAL_WINDOW_CLIPS = 256
DRAWN_WINDOW = 512  # segments read at once where each lies elsewhere

MAX_WINDOW_BYTES = 1 << 30  # of audio; long clips make windows of fewer

# Splits of up to this much audio are permuted as a whole: machines that train on more keep that
# much in the memory that the system lends to files. Not asked of the machine, as the order of
# training must not depend on it.
PERMUTED_BYTES = 8 << 30


@dataclasses.dataclass(frozen=True)
class Window:
    """What is read at once, and the order in which its segments are used.

    Row `i` of its audio holds clip `clips[i]` from sample `starts[i]` on, with room for
    `capacity[i]` samples.
    """

    clips: np.ndarray  # int64 [n], clip numbers of the index, in reading order
    entries: np.ndarray  # int32 [m, 2]: position in `clips`, segment number
    starts: np.ndarray  # int64 [n]
    capacity: np.ndarray  # int64 [n]
    epoch: int = 0  # of training

    @cached_property
    def offsets(self) -> np.ndarray:
        """Where rows begin when they lie end to end: int64 [n + 1]."""
        return np.concatenate([[0], np.cumsum(self.capacity)])


def epoch_size(index: ClipIndex, segmentation: Segmentation, process_count: int = 1) -> int:
    """Entries that each process sees in an epoch, whatever the sampling.

    It is the number of segments over the processes, rounded up: then neighbouring processes share
    an entry, so that all make the same number of steps.
    """
    total = int(segmentation.counts(index.num_samples).sum(dtype=np.int64))
    return -(-total // process_count)


def epoch_windows(
    index: ClipIndex,
    segmentation: Segmentation,
    *,
    seed: int,
    epoch: int,
    sampling: str = "uniform",
    window_clips: int = WINDOW_CLIPS,
    process_index: int = 0,
    process_count: int = 1,
) -> list[Window]:
    """The windows of one process in one epoch; together they hold `epoch_size` entries.

    sampling:
      "uniform"   every segment of every clip once.
      "balanced"  as many draws as there are segments, of the clips that the class queue of PANNs
                  draws, in its order (see `draws.class_queue`), each with a random segment.
      "weighted"  as many draws, with replacement, by weight (see `draws.by_weight`); random
                  segments.

    A streamed window holds at most `window_clips` clips and MAX_WINDOW_BYTES of audio.
    Raises UserError if there is nothing to draw.
    """
    _check_process(process_index, process_count)
    if not len(index):
        raise UserError(f"split {index.split!r} has no clips")
    if sampling not in SAMPLINGS:
        raise UserError(f"sampling is {sampling!r}, expected one of {', '.join(SAMPLINGS)}")
    rng = np.random.default_rng([seed, epoch])  # the same on every process
    if sampling == "uniform" and not is_permuted(index, window_clips):
        return _streamed(
            index, segmentation, rng, [seed, epoch], window_clips, process_index, process_count
        )
    size = epoch_size(index, segmentation, process_count)
    total = int(segmentation.counts(index.num_samples).sum(dtype=np.int64))
    # One after the other, so that what is together in the order is together in a batch.
    mine = (np.arange(size) * process_count + process_index) % total
    clips, segments = _drawn(index, segmentation, sampling, rng, mine)
    bounds = [*range(0, size, DRAWN_WINDOW), size]
    return [
        _drawn_window(index, segmentation, clips[low:high], segments[low:high])
        for low, high in itertools.pairwise(bounds)
    ]


def training_order(
    index: ClipIndex,
    segmentation: Segmentation,
    *,
    batch_size: int,
    start_step: int = 0,
    process_count: int = 1,
    **order: Any,
) -> Iterator[np.ndarray]:
    """The segments of each batch of this process from `start_step` on, by number: int64 [batch].

    Without end. order: the other arguments of `epoch_windows`, without the epoch.
    """
    first = np.cumsum(np.append(0, segmentation.counts(index.num_samples)), dtype=np.int64)
    size = epoch_size(index, segmentation, process_count)
    first_epoch, skipped = divmod(start_step * batch_size, max(size, 1))
    waiting = np.empty(0, np.int64)
    for epoch in itertools.count(first_epoch):
        for window in epoch_windows(
            index, segmentation, epoch=epoch, process_count=process_count, **order
        ):
            position, segment = window.entries.T
            waiting = np.concatenate([waiting, first[window.clips[position]] + segment])
            waiting, skipped = waiting[skipped:], max(skipped - len(waiting), 0)
            while len(waiting) >= batch_size:
                yield waiting[:batch_size]
                waiting = waiting[batch_size:]


def is_permuted(index: ClipIndex, window_clips: int) -> bool:
    """Whether a uniform epoch is a permutation of the whole, and not streamed in windows.

    A split of one window is permuted either way, and read in one go when streamed.
    """
    size = 2 * int(index.num_samples.sum(dtype=np.int64))
    return len(index) > window_clips and size <= PERMUTED_BYTES


def _drawn(
    index: ClipIndex,
    segmentation: Segmentation,
    sampling: str,
    rng: np.random.Generator,
    mine: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Clip and segment of the draws `mine` of an epoch, in their order: int64 each."""
    counts = segmentation.counts(index.num_samples)
    total = int(counts.sum(dtype=np.int64))
    if sampling == "uniform":
        order = rng.permutation(total)[mine]
        return np.repeat(np.arange(len(index)), counts)[order], _ragged_arange(counts)[order]
    if sampling == "balanced":
        clips = draws_lib.class_queue(index, total, rng)
        return clips[mine], rng.integers(counts[clips])[mine]
    clips = draws_lib.by_weight(index, total, rng, mine)
    return clips, (rng.random(total)[mine] * counts[clips]).astype(np.int64)


def _drawn_window(
    index: ClipIndex, segmentation: Segmentation, clips: np.ndarray, segments: np.ndarray
) -> Window:
    """A row for each draw, in the order in which they lie on disk; entries in that of the draws."""
    reading = np.lexsort((segments, clips))
    position = np.empty(len(clips), np.int64)
    position[reading] = np.arange(len(clips))
    return Window(
        clips[reading],
        np.stack([position, segments], axis=1).astype(np.int32),
        segments[reading].astype(np.int64) * segmentation.hop_samples,
        np.full(len(clips), segmentation.segment_samples, np.int64),
    )


def _streamed(
    index: ClipIndex,
    segmentation: Segmentation,
    rng: np.random.Generator,
    key: Sequence[int],
    window_clips: int,
    process_index: int,
    process_count: int,
) -> list[Window]:
    """Every segment once, in windows of whole shards whose entries are permuted."""
    order = clips_of_shards(index, rng.permutation(len(index.shard_sizes)))
    segments = segmentation.counts(index.num_samples)
    size = epoch_size(index, segmentation, process_count)
    total = int(segments.sum(dtype=np.int64))
    start = min(process_index * total // process_count, total - size)
    order, repeats, skipped = _stretch(order, segments[order], start, start + size)

    def shuffled(number: int, low: int, high: int) -> np.ndarray:
        sequence = np.random.SeedSequence(key, spawn_key=(process_index, number))
        position = np.repeat(np.arange(high - low), repeats[low:high])
        segment = _ragged_arange(repeats[low:high])
        segment[position == 0] += skipped if low == 0 else 0
        entries = np.stack([position, segment], axis=1).astype(np.int32)
        return np.random.default_rng(sequence).permutation(entries)

    bounds = _window_bounds(index, order, window_clips)
    return [
        _whole_clips(index, segmentation, order[low:high], shuffled(i, low, high))
        for i, (low, high) in enumerate(itertools.pairwise(bounds.tolist()))
    ]


def _whole_clips(
    index: ClipIndex, segmentation: Segmentation, clips: np.ndarray, entries: np.ndarray
) -> Window:
    """A row for each clip, with room for whole segments, so that these lie on a grid."""
    size = segmentation.segment_samples
    capacity = -(-index.num_samples[clips].astype(np.int64) // size) * size
    return Window(clips, entries, np.zeros(len(clips), np.int64), np.maximum(capacity, size))


def sequential_windows(
    index: ClipIndex,
    segmentation: Segmentation,
    *,
    window_clips: int = SEQUENTIAL_WINDOW_CLIPS,
    shards: Sequence[int] | None = None,
    clips: np.ndarray | None = None,
) -> list[Window]:
    """Every segment of every clip in index order, for evaluation and relabeling.

    `shards` or `clips` (ascending clip numbers) restrict it to some. A window ends with a shard
    unless the shard is larger than `window_clips`.
    """
    if shards is not None:
        clips = clips_of_shards(index, np.asarray(shards, np.int64))
    elif clips is None:
        clips = np.arange(len(index))
    counts = segmentation.counts(index.num_samples[clips])
    bounds = _window_bounds(index, clips, window_clips)
    windows = []
    for low, high in itertools.pairwise(bounds.tolist()):
        position = np.repeat(np.arange(high - low), counts[low:high])
        entries = np.stack([position, _ragged_arange(counts[low:high])], axis=1).astype(np.int32)
        windows.append(_whole_clips(index, segmentation, clips[low:high], entries))
    return windows


def clips_of_shards(index: ClipIndex, shards: np.ndarray) -> np.ndarray:
    """Clip numbers of `shards`, shard after shard: int64 [n]."""
    sizes = index.shard_sizes[shards]
    return np.repeat(index.shard_offsets[:-1][shards], sizes) + _ragged_arange(sizes)


class Counting(Protocol):
    """What says into how many segments clips of so many samples are cut."""

    def counts(self, num_samples: np.ndarray) -> np.ndarray: ...


def process_clips(index: ClipIndex, segmentation: Counting, process_count: int) -> list[np.ndarray]:
    """Clip numbers of each process: contiguous, complete, with about equally many segments."""
    ends = np.cumsum(segmentation.counts(index.num_samples), dtype=np.int64)
    total = ends[-1] if len(ends) else 0
    cuts = np.searchsorted(ends, total * np.arange(1, process_count) // process_count, "right")
    return np.split(np.arange(len(index)), cuts)


def _stretch(order, repeats, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Clips and repeats of the entries `start:stop`, and how many of the first clip precede it."""
    ends = np.cumsum(repeats, dtype=np.int64)
    low = int(np.searchsorted(ends, start, side="right"))
    high = int(np.searchsorted(ends, stop, side="left")) + 1
    kept = repeats[low:high].astype(np.int64)
    skipped = start - int(ends[low] - repeats[low])
    kept[-1] -= ends[high - 1] - stop
    kept[0] -= skipped
    drawn = kept > 0
    return order[low:high][drawn], kept[drawn], skipped


def _window_bounds(index: ClipIndex, clips: np.ndarray, window_clips: int) -> np.ndarray:
    """Where the row `clips` is cut into windows: int64 [windows + 1].

    The windows are about equally large, so that none is too small to be well mixed.
    """
    if not len(clips):
        return np.zeros(1, np.int64)
    size = 2.0 * index.num_samples[clips]
    share = np.maximum(size / MAX_WINDOW_BYTES, 1 / window_clips)  # of a window, for each clip
    ends = np.concatenate([[0.0], np.cumsum(share)])
    slack = 1e-6
    shard = index.shard_of(clips)
    shard_ends = np.append(np.flatnonzero(np.diff(shard)) + 1, len(clips)).tolist()
    aim = ends[-1] / max(np.ceil(ends[-1] - slack), 1) - slack
    bounds, last = [0], 0  # `last`: where the previous piece, a shard or a part of one, ended
    for shard_end in shard_ends:
        for end in _equal_parts(ends, last, shard_end):
            if ends[end] - ends[bounds[-1]] > 1 + slack and last > bounds[-1]:
                bounds.append(last)
            if ends[end] - ends[bounds[-1]] >= aim:
                bounds.append(end)
            last = end
    if bounds[-1] != len(clips):
        bounds.append(len(clips))
    return np.array(bounds, np.int64)


def _equal_parts(ends: np.ndarray, low: int, high: int) -> list[int]:
    """Ends of the parts, none larger than a window, into which a shard from low to high is cut."""
    parts = max(int(np.ceil(ends[high] - ends[low] - 1e-6)), 1)
    while True:
        marks = np.linspace(ends[low], ends[high], parts + 1)[1:-1]
        cuts = np.searchsorted(ends, marks + 1e-9, side="right") - 1
        found = [*np.unique(np.clip(cuts, low + 1, high)).tolist(), high]
        found = sorted(set(found))
        sizes = np.diff(ends[[low, *found]])
        if parts >= high - low or sizes.max() <= 1 + 1e-6:
            return found
        parts += 1


def _ragged_arange(counts: np.ndarray) -> np.ndarray:
    """0, 1, ... counts[0] - 1, 0, 1, ... counts[1] - 1, ...: int64."""
    ends = np.cumsum(counts, dtype=np.int64)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts, counts)


def _check_process(process_index: int, process_count: int) -> None:
    if not 0 <= process_index < process_count:
        raise ValueError(f"process {process_index} of {process_count}")
