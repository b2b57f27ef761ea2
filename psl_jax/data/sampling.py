"""The order of training: a pure function of (seed, epoch, process), computed with NumPy alone.

An epoch permutes the shards, lays their clips out in that order and deals the resulting row of
(clip, segment) entries to the processes in contiguous stretches. A process reads its stretch in
windows of whole shards (a shard larger than a window is cut) and permutes the entries of each
window. So an epoch streams every shard once, memory holds no more than a few windows, and a
resumed run finds its place by arithmetic, without having read what it skips.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from psl_jax.audio.segments import Segmentation
from psl_jax.data.clip_index import ClipIndex
from psl_jax.runtime.errors import UserError

SAMPLINGS = ("uniform", "balanced", "weighted")
WINDOW_CLIPS = 2048
SEQUENTIAL_WINDOW_CLIPS = 256

# Clips longer than usual get smaller windows, so that a corpus of long recordings fits as well.
MAX_WINDOW_BYTES = 1 << 30


@dataclasses.dataclass(frozen=True)
class Window:
    """What is read at once, and the order in which its segments are used."""

    shards: np.ndarray  # int64 [k], in reading order
    clips: np.ndarray  # int64 [n], clip numbers of the index, in reading order
    entries: np.ndarray  # int32 [m, 2]: position in `clips`, segment number


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
                  would draw (see `class_queue_draws`), each with a random segment.
      "weighted"  as many draws, with replacement, of clips by the weight sum 1000 / (n_c + 100)
                  over their labels, n_c being the clips with label c; random segments.

    A window holds at most `window_clips` clips, and fewer where clips are so long that they would
    pass MAX_WINDOW_BYTES. Raises UserError if there is nothing to draw.
    """
    _check_process(process_index, process_count)
    rng = np.random.default_rng([seed, epoch])  # the same on every process
    order = clips_of_shards(index, rng.permutation(len(index.shard_sizes)))
    segments = segmentation.counts(index.num_samples)
    repeats = _draws(index, int(segments.sum(dtype=np.int64)), sampling, rng)
    repeats = segments if repeats is None else repeats
    size = epoch_size(index, segmentation, process_count)
    total = int(repeats.sum(dtype=np.int64))
    start = min(process_index * total // process_count, total - size)
    order, repeats, skipped = _stretch(order, repeats[order], start, start + size)

    def shuffled(number: int, low: int, high: int) -> np.ndarray:
        key = (process_index, number)
        rng = np.random.default_rng(np.random.SeedSequence([seed, epoch], spawn_key=key))
        position = np.repeat(np.arange(high - low), repeats[low:high])
        if sampling == "uniform":
            segment = _ragged_arange(repeats[low:high])
            segment[position == 0] += skipped if low == 0 else 0
        else:
            segment = rng.integers(segments[order[low:high]][position])
        return rng.permutation(np.stack([position, segment], axis=1).astype(np.int32))

    bounds = _window_bounds(index, order, window_clips)
    return [
        Window(_shards_of(index, order[low:high]), order[low:high], shuffled(i, low, high))
        for i, (low, high) in enumerate(itertools.pairwise(bounds.tolist()))
    ]


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
        windows.append(Window(_shards_of(index, clips[low:high]), clips[low:high], entries))
    return windows


def clips_of_shards(index: ClipIndex, shards: np.ndarray) -> np.ndarray:
    """Clip numbers of `shards`, shard after shard: int64 [n]."""
    sizes = index.shard_sizes[shards]
    return np.repeat(index.shard_offsets[:-1][shards], sizes) + _ragged_arange(sizes)


def process_clips(
    index: ClipIndex, segmentation: Segmentation, process_count: int
) -> list[np.ndarray]:
    """Clip numbers of each process: contiguous, complete, with about equally many segments."""
    ends = np.cumsum(segmentation.counts(index.num_samples), dtype=np.int64)
    total = ends[-1] if len(ends) else 0
    cuts = np.searchsorted(ends, total * np.arange(1, process_count) // process_count, "right")
    return np.split(np.arange(len(index)), cuts)


def class_queue_draws(index: ClipIndex, draws: int, rng: np.random.Generator) -> np.ndarray:
    """How often each clip is drawn by the class queue of PANNs in `draws` draws: int64 [clips].

    The queue (Kong et al. 2020, "balanced" sampling) goes round the classes in an order that is
    shuffled for every round, and takes from each the next clip of the class's own shuffled queue,
    reshuffled when it is used up. Classes without clips are passed over. Only the multiset matters
    here: full rounds and full queues draw everything once, and only the last ones need an order.
    """
    order = np.argsort(index.label_values, kind="stable")
    per_label_clip = np.repeat(np.arange(len(index)), np.diff(index.label_offsets))[order]
    sizes = index.class_counts()
    starts = np.concatenate([[0], np.cumsum(sizes)])
    present = np.flatnonzero(sizes)
    if not len(present):
        raise UserError(f"split {index.split!r} has no labels: balanced sampling needs some")
    rounds, rest = divmod(draws, len(present))
    turns = np.full(len(present), rounds)
    turns[rng.permutation(len(present))[:rest]] += 1
    counts = np.zeros(len(index), np.int64)
    for label, turn in zip(present, turns, strict=True):
        clips = per_label_clip[starts[label] : starts[label + 1]]
        full, rest = divmod(int(turn), len(clips))
        counts[clips] += full
        counts[rng.permutation(clips)[:rest]] += 1
    return counts


def clip_weights(index: ClipIndex) -> np.ndarray:
    """Weight of each clip, the sum over its labels of 1000 / (n_c + 100): float64 [clips]."""
    weights = 1000.0 / (index.class_counts() + 100.0)
    clip = np.repeat(np.arange(len(index)), np.diff(index.label_offsets))
    return np.bincount(clip, weights=weights[index.label_values], minlength=len(index))


def _draws(index: ClipIndex, draws: int, sampling: str, rng) -> np.ndarray | None:
    """Draws of each clip, or None where every segment is drawn once."""
    if not len(index):
        raise UserError(f"split {index.split!r} has no clips")
    if sampling == "uniform":
        return None
    if sampling == "balanced":
        return class_queue_draws(index, draws, rng)
    if sampling == "weighted":
        weights = clip_weights(index)
        if not weights.any():
            raise UserError(f"split {index.split!r} has no labels: weighted sampling needs some")
        return rng.multinomial(draws, weights / weights.sum())
    raise UserError(f"sampling is {sampling!r}, expected one of {', '.join(SAMPLINGS)}")


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
    fitting = MAX_WINDOW_BYTES // max(2 * index.clip_samples, 1)
    limit = max(min(window_clips, fitting), 1)
    shard = index.shard_of(clips)
    shard_ends = np.append(np.flatnonzero(np.diff(shard)) + 1, len(clips)).tolist()
    aim = len(clips) / max(-(-len(clips) // limit), 1)
    bounds, last = [0], 0  # `last`: where the previous piece, a shard or a part of one, ended
    for shard_end in shard_ends:
        parts = -(-(shard_end - last) // limit)
        for end in np.linspace(last, shard_end, parts + 1).astype(int)[1:].tolist():
            if end - bounds[-1] > limit:
                bounds.append(last)
            if end - bounds[-1] >= aim:
                bounds.append(end)
            last = end
    if bounds[-1] != len(clips):
        bounds.append(len(clips))
    return np.array(bounds, np.int64)


def _shards_of(index: ClipIndex, clips: np.ndarray) -> np.ndarray:
    shard = index.shard_of(clips)
    return shard[np.append(True, np.diff(shard) != 0)]


def _ragged_arange(counts: np.ndarray) -> np.ndarray:
    """0, 1, ... counts[0] - 1, 0, 1, ... counts[1] - 1, ...: int64."""
    ends = np.cumsum(counts, dtype=np.int64)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts, counts)


def _check_process(process_index: int, process_count: int) -> None:
    if not 0 <= process_index < process_count:
        raise ValueError(f"process {process_index} of {process_count}")
