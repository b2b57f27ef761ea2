"""Tags audio while it is being recorded: gives scores as soon as they are complete."""

import copy
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from psl_jax.audio import audio_input, decoding, readers
from psl_jax.audio.readers import DecodeError
from psl_jax.audio.segments import SAMPLE_RATE, Segmentation
from psl_jax.runtime.errors import UserError
from psl_jax.tagging.windowing import FRAME_SECONDS, SegmentCutter, Timeline, Window


class Rows(NamedTuple):
    """Scores over time: `times` [rows] in seconds, a row every 0.32 s; `scores` [rows, classes]."""

    times: np.ndarray
    scores: np.ndarray


class Stream:
    """Takes audio chunk by chunk; gives the rows that `Tagger.tag` gives of all of it.

        stream = model.stream(sample_rate=48_000)
        for chunk in microphone:
            rows = stream.feed(chunk)
        rows = stream.finish()

    A row is complete when no later segment covers it: a segment's length behind the newest sample,
    and at most a hop more. `provisional` gives the rows that are not complete yet, from the audio
    so far: at most a hop behind.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[Window]], list[np.ndarray]],
        num_classes: int,
        segmentation: Segmentation,
        sample_rate: float,
        rate: int = SAMPLE_RATE,
    ):
        """Opens a stream. Raises UserError for a wrong rate.

        compute: returns the scores [frames, classes] of windows at `rate`.
        """
        try:
            readers.check_form(sample_rate, 1)
        except DecodeError as error:
            raise UserError(f"a stream with {error.detail}") from error
        self._compute = compute
        self._cutter = SegmentCutter(segmentation)
        self._timeline = Timeline(has_segments=True)
        self._cached: tuple[tuple[int, int, bool], np.ndarray] | None = (
            None  # a window's key and its scores
        )
        self._num_samples, self._num_rows, self._num_classes = 0, 0, num_classes
        self._is_open = True
        self._int32_peak = 0  # see check_int32
        self._resampler = decoding.Resampler(sample_rate, rate)

    @property
    def seconds(self) -> float:
        """Seconds of audio so far (the resampler may hold back a little)."""
        return self._num_samples / SAMPLE_RATE

    @property
    def scores(self) -> np.ndarray:
        """[classes]: the mean over the segments so far; after `finish`, `Tags.scores`."""
        return self._timeline.score

    def feed(self, chunk: Any) -> Rows:
        """Takes a chunk, [samples] or [samples, channels]; returns the rows that it completes.

        Chunks may have any length, also none. Raises UserError for a chunk that is no waveform, and
        after `finish`.
        """
        if not self._is_open:
            raise UserError("the stream is finished: begin another one")
        array = np.atleast_1d(audio_input.as_array(chunk))
        mono = _mix_to_mono(array)
        self._int32_peak = max(self._int32_peak, audio_input.find_int32_peak(array))
        if not self._resampler.holds_back:
            mono = mono.copy()  # the caller may fill its buffer again
        return self._take(self._resampler.add(mono))

    def provisional(self) -> Rows:
        """Returns the rows after the complete ones, as they would be if the audio ended here.

        They change with the audio that follows. There are none before the first segment.
        """
        newest = self._cutter.newest
        if newest is None:
            return Rows(np.zeros(0), np.zeros((0, self._num_classes), np.float32))
        (frames,) = self._compute_scores([newest])
        rows = copy.deepcopy(self._timeline).add(dataclasses.replace(newest, is_last=True), frames)
        return Rows(FRAME_SECONDS * np.arange(self._num_rows, self._num_rows + len(rows)), rows)

    def finish(self) -> Rows:
        """Returns the remaining rows. Raises UserError for less than 0.1 s of audio.

        It also raises UserError for int32 chunks whose samples all have the size of 16 or 24 bits.
        """
        if not self._is_open:
            raise UserError("the stream is finished: begin another one")
        first_row, score_blocks = self._num_rows, []
        if self._resampler.holds_back:
            score_blocks.append(self._take(self._resampler.finish()).scores)
        self._is_open = False
        audio_input.check_int32(self._int32_peak)
        try:
            decoding.check_length(self._num_samples)
        except DecodeError as error:
            raise UserError(f"a stream that is {error}") from error
        score_blocks.append(self._add(list(self._cutter.finish())))
        scores = np.concatenate([block for block in score_blocks if len(block)])
        return Rows(FRAME_SECONDS * np.arange(first_row, first_row + len(scores)), scores)

    def _take(self, mono: np.ndarray) -> Rows:
        self._num_samples += len(mono)
        first_row = self._num_rows
        scores = self._add(list(self._cutter.add(mono)))
        return Rows(FRAME_SECONDS * np.arange(first_row, first_row + len(scores)), scores)

    def _add(self, windows: list[Window]) -> np.ndarray:
        """Returns the rows [n, classes] that these windows complete."""
        scored = zip(windows, self._compute_scores(windows), strict=True)
        rows = [self._timeline.add(window, frames) for window, frames in scored]
        self._num_rows += sum(map(len, rows))
        return np.concatenate(rows) if rows else np.zeros((0, self._num_classes), np.float32)

    def _compute_scores(self, windows: list[Window]) -> list[np.ndarray]:
        """Computes the scores of windows, and keeps those of the last one for the next call."""
        scores_by_window = dict([self._cached]) if self._cached else {}
        new_windows = [window for window in windows if _make_key(window) not in scores_by_window]
        if new_windows:
            for window, frames in zip(new_windows, self._compute(new_windows), strict=True):
                scores_by_window[_make_key(window)] = frames
                self._cached = _make_key(window), frames
        return [scores_by_window[_make_key(window)] for window in windows]


def _make_key(window: Window) -> tuple[int, int, bool]:
    return window.onset, window.end, window.is_inside


def _mix_to_mono(array: np.ndarray) -> np.ndarray:
    """Mixes a chunk, however short, to mono: float32 [samples]."""
    if array.ndim != 2:
        return audio_input.to_mono(array)
    if not 1 <= array.shape[1] <= readers.MAX_CHANNELS:
        raise UserError(
            f"a chunk of shape {array.shape}; expected [samples] or [samples, channels]"
        )
    columns = [audio_input.to_mono(array[:, i]) for i in range(array.shape[1])]
    return np.asarray(np.mean(columns, axis=0, dtype=np.float32))
