"""Reads files and waveforms of any kind as blocks of mono audio, in bounded memory."""

import functools
import io
import os
from collections.abc import Callable, Iterator
from typing import IO, Any

import numpy as np
import soxr

from psl_jax.audio import decoding, readers
from psl_jax.audio.readers import DecodeError
from psl_jax.audio.segments import SAMPLE_RATE, by_ticks
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import is_remote

# Samples of these types span the whole range of the type. Those of other integers, such as the
# int64 of a list, may have 16, 24 or 32 bits.
_INTEGERS = (np.int8, np.int16, np.int32)

# An int32 waveform below this has 16 or 24 bits, or is hardly audible: under -48 dB.
_SMALL_INT32 = 1 << 23

OnOpen = Callable[[int], object]

# Returns the same blocks each time it is called.
Blocks = Callable[[], Iterator[np.ndarray]]


def open_blocks(
    audio: Any,
    sample_rate: float | None = None,
    on_open: OnOpen | None = None,
    rate: int = SAMPLE_RATE,
) -> Blocks:
    """Returns the blocks, at `rate`, of a file (path, binary file object or bytes) or a waveform.

    A pipe, or a file object without `seek`, is read into memory. sample_rate: of a waveform, in Hz.
    on_open: is called with a file's rate each time it is opened. Raises UserError for no waveform.
    """
    if isinstance(audio, bytes | bytearray | memoryview):
        audio = io.BytesIO(audio)
    if isinstance(audio, io.TextIOBase):
        raise UserError("a file that was opened as text: open it with mode 'rb'")
    if isinstance(audio, str | os.PathLike) or hasattr(audio, "read"):
        file = functools.cache(lambda: _make_seekable(audio))
        return lambda: _decode(file, on_open, rate)
    if isinstance(audio, list | tuple) and audio and as_array(audio[0]).ndim:
        raise UserError(
            f"a list of {type(audio[0]).__name__}s: give several waveforms as a list of NumPy "
            "arrays, several channels as one array [samples, channels]"
        )
    array = as_array(audio)
    check_int32(find_int32_peak(array))
    waveform = resample(to_mono(array), sample_rate, rate)
    return lambda: iter([waveform])


def _decode(file: Callable[[], Any], on_open: OnOpen | None, rate: int) -> Iterator[np.ndarray]:
    """Decodes a file; all that goes wrong in reading it is a DecodeError."""
    try:
        yield from decoding.decode_blocks(file(), on_open, rate)
    except (DecodeError, UserError):
        raise
    except Exception as error:  # of the disk, or of the object that was given
        raise DecodeError("unreadable", readers.format_one_line(error)) from error


def _make_seekable(audio: str | os.PathLike[str] | IO[bytes]) -> str | os.PathLike[str] | IO[bytes]:
    """Returns the same file, or the content of a pipe or another file that is readable once."""
    if isinstance(audio, str | os.PathLike):
        # What is neither a file nor a folder is a pipe, a terminal or a socket: readable once.
        if is_remote(audio) or not os.path.exists(audio):
            return audio
        if os.path.isfile(audio) or os.path.isdir(audio):
            return audio
        with open(audio, "rb") as file:
            return io.BytesIO(file.read())
    if getattr(audio, "closed", False):
        raise DecodeError("unreadable", "a closed file")
    seekable = getattr(audio, "seekable", None)
    return audio if seekable is not None and seekable() else io.BytesIO(audio.read())


def limit_blocks(blocks: Blocks, seconds: float) -> Blocks:
    """Returns the same blocks, which end in a DecodeError after `seconds`."""

    def read_blocks() -> Iterator[np.ndarray]:
        num_samples = 0
        for block in blocks():
            num_samples += len(block)
            if num_samples > seconds * SAMPLE_RATE:
                raise DecodeError("too long", f"more than {seconds / 60:g} minutes")
            yield block

    return read_blocks


