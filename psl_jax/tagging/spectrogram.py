"""Log-mel spectrograms to look at, of recordings of any length, in bounded memory."""

import jax
import numpy as np

from psl_jax.audio.audio_input import Blocks
from psl_jax.audio.segments import SAMPLE_RATE
from psl_jax.model.frontend import HOP, LogMel, num_frames
from psl_jax.tagging.timeline import Pool

_CHUNK_FRAMES = 1024


def spectrogram(blocks: Blocks, columns: int = 1200) -> tuple[np.ndarray, float]:
    """The spectrogram in dB, float32 [n, 64], and the seconds from one of its columns to the next.

    Of more than `columns` columns neighbours are pooled to their maximum, so n is from half of
    `columns` to `columns` for all but short recordings.
    """
    pool, length = Pool(columns), _CHUNK_FRAMES * HOP
    held = np.zeros(0, np.int16)
    for block in blocks():
        held = np.concatenate([held, block]) if len(held) else block
        whole = len(held) // length * length
        for start in range(0, whole, length):
            pool.add(_chunk(held[start : start + length])[:_CHUNK_FRAMES])
        held = held[whole:]
    if len(held):
        pool.add(_chunk(held)[: num_frames(len(held))])
    return pool.rows, pool.step * HOP / SAMPLE_RATE


def _chunk(audio: np.ndarray) -> np.ndarray:
    """Log-mel frames of up to _CHUNK_FRAMES hops; those at its ends are of reflected audio."""
    padded = np.zeros((1, _CHUNK_FRAMES * HOP), np.float32)
    padded[0, : len(audio)] = audio if audio.dtype == np.float32 else audio / np.float32(32768)
    return np.asarray(_logmel(padded))[0]


@jax.jit
def _logmel(audio: jax.Array) -> jax.Array:
    return LogMel(top_db_over="none")(audio)


def as_bytes(decibel: np.ndarray, dynamic_range: float = 80.0) -> np.ndarray:
    """Decibels as uint8: 255 is the loudest, 0 what lies `dynamic_range` dB below it, or lower."""
    scaled = 1 + (decibel - decibel.max()) / dynamic_range
    return np.rint(255 * np.clip(scaled, 0, 1)).astype(np.uint8)
