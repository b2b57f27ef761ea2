"""Cuts audio of any length into windows that fit the network, and joins their outputs.

Output frame i of the network is centred on sample 5120 i of its input: 32 input frames, one every
160 samples, make one. So the scores over time of a file form a regular grid, a row every 0.32 s.
"""

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np

from psl_jax.audio.segments import SAMPLE_RATE, Segmentation, reverse
from psl_jax.networks.frontend import WINDOW
from psl_jax.networks.mobilenetv2 import FRAME_SAMPLES

FRAME_SECONDS = FRAME_SAMPLES / SAMPLE_RATE

# The reflection of a window's audio follows it, as the front end reflects audio at its end.
REFLECTION = WINDOW // 2

# Lengths, in output frames, of the arrays that hold whole waveforms: 1.3 s to 41 s. Longer
# waveforms are cut into overlapping windows of the greatest length.
WHOLE_LENGTHS = (4, 8, 16, 32, 64, 128)

# Output frame i depends on the input frames from 32 i - REACH to 32 i + REACH and on no others.
REACH = 245

# A segment's first and last frame lie beside the network's padding, and are unreliable. Without
# more segments the first and the last row of a file would be just these frames. So a further
# segment at each end covers the waveform's reflection past that end: half a segment, and at most a
# second (docs/RESULTS.md).
LONGEST_LEAD = SAMPLE_RATE

# So many output frames next to a cut are left out. An output frame depends on 245 input frames on
# either side, and the two input frames next to the cut are reflections: 247 make 8 output frames.
MARGIN = 8


@dataclasses.dataclass(frozen=True)
class Window:
    """Consecutive samples of a waveform that go through the network at once.

    Attributes:
      audio: int16, or float32 in [-1, 1]: [samples], or [ticks, 2] at 32 kHz.
      onset: number of its first sample in the waveform; negative for the reflection before it.
      end: number of the sample where it ends; of the last window, where the waveform ends.
      size: length of the array to compute it in, with room for the reflection.
      first_frame, stop_frame: the output frames to be used.
      num_settled: number of rows of the grid that no later window adds to.
      is_last: whether no window follows.
      loudest: loudest value of the whole log-mel spectrogram in dB; NaN: that of this window.
      is_inside: whether it holds no reflection, so that it counts in the waveform's score.
    """

    audio: np.ndarray
    onset: int
    end: int
    size: int
    first_frame: int
    stop_frame: int
    num_settled: int
    is_last: bool
    loudest: float = np.nan
    is_inside: bool = True

    def write(self, row: np.ndarray) -> None:
        """Fills `row`, float32 zeros [size] or [size, 2], with the audio and its reflection."""
        samples = len(self.audio)
        scale = 1.0 if self.audio.dtype == np.float32 else 1 / 32768
        np.multiply(self.audio, np.float32(scale), out=row[:samples], casting="same_kind")
        reflected = row[max(samples - 1 - REFLECTION, 0) : samples - 1]
        row[samples : samples + len(reflected)] = reverse(reflected)


