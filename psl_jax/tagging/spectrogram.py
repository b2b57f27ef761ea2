"""Computes and draws log-mel spectrograms of recordings of any length, in bounded memory."""

from typing import Any

import jax
import numpy as np

from psl_jax.audio.audio_input import Blocks
from psl_jax.audio.segments import SAMPLE_RATE
from psl_jax.networks.frontend import HOP, LogMel, num_frames
from psl_jax.tagging.windowing import MaxPool

_CHUNK_FRAMES = 1024
DYNAMIC_RANGE = 80.0  # dB that a drawing spans


def compute_spectrogram(blocks: Blocks, columns: int = 1200) -> tuple[np.ndarray, float]:
    """Computes the columns of a Spectrogram, and the seconds from one column to the next."""
    result = Spectrogram(columns)
    for block in blocks():
        result.add(block)
    return result.finish()


class Spectrogram:
    """Computes the spectrogram of a recording that comes in blocks.

    Where there are more than `columns` columns, neighbours become their maximum. So all but short
    recordings have between half of `columns` and `columns`.
    """

    def __init__(self, columns: int = 1200):
        self._pool, self._waiting_samples = MaxPool(columns), np.zeros(0, np.int16)

    def add(self, block: np.ndarray) -> None:
        """Takes samples at 16 kHz: int16, or float32 in [-1, 1]."""
        chunk_samples = _CHUNK_FRAMES * HOP
        samples = (
            np.concatenate([self._waiting_samples, block]) if len(self._waiting_samples) else block
        )
        num_whole = len(samples) // chunk_samples * chunk_samples
        for start in range(0, num_whole, chunk_samples):
            self._pool.add(_compute_chunk(samples[start : start + chunk_samples])[:_CHUNK_FRAMES])
        self._waiting_samples = samples[num_whole:]

    def finish(self) -> tuple[np.ndarray, float]:
        """Returns the columns in dB, float32 [n, 64], and the seconds from one to the next."""
        if len(self._waiting_samples):
            self._pool.add(
                _compute_chunk(self._waiting_samples)[: num_frames(len(self._waiting_samples))]
            )
        return self._pool.rows, self._pool.step * HOP / SAMPLE_RATE


def _compute_chunk(audio: np.ndarray) -> np.ndarray:
    """Computes log-mel frames of up to _CHUNK_FRAMES hops, with reflected audio at the ends."""
    padded = np.zeros((1, _CHUNK_FRAMES * HOP), np.float32)
    padded[0, : len(audio)] = audio if audio.dtype == np.float32 else audio / np.float32(32768)
    return np.asarray(_compute_logmel(padded)[0])


@jax.jit
def _compute_logmel(audio: jax.Array) -> jax.Array:
    return LogMel(top_db_over="none")(audio)


def to_bytes(decibels: np.ndarray, dynamic_range: float = DYNAMIC_RANGE) -> np.ndarray:
    """Scales decibels to uint8: 255 is the loudest, 0 is `dynamic_range` dB below it, or less."""
    scaled = 1 + (decibels - decibels.max()) / dynamic_range
    return np.asarray(np.rint(255 * np.clip(scaled, 0, 1)), np.uint8)


def draw_spectrogram(axes: Any, decibels: np.ndarray, column_seconds: float) -> None:
    """Draws a spectrogram [columns, bands] in dB on matplotlib's axes: seconds and Hz."""
    import librosa.display

    columns, bands = decibels.shape
    # Between the centres of neighbouring bands, which are equally far apart on the mel scale.
    edges = librosa.mel_frequencies(2 * bands + 3, fmin=0, fmax=SAMPLE_RATE / 2, htk=True)[1::2]
    librosa.display.specshow(
        decibels.T,
        x_coords=column_seconds * np.arange(columns + 1),
        y_coords=edges,
        x_axis="time",
        y_axis="mel",
        cmap="magma",
        vmin=decibels.max() - DYNAMIC_RANGE,
        vmax=decibels.max(),
        ax=axes,
    )
    axes.set_xlabel("")
