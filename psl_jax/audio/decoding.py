"""Audio files of any kind to 16 kHz mono int16: the one decoder of every corpus.

Imports neither TensorFlow nor TFDS, and its functions are pure and picklable, so that a thread,
a process or a Beam worker can run them.
"""

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
    one_line,
)
from psl_jax.audio.segments import SAMPLE_RATE
from psl_jax.runtime.paths import is_remote, local_copy, path_of

AudioFile = str | os.PathLike | IO[bytes]

# The endings by which audio is found in folders; a file that is named itself may have any.
AUDIO_SUFFIXES = frozenset(
    {".wav", ".wave", ".wavex", ".rf64", ".w64", ".flac", ".aif", ".aiff", ".aifc", ".au", ".caf"}
    | {".mp3", ".ogg", ".oga", ".opus", ".m4a", ".m4b", ".mp4", ".mov", ".3gp", ".aac", ".webm"}
    | {".mkv", ".mka", ".wma", ".wv", ".ac3", ".amr", ".avi", ".flv", ".sph"}
)

MIN_SECONDS = 0.1
MIN_SAMPLES = round(MIN_SECONDS * SAMPLE_RATE)

_FULL_SCALE = 32768.0


@dataclasses.dataclass(frozen=True)
class Audio:
    """A decoded clip: `samples` int16 [samples] at 16 kHz, and what is worth knowing about it."""

    samples: np.ndarray
    cut: bool = False  # the file goes on after `samples`
    source_seconds: float | None = None  # length of the whole file, where its header is exact
    source_rate: int = SAMPLE_RATE  # before resampling, Hz

    @property
    def silent(self) -> bool:
        """Every sample is zero."""
        return not self.samples.any()


def read_audio(file: AudioFile, max_seconds: float | None = None) -> np.ndarray:
    """The audio of `file` at 16 kHz mono: int16 [samples]. See `decode`."""
    return decode(file, max_seconds).samples


def decode(file: AudioFile, max_seconds: float | None = None) -> Audio:
    """Decodes whatever libsndfile or FFmpeg reads, at any rate and channels.

    libsndfile reads wav, flac, aiff, w64, caf and au; FFmpeg reads all other files, and those that
    libsndfile rejects. Channels are averaged and other rates resampled with soxr HQ; values past
    full scale saturate. 16 kHz mono 16-bit sources come out bit for bit. The file is read block by
    block and only as far as `max_seconds` needs, so memory is bounded by the result.

    Args:
      file: a path or a seekable binary file object.
      max_seconds: where to cut; None reads everything.

    Raises:
      DecodeError: no usable audio; its `kind` and `detail` say why. A file that ends before the
        length in its header is "truncated", unless all of the first `max_seconds` are there; one
        with damage in the middle, which FFmpeg finds, is "damaged".
    """
    with _opened(file) as reader:
        limit, enough = _limits(max_seconds)
        samples = _collect(_at_16khz(reader.blocks(), reader.rate), enough)
        cut = enough is not None and len(samples) > enough
        reader.check(math.inf if max_seconds is None else max_seconds, whole=not cut)
        check_length(len(samples))
        frames = reader.exact_frames
        whole = None if frames is None else frames / reader.rate
        return Audio(samples[:limit], cut, whole, reader.rate)


def decoded_blocks(
    file: AudioFile, on_open: Callable[[int], object] | None = None
) -> Iterator[np.ndarray]:
    """The samples of `decode(file)`, block by block: int16 [samples].

    on_open: is called with the file's rate in Hz.

    Raises DecodeError as it does, which can be after some blocks: a truncated file is found at its
    end.
    """
    total = 0
    with _opened(file) as reader:
        if on_open is not None:
            on_open(reader.rate)
        for block in _at_16khz(reader.blocks(), reader.rate):
            total += len(block)
            reader.check(math.inf, whole=False)
            yield _to_int16(block)
        reader.check(math.inf, whole=True)
    check_length(total)


@contextlib.contextmanager
def _fetched(place: str | os.PathLike) -> Iterator[str]:
    """The path of a copy of an object."""
    path = path_of(place)
    if path.is_dir():
        raise DecodeError("unreadable", "a folder, not a file")
    if not path.exists():
        raise DecodeError("missing", "no such object")
    with local_copy(path) as copy:
        yield os.fspath(copy)


class Form(NamedTuple):
    """Rate in Hz and number of channels of a file; its length where the header is exact."""

    rate: int
    channels: int
    seconds: float | None


