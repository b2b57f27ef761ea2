"""Files that libsndfile reads to the exact frame: wav, flac, aiff, w64, caf, au."""

import os
import re
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
import soundfile

from psl_jax.audio.readers import (
    BLOCK_SAMPLES,
    DecodeError,
    Reader,
    check_alone,
    check_finite,
    mean_over_channels,
    one_line,
)
from psl_jax.audio.segments import SAMPLE_RATE

_UNKNOWN_FRAMES = 1 << 62  # what libsndfile reports for a stream that does not state its length

# Containers whose header states the number of frames.
_EXACT_LENGTH_FORMATS = frozenset({"WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "FLAC", "CAF"})

# libsndfile trims the length of a chunk that claims more bytes than the file holds, and logs it:
# "data : 320000 (should be 100000)"; of w64 and RF64 it logs this for the whole file only.
_TRIMMED_CHUNK = re.compile(
    r"^\s*(?:data|SSND|Data Size|riff|Riff size)\s*:\s*(\d+) \(should be (\d+)\)", re.MULTILINE
)
_STREAMED_SIZE = 0x7FFF0000  # a size from here on means "unknown": written to a pipe


class _ForwardFile(soundfile.SoundFile):
    """A file read from start to end: python-soundfile then does without a seek after each block.

    The seek fails in a flac that does not state its length, as one written to a pipe.
    """

    def seekable(self) -> bool:
        return False


class _LenientFile:
    """A binary file that accepts any offset: headers of damaged files name some before 0."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self.read, self.tell = file.read, file.tell

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return self._file.seek(offset, whence)
        except (ValueError, OSError, OverflowError):
            return self._file.tell()


class LibsndfileReader(Reader):
    """An open file; see `Reader`."""

    def __init__(self, file: IO[bytes], has_descriptor: bool):
        """file: at its beginning; by a descriptor it is read faster.

        libsndfile is given no file name: by the name it would look for a resource fork beside the
        file, and trust the name's ending.

        Raises DecodeError for a format that libsndfile does not read to the exact frame.
        """
        self._file = file
        where: Any = file.fileno() if has_descriptor else _LenientFile(file)
        try:
            self._source = _ForwardFile(where, closefd=False)
        except (soundfile.LibsndfileError, TypeError, ValueError) as error:
            raise DecodeError("undecodable", one_line(error)) from error
        source = self._source
        if source.format not in _EXACT_LENGTH_FORMATS:
            source.close()
            raise DecodeError("undecodable", f"{source.format} is left to FFmpeg")
        self.rate, self.channels = source.samplerate, source.channels
        self.exact_frames = source.frames if source.frames < _UNKNOWN_FRAMES else None
        self._frames = 0  # read so far
        self._error: Exception | None = None

    def close(self) -> None:
        self._source.close()

    def blocks(self) -> Iterator[np.ndarray]:
        """See `Reader.blocks`; what needs no computing, 16 kHz mono of 16 bits, comes as int16.

        A decoder error ends the blocks: what it means depends on how many frames had to come.
        """
        source = self._source
        block = max(BLOCK_SAMPLES // source.channels, 1)
        ready = (source.samplerate, source.channels, source.subtype) == (SAMPLE_RATE, 1, "PCM_16")
        dtype = "int16" if ready else "float32"
        # Not past the last frame: what follows it, as a tag at the end of a flac, is no audio.
        while frames := min(block, source.frames - self._frames):
            try:
                data = source.read(frames, dtype=dtype, always_2d=True)  # [frames, channels]
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
        if not whole:
            return
        expected, rate = self.exact_frames, self.rate
        if expected == 0:
            raise DecodeError("empty", "a header without any audio")
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
        check_alone(self._file, self._frames / rate)
