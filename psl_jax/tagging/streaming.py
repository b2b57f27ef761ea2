"""Tags of audio that is still coming: scores as soon as they are known."""

import copy
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import soxr

from psl_jax.audio import audio_input, decoding, readers
from psl_jax.audio.decoding import DecodeError
from psl_jax.audio.segments import SAMPLE_RATE, Segmentation
from psl_jax.runtime.errors import UserError
from psl_jax.tagging.windowing import FRAME_SECONDS, Piece, SegmentCutter, Timeline


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

    A row is complete when no later segment hears it: a segment's length behind the newest sample,
    and at most a hop more. `provisional` gives those that are not complete yet, of what has been
    heard of them: at most a hop behind.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[Piece]], list[np.ndarray]],
        num_classes: int,
        segmentation: Segmentation,
        sample_rate: float,
    ):
        """compute: the scores [frames, classes] of pieces. Raises UserError for a wrong rate."""
        try:
            readers.check_form(sample_rate, 1)
        except DecodeError as error:
            raise UserError(f"a stream with {error.detail}") from error
        self._compute = compute
        self._cutter = SegmentCutter(segmentation)
        self._timeline = Timeline(segments=True)
        self._known: tuple[tuple, np.ndarray] | None = None  # a piece's key and its scores
        self._samples, self._rows, self._classes = 0, 0, num_classes
        self._open = True
        self._int32_peak = 0  # see check_int32
        self._resampler = None
        if sample_rate != SAMPLE_RATE:
            self._resampler = soxr.ResampleStream(
                sample_rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ"
            )

    @property
    def seconds(self) -> float:
        """How much audio has come (of which the resampler may hold back a little)."""
        return self._samples / SAMPLE_RATE

    @property
    def scores(self) -> np.ndarray:
        """[classes]: the mean over the segments so far; after `finish`, `Tags.scores`."""
        return self._timeline.score

    def feed(self, chunk: Any) -> Rows:
        """Takes a chunk, [samples] or [samples, channels]; returns the rows complete by it.

        Chunks may have any length, also none. Raises UserError for what is no waveform, or after
        `finish`.
        """
        if not self._open:
            raise UserError("the stream is finished: begin another one")
        array = np.atleast_1d(audio_input.as_array(chunk))
        mono = _mono(array)
        self._int32_peak = max(self._int32_peak, audio_input.int32_peak(array))
        if self._resampler is None:
            return self._take(mono.copy())  # the caller may fill its buffer again
        return self._take(self._resampler.resample_chunk(mono))

    def provisional(self) -> Rows:
        """The rows after the complete ones, as they would be if the audio ended here.

        They change while more is heard of them. None before the first segment.
        """
        newest = self._cutter.newest
        if newest is None:
            return Rows(np.zeros(0), np.zeros((0, self._classes), np.float32))
        (frames,) = self._scores_of([newest])
        rows = copy.deepcopy(self._timeline).add(dataclasses.replace(newest, last=True), frames)
        return Rows(FRAME_SECONDS * np.arange(self._rows, self._rows + len(rows)), rows)

    def finish(self) -> Rows:
        """The rest of the rows. Raises UserError for less than 0.1 s of audio.

        So it does for int32 chunks whose samples all are of 16 or 24 bits by their size.
        """
        if not self._open:
            raise UserError("the stream is finished: begin another one")
        first, parts = self._rows, []
        if self._resampler is not None:
            rest = self._resampler.resample_chunk(np.zeros(0, np.float32), last=True)
            parts.append(self._take(rest).scores)
        self._open = False
        audio_input.check_int32(self._int32_peak)
        try:
            decoding.check_length(self._samples)
        except DecodeError as error:
            raise UserError(f"a stream that is {error}") from error
        parts.append(self._add(list(self._cutter.finish())))
        scores = np.concatenate([part for part in parts if len(part)])
        return Rows(FRAME_SECONDS * np.arange(first, first + len(scores)), scores)

    def _take(self, mono: np.ndarray) -> Rows:
        self._samples += len(mono)
        first = self._rows
        scores = self._add(list(self._cutter.add(mono)))
        return Rows(FRAME_SECONDS * np.arange(first, first + len(scores)), scores)

    def _add(self, pieces: list[Piece]) -> np.ndarray:
        """The rows [n, classes] that these pieces make complete."""
        found = zip(pieces, self._scores_of(pieces), strict=True)
        rows = [self._timeline.add(piece, frames) for piece, frames in found]
        self._rows += sum(map(len, rows))
        return np.concatenate(rows) if rows else np.zeros((0, self._classes), np.float32)

    def _scores_of(self, pieces: list[Piece]) -> list[np.ndarray]:
        """The scores of pieces; those of the last one that was asked for are kept."""
        known = dict([self._known]) if self._known else {}
        new = [piece for piece in pieces if _key(piece) not in known]
        if new:
            for piece, frames in zip(new, self._compute(new), strict=True):
                known[_key(piece)] = frames
                self._known = _key(piece), frames
        return [known[_key(piece)] for piece in pieces]


def _key(piece: Piece) -> tuple[int, int, bool]:
    return piece.onset, piece.end, piece.inside


def _mono(array: np.ndarray) -> np.ndarray:
    """float32 [samples] of a chunk, however short it is."""
    if array.ndim != 2:
        return audio_input.to_mono(array)
    if not 1 <= array.shape[1] <= readers.MAX_CHANNELS:
        raise UserError(
            f"a chunk of shape {array.shape}; expected [samples] or [samples, channels]"
        )
    columns = [audio_input.to_mono(array[:, i]) for i in range(array.shape[1])]
    return np.asarray(np.mean(columns, axis=0, dtype=np.float32))
