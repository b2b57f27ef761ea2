"""Audio of any length as pieces that fit the network, and their output put together again.

Output frame i of the network is centred on sample 5120 i of its input: 32 input frames, one every
160 samples, make one. So the scores over time of a file form a regular grid, a row every 0.32 s.
"""

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np

from psl_jax.audio.segments import SAMPLE_RATE, Segmentation
from psl_jax.networks.frontend import WINDOW
from psl_jax.networks.mobilenetv2 import FRAME_SAMPLES

FRAME_SECONDS = FRAME_SAMPLES / SAMPLE_RATE

# A piece is followed by its reflection, as the front end reflects audio at its end.
REFLECTION = WINDOW // 2

# Lengths, in output frames, of the arrays that hold whole waveforms: 1.3 s to 41 s. Longer ones are
# computed in overlapping pieces of the longest.
WHOLE_LENGTHS = (4, 8, 16, 32, 64, 128)

# Output frame i depends on the input frames from 32 i - REACH to 32 i + REACH and on no others.
REACH = 245

# How far a waveform is heard past its ends, as its reflection and in a segment of its own at each
# end: half a segment, and at most a second. A segment's first and last frame stand beside the
# network's padding, and tell what they like: without those segments the first row of a file and
# the last would be just these frames (docs/RESULTS.md).
LONGEST_LEAD = SAMPLE_RATE

# Output frames next to a cut that are left out. One depends on the 245 input frames on either side,
# and the two next to the cut are reflections and not what is there: 247 make 8 output frames.
MARGIN = 8


@dataclasses.dataclass(frozen=True)
class Piece:
    """A part of a waveform that goes through the network at once.

    Attributes:
      audio: int16, or float32 in [-1, 1]: [samples].
      onset: its first sample in the waveform; below 0 that of its reflection before its start.
      end: where it ends, or of the last piece where the waveform ends.
      size: length of the array to compute it in, with room for the reflection.
      first, stop: the output frames to be used.
      settled: rows of the grid that no later piece adds to.
      last: nothing follows.
      loudest: loudest value of the whole log-mel spectrogram in dB; NaN: that of this piece.
      inside: it holds nothing but the waveform, and counts in the score of all of it.
    """

    audio: np.ndarray
    onset: int
    end: int
    size: int
    first: int
    stop: int
    settled: int
    last: bool
    loudest: float = np.nan
    inside: bool = True

    def write(self, row: np.ndarray) -> None:
        """Fills `row`, float32 [size] zeros, with the audio and its reflection."""
        samples = len(self.audio)
        scale = 1.0 if self.audio.dtype == np.float32 else 1 / 32768
        np.multiply(self.audio, np.float32(scale), out=row[:samples], casting="same_kind")
        row[samples : samples + REFLECTION] = row[samples - 2 : samples - 2 - REFLECTION : -1]


