"""Files that PyAV reads (FFmpeg): m4a, mp4, webm, mkv, aac, wma. An optional extra."""

import contextlib
import os
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

from psl_jax.audio.readers import (
    CUT_TOLERANCE_SECONDS,
    DecodeError,
    Reader,
    check_finite,
    check_form,
    mean_over_channels,
    one_line,
)

SUFFIXES = (".m4a", ".mp4", ".m4b", ".mov", ".webm", ".mkv", ".mka", ".aac", ".wma", ".3gp")
INSTALL = "pip install 'psl_jax[video]'"

_HEAD_BYTES = 12


def is_one(head: bytes) -> bool:
    """Whether a file that begins so is for PyAV: MP4 and its kin, Matroska, ASF, or ADTS."""
    return (
        head[4:8] == b"ftyp"
        or head[:4] in (b"\x1aE\xdf\xa3", b"0&\xb2u")
        or (head[:1] == b"\xff" and len(head) > 1 and head[1] & 0xF6 == 0xF0)
    )


def head_of(file: str | os.PathLike | IO[bytes]) -> bytes:
    """The first bytes of a file, which is left at its beginning."""
    if isinstance(file, str | os.PathLike):
        with open(file, "rb") as opened_file:
            return opened_file.read(_HEAD_BYTES)
    head = file.read(_HEAD_BYTES)
    file.seek(0)
    return head


class VideoReader(Reader):
    """The first audio stream of an open container; see `Reader`."""

    def __init__(self, container: Any):
        if not container.streams.audio:
            raise DecodeError("undecodable", "it holds no audio stream")
        self._container, self._stream = container, container.streams.audio[0]
        context = self._stream.codec_context
        check_form(context.sample_rate, context.channels)
        self.rate, self.channels = context.sample_rate, context.channels
        self._frames = 0
        self._error: Exception | None = None

    def blocks(self) -> Iterator[np.ndarray]:
        """See `Reader.blocks`; a decoder error ends the blocks."""
        import av

        planar = av.AudioResampler(format="fltp")
        try:
            for frame in self._container.decode(self._stream):
                yield from self._mono(planar.resample(frame))
            yield from self._mono(planar.resample(None))
        except av.FFmpegError as error:
            self._error = error

    def _mono(self, frames: Any) -> Iterator[np.ndarray]:
        for frame in frames:
            mono = mean_over_channels(frame.to_ndarray().T)
            check_finite(mono, self._frames, self.rate)
            self._frames += len(mono)
            yield mono

    def check(self, seconds: float, whole: bool) -> None:
        """See `Reader.check`."""
        if not whole:
            return
        found = self._frames / self.rate
        if self._error is not None and not self._frames:
            raise DecodeError("undecodable", one_line(self._error))
        if self._error is not None:
            raise DecodeError("truncated", f"broken after {found:.2f} s: {one_line(self._error)}")
        expected = self._claimed_seconds()
        if expected is not None and found < min(expected, seconds) - 2 * CUT_TOLERANCE_SECONDS:
            detail = f"ends after {found:.2f} s, its header says {expected:.2f} s"
            raise DecodeError("truncated", detail)

    def _claimed_seconds(self) -> float | None:
        stream = self._stream
        if stream.duration is not None:
            return float(stream.duration * stream.time_base)
        # Of all streams together: with a video beside it the audio may be shorter.
        alone = len(self._container.streams) == 1
        duration = self._container.duration if alone else None
        return None if duration is None else duration / 1e6


@contextlib.contextmanager
def opened(file: str | os.PathLike | IO[bytes]) -> Iterator[VideoReader]:
    """The reader of a container, whose errors become DecodeErrors."""
    try:
        import av
    except ImportError as error:
        raise DecodeError("undecodable", f"this kind of file needs PyAV: {INSTALL}") from error
    try:
        where = os.path.abspath(file) if isinstance(file, str | os.PathLike) else file
        with av.open(where, metadata_errors="ignore") as container:
            yield VideoReader(container)
    except av.FFmpegError as error:
        raise DecodeError("undecodable", one_line(error)) from error
    except OSError as error:
        raise DecodeError("unreadable", one_line(error)) from error
