"""Reads files of which libsndfile knows the exact frames: wav, flac, aiff, w64, caf, au."""

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
    average_channels,
    check_alone,
    check_samples,
    format_one_line,
)
from psl_jax.audio.segments import SAMPLE_RATE

_UNKNOWN_FRAMES = 1 << 62  # libsndfile reports more for a stream that does not state its length

# Containers whose header states the number of frames.
_EXACT_LENGTH_FORMATS = frozenset({"WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "FLAC", "CAF"})

# libsndfile trims the length of a chunk that claims more bytes than the file holds, and logs it:
# "data : 320000 (should be 100000)"; of w64 and RF64 it logs this for the whole file only.
_TRIMMED_CHUNK = re.compile(
    r"^\s*(?:data|SSND|Data Size|riff|Riff size)\s*:\s*(\d+) \(should be (\d+)\)", re.MULTILINE
)
_STREAMED_SIZE = 0x7FFF0000  # a size from here on means "unknown": written to a pipe


class _ForwardFile(soundfile.SoundFile):  # type: ignore[misc]  # soundfile has no types
    """A file that python-soundfile never seeks in: that fails in a flac without a length."""

    def seekable(self) -> bool:
        return False


class _LenientFile:
    """A binary file that accepts any offset: headers of damaged files have negative ones.

    Where it cannot be read it ends: FFmpeg, which comes next, names the reason.
    """

    def __init__(self, file: IO[bytes]):
        self._file = file
        self.tell = file.tell

    def read(self, size: int) -> bytes:
        try:
            return bytes(self._file.read(size))
        except Exception:  # of the object that was given, such as a cut gzip file
            return b""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return self._file.seek(offset, whence)
        except (ValueError, OSError, OverflowError):
            return self._file.tell()


class LibsndfileReader(Reader):
    """An open file; see `Reader`."""

    def __init__(self, file: IO[bytes], has_descriptor: bool):
        """Opens a file at its beginning. Raises DecodeError for a format without exact frames.

        libsndfile gets no file name, whose suffix it would trust. has_descriptor: reads by the
        file's descriptor, which is faster.
        """
        self._file = file
        where: Any = file.fileno() if has_descriptor else _LenientFile(file)
        try:
            self._source = _ForwardFile(where, closefd=False)
        except (soundfile.LibsndfileError, TypeError, ValueError) as error:
            raise DecodeError("undecodable", format_one_line(error)) from error
        source = self._source
        if source.format not in _EXACT_LENGTH_FORMATS or source.subtype.startswith("MPEG"):
            source.close()
            raise DecodeError("undecodable", f"{source.format} is left to FFmpeg")
        self.rate, self.channels = source.samplerate, source.channels
        self.exact_frames = source.frames if source.frames < _UNKNOWN_FRAMES else None
        self._frames = 0  # read so far
        self._error: Exception | None = None

    def close(self) -> None:
        self._source.close()

    def blocks(self) -> Iterator[np.ndarray]:
        """See `Reader.blocks`; 16 kHz mono of 16 bits, which needs no computing, comes as int16.

        They end at a decoder error, whose meaning depends on the number of frames that are missing.
        """
        source = self._source
        max_frames = max(BLOCK_SAMPLES // source.channels, 1)
        form = (source.samplerate, source.channels, source.subtype)
        is_ready = form == (SAMPLE_RATE, 1, "PCM_16")
        dtype = "int16" if is_ready else "float32"
        # We stop at the last frame: what follows it, such as a tag of a flac, is no audio.
        while num_frames := min(max_frames, source.frames - self._frames):
            try:
                data = source.read(num_frames, dtype=dtype, always_2d=True)  # [frames, channels]
            except soundfile.LibsndfileError as error:
                self._error = error
                return
            if not len(data):
                return
            mono = data[:, 0] if is_ready else average_channels(data)
            if not is_ready:
                check_samples(mono, self._frames, self.rate)
            self._frames += len(data)
            yield mono

    def check(self, seconds: float, whole: bool) -> None:
        """See `Reader.check`."""
        if not whole:
            return
        expected_frames, rate = self.exact_frames, self.rate
        if expected_frames == 0:
            raise DecodeError("empty", "a header without any audio")
        if self._frames == 0 and self._error is not None and expected_frames is None:
            raise DecodeError("undecodable", format_one_line(self._error))
        if expected_frames and (trimmed := _TRIMMED_CHUNK.search(self._source.extra_info or "")):
            claimed_bytes, held_bytes = int(trimmed[1]), int(trimmed[2])
            if 0 < held_bytes < claimed_bytes < _STREAMED_SIZE:
                expected_frames = round(expected_frames * claimed_bytes / held_bytes)
        if expected_frames is not None and self._frames < expected_frames:
            raise DecodeError(
                "truncated",
                f"ends after {self._frames / rate:.2f} s, its header says "
                f"{expected_frames / rate:.2f} s",
            )
        if self._error is not None:
            detail = f"broken after {self._frames / rate:.2f} s: {format_one_line(self._error)}"
            raise DecodeError("truncated", detail)
        check_alone(self._file, self._frames / rate)
