"""Batches of whole clips of any length, each padded to one of a few lengths. Pure NumPy."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from psl_jax.audio.segments import REFLECTED_SAMPLES, SAMPLE_RATE, Segmentation
from psl_jax.data.batches import whole_pass
from psl_jax.data.clip_index import ClipIndex
from psl_jax.data.segment_loader import Batch, Segments
from psl_jax.data.source import Source

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
        whole = cls(tuple(kept), frozenset())
        padded = np.asarray(kept)[whole.number_of(samples)]
        return cls(whole.lengths, frozenset(np.unique(padded[padded > samples]).tolist()))

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
    source: Source,
    whole: WholeClips,
    clips: np.ndarray,
    batch_size: Callable[[float, int], int],
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
        part = slice(low, low + CLIPS_BETWEEN)
        for k, size in sizes.items():
            alike = clips[part][lengths[part] == k]
            for begin in range(0, len(alike), size):
                batch_clips = alike[begin : begin + size]
                batches.append((batch_clips[-1], k, batch_clips))
    batches.sort(key=lambda batch: batch[0])  # so that clips are read about in order

    parts = [(segments[k], segments[k].firsts[chosen], sizes[k]) for _, k, chosen in batches]
    yield from whole_pass(source, parts)
