"""Finds what is missing in mp3 and Ogg files, whose decoders pass over damage without a word.

Neither has a header that tells how much audio follows. But both are made of pieces (MPEG frames,
Ogg pages) that say where the next one begins, so that walking over them finds gaps, a cut-off end
and how much there should be to decode. Nothing is decoded here.
"""

import contextlib
import dataclasses
import math
import mmap
import os
import struct
from collections.abc import Iterator
from typing import IO

from psl_jax.audio.readers import CUT_TOLERANCE_SECONDS, DecodeError

_Bytes = bytes | memoryview | mmap.mmap

# MPEG audio layer III: kbit/s by index, of MPEG 1 and of MPEG 2 and 2.5; rates of MPEG 1.
_BITRATES = {
    1: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = (44_100, 48_000, 32_000)
_HEADER_BYTES = 4
_TRIMMED_FRAMES = 4  # that encoders add and decoders take away

_PAGE = struct.Struct("<4sBBqIIIB")  # an Ogg page: magic, version, flags, granule, serial, ...
_FIRST_PAGE, _LAST_PAGE = 2, 4
_OPUS_RATE = 48_000


def check(file: str | os.PathLike | IO[bytes], seconds: float, decoded: int | None) -> None:
    """Raises DecodeError where the first `seconds` of an mp3 or Ogg file are not all there.

    Args:
      file: a path, or a seekable binary file object.
      seconds: how much is used, where the decoder did not come to the end.
      decoded: frames that it gave, where it did.
    """
    seconds = seconds if decoded is None else math.inf
    with _content(file) as content:
        if content[:4] == b"OggS":
            _check_ogg(content, seconds, ends=decoded is not None)
        else:
            _check_mp3(content, seconds, decoded)


@contextlib.contextmanager
def _content(file: str | os.PathLike | IO[bytes]) -> Iterator[_Bytes]:
    """The bytes of a file, of a local one without reading those that are not looked at."""
    if not isinstance(file, str | os.PathLike):
        file.seek(0)
        yield file.read()
        return
    with open(file, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as m:
        yield m


# --- mp3 --------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Frame:
    """What the header of an MPEG layer III frame says."""

    size: int  # bytes
    samples: int  # of each channel
    rate: int
    side_information: int  # bytes, before which nothing but the header stands


def _check_mp3(content: _Bytes, seconds: float, decoded: int | None) -> None:
    at = _after_tags(content, 0)
    first = _frame(content, at)
    if first is None:
        return  # another layer, free format, or none that we know: no opinion
    claimed = _claimed_frames(content, at, first)
    frames, lost = 0, 0.0
    at += first.size * (claimed is not None)  # the frame that holds the count holds no audio
    rate = first.rate
    while at < len(content) and frames * first.samples / rate < seconds:
        frame = _frame(content, at)
        if frame is None:
            following = _next_frame(content, at)
            if following is None:
                break  # tags, or what was left of a last frame
            past_tags = _after_tags(content, at) == following
            lost += 0.0 if past_tags else (following - at) / first.size * first.samples / rate
            if lost > CUT_TOLERANCE_SECONDS:
                where = f"{frames * first.samples / rate:.2f} s"
                raise DecodeError("damaged", f"{following - at} bytes at {where} are no mp3")
            at = following
            continue
        if at + frame.size > len(content):
            break  # cut off inside
        frames, at = frames + 1, at + frame.size
    if decoded is None:
        return
    expected = max(frames, claimed or 0)
    if decoded < (expected - _TRIMMED_FRAMES) * first.samples:
        raise DecodeError(
            "truncated",
            f"gives {decoded / rate:.2f} s, its frames say {expected * first.samples / rate:.2f} s",
        )


def _after_tags(content: _Bytes, at: int) -> int:
    """Where what follows the ID3v2 tags at `at` begins."""
    while content[at : at + 3] == b"ID3" and len(content) >= at + 10:
        size = 0
        for byte in content[at + 6 : at + 10]:
            size = size << 7 | byte & 0x7F
        at += 10 + size + 10 * bool(content[at + 5] & 0x10)
    return at


def _frame(content: _Bytes, at: int) -> _Frame | None:
    """The frame whose header is at `at`, None where there is none."""
    header = content[at : at + _HEADER_BYTES]
    if len(header) < _HEADER_BYTES or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
        return None  # no sync, or another layer than III
    version = header[1] >> 3 & 3  # 3: MPEG 1, 2: MPEG 2, 0: MPEG 2.5
    bitrate, rate = header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or bitrate in (0, 15) or rate == 3:
        return None
    first = version == 3
    hertz = _RATES[rate] >> {3: 0, 2: 1, 0: 2}[version]
    samples = 1152 if first else 576
    kilobits = _BITRATES[1 if first else 2][bitrate]
    size = samples // 8 * kilobits * 1000 // hertz + (header[2] >> 1 & 1)
    mono = header[3] >> 6 == 3
    side = (17 if mono else 32) if first else (9 if mono else 17)
    return _Frame(size, samples, hertz, side)


def _next_frame(content: _Bytes, at: int) -> int | None:
    """Where the next frame after `at` begins: one that another follows, or that ends the file."""
    while (at := content.find(b"\xff", at + 1)) >= 0:  # type: ignore[union-attr]
        if frame := _frame(content, at):
            end = at + frame.size
            if end == len(content) or _frame(content, end):
                return at
    return None


def _claimed_frames(content: _Bytes, at: int, first: _Frame) -> int | None:
    """How many frames the encoder says follow, where its first frame tells."""
    tag = at + _HEADER_BYTES + first.side_information
    if content[tag : tag + 4] in (b"Xing", b"Info"):
        flags, count = struct.unpack(">II", content[tag + 4 : tag + 12])
        return count if flags & 1 else 0
    if content[at + 36 : at + 40] == b"VBRI":
        return struct.unpack(">I", content[at + 50 : at + 54])[0]
    return None


# --- Ogg --------------------------------------------------------------------------------------


def _check_ogg(content: _Bytes, seconds: float, ends: bool) -> None:
    at, pages, rate, last = 0, {}, 0, False  # type: ignore[var-annotated]
    granule = 0
    while at < len(content):
        head = content[at : at + _PAGE.size]
        if len(head) < _PAGE.size or head[:4] != b"OggS":
            break
        _, _, flags, position, serial, number, _, segments = _PAGE.unpack(head)
        table = content[at + _PAGE.size : at + _PAGE.size + segments]
        body = at + _PAGE.size + segments
        if flags & _FIRST_PAGE:
            rate = _ogg_rate(content[body : body + 40]) or rate
        elif serial in pages and number != pages[serial] + 1:
            where = f"{granule / rate:.2f} s" if rate else f"byte {at}"
            raise DecodeError("damaged", f"a part is missing at {where}")
        pages[serial] = number
        last = bool(flags & _LAST_PAGE)
        granule = position if position >= 0 else granule
        if rate and granule / rate >= seconds:
            return
        at = body + sum(table)
    where = f"{granule / rate:.2f} s" if rate else f"byte {at}"
    if content.find(b"OggS", at + 1) >= 0:  # type: ignore[union-attr]
        raise DecodeError("damaged", f"what follows {where} is no Ogg page, further ones are there")
    if ends and (not last or at > len(content)):
        raise DecodeError("truncated", f"ends after {where}, without a last page")


def _ogg_rate(packet: _Bytes) -> int:
    """Granules a second, from the first packet of a stream; 0 for one that is no audio we know."""
    if packet[:8] == b"OpusHead":
        return _OPUS_RATE
    if packet[:7] == b"\x01vorbis" and len(packet) >= 16:
        return int.from_bytes(packet[12:16], "little")
    if packet[:5] == b"\x7fFLAC" and len(packet) >= 30:
        return int.from_bytes(packet[27:30], "big") >> 4
    return 0