def form_of(file: AudioFile) -> Form:
    """What a file's header says. Raises DecodeError as `decode` does."""
    with _opened(file) as reader:
        frames = reader.exact_frames
        return Form(reader.rate, reader.channels, None if frames is None else frames / reader.rate)


def measure_seconds(file: AudioFile) -> float:
    """Seconds of audio in a file, which is decoded only where neither header nor packets say it.

    Encoders pad, so it may be some hundredths of a second more than what `decode` gives. Raises
    DecodeError as `decode` does.
    """
    with _opened(file) as reader:
        frames = reader.exact_frames
        return reader.measure_seconds() if frames is None else frames / reader.rate


@contextlib.contextmanager
def _opened(file: AudioFile) -> Iterator[Reader]:
    """The reader of a file, whose errors become DecodeErrors; one in a bucket is copied first."""
    if isinstance(file, str | os.PathLike) and is_remote(file):
        with _fetched(file) as copy, _opened(copy) as reader:
            yield reader
        return
    with contextlib.ExitStack() as stack:
        source: Any = file
        try:
            if isinstance(file, str | os.PathLike):
                source = stack.enter_context(open(file, "rb"))
            is_empty = source.seek(0, io.SEEK_END) == 0
        except FileNotFoundError as error:
            raise DecodeError("missing", "no such file") from error
        except IsADirectoryError as error:
            raise DecodeError("unreadable", "a folder, not a file") from error
        except OSError as error:
            raise DecodeError("unreadable", one_line(error)) from error
        if is_empty:
            raise DecodeError("empty", "0 bytes")
        reader = stack.enter_context(contextlib.closing(_reader(source, source is not file)))
        check_form(reader.rate, reader.channels)
        yield reader


def _reader(file: IO[bytes], is_ours: bool) -> Reader:
    """libsndfile's reader, or FFmpeg's for what libsndfile does not read to the exact frame."""
    file.seek(0)
    # libsndfile warns of mp3 files on standard error before they are left to FFmpeg.
    if not str(getattr(file, "name", "")).lower().endswith(".mp3"):
        with contextlib.suppress(DecodeError):
            return LibsndfileReader(file, has_descriptor=is_ours)
        file.seek(0)
    return FFmpegReader(file)


def from_samples(samples: np.ndarray, rate: int, max_seconds: float | None = None) -> Audio:
    """As `decode`, of samples that are in memory: int16 [samples] at `rate` Hz, mono.

    Raises DecodeError where they are too short, or the rate is none.
    """
    check_form(rate, 1)
    limit, enough = _limits(max_seconds)
    blocks = iter([samples if rate == SAMPLE_RATE else samples / np.float32(_FULL_SCALE)])
    found = _collect(_at_16khz(blocks, rate), enough)
    check_length(len(found))
    cut = enough is not None and len(found) > enough
    return Audio(found[:limit], cut, len(samples) / rate, rate)


def _limits(max_seconds: float | None) -> tuple[int | None, int | None]:
    """Samples to keep, and how many more than that are called a cut."""
    if max_seconds is None:
        return None, None
    limit = round(max_seconds * SAMPLE_RATE)
    return limit, limit + round(CUT_TOLERANCE_SECONDS * SAMPLE_RATE)


def check_length(samples: int) -> None:
    """Raises DecodeError for fewer than 0.1 s of samples at 16 kHz."""
    if samples < MIN_SAMPLES:
        length = f"{samples / SAMPLE_RATE:.3f} s"
        raise DecodeError("too short", f"{length}, at least {MIN_SECONDS} s are needed")


def _at_16khz(blocks: Iterator[np.ndarray], rate: int) -> Iterator[np.ndarray]:
    """The blocks resampled as one stream, which equals resampling the whole."""
    if rate == SAMPLE_RATE:
        yield from blocks
        return
    stream = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
    for block in blocks:
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def _collect(blocks: Iterator[np.ndarray], enough: int | None) -> np.ndarray:
    """The blocks joined: int16 [samples]; stops as soon as more than `enough` samples are there."""
    parts, total = [np.zeros(0, np.int16)], 0
    for block in blocks:
        parts.append(_to_int16(block))
        total += len(block)
        if enough is not None and total > enough:
            break
    return np.concatenate(parts)


def _to_int16(samples: np.ndarray) -> np.ndarray:
    """Float samples in [-1, 1] rounded to int16, saturating; int16 as it is."""
    if samples.dtype == np.int16:
        return samples
    with np.errstate(over="ignore"):  # beyond all measure, and clipped
        scaled = np.rint(samples * _FULL_SCALE)
    return np.clip(scaled, -_FULL_SCALE, _FULL_SCALE - 1).astype(np.int16)
