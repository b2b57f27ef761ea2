"""Log-mel spectrograms to look at, of recordings of any length, in bounded memory."""

from typing import Any

import jax
import numpy as np

from psl_jax.audio.audio_input import Blocks
from psl_jax.audio.segments import SAMPLE_RATE
from psl_jax.networks.frontend import HOP, LogMel, num_frames
from psl_jax.tagging.windowing import Pool

_CHUNK_FRAMES = 1024
DYNAMIC_RANGE = 80.0  # dB that are shown


def spectrogram(blocks: Blocks, columns: int = 1200) -> tuple[np.ndarray, float]:
    """The columns of a Spectrogram of the blocks, and the seconds from one to the next."""
    result = Spectrogram(columns)
    for block in blocks():
        result.add(block)
    return result.finish()


class Spectrogram:
    """The spectrogram of a recording that comes in blocks.

    Of more than `columns` columns neighbours are pooled to their maximum, so that there are from
    half of `columns` to `columns` for all but short recordings.
    """

    def __init__(self, columns: int = 1200):
        self._pool, self._held = Pool(columns), np.zeros(0, np.int16)

    def add(self, block: np.ndarray) -> None:
        """Takes samples at 16 kHz: int16, or float32 in [-1, 1]."""
        length = _CHUNK_FRAMES * HOP
        held = np.concatenate([self._held, block]) if len(self._held) else block
        whole = len(held) // length * length
        for start in range(0, whole, length):
            self._pool.add(_chunk(held[start : start + length])[:_CHUNK_FRAMES])
        self._held = held[whole:]

    def finish(self) -> tuple[np.ndarray, float]:
        """The columns in dB, float32 [n, 64], and the seconds from one to the next."""
        if len(self._held):
            self._pool.add(_chunk(self._held)[: num_frames(len(self._held))])
        return self._pool.rows, self._pool.step * HOP / SAMPLE_RATE


def _chunk(audio: np.ndarray) -> np.ndarray:
    """Log-mel frames of up to _CHUNK_FRAMES hops; those at its ends are of reflected audio."""
    padded = np.zeros((1, _CHUNK_FRAMES * HOP), np.float32)
    padded[0, : len(audio)] = audio if audio.dtype == np.float32 else audio / np.float32(32768)
    return np.asarray(_logmel(padded))[0]


@jax.jit
def _logmel(audio: jax.Array) -> jax.Array:
    return LogMel(top_db_over="none")(audio)


def as_bytes(decibel: np.ndarray, dynamic_range: float = DYNAMIC_RANGE) -> np.ndarray:
    """Decibels as uint8: 255 is the loudest, 0 what lies `dynamic_range` dB below it, or lower."""
    scaled = 1 + (decibel - decibel.max()) / dynamic_range
    return np.rint(255 * np.clip(scaled, 0, 1)).astype(np.uint8)


def draw(axes: Any, decibel: np.ndarray, column_seconds: float) -> None:
    """Draws a spectrogram [columns, bands] in dB on matplotlib's axes: seconds and Hz."""
    import librosa.display

    columns, bands = decibel.shape
    # Between the centres of neighbouring bands, which are equally far apart on the mel scale.
    edges = librosa.mel_frequencies(2 * bands + 3, fmin=0, fmax=SAMPLE_RATE / 2, htk=True)[1::2]
    librosa.display.specshow(
        decibel.T,
        x_coords=column_seconds * np.arange(columns + 1),
        y_coords=edges,
        x_axis="time",
        y_axis="mel",
        cmap="magma",
        vmin=decibel.max() - DYNAMIC_RANGE,
        vmax=decibel.max(),
        ax=axes,
    )
    axes.set_xlabel("")
