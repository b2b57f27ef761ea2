"""Files and waveforms of any kind as blocks of 16 kHz mono, in bounded memory."""

import io
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import soxr

from psl_jax.audio import decoding, readers
from psl_jax.audio.decoding import DecodeError
from psl_jax.audio.segments import SAMPLE_RATE
from psl_jax.runtime.errors import UserError

_LOUDEST_SENSIBLE = 100.0

# Gives the same blocks each time it is called.
Blocks = Callable[[], Iterator[np.ndarray]]


def blocks_of(audio: Any, sample_rate: float | None = None) -> Blocks:
    """Blocks of a file (path, binary file object or bytes), or of a waveform at `sample_rate`.

    Raises UserError for a waveform that is none; a file is not opened before its blocks are.
    """
    if isinstance(audio, bytes | bytearray | memoryview):
        audio = io.BytesIO(audio)
    if isinstance(audio, str | os.PathLike) or hasattr(audio, "read"):
        return lambda: decoding.decoded_blocks(audio)
    waveform = resample(to_mono(audio), sample_rate)
    return lambda: iter([waveform])


def at_most(blocks: Blocks, seconds: float) -> Blocks:
    """The same blocks, which end in a DecodeError where there are more than `seconds` of them."""

    def limited() -> Iterator[np.ndarray]:
        samples = 0
        for block in blocks():
            samples += len(block)
            if samples > seconds * SAMPLE_RATE:
                raise DecodeError("too long", f"more than {seconds / 60:g} minutes")
            yield block

    return limited


def to_mono(waveform: Any) -> np.ndarray:
    """A waveform's mean over channels: float32 [samples] in [-1, 1].

    Args:
      waveform: NumPy array or what converts to one, [samples], [samples, channels] or
        [channels, samples] (the shorter axis is taken for the channels); floating point in
        [-1, 1], or integers over their type's range.

    Raises:
      UserError: another shape or type, values that are not finite or not in that range.
    """
    array = np.asarray(waveform)
    if array.ndim not in (1, 2) or (array.ndim == 2 and min(array.shape) > readers.MAX_CHANNELS):
        raise UserError(
            f"a waveform of shape {array.shape}; expected [samples] or [samples, channels]"
        )
    if array.dtype == np.uint8:
        array = array / np.float32(128) - 1
    elif np.issubdtype(array.dtype, np.signedinteger):
        array = array / np.float32(-float(np.iinfo(array.dtype).min))
    elif not np.issubdtype(array.dtype, np.floating):
        raise UserError(f"a waveform of type {array.dtype}; expected floating point or integers")
    if array.ndim == 2:
        array = array.mean(axis=int(np.argmin(array.shape)), dtype=np.float32)
    mono = np.ascontiguousarray(array, np.float32)
    if not np.isfinite(mono).all():
        raise UserError("the waveform holds NaN or infinite samples")
    if mono.size and np.abs(mono).max() > _LOUDEST_SENSIBLE:
        raise UserError(
            f"samples up to {np.abs(mono).max():g} in a floating point waveform; expected [-1, 1] "
            "(16-bit samples: divide by 32768, or pass them as int16)"
        )
    return mono


def resample(mono: np.ndarray, sample_rate: float | None) -> np.ndarray:
    """float32 [samples] at 16 kHz. Raises UserError for no rate, or less than 0.1 s."""
    if sample_rate is None:
        raise UserError("a waveform needs its sample rate: tag(waveform, sample_rate=16000)")
    try:
        readers.check_form(sample_rate, channels=1)
    except DecodeError as error:
        raise UserError(f"a waveform with {error.detail}") from error
    if sample_rate != SAMPLE_RATE:
        mono = soxr.resample(mono, sample_rate, SAMPLE_RATE, quality="HQ")
    try:
        decoding.check_length(len(mono))
    except DecodeError as error:
        raise UserError(f"a waveform that is {error}") from error
    return mono
