"""Pictures and sounds that go into a page itself, as data URLs."""

import base64
import io
import struct
import zlib

import numpy as np

from psl_jax.audio.segments import SAMPLE_RATE
from psl_jax.tagging.spectrogram import as_bytes, spectrogram

# From silence to the loudest: dark blue, purple, red, orange, pale yellow; rising in lightness.
_COLOURS = (
    (6, 6, 20),
    (70, 18, 105),
    (165, 44, 96),
    (232, 104, 60),
    (250, 190, 90),
    (252, 250, 200),
)


def mel_png(audio: np.ndarray, columns: int = 600) -> str:
    """The log-mel spectrogram of int16 [samples] as the URL of a PNG, the lowest band below."""
    decibel, _ = spectrogram(lambda: iter([audio]), columns)
    return png(as_bytes(decibel).T[::-1])


def png(pixels: np.ndarray) -> str:
    """A picture as the URL of a PNG: uint8 [height, width], 255 the brightest of the palette."""
    height, width = pixels.shape
    steps = np.linspace(0, 1, len(_COLOURS))
    palette = np.stack(
        [
            np.interp(np.linspace(0, 1, 256), steps, channel)
            for channel in zip(*_COLOURS, strict=True)
        ],
        axis=1,
    )
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels], axis=1)  # 0: no filter
    content = b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
            _chunk(b"PLTE", palette.round().astype(np.uint8).tobytes()),
            _chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)),
            _chunk(b"IEND", b""),
        )
    )
    return _url("image/png", content)


def flac(audio: np.ndarray) -> str:
    """Audio as the URL of a FLAC file, which browsers play: int16 [samples], 16 kHz."""
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, audio, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return _url("audio/flac", file.getvalue())


def _chunk(name: bytes, content: bytes) -> bytes:
    check = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)


def _url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
