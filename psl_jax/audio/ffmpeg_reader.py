"""Reads files by FFmpeg, through PyAV: mp3, ogg, opus, m4a, mp4, webm, wma and many others."""

import contextlib
import io
from collections.abc import Iterator
from typing import IO, Any

import av
import numpy as np

from psl_jax.audio.readers import (
    BLOCK_SAMPLES,
    CUT_TOLERANCE_SECONDS,
    DecodeError,
    Reader,
    average_channels,
    check_alone,
    check_samples,
    format_one_line,
)

# A playlist inside a file must not make FFmpeg open other files or addresses.
_OPTIONS = {"protocol_whitelist": "none"}

# Containers may state a little more than the decoder returns: the encoder's padding.
_LENGTH_TOLERANCE_SECONDS = 2 * CUT_TOLERANCE_SECONDS

_HALF_INT32 = 1 << 31
_LONGEST_OGG_PAGE = 65_307  # bytes
_OGG_HEADER = 27  # bytes, of which the sixth holds flags, the last the number of sizes after it
_LAST_OGG_PAGE = 4


class FFmpegReader(Reader):
    """Reads the first audio stream of a container; see `Reader`."""

    def __init__(self, file: IO[bytes]):
        """file: at its beginning. Raises DecodeError for a file without audio."""
        self._file = file
        try:
            self._container: Any = av.open(file, metadata_errors="ignore", options=_OPTIONS)
        except av.FFmpegError as error:
            detail = f"{format_one_line(error)}: this is no audio, or its beginning is damaged"
            raise DecodeError("undecodable", detail) from error
        streams = self._container.streams.audio
        context = streams[0].codec_context if streams else None
        if context is None or not context.sample_rate:
            self._container.close()
            detail = "an unknown kind of audio stream" if streams else "it holds no audio stream"
            raise DecodeError("undecodable", detail)
        self._stream: Any = streams[0]
        if context.name in ("wavpack", "tta"):  # checksums, of which they decode noise else
            context.options = {"err_detect": "crccheck+explode"}
        self.rate, self.channels = context.sample_rate, context.channels
        self._bit_rate = context.bit_rate
        self._first_byte = 0  # of the stream in the file
        self._read_to = 0  # bytes
        self._frames = 0  # read so far
        self._damage_seconds: float | None = None  # seconds
        self._is_cut_off = False
        self._error: av.FFmpegError | None = None

    def close(self) -> None:
        self._container.close()

    def measure_seconds(self) -> float:
        """See `Reader.measure_seconds`: of the packets, which are not decoded.

        FFmpeg gives the last packet of an Ogg file a negative duration, as 32 bits without a sign.
        """
        total = 0
        with contextlib.suppress(av.FFmpegError):
            for packet in self._container.demux(self._stream):
                total += ((packet.duration or 0) + _HALF_INT32) % (2 * _HALF_INT32) - _HALF_INT32
        if total:
            return float(total * self._stream.time_base)
        self._container.seek(0)
        return super().measure_seconds()

    def blocks(self) -> Iterator[np.ndarray]:
        """See `Reader.blocks`; the blocks end where a container cannot be read on."""
        waiting: list[np.ndarray] = []
        num_waiting = 0  # samples of all channels
        for data in self._decode():
            mono = average_channels(data.T)
            check_samples(mono, self._frames, self.rate)
            self._frames += len(mono)
            waiting.append(mono)
            num_waiting += data.size
            if num_waiting >= BLOCK_SAMPLES:
                yield np.concatenate(waiting)
                waiting, num_waiting = [], 0
        if waiting:
            yield np.concatenate(waiting)

    def _decode(self) -> Iterator[np.ndarray]:
        """Decodes the frames of the stream, float32 [channels, frames], and notes damage.

        What FFmpeg marks as corrupt or cannot decode is damage if audio follows it; else it is a
        tag, or a packet that was cut off.
        """
        marked_seconds: float | None = None
        end_seconds: float | None = None  # of the last frame, by the container's clock
        resampler, form = None, None
        try:
            for packet in self._container.demux(self._stream):
                self._first_byte = self._first_byte or packet.pos or 0
                self._read_to = (packet.pos or 0) + packet.size or self._read_to
                is_bad = packet.is_corrupt
                try:
                    frames = packet.decode()
                except (av.InvalidDataError, av.UndefinedError):  # the latter of ac3 and aac
                    frames, is_bad = [], True
                for frame in frames:
                    if end_seconds is not None and frame.time is not None:
                        is_gap = frame.time > end_seconds + CUT_TOLERANCE_SECONDS
                        is_damage = packet.size and (is_gap or marked_seconds is not None)
                        if is_damage and self._damage_seconds is None:
                            at = self._seconds if marked_seconds is None else marked_seconds
                            self._damage_seconds = at
                    if frame.time is not None:
                        end_seconds = frame.time + frame.samples / frame.sample_rate
                    is_bad = is_bad or frame.is_corrupt
                    if form != (form := (frame.format.name, frame.layout.name, frame.sample_rate)):
                        resampler = av.AudioResampler(format="fltp", rate=self.rate)
                    assert resampler is not None
                    yield from (part.to_ndarray() for part in resampler.resample(frame))
                if packet.size:
                    self._is_cut_off = packet.is_corrupt
                    if is_bad and self._frames:
                        marked_seconds = self._seconds
        except av.FFmpegError as error:
            self._error = error

    @property
    def _seconds(self) -> float:
        return self._frames / self.rate

    def check(self, seconds: float, whole: bool) -> None:
        """See `Reader.check`."""
        if self._damage_seconds is not None and self._damage_seconds < seconds:
            raise DecodeError("damaged", f"the data at {self._damage_seconds:.2f} s are damaged")
        if not whole:
            return
        if not self._frames:
            detail = format_one_line(self._error) if self._error else "it holds nothing to decode"
            raise DecodeError("undecodable", detail)
        expected_seconds = self._stated_seconds()
        is_short = expected_seconds is None or (
            self._seconds < min(expected_seconds, seconds) - _LENGTH_TOLERANCE_SECONDS
        )
        if self._error is not None and (is_short or not self._is_tag_behind()):
            detail = f"broken after {self._seconds:.2f} s: {format_one_line(self._error)}"
            raise DecodeError("truncated", detail)
        if expected_seconds is not None and is_short:
            detail = f"ends after {self._seconds:.2f} s, its header says {expected_seconds:.2f} s"
            raise DecodeError("truncated", detail)
        if self._is_cut_off or self._lacks_last_ogg_page() or self._is_cut_avi():
            raise DecodeError("truncated", f"cut off after {self._seconds:.2f} s")
        check_alone(self._file, self._seconds, self._read_to)

    def _stated_seconds(self) -> float | None:
        """Returns the container's length; None where FFmpeg estimated it from the bytes."""
        stream, container = self._stream, self._container
        if stream.duration is not None:
            stated_seconds = float(stream.duration * stream.time_base)
        elif container.duration is not None and len(container.streams) == 1:
            # Of all streams together: with a video beside it the audio may be shorter.
            stated_seconds = container.duration / 1e6
        else:
            return None
        if self._bit_rate:
            estimated_seconds = (container.size - self._first_byte) * 8 / self._bit_rate
            if abs(stated_seconds - estimated_seconds) < _LENGTH_TOLERANCE_SECONDS:
                return None
        return stated_seconds

    def _is_tag_behind(self) -> bool:
        """Tells whether a WavPack file ends in a tag, which FFmpeg takes for a damaged block."""
        if self._container.format.name != "wv":
            return False
        self._file.seek(self._read_to)
        return b"wvpk" not in self._file.read()

    def _is_cut_avi(self) -> bool:
        """Tells whether an AVI file ends early; FFmpeg states the length of the rest."""
        self._file.seek(0)
        header = self._file.read(8)
        is_avi = self._container.format.name == "avi" and header[:4] == b"RIFF"
        return is_avi and 8 + int.from_bytes(header[4:], "little") > self._container.size

    def _lacks_last_ogg_page(self) -> bool:
        """Tells whether an Ogg file, which states no length, lacks its marked last page."""
        if self._container.format.name != "ogg":
            return False
        self._file.seek(0, io.SEEK_END)
        self._file.seek(max(self._file.tell() - 2 * _LONGEST_OGG_PAGE, 0))
        tail = self._file.read()
        page = tail[max(tail.rfind(b"OggS"), 0) :]
        if len(page) < _OGG_HEADER:
            return True
        body = _OGG_HEADER + page[_OGG_HEADER - 1]
        size = body + sum(page[_OGG_HEADER:body])
        return not page[5] & _LAST_OGG_PAGE or len(page) < size
