"""Decodes audio files of any kind to 16 kHz mono int16; needs neither TensorFlow nor TFDS."""

import contextlib
import dataclasses
import io
import math
import os
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple

import numpy as np
import soxr

from psl_jax.audio.ffmpeg_reader import FFmpegReader
from psl_jax.audio.libsndfile_reader import LibsndfileReader
from psl_jax.audio.readers import (
    CUT_TOLERANCE_SECONDS,
    DecodeError,
    Reader,
    check_form,
    format_one_line,
)
from psl_jax.audio.segments import SAMPLE_RATE, by_ticks, tick_shape
from psl_jax.runtime.paths import is_remote, local_copy, path_of

AudioFile = str | os.PathLike[str] | IO[bytes]

# Suffixes by which we find audio in folders; a file that the user names may have any suffix.
AUDIO_SUFFIXES = frozenset(
    {".wav", ".wave", ".wavex", ".rf64", ".w64", ".flac", ".aif", ".aiff", ".aifc", ".au", ".caf"}
    | {".mp3", ".ogg", ".oga", ".opus", ".m4a", ".m4b", ".mp4", ".mov", ".3gp", ".aac", ".webm"}
    | {".mkv", ".mka", ".wma", ".wv", ".ac3", ".amr", ".avi", ".flv", ".sph"}
)

MIN_SECONDS = 0.1
MIN_SAMPLES = round(MIN_SECONDS * SAMPLE_RATE)

_INT16_SCALE = 32768.0


@dataclasses.dataclass(frozen=True)
class Audio:
    """A decoded clip and facts about its file."""

    samples: np.ndarray  # int16 [ticks] or [ticks, 2]
    cut: bool = False  # the file goes on after `samples`
    source_seconds: float | None = None  # length of the whole file, where its header is exact

    @property
    def is_silent(self) -> bool:
        """Whether every sample is zero."""
        return not self.samples.any()


def decode(file: AudioFile, max_seconds: float = math.inf, rate: int = SAMPLE_RATE) -> Audio:
    """Decodes any file that libsndfile or FFmpeg reads, cut to `max_seconds`.

    Channels are averaged and other rates resampled with soxr HQ; values past full scale saturate.
    16 kHz mono 16-bit sources come out bit for bit. Memory is bounded by the result.

    Raises DecodeError where there is no usable audio. A file that ends before the length in its
    header is "truncated", unless all of the first `max_seconds` are there; one with damage in the
    middle, which FFmpeg finds, is "damaged".
    """
    with _open_reader(file) as reader:
        samples, is_cut = _collect(reader.blocks(), reader.rate, max_seconds, rate)
        reader.check(max_seconds, whole=not is_cut)
        check_length(len(samples))
        return Audio(samples, is_cut, reader.exact_seconds)


def decode_blocks(
    file: AudioFile, on_open: Callable[[int], object] | None = None, rate: int = SAMPLE_RATE
) -> Iterator[np.ndarray]:
    """Decodes as `decode(file)` does, block by block: int16 [ticks] or [ticks, 2].

    on_open: is called with the file's rate. DecodeError may come after some blocks.
    """
    num_samples = 0
    with _open_reader(file) as reader:
        if on_open is not None:
            on_open(reader.rate)
        for block in _resample_blocks(reader.blocks(), reader.rate, rate):
            num_samples += len(block)
            reader.check(math.inf, whole=False)
            yield _to_int16(block)
        reader.check(math.inf, whole=True)
    check_length(num_samples)


class Form(NamedTuple):
    """Rate in Hz and number of channels of a file; its length where the header is exact."""

    rate: int
    channels: int
    seconds: float | None


def read_form(file: AudioFile) -> Form:
    """Reads a file's header. Raises DecodeError as `decode` does."""
    with _open_reader(file) as reader:
        return Form(reader.rate, reader.channels, reader.exact_seconds)


def measure_seconds(file: AudioFile) -> float:
    """Seconds of audio in a file, perhaps some hundredths more than `decode` gives."""
    with _open_reader(file) as reader:
        exact_seconds = reader.exact_seconds
        return reader.measure_seconds() if exact_seconds is None else exact_seconds


