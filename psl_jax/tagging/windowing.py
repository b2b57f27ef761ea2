"""Cuts audio of any length into segments for the network, and joins their outputs.

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

# A segment's first and last frame lie beside the network's padding, and are unreliable. Without
# more segments the first and the last row of a file would be just these frames. So a further
# segment at each end covers the waveform's reflection past that end: half a segment, and at most a
# second (docs/RESULTS.md).
LONGEST_LEAD = SAMPLE_RATE


@dataclasses.dataclass(frozen=True)
class Window:
    """Consecutive samples of a waveform that go through the network at once."""

    audio: np.ndarray  # int16, or float32 in [-1, 1]: [samples], or [ticks, 2] at 32 kHz
    onset: int  # number of its first sample in the waveform; negative for the reflection before it
    end: int  # number of the sample where it ends; of the last window, where the waveform ends
    size: int  # length of the array to compute it in, with room for the reflection
    first_frame: int  # of the output frames to be used
    stop_frame: int
    num_settled: int = 0  # rows of the grid that no later window adds to
    is_last: bool = False
    is_inside: bool = True  # holds no reflection, so that it counts in the waveform's score

    def write(self, row: np.ndarray) -> None:
        """Fills `row`, float32 zeros [size] or [size, 2], with the audio and its reflection."""
        samples = len(self.audio)
        scale = 1.0 if self.audio.dtype == np.float32 else 1 / 32768
        np.multiply(self.audio, np.float32(scale), out=row[:samples], casting="same_kind")
        reflected = row[max(samples - 1 - REFLECTION, 0) : samples - 1]
        row[samples : samples + len(reflected)] = reverse(reflected)


class WindowCutter:
    """Cuts `length` samples every `step` (at most `length`) from blocks: (onset, samples)."""

    def __init__(self, length: int, step: int):
        self._length, self._step = length, step
        self._waiting_samples, self._onset = np.zeros(0, np.int16), 0

    def add(self, block: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        waiting_samples = self._waiting_samples
        samples = np.concatenate([waiting_samples, block]) if len(waiting_samples) else block
        num_skipped = 0
        while len(samples) > num_skipped + self._length:
            yield self._onset, samples[num_skipped : num_skipped + self._length]
            self._onset, num_skipped = self._onset + self._step, num_skipped + self._step
        self._waiting_samples = samples[num_skipped:]

    def finish(self) -> tuple[int, np.ndarray]:
        """Returns the remaining samples, at most `length` of them."""
        return self._onset, self._waiting_samples


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
        self._cutter = WindowCutter(self._length, self._hop)
        self._newest: Window | None = None

    def add(self, block: np.ndarray) -> Iterator[Window]:
        for onset, audio in self._cutter.add(block):
            yield from self._advance(onset, audio)

    def finish(self) -> Iterator[Window]:
        """Yields the last windows."""
        yield from self._advance(*self._cutter.finish())
        assert self._newest is not None
        window_after = self._make_after(self._newest)
        yield dataclasses.replace(self._newest, num_settled=_find_row(window_after.onset))
        yield window_after

    def _advance(self, onset: int, audio: np.ndarray) -> Iterator[Window]:
        previous = self._newest
        if previous is None:
            yield self._make_before(audio)
        else:
            if len(audio) < self._length:  # the last one begins in the one before it
                end = onset + len(audio)
                audio = np.concatenate([previous.audio[: self._hop], audio])[-self._length :]
                onset = end - self._length
            yield dataclasses.replace(previous, num_settled=_find_row(onset))
        self._newest = self._make(audio, onset, onset + len(audio), 0, _count_frames(audio))

    def _make_before(self, audio: np.ndarray) -> Window:
        """Makes the window over the start of a waveform that begins with `audio`."""
        reflected = reverse(audio[1 : min(self._lead_samples, len(audio) - 1) + 1])
        end = min(self._length - len(reflected), len(audio))
        audio, onset = np.concatenate([reflected, audio[:end]]), -len(reflected)
        # Frames before the start are left out.
        window = self._make(audio, onset, end, -_find_row(onset), _count_frames(audio))
        return dataclasses.replace(window, is_inside=False)

    def _make_after(self, last: Window) -> Window:
        """Makes the window over the end of the waveform, whose last segment is `last`."""
        reflected = reverse(last.audio[:-1][-min(self._lead_samples, len(last.audio) - 1) :])
        inside = last.audio[-(self._length - len(reflected)) :]
        audio, onset = np.concatenate([inside, reflected]), last.end - len(inside)
        # Frames after the end are left out.
        num_inside = max(last.end // FRAME_SAMPLES - _find_row(onset) + 1, 1)
        window = self._make(audio, onset, last.end, 0, min(num_inside, _count_frames(audio)))
        return dataclasses.replace(window, is_inside=False, is_last=True)

    def _make(self, audio: np.ndarray, onset: int, end: int, first: int, stop: int) -> Window:
        return Window(audio, onset, end, self._length + REFLECTION, first, stop)


def _find_row(onset: int) -> int:
    """Finds the row that a window's first frame belongs to."""
    return (onset + FRAME_SAMPLES // 2) // FRAME_SAMPLES


def _count_frames(audio: np.ndarray) -> int:
    return len(audio) // FRAME_SAMPLES + 1


def cut_segments(blocks: Iterable[np.ndarray], segmentation: Segmentation) -> Iterator[Window]:
    """Cuts blocks into windows by a SegmentCutter."""
    cutter = SegmentCutter(segmentation)
    for block in blocks:
        yield from cutter.add(block)
    yield from cutter.finish()


class Timeline:
    """Puts the output frames of a waveform's windows on the regular grid of rows.

    A row is the mean of the frames centred within 0.16 s of its time. Those in the middle of their
    segment weigh more than those at its ends, where the network has audio on one side only.
    """

    def __init__(self) -> None:
        self.seconds = 0.0  # length of the waveform so far
        self._start = 0  # number of the first row that is not complete
        self._sums = self._weights = self._total = np.zeros(0)
        self._num_segments = 0

    @property
    def score(self) -> np.ndarray:
        """Values of the waveform: the mean over the means of its segments."""
        return (self._total / max(self._num_segments, 1)).astype(np.float32)

    def add(self, window: Window, frames: np.ndarray) -> np.ndarray:
        """Takes a window's output [frames, values]; returns the rows [n, values] now complete."""
        frame_slice = slice(window.first_frame, window.stop_frame)
        used_frames = frames[frame_slice].astype(np.float64)
        weights = compute_taper(_count_frames(window.audio))[frame_slice]
        first_row = _find_row(window.onset + FRAME_SAMPLES * window.first_frame) - self._start
        row_slice = slice(first_row, first_row + len(used_frames))
        if (num_missing := row_slice.stop - len(self._sums)) > 0:
            num_values = used_frames.shape[1]
            sums = self._sums.reshape(-1, num_values)
            self._sums = np.concatenate([sums, np.zeros((num_missing, num_values))])
            self._weights = np.concatenate([self._weights, np.zeros(num_missing)])
        self._sums[row_slice] += used_frames * weights[:, None]
        self._weights[row_slice] += weights
        if window.is_inside:
            mean = used_frames.mean(axis=0)
            self._total = self._total + mean if self._num_segments else mean
            self._num_segments += 1
        self.seconds = window.end / SAMPLE_RATE
        if not window.is_last:
            return self._take(window.num_settled - self._start)
        # Rows past the waveform's end are added to its last one.
        num_rows = max(window.end // FRAME_SAMPLES + 1 - self._start, 1)
        for array in (self._sums, self._weights):
            array[num_rows - 1 : num_rows] += array[num_rows:].sum(axis=0)
        return self._take(num_rows)

    def _take(self, num_rows: int) -> np.ndarray:
        means = self._sums[:num_rows] / self._weights[:num_rows, None]
        self._sums, self._weights = self._sums[num_rows:], self._weights[num_rows:]
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
