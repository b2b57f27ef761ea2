"""Audio files of any kind to 16 kHz mono int16: the one decoder of every corpus.

Imports neither TensorFlow nor TFDS, and its functions are pure and picklable, so that a thread,
a process or a Beam worker can run them.
"""

import contextlib
import dataclasses
import io
import os
import re
from collections.abc import Iterator
from typing import IO

import numpy as np
import soundfile
import soxr

from psl_jax.audio.segments import SAMPLE_RATE

AudioFile = str | os.PathLike | IO[bytes]

MIN_SECONDS = 0.1
MIN_SAMPLES = round(MIN_SECONDS * SAMPLE_RATE)

# A loss shorter than this is not called a cut: encoders pad by a few hundredths of a second.
CUT_TOLERANCE_SECONDS = 0.1

_BLOCK_SAMPLES = 1 << 18  # of all channels together: 1 MiB of float32 at a time
_FULL_SCALE = 32768.0
_UNKNOWN_FRAMES = 1 << 62  # what libsndfile reports for a stream that does not say its length

# Containers whose header tells the exact number of frames. An mp3 or Ogg file has no such count.
_EXACT_LENGTH_FORMATS = frozenset({"WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "FLAC", "CAF"})

# libsndfile trims the length of a chunk that claims more bytes than the file holds, and says so
# in its log: "data : 320000 (should be 100000)".
_TRIMMED_CHUNK = re.compile(
    r"^\s*(?:data|SSND|Data Size)\s*:\s*(\d+) \(should be (\d+)\)", re.MULTILINE
)
_STREAMED_SIZE = 0x7FFF0000  # a size from here on means "unknown": written to a pipe


class _Forward(soundfile.SoundFile):
    """A file read from start to end: python-soundfile then does without a seek after each block.

    The seek fails in a flac that does not say its length, as one written to a pipe.
    """

    def seekable(self) -> bool:
        return False


class DecodeError(Exception):
    """A file that gives no usable audio.

    Attributes:
      kind: "missing", "unreadable", "empty", "undecodable", "truncated", "too short" or
        "not finite".
      detail: what was found, in one line.
    """

    def __init__(self, kind: str, detail: str):
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail

    def __reduce__(self):
        return type(self), (self.kind, self.detail)


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
    """Decodes wav, flac, ogg, mp3 or whatever else libsndfile reads, at any rate and channels.

    Channels are averaged and other rates resampled with soxr HQ; values past full scale saturate.
    16 kHz mono 16-bit sources come out bit for bit. The file is read block by block and only as
    far as `max_seconds` needs, so memory is bounded by the result.

    Args:
      file: a path or a seekable binary file object.
      max_seconds: where to cut; None reads everything.

    Raises:
      DecodeError: no usable audio; its `kind` and `detail` say why. A file that ends before the
        length in its header is "truncated", unless all of the first `max_seconds` are there.
        (Headers of mp3 and Ogg files give no length to rely on: such a file is what it holds.)
    """
    with _opened(file) as source:
        return _decode_source(source, max_seconds)


def decoded_blocks(file: AudioFile) -> Iterator[np.ndarray]:
    """The samples of `decode(file)`, block by block: int16 [samples].

    Raises DecodeError as it does, which can be after some blocks: a truncated file is found at its
    end.
    """
    counter, total = _Counter(), 0
    with _opened(file) as source:
        frames = _exact_frames(source)
        for block in _at_16khz(_mono_blocks(source, counter), source.samplerate):
            total += len(block)
            yield _to_int16(block)
        _check_whole(source, frames, counter)
    check_length(total)


@contextlib.contextmanager
def _opened(file: AudioFile) -> Iterator[soundfile.SoundFile]:
    """An open file, whose errors become DecodeErrors."""
    _check_readable(file)
    try:
        with _Forward(_for_libsndfile(file)) as source:
            yield source
    except (soundfile.LibsndfileError, TypeError, ValueError) as error:
        # TypeError and ValueError: python-soundfile's own refusals, as of headerless .raw files.
        raise DecodeError("undecodable", _one_line(error)) from error
    except OSError as error:
        raise DecodeError("unreadable", _one_line(error)) from error


def from_samples(samples: np.ndarray, rate: int, max_seconds: float | None = None) -> Audio:
    """As `decode`, of samples that are in memory: int16 [samples] at `rate` Hz, mono.

    Raises DecodeError where they are too short.
    """
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


def _check_readable(file: AudioFile) -> None:
    if not isinstance(file, str | os.PathLike):
        file.seek(0, io.SEEK_END)
        size = file.tell()
        file.seek(0)
    elif not os.path.exists(file):
        raise DecodeError("missing", "no such file")
    elif os.path.isdir(file):
        raise DecodeError("unreadable", "a folder, not a file")
    else:
        size = os.path.getsize(file)
    if size == 0:
        raise DecodeError("empty", "0 bytes")


def _for_libsndfile(file: AudioFile) -> str | IO[bytes]:
    # An absolute path: libsndfile takes the name "-" for standard input.
    return os.path.abspath(file) if isinstance(file, str | os.PathLike) else file


def _decode_source(source: soundfile.SoundFile, max_seconds: float | None) -> Audio:
    frames = _exact_frames(source)
    limit, enough = _limits(max_seconds)
    counter = _Counter()
    samples = _collect(_at_16khz(_mono_blocks(source, counter), source.samplerate), enough)
    cut = enough is not None and len(samples) > enough
    if not cut:
        _check_whole(source, frames, counter)
    check_length(len(samples))
    whole = None if frames is None else frames / source.samplerate
    return Audio(samples[:limit], cut, whole, source.samplerate)


def _exact_frames(source: soundfile.SoundFile) -> int | None:
    """How many frames the header says there are, where that can be relied on."""
    exact = source.format in _EXACT_LENGTH_FORMATS and source.frames < _UNKNOWN_FRAMES
    if exact and source.frames == 0:
        raise DecodeError("empty", "a header without any audio")
    return source.frames if exact else None


class _Counter:
    """Frames read so far, and the decoder's error where it met one."""

    def __init__(self) -> None:
        self.frames = 0
        self.error: Exception | None = None


def _mono_blocks(source: soundfile.SoundFile, counter: _Counter) -> Iterator[np.ndarray]:
    """Blocks of the mean over channels: float32 [frames], finite.

    What needs no computing, 16 kHz mono of 16 bits, comes as the int16 it is. A decoder error ends
    the blocks and is left in `counter`: what it means depends on how many frames had to come.
    """
    block = max(_BLOCK_SAMPLES // source.channels, 1)
    ready = (source.samplerate, source.channels, source.subtype) == (SAMPLE_RATE, 1, "PCM_16")
    dtype = "int16" if ready else "float32"
    while True:
        try:
            data = source.read(block, dtype=dtype, always_2d=True)  # [frames, channels]
        except soundfile.LibsndfileError as error:
            counter.error = error
            return
        if not len(data):
            return
        mono = data[:, 0] if ready else _mean_over_channels(data)
        if not ready and not np.isfinite(mono).all():
            at = counter.frames + int(np.argmin(np.isfinite(mono)))
            raise DecodeError(
                "not finite", f"NaN or infinite sample at {at / source.samplerate:.3f} s"
            )
        counter.frames += len(data)
        yield mono


def _mean_over_channels(data: np.ndarray) -> np.ndarray:
    """float32 [frames, channels] to float32 [frames]; column by column beats `mean(axis=1)`."""
    mono = data[:, 0].copy()
    for channel in range(1, data.shape[1]):
        mono += data[:, channel]
    return mono / data.shape[1] if data.shape[1] > 1 else mono


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


def _check_whole(source: soundfile.SoundFile, frames: int | None, counter: _Counter) -> None:
    """Raises DecodeError where the file ended before its header's length, or in an error."""
    if counter.frames == 0 and counter.error is not None and frames is None:
        raise DecodeError("undecodable", _one_line(counter.error))
    rate = source.samplerate
    expected = frames
    if expected and (trimmed := _TRIMMED_CHUNK.search(source.extra_info or "")):
        claimed, held = int(trimmed[1]), int(trimmed[2])
        if 0 < held < claimed < _STREAMED_SIZE:
            expected = round(expected * claimed / held)
    if expected is not None and counter.frames < expected:
        raise DecodeError(
            "truncated",
            f"ends after {counter.frames / rate:.2f} s, its header says {expected / rate:.2f} s",
        )
    if counter.error is not None:
        raise DecodeError(
            "truncated", f"broken after {counter.frames / rate:.2f} s: {_one_line(counter.error)}"
        )


def _to_int16(samples: np.ndarray) -> np.ndarray:
    """Float samples in [-1, 1] rounded to int16, saturating; int16 as it is."""
    if samples.dtype == np.int16:
        return samples
    return np.clip(np.rint(samples * _FULL_SCALE), -_FULL_SCALE, _FULL_SCALE - 1).astype(np.int16)


def _one_line(error: Exception) -> str:
    text = getattr(error, "error_string", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())