class SegmentCutter:
    """Cuts a waveform that comes in blocks into its segments, each a window.

    The last segment ends where the waveform ends, so that all of the audio is scored; it alone need
    not begin a hop after the one before. A waveform shorter than a segment is one segment. A
    further window begins before the waveform, with its reflection, and another one ends after it. A
    window comes out when the next one has begun: only then we know the rows that it settles.
    """

    def __init__(self, segmentation: Segmentation):
        self._length, self._hop = segmentation.segment_samples, segmentation.hop_samples
        self._lead_samples = min(self._length // 2, LONGEST_LEAD)
        self._cutter = _WindowCutter(self._length, self._hop)
        self._previous: Window | None = None

    @property
    def newest(self) -> Window | None:
        """The segment that was cut last and is still held back."""
        return self._previous

    def add(self, block: np.ndarray) -> Iterator[Window]:
        for onset, audio in self._cutter.add(block):
            yield from self._advance(onset, audio)

    def finish(self) -> Iterator[Window]:
        """Yields the last windows."""
        yield from self._advance(*self._cutter.finish())
        assert self._previous is not None
        window_after = self._make_after(self._previous)
        yield dataclasses.replace(self._previous, num_settled=_find_row(window_after.onset))
        yield window_after

    def _advance(self, onset: int, audio: np.ndarray) -> Iterator[Window]:
        segment_samples, previous = self._length, self._previous
        if previous is None:
            yield self._make_before(audio)
        else:
            if len(audio) < segment_samples:  # the last one begins in the one before it
                end = onset + len(audio)
                audio = np.concatenate([previous.audio[: self._hop], audio])[-segment_samples:]
                onset = end - segment_samples
            yield dataclasses.replace(previous, num_settled=_find_row(onset))
        frames = len(audio) // FRAME_SAMPLES + 1
        size = segment_samples + REFLECTION
        self._previous = Window(audio, onset, onset + len(audio), size, 0, frames, 0, False)

    def _make_before(self, audio: np.ndarray) -> Window:
        """Makes the window over the start of a waveform that begins with `audio`."""
        reflected = reverse(audio[1 : min(self._lead_samples, len(audio) - 1) + 1])
        heard_samples = audio[: self._length - len(reflected)]
        audio, onset = np.concatenate([reflected, heard_samples]), -len(reflected)
        # Frames before the start are left out.
        first, stop = -_find_row(onset), len(audio) // FRAME_SAMPLES + 1
        return self._make_outside(audio, onset, len(heard_samples), first, stop)

    def _make_after(self, last: Window) -> Window:
        """Makes the window over the end of the waveform, whose last segment is `last`."""
        reflected = reverse(last.audio[:-1][-min(self._lead_samples, len(last.audio) - 1) :])
        heard_samples = last.audio[-(self._length - len(reflected)) :]
        audio, onset = np.concatenate([heard_samples, reflected]), last.end - len(heard_samples)
        # Frames after the end are left out.
        num_inside = last.end // FRAME_SAMPLES - _find_row(onset) + 1
        stop = min(max(num_inside, 1), len(audio) // FRAME_SAMPLES + 1)
        return dataclasses.replace(
            self._make_outside(audio, onset, last.end, 0, stop), is_last=True
        )

    def _make_outside(
        self, audio: np.ndarray, onset: int, end: int, first: int, stop: int
    ) -> Window:
        size = self._length + REFLECTION
        return Window(audio, onset, end, size, first, stop, 0, False, is_inside=False)


def _find_row(onset: int) -> int:
    """Finds the row that a window's first frame belongs to."""
    return (onset + FRAME_SAMPLES // 2) // FRAME_SAMPLES


def cut_segments(blocks: Iterable[np.ndarray], segmentation: Segmentation) -> Iterator[Window]:
    """Cuts blocks into windows by a SegmentCutter."""
    cutter = SegmentCutter(segmentation)
    for block in blocks:
        yield from cutter.add(block)
    yield from cutter.finish()


def cut_whole(blocks: Iterable[np.ndarray], loudest: float = np.nan) -> Iterator[Window]:
    """Cuts windows whose output frames equal those of the whole waveform in one pass.

    Windows overlap by the audio that a frame depends on. A frame also depends on `loudest`, from
    which the dynamic range is measured.
    """
    max_length = WHOLE_LENGTHS[-1]
    step_frames = max_length - 2 * MARGIN
    for onset, audio, is_last in _cut_windows(
        blocks, compute_capacity(max_length), step_frames * FRAME_SAMPLES
    ):
        first_frame = MARGIN if onset else 0
        stop_frame = len(audio) // FRAME_SAMPLES + 1 if is_last else max_length - MARGIN
        length = max_length
        if is_last and onset == 0:
            length = next(n for n in WHOLE_LENGTHS if len(audio) <= compute_capacity(n))
        num_settled = onset // FRAME_SAMPLES + stop_frame
        size = compute_capacity(length) + REFLECTION
        end = onset + len(audio)
        yield Window(
            audio, onset, end, size, first_frame, stop_frame, num_settled, is_last, loudest
        )


def compute_capacity(num_output_frames: int) -> int:
    """Computes the samples that fit an array of output frames, with room for the reflection."""
    return FRAME_SAMPLES * num_output_frames - 1 - REFLECTION


class _WindowCutter:
    """Cuts windows of `length` samples every `step` (at most `length`): (onset, samples)."""

    def __init__(self, length: int, step: int):
        self._length, self._step = length, step
        self._waiting_samples, self._onset = np.zeros(0, np.int16), 0

    def add(self, block: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        samples = (
            np.concatenate([self._waiting_samples, block]) if len(self._waiting_samples) else block
        )
        num_skipped = 0
        while len(samples) > num_skipped + self._length:
            yield self._onset, samples[num_skipped : num_skipped + self._length]
            self._onset, num_skipped = self._onset + self._step, num_skipped + self._step
        self._waiting_samples = samples[num_skipped:]

    def finish(self) -> tuple[int, np.ndarray]:
        """Returns the last window, of the remaining samples: from 0 to `length` of them."""
        return self._onset, self._waiting_samples


def _cut_windows(
    blocks: Iterable[np.ndarray], length: int, step: int
) -> Iterator[tuple[int, np.ndarray, bool]]:
    """Yields (onset, samples, is_last) of the windows over all blocks."""
    cutter = _WindowCutter(length, step)
    for block in blocks:
        for onset, audio in cutter.add(block):
            yield onset, audio, False
    yield *cutter.finish(), True


class Timeline:
    """Puts the output frames of a waveform's windows on the regular grid of rows.

    A row is the mean of the frames centred within 0.16 s of its time. Of the whole waveform in one
    pass that is one frame. Of overlapping segments there are several, and those in the middle of
    their segment weigh more than those at its ends, where the network has audio on one side only.
    """

    def __init__(self, has_segments: bool):
        self.has_segments = has_segments
        self.seconds = 0.0
        self._start = 0  # number of the first row that is not complete
        self._sums = self._counts = self._total = np.zeros(0)
        self._num_summands = 0

    @property
    def score(self) -> np.ndarray:
        """Values of the waveform: mean over its frames, or over the means of its segments."""
        return (self._total / max(self._num_summands, 1)).astype(np.float32)

    def add(self, window: Window, frames: np.ndarray) -> np.ndarray:
        """Takes a window's output [frames, values]; returns the rows [n, values] now complete."""
        frame_slice = slice(window.first_frame, window.stop_frame)
        used_frames = frames[frame_slice].astype(np.float64)
        centres = window.onset + FRAME_SAMPLES * np.arange(window.first_frame, window.stop_frame)
        rows = (centres + FRAME_SAMPLES // 2) // FRAME_SAMPLES - self._start
        self._grow(int(rows[-1]) + 1, used_frames.shape[1])
        weights = np.ones(len(used_frames))
        if self.has_segments:
            weights = compute_taper(len(window.audio) // FRAME_SAMPLES + 1)[frame_slice]
        row_slice = slice(int(rows[0]), int(rows[-1]) + 1)  # they follow one another
        self._sums[row_slice] += used_frames * weights[:, None]
        self._counts[row_slice] += weights
        if window.is_inside:
            self._total = self._total + (
                used_frames.mean(axis=0) if self.has_segments else used_frames.sum(axis=0)
            )
            self._num_summands += 1 if self.has_segments else len(used_frames)
        self.seconds = window.end / SAMPLE_RATE
        if window.is_last:
            self._fold(max(window.end // FRAME_SAMPLES + 1 - self._start, 1))
            return self._take(len(self._sums))
        return self._take(window.num_settled - self._start)

    def _grow(self, num_rows: int, num_values: int) -> None:
        num_missing = num_rows - len(self._sums)
        if num_missing > 0:
            sums = self._sums.reshape(-1, num_values)
            self._sums = np.concatenate([sums, np.zeros((num_missing, num_values))])
            self._counts = np.concatenate([self._counts, np.zeros(num_missing)])
        if not len(self._total):
            self._total = np.zeros(num_values)

    def _fold(self, num_rows: int) -> None:
        """Leaves at most `num_rows` rows: adds those past the waveform's end to the last one."""
        if num_rows >= len(self._sums):
            return
        for array in (self._sums, self._counts):
            array[num_rows - 1] += array[num_rows:].sum(axis=0)
        self._sums, self._counts = self._sums[:num_rows], self._counts[:num_rows]

    def _take(self, num_rows: int) -> np.ndarray:
        means = self._sums[:num_rows] / self._counts[:num_rows, None]
        self._sums, self._counts = self._sums[num_rows:], self._counts[num_rows:]
        self._start += len(means)
        return means.astype(np.float32)


def compute_taper(num_frames: int) -> np.ndarray:
    """Computes the weights of a segment's frames: [frames], rising to the middle, above 0."""
    return np.minimum(np.arange(1, num_frames + 1), np.arange(num_frames, 0, -1)).astype(np.float64)


def compute_row_times(num_rows: int) -> np.ndarray:
    """Computes the centres of the first rows in seconds: 0, 0.32, 0.64, ..."""
    return np.arange(num_rows) * FRAME_SECONDS


class MaxPool:
    """Pools any number of rows [*, values] to at most `limit`.

    When they grow too many, each pair of neighbours becomes its maximum.
    """

    def __init__(self, limit: int = 2400):
        self.limit = limit
        self.step = 1  # each pooled row is the maximum of so many rows
        self._pooled_parts: list[np.ndarray] = []
        self._waiting_rows: np.ndarray | None = None

    def add(self, rows: np.ndarray) -> None:
        if self._waiting_rows is not None:
            rows = np.concatenate([self._waiting_rows, rows])
        num_whole = len(rows) // self.step * self.step
        self._waiting_rows = rows[num_whole:]
        self._pooled_parts.append(_pool_rows(rows[:num_whole], self.step))
        while sum(map(len, self._pooled_parts)) > self.limit:
            joined = np.concatenate(self._pooled_parts)
            num_even = len(joined) // 2 * 2
            self._pooled_parts = [_pool_rows(joined[:num_even], 2)]
            if num_even < len(joined):  # an odd one begins the next
                odd_row = np.repeat(joined[num_even:], self.step, axis=0)
                self._waiting_rows = np.concatenate([odd_row, self._waiting_rows])
            self.step *= 2

    @property
    def rows(self) -> np.ndarray:
        """Pooled rows [n, values], each the maximum of `step` rows (the last one of fewer)."""
        pooled_parts = list(self._pooled_parts)
        if self._waiting_rows is not None and len(self._waiting_rows):
            pooled_parts.append(self._waiting_rows.max(axis=0, keepdims=True))
        return np.concatenate(pooled_parts)


def _pool_rows(rows: np.ndarray, step: int) -> np.ndarray:
    return np.asarray(rows.reshape(-1, step, rows.shape[1]).max(axis=1))
