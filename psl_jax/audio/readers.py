"""Defines a reader of audio files, its errors, and the checks that all readers share."""

import abc
import numbers
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

# A loss shorter than this is not called a cut: encoders pad by a few hundredths of a second.
CUT_TOLERANCE_SECONDS = 0.1

MIN_RATE, MAX_RATE = 1000, 1_000_000  # Hz; a header with another rate is wrong
MAX_CHANNELS = 64
LOUDEST_SENSIBLE = 100.0  # sample in floating point, whose full scale is 1

# Of a file's beginning: the bytes that stand there alone, too many to be met with in its sound.
_HEADER_BYTES = {
    b"fLaC": 8,
    b"RF64": 8,
    b"caff": 12,
    b".snd": 8,
    b"FLV\1": 9,
    b"TTA1": 8,
    b"Crea": 20,
}

BLOCK_SAMPLES = 1 << 18  # of all channels together: 1 MiB of float32 at a time


class DecodeError(Exception):
    """A file without usable audio; `detail` is the reason in one line.

    kind: "missing", "unreadable", "empty", "undecodable", "truncated", "damaged", "too short", "too
    long" or "not finite".
    """

    def __init__(self, kind: str, detail: str):
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.kind, self.detail)


class Reader(abc.ABC):
    """An open file that is read once, from its beginning."""

    rate: int  # Hz
    channels: int  # which are averaged
    exact_frames: int | None = None  # where the file states it reliably

    @property
    def exact_seconds(self) -> float | None:
        return None if self.exact_frames is None else self.exact_frames / self.rate

    @abc.abstractmethod
    def blocks(self) -> Iterator[np.ndarray]:
        """Yields the mean over channels in blocks: finite float32 [frames], or int16 as it is."""

    def measure_seconds(self) -> float:
        """Seconds of audio, found by reading to the end where the file does not say it."""
        return sum(map(len, self.blocks())) / self.rate

    @abc.abstractmethod
    def close(self) -> None:
        """Frees the decoder; the file stays open."""

    @abc.abstractmethod
    def check(self, seconds: float, whole: bool) -> None:
        """Raises DecodeError for what is missing or damaged in the first `seconds`, or in all."""


def check_form(rate: Any, channels: int) -> None:
    """Raises DecodeError for an impossible rate or number of channels."""
    is_number = isinstance(rate, numbers.Real)
    if not is_number:
        raise DecodeError("undecodable", f"a sample rate of {rate!r:.40}, expected a number of Hz")
    if not MIN_RATE <= rate <= MAX_RATE:
        expected = f"expected {MIN_RATE:,} to {MAX_RATE:,}"
        raise DecodeError("undecodable", f"a sample rate of {rate:g} Hz, {expected}")
    if not 1 <= channels <= MAX_CHANNELS:
        raise DecodeError("undecodable", f"{channels} channels, expected 1 to {MAX_CHANNELS}")


def check_alone(file: IO[bytes], seconds: float, read_to: int = 0) -> None:
    """Raises DecodeError where another file follows, as after `cat`; decoders end there.

    read_to: byte up to which the decoder read, where it may go on in another file.
    """
    file.seek(0)
    start = file.read(20)
    name, size = start[:4], start[4:8]
    is_alone = True
    if name in _HEADER_BYTES:
        file.seek(0)
        header, num_headers, tail = start[: _HEADER_BYTES[name]], 0, b""
        while block := file.read(1 << 20):
            num_headers += (tail + block).count(header)
            tail = block[1 - len(header) :]
        is_alone = num_headers == 1
    elif name in (b"RIFF", b"FORM"):
        file.seek(8 + int.from_bytes(size, "little" if name == b"RIFF" else "big"))
        following = file.read(12)
        is_alone = following[:4] != name or following[8:] == b"AVIX"  # a long AVI goes on in it
    elif start[4:8] == b"ftyp":
        is_alone = not any(box == b"ftyp" for box in _list_boxes(file, read_to))
    if not is_alone:
        raise DecodeError("truncated", f"another file begins after {seconds:.2f} s: part them")


def _list_boxes(file: IO[bytes], start: int) -> Iterator[bytes]:
    """Yields the names of an MP4 file's boxes that begin at byte `start` or later.

    The first box is left out. The end of the file may count as one with an empty name.
    """
    place = 0
    while True:
        file.seek(place)
        header = file.read(16)
        size = int.from_bytes(header[:4], "big")
        if place and place >= start:
            yield header[4:8]
        if size == 1:  # then 64 bits follow
            size = int.from_bytes(header[8:], "big")
        if size < 8:  # the last box, or none
            return
        place += size


def average_channels(data: np.ndarray) -> np.ndarray:
    """Averages float32 [frames, channels] to [frames]; columns are faster than `mean(axis=1)`."""
    mono = data[:, 0].copy()
    with np.errstate(over="ignore", invalid="ignore"):  # check_samples follows
        for channel in range(1, data.shape[1]):
            mono += data[:, channel]
        return mono / data.shape[1] if data.shape[1] > 1 else mono


def check_samples(mono: np.ndarray, first_sample: int, rate: int) -> None:
    """Raises DecodeError for a NaN, an infinite sample, or one that is beyond any overshoot.

    first_sample: the number of mono[0].
    """
    if not np.isfinite(mono).all():
        sample = first_sample + int(np.argmin(np.isfinite(mono)))
        raise DecodeError("not finite", f"NaN or infinite sample at {sample / rate:.3f} s")
    if (peak := np.abs(mono).max(initial=0)) > LOUDEST_SENSIBLE:
        detail = f"samples up to {peak:g}, expected -1 to 1: divide those of 16 bits by 32768"
        raise DecodeError("undecodable", detail)


def format_one_line(error: Exception) -> str:
    """Formats the message of an error in one line."""
    text = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
    text = text or type(error).__name__
    return " ".join(str(text).split())