@contextlib.contextmanager
def _open_reader(file: AudioFile) -> Iterator[Reader]:
    """Opens a reader of a file, of a copy if it is in a bucket; its errors become DecodeErrors."""
    if isinstance(file, str | os.PathLike) and is_remote(file):
        if path_of(file).is_dir():
            raise DecodeError("unreadable", "a folder, not a file")
        if not path_of(file).exists():
            raise DecodeError("missing", "no such object")
        with local_copy(file) as copy, _open_reader(copy) as reader:
            yield reader
        return
    with contextlib.ExitStack() as stack:
        source: Any = file
        try:
            if isinstance(file, str | os.PathLike):
                # Without O_NONBLOCK a pipe among the files would be waited for.
                source = stack.enter_context(
                    open(file, "rb", opener=lambda path, mode: os.open(path, mode | os.O_NONBLOCK))
                )
            if source.seek(0, io.SEEK_END) == 0:
                raise DecodeError("empty", "0 bytes")
            reader = _choose_reader(source, source is not file)
            stack.enter_context(contextlib.closing(reader))
            check_form(reader.rate, reader.channels)
            yield reader
        except FileNotFoundError as error:
            raise DecodeError("missing", "no such file") from error
        except IsADirectoryError as error:
            raise DecodeError("unreadable", "a folder, not a file") from error
        except OSError as error:  # also of a disk that fails later
            raise DecodeError("unreadable", format_one_line(error)) from error


def _choose_reader(file: IO[bytes], is_ours: bool) -> Reader:
    """Returns libsndfile's reader, or FFmpeg's where libsndfile does not read the exact frames."""
    file.seek(0)
    # libsndfile warns of mp3 files on standard error before they are left to FFmpeg.
    if not str(getattr(file, "name", "")).lower().endswith(".mp3"):
        with contextlib.suppress(DecodeError):
            return LibsndfileReader(file, has_descriptor=is_ours)
        file.seek(0)
    return FFmpegReader(file)


def make_audio(samples: np.ndarray, source_rate: int, max_seconds: float, rate: int) -> Audio:
    """Makes the Audio, at `rate`, of mono int16 [samples] at `source_rate` Hz; or DecodeError."""
    check_form(source_rate, 1)
    audio, is_cut = _collect(iter([samples]), source_rate, max_seconds, rate)
    check_length(len(audio))
    return Audio(audio, is_cut, len(samples) / source_rate)


def check_length(num_samples: int) -> None:
    """Raises DecodeError for fewer than 0.1 s of ticks."""
    if num_samples < MIN_SAMPLES:
        length = f"{num_samples / SAMPLE_RATE:.3f} s"
        raise DecodeError("too short", f"{length}, at least {MIN_SECONDS} s are needed")


def _resample_blocks(
    blocks: Iterator[np.ndarray], source_rate: int, rate: int
) -> Iterator[np.ndarray]:
    """Resamples blocks as one stream, which equals resampling the whole; gives whole ticks."""
    resampler = Resampler(source_rate, rate)
    for block in blocks:
        yield resampler.add(block)
    if len(last := resampler.finish()):
        yield last


class Resampler:
    """Makes audio at `rate` of the blocks [samples] of a stream at another rate, or the same."""

    def __init__(self, source_rate: float, rate: int):
        self._stream = None
        if source_rate != rate:
            self._stream = soxr.ResampleStream(source_rate, rate, 1, dtype="float32", quality="HQ")
        self._rate, self._waiting = rate, np.zeros(0, np.int16)

    def add(self, block: np.ndarray, *, is_last: bool = False) -> np.ndarray:
        if self._stream is not None:
            if block.dtype == np.int16:
                block = block / np.float32(_INT16_SCALE)
            block = self._stream.resample_chunk(block, last=is_last)
        if self._rate == SAMPLE_RATE:
            return block
        samples = np.concatenate([self._waiting, block]) if len(self._waiting) else block
        audio = by_ticks(samples, self._rate)
        self._waiting = samples[audio.size :]
        return audio

    def finish(self) -> np.ndarray:
        """The last audio, perhaps none."""
        return self.add(np.zeros(0, np.float32), is_last=True)


def _collect(
    blocks: Iterator[np.ndarray], source_rate: int, max_seconds: float, rate: int
) -> tuple[np.ndarray, bool]:
    """The int16 audio of the first `max_seconds`, and whether there is more, which is not read."""
    most_ticks = math.inf if max_seconds == math.inf else round(max_seconds * SAMPLE_RATE)
    tolerance = round(CUT_TOLERANCE_SECONDS * SAMPLE_RATE)
    parts, num_ticks, is_cut = [np.zeros((0, *tick_shape(rate)), np.int16)], 0, False
    for block in _resample_blocks(blocks, source_rate, rate):
        parts.append(_to_int16(block))
        num_ticks += len(block)
        if is_cut := num_ticks > most_ticks + tolerance:
            break
    return np.concatenate(parts)[: int(min(most_ticks, num_ticks))], is_cut


def _to_int16(samples: np.ndarray) -> np.ndarray:
    """Rounds float samples in [-1, 1] to int16, saturating; leaves int16 as it is."""
    if samples.dtype == np.int16:
        return samples
    scaled = np.rint(samples * _INT16_SCALE)
    return np.clip(scaled, -_INT16_SCALE, _INT16_SCALE - 1).astype(np.int16)
