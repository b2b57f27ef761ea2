"""Tags audio while it is being recorded: gives scores as soon as they are complete."""

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
    and at most a hop more.
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
        self._timeline = Timeline()
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
        """[classes]: the mean over the segments so far; after `finish` it is `Tags.scores`."""
        return self._timeline.score

    def feed(self, chunk: Any) -> Rows:
        """Takes a chunk, [samples] or [samples, channels]; returns the rows that it completes.

        Chunks may have any length, also none. Raises UserError for a chunk that is no waveform, and
        after `finish`.
        """
        if not self._is_open:
            raise UserError("the stream is finished: begin another one")
        array = np.atleast_1d(audio_input.as_array(chunk))
        self._int32_peak = max(self._int32_peak, audio_input.find_int32_peak(array))
        mono = _mix_to_mono(array).copy()  # the caller may fill its buffer again
        mono = self._resampler.add(mono)
        self._num_samples += len(mono)
        return self._complete(list(self._cutter.add(mono)))

    def finish(self) -> Rows:
        """Returns the remaining rows. Raises UserError for less than 0.1 s of audio.

        It also raises UserError for int32 chunks whose samples all have the size of 16 or 24 bits.
        """
        if not self._is_open:
            raise UserError("the stream is finished: begin another one")
        self._is_open = False
        mono = self._resampler.finish()
        self._num_samples += len(mono)
        windows = list(self._cutter.add(mono))
        audio_input.check_int32(self._int32_peak)
        try:
            decoding.check_length(self._num_samples)
        except DecodeError as error:
            raise UserError(f"a stream that is {error}") from error
        return self._complete([*windows, *self._cutter.finish()])

    def _complete(self, windows: list[Window]) -> Rows:
        """Returns the rows that these windows complete."""
        scored = zip(windows, self._compute(windows) if windows else [], strict=True)
        blocks = [self._timeline.add(window, frames) for window, frames in scored]
        scores = np.concatenate([np.zeros((0, self._num_classes), np.float32), *blocks])
        rows = np.arange(self._num_rows, self._num_rows + len(scores))
        self._num_rows += len(scores)
        return Rows(FRAME_SECONDS * rows, scores)


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
