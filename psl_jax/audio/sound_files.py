"""Files that libsndfile reads: wav, flac, ogg, mp3, aiff and others."""

import contextlib
import os
import re
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
import soundfile

from psl_jax.audio import stream_checks
from psl_jax.audio.readers import (
    BLOCK_SAMPLES,
    DecodeError,
    Reader,
    check_finite,
    check_form,
    mean_over_channels,
    one_line,
)
from psl_jax.audio.segments import SAMPLE_RATE

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


class _Seekable:
    """A binary file that takes any place to go to: headers of damaged files name some before 0."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self.read, self.tell = file.read, file.tell

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return self._file.seek(offset, whence)
        except (ValueError, OSError, OverflowError):
            return self._file.tell()


class SoundFileReader(Reader):
    """An open file; see `Reader`."""

    def __init__(self, source: soundfile.SoundFile, file: str | os.PathLike | IO[bytes]):
        check_form(source.samplerate, source.channels)
        self._source, self._file = source, file
        self.rate, self.channels = source.samplerate, source.channels
        self.exact_frames = _exact_frames(source)
        self._frames = 0  # read so far
        self._error: Exception | None = None

    def blocks(self) -> Iterator[np.ndarray]:
        """See `Reader.blocks`; what needs no computing, 16 kHz mono of 16 bits, comes as int16.

        A decoder error ends the blocks: what it means depends on how many frames had to come.
        """
        source = self._source
        block = max(BLOCK_SAMPLES // source.channels, 1)
        ready = (source.samplerate, source.channels, source.subtype) == (SAMPLE_RATE, 1, "PCM_16")
        dtype = "int16" if ready else "float32"
        while True:
            try:
                data = source.read(block, dtype=dtype, always_2d=True)  # [frames, channels]
            except soundfile.LibsndfileError as error:
                self._error = error
                return
            if not len(data):
                return
            mono = data[:, 0] if ready else mean_over_channels(data)
            if not ready:
                check_finite(mono, self._frames, self.rate)
            self._frames += len(data)
            yield mono

    def check(self, seconds: float, whole: bool) -> None:
        """See `Reader.check`."""
        if self._source.format in ("MP3", "MPEG", "OGG"):
            stream_checks.check(self._file, seconds, self._frames if whole else None)
        if whole:
            self._check_whole()

    def _check_whole(self) -> None:
        expected, rate = self.exact_frames, self.rate
        if self._frames == 0 and self._error is not None and expected is None:
            raise DecodeError("undecodable", one_line(self._error))
        if expected and (trimmed := _TRIMMED_CHUNK.search(self._source.extra_info or "")):
            claimed, held = int(trimmed[1]), int(trimmed[2])
            if 0 < held < claimed < _STREAMED_SIZE:
                expected = round(expected * claimed / held)
        if expected is not None and self._frames < expected:
            raise DecodeError(
                "truncated",
                f"ends after {self._frames / rate:.2f} s, its header says {expected / rate:.2f} s",
            )
        if self._error is not None:
            detail = f"broken after {self._frames / rate:.2f} s: {one_line(self._error)}"
            raise DecodeError("truncated", detail)


@contextlib.contextmanager
def opened(file: str | os.PathLike | IO[bytes]) -> Iterator[SoundFileReader]:
    """The reader of a file, whose errors become DecodeErrors."""
    # An absolute path: libsndfile takes the name "-" for standard input. As bytes: not all names
    # are UTF-8.
    where: Any = _Seekable(file) if not isinstance(file, str | os.PathLike) else _path(file)
    try:
        with _Forward(where) as source:
            yield SoundFileReader(source, file)
    except (soundfile.LibsndfileError, TypeError, ValueError) as error:
        # TypeError and ValueError: python-soundfile's own refusals, as of headerless .raw files.
        detail = one_line(error).rstrip(".")
        if "not recognised" in detail:
            detail += ": this is no audio, or its beginning is damaged"
        raise DecodeError("undecodable", detail) from error
    except OSError as error:
        raise DecodeError("unreadable", one_line(error)) from error


def _path(path: str | os.PathLike) -> bytes:
    return os.fsencode(os.path.abspath(path))


def _exact_frames(source: soundfile.SoundFile) -> int | None:
    """How many frames the header says there are, where that can be relied on."""
    exact = source.format in _EXACT_LENGTH_FORMATS and source.frames < _UNKNOWN_FRAMES
    if exact and source.frames == 0:
        raise DecodeError("empty", "a header without any audio")
    return source.frames if exact else None