class SegmentCutter:
    """The segments of a waveform that comes in blocks, each a piece by itself.

    The last one ends where the waveform ends, so that nothing of it goes unheard; it is the only
    one that need not begin a hop after the one before. A waveform that is shorter than a segment
    is one. Before the first comes one that begins before the waveform, with its reflection, and
    after the last one that ends after it. A piece comes out when the one after it has begun: only
    then is it known what it settles.
    """

    def __init__(self, segmentation: Segmentation):
        self._length, self._hop = segmentation.segment_samples, segmentation.hop_samples
        self._lead = min(self._length // 2, LONGEST_LEAD)
        self._windows = _Windows(self._length, self._hop)
        self._previous: Piece | None = None

    @property
    def newest(self) -> Piece | None:
        """The segment that was cut last and has not come out yet."""
        return self._previous

    def add(self, block: np.ndarray) -> Iterator[Piece]:
        for onset, audio in self._windows.add(block):
            yield from self._next(onset, audio)

    def finish(self) -> Iterator[Piece]:
        """The last pieces."""
        yield from self._next(*self._windows.finish())
        assert self._previous is not None
        after = self._after(self._previous)
        yield dataclasses.replace(self._previous, settled=_row_of(after.onset))
        yield after

    def _next(self, onset: int, audio: np.ndarray) -> Iterator[Piece]:
        length, previous = self._length, self._previous
        if previous is None:
            yield self._before(audio)
        else:
            if len(audio) < length:  # the last one: what is before it comes from the one before
                end = onset + len(audio)
                audio = np.concatenate([previous.audio[: self._hop], audio])[-length:]
                onset = end - length
            yield dataclasses.replace(previous, settled=_row_of(onset))
        frames = len(audio) // FRAME_SAMPLES + 1
        size = length + REFLECTION
        self._previous = Piece(audio, onset, onset + len(audio), size, 0, frames, 0, False)

    def _before(self, audio: np.ndarray) -> Piece:
        """The piece over the start of a waveform that begins with `audio`."""
        reflected = audio[min(self._lead, len(audio) - 1) : 0 : -1]
        heard = audio[: self._length - len(reflected)]
        audio, onset = np.concatenate([reflected, heard]), -len(reflected)
        # Frames before the start are left out.
        first, stop = -_row_of(onset), len(audio) // FRAME_SAMPLES + 1
        return self._outside(audio, onset, len(heard), first, stop)

    def _after(self, last: Piece) -> Piece:
        """The piece over the end of the waveform, whose last segment is `last`."""
        reflected = last.audio[-2 : -2 - min(self._lead, len(last.audio) - 1) : -1]
        heard = last.audio[-(self._length - len(reflected)) :]
        audio, onset = np.concatenate([heard, reflected]), last.end - len(heard)
        # Frames after the end are left out.
        inside = last.end // FRAME_SAMPLES - _row_of(onset) + 1
        stop = min(max(inside, 1), len(audio) // FRAME_SAMPLES + 1)
        return dataclasses.replace(self._outside(audio, onset, last.end, 0, stop), last=True)

    def _outside(self, audio: np.ndarray, onset: int, end: int, first: int, stop: int) -> Piece:
        size = self._length + REFLECTION
        return Piece(audio, onset, end, size, first, stop, 0, False, inside=False)


def _row_of(onset: int) -> int:
    """The row that a piece's first frame belongs to."""
    return (onset + FRAME_SAMPLES // 2) // FRAME_SAMPLES


def cut_segments(blocks: Iterable[np.ndarray], segmentation: Segmentation) -> Iterator[Piece]:
    """The pieces that a SegmentCutter makes of the blocks."""
    cutter = SegmentCutter(segmentation)
    for block in blocks:
        yield from cutter.add(block)
    yield from cutter.finish()


def cut_whole(blocks: Iterable[np.ndarray], loudest: float = np.nan) -> Iterator[Piece]:
    """Pieces whose output frames are those of the whole waveform in one pass.

    Pieces overlap by what a frame can depend on; what is left apart from that is `loudest`, under
    which the dynamic range is measured.
    """
    longest = WHOLE_LENGTHS[-1]
    step = longest - 2 * MARGIN
    for onset, audio, last in _windows(blocks, capacity(longest), step * FRAME_SAMPLES):
        first = MARGIN if onset else 0
        stop = len(audio) // FRAME_SAMPLES + 1 if last else longest - MARGIN
        fitting = longest
        if last and onset == 0:
            fitting = next(n for n in WHOLE_LENGTHS if len(audio) <= capacity(n))
        settled = onset // FRAME_SAMPLES + stop
        size = capacity(fitting) + REFLECTION
        end = onset + len(audio)
        yield Piece(audio, onset, end, size, first, stop, settled, last, loudest)


def capacity(output_frames: int) -> int:
    """Samples that fit an array of so many output frames, with room for the reflection."""
    return FRAME_SAMPLES * output_frames - 1 - REFLECTION


class _Windows:
    """Windows of `length` samples every `step` (at most `length`): (onset, samples)."""

    def __init__(self, length: int, step: int):
        self._length, self._step = length, step
        self._held, self._onset = np.zeros(0, np.int16), 0

    def add(self, block: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        held = np.concatenate([self._held, block]) if len(self._held) else block
        skip = 0
        while len(held) > skip + self._length:
            yield self._onset, held[skip : skip + self._length]
            self._onset, skip = self._onset + self._step, skip + self._step
        self._held = held[skip:]

    def finish(self) -> tuple[int, np.ndarray]:
        """The last one, the first to reach the end: what is left, from 0 to `length` samples."""
        return self._onset, self._held


def _windows(
    blocks: Iterable[np.ndarray], length: int, step: int
) -> Iterator[tuple[int, np.ndarray, bool]]:
    """(onset, samples, last) of the windows over all blocks."""
    windows = _Windows(length, step)
    for block in blocks:
        for onset, audio in windows.add(block):
            yield onset, audio, False
    yield *windows.finish(), True


class Timeline:
    """Puts the output frames of a waveform's pieces on the regular grid of rows.

    A row is the mean of the frames centred within 0.16 s of its time: of the whole waveform in one
    pass that is one frame; of segments that overlap it is several, those in the middle of their
    segment weighing more than those at its ends, of which the network has heard one side only.
    """

    def __init__(self, segments: bool):
        self.segments = segments
        self.seconds = 0.0
        self._start = 0  # row number of the first one held
        self._sums = self._counts = self._total = np.zeros(0)
        self._summands = 0

    @property
    def score(self) -> np.ndarray:
        """[values] of the waveform: mean over its frames, or over the means of its segments."""
        return (self._total / max(self._summands, 1)).astype(np.float32)

    def add(self, piece: Piece, frames: np.ndarray) -> np.ndarray:
        """Takes a piece's output [frames, values]; returns the rows [n, values] now complete."""
        part = slice(piece.first, piece.stop)
        used = frames[part].astype(np.float64)
        centres = piece.onset + FRAME_SAMPLES * np.arange(piece.first, piece.stop)
        rows = (centres + FRAME_SAMPLES // 2) // FRAME_SAMPLES - self._start
        self._grow(int(rows[-1]) + 1, used.shape[1])
        weights = np.ones(len(used))
        if self.segments:
            weights = taper(len(piece.audio) // FRAME_SAMPLES + 1)[part]
        place = slice(int(rows[0]), int(rows[-1]) + 1)  # they follow one another
        self._sums[place] += used * weights[:, None]
        self._counts[place] += weights
        if piece.inside:
            self._total = self._total + (used.mean(axis=0) if self.segments else used.sum(axis=0))
            self._summands += 1 if self.segments else len(used)
        self.seconds = piece.end / SAMPLE_RATE
        if piece.last:
            self._fold(max(piece.end // FRAME_SAMPLES + 1 - self._start, 1))
            return self._take(len(self._sums))
        return self._take(piece.settled - self._start)

    def _grow(self, length: int, values: int) -> None:
        missing = length - len(self._sums)
        if missing > 0:
            sums = self._sums.reshape(-1, values)
            self._sums = np.concatenate([sums, np.zeros((missing, values))])
            self._counts = np.concatenate([self._counts, np.zeros(missing)])
        if not len(self._total):
            self._total = np.zeros(values)

    def _fold(self, length: int) -> None:
        """Leaves at most `length` rows: one whose time is past the end goes into the one before."""
        if length >= len(self._sums):
            return
        for array in (self._sums, self._counts):
            array[length - 1] += array[length:].sum(axis=0)
        self._sums, self._counts = self._sums[:length], self._counts[:length]

    def _take(self, count: int) -> np.ndarray:
        done = self._sums[:count] / self._counts[:count, None]
        self._sums, self._counts = self._sums[count:], self._counts[count:]
        self._start += len(done)
        return done.astype(np.float32)


def taper(frames: int) -> np.ndarray:
    """Weights of a segment's frames: [frames], rising to the middle, above 0."""
    return np.minimum(np.arange(1, frames + 1), np.arange(frames, 0, -1)).astype(np.float64)


def row_times(count: int) -> np.ndarray:
    """Centres of the first `count` rows in seconds: 0, 0.32, 0.64, ..."""
    return np.arange(count) * FRAME_SECONDS


class Pool:
    """At most `limit` rows [*, values] for however many: where they grow too many, pairs of
    neighbours become their maximum."""

    def __init__(self, limit: int = 2400):
        self.limit = limit
        self.step = 1  # rows that went into one
        self._parts: list[np.ndarray] = []
        self._rest: np.ndarray | None = None

    def add(self, rows: np.ndarray) -> None:
        if self._rest is not None:
            rows = np.concatenate([self._rest, rows])
        whole = len(rows) // self.step * self.step
        self._rest = rows[whole:]
        self._parts.append(_pooled(rows[:whole], self.step))
        while sum(map(len, self._parts)) > self.limit:
            joined = np.concatenate(self._parts)
            even = len(joined) // 2 * 2
            self._parts = [_pooled(joined[:even], 2)]
            if even < len(joined):  # an odd one begins the next
                last = np.repeat(joined[even:], self.step, axis=0)
                self._rest = np.concatenate([last, self._rest])
            self.step *= 2

    @property
    def rows(self) -> np.ndarray:
        """[n, values], each the maximum of `step` rows (the last one of what is left)."""
        parts = list(self._parts)
        if self._rest is not None and len(self._rest):
            parts.append(self._rest.max(axis=0, keepdims=True))
        return np.concatenate(parts)


def _pooled(rows: np.ndarray, step: int) -> np.ndarray:
    return rows.reshape(-1, step, rows.shape[1]).max(axis=1)