def to_mono(waveform: Any) -> np.ndarray:
    """Computes a waveform's mean over channels: float32 [samples] in [-1, 1].

    waveform: [samples], [samples, channels] or [channels, samples] (the shorter axis is taken for
    the channels); floating point in [-1, 1], or int8, int16, int32, uint8 over their type's range.
    Raises UserError for another shape, type or range.
    """
    array = as_array(waveform)
    is_stack = array.ndim == 2 and 1 <= min(array.shape) <= readers.MAX_CHANNELS
    if array.ndim != 1 and not is_stack:
        raise UserError(
            f"a waveform of shape {array.shape}; expected [samples] or [samples, channels]"
        )
    if array.dtype == np.uint8:
        array = array / np.float32(128) - 1
    elif array.dtype in _INTEGERS:
        array = array / np.float32(-float(np.iinfo(array.dtype).min))
    elif not np.issubdtype(array.dtype, np.floating):
        raise UserError(
            f"a waveform of type {array.dtype}; expected floating point in [-1, 1], or int16 or "
            "int32 over its whole range (a list of 16-bit samples: numpy.array(samples, 'int16'))"
        )
    if array.ndim == 2:
        array = array.mean(axis=int(np.argmin(array.shape)), dtype=np.float32)
    mono = np.ascontiguousarray(array, np.float32)
    if not np.isfinite(mono).all():
        raise UserError("the waveform holds NaN or infinite samples")
    if mono.size and np.abs(mono).max() > readers.LOUDEST_SENSIBLE:
        raise UserError(
            f"samples up to {np.abs(mono).max():g} in a floating point waveform; expected [-1, 1] "
            "(16-bit samples: divide by 32768, or pass them as int16)"
        )
    return mono


def as_array(waveform: Any) -> np.ndarray:
    """Converts to an array in this machine's byte order. Raises UserError for what is no array."""
    if isinstance(waveform, bytes | bytearray | memoryview) and memoryview(waveform).format == "B":
        raise UserError(
            f"a {type(waveform).__name__} of samples, whose type it does not tell; expected an "
            "array, such as numpy.frombuffer(chunk, 'int16')"
        )
    try:
        array = np.asarray(waveform)
        return array.astype(array.dtype.newbyteorder("="), copy=False)
    except Exception as error:  # of NumPy, or of the library whose array it is
        is_pair = isinstance(waveform, tuple) and len(waveform) == 2
        hint = "; give (rate, samples) as samples, sample_rate=rate" if is_pair else ""
        raise UserError(
            f"a {type(waveform).__name__} that is no array of numbers{hint} "
            f"({type(error).__name__}: {' '.join(str(error).split()):.150})"
        ) from error


def find_int32_peak(waveform: np.ndarray) -> int:
    """Finds the highest magnitude of int32 samples; 0 for samples of other types."""
    if waveform.dtype != np.int32 or not waveform.size:
        return 0
    return max(int(waveform.max()), -int(waveform.min()))


def check_int32(peak: int) -> None:
    """Raises UserError where the `find_int32_peak` of a whole waveform is of 16 or 24 bits."""
    if 0 < peak <= _SMALL_INT32:
        raise UserError(
            f"samples up to {peak} in an int32 waveform, whose full scale is 2147483648: divide "
            "samples of 16 bits by 32768, of 24 bits by 8388608, of 32 bits by 2147483648"
        )


def resample(mono: np.ndarray, sample_rate: float | None, rate: int = SAMPLE_RATE) -> np.ndarray:
    """Resamples to float32 audio at `rate`. Raises UserError for no rate, or less than 0.1 s."""
    if sample_rate is None:
        raise UserError("a waveform needs its sample rate: tag(waveform, sample_rate=16000)")
    try:
        readers.check_form(sample_rate, channels=1)
        if sample_rate != rate:
            mono = soxr.resample(mono, sample_rate, rate, quality="HQ")
        audio = by_ticks(mono, rate)
        decoding.check_length(len(audio))
    except DecodeError as error:
        raise UserError(f"a waveform that is {error}") from error
    return audio
