"""Pictures and sounds that go into a page itself, and the times below them."""

import base64
import io
import struct
import zlib

import numpy as np
import soundfile

from psl_jax.audio.segments import SAMPLE_RATE

# Corners of a scale from silence to the loudest, rising in lightness.
_SCALE = ((0, 0, 4), (79, 18, 123), (181, 54, 122), (251, 136, 97), (252, 253, 191))
_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300)  # seconds between two ticks


def palette() -> np.ndarray:
    """Colours of the bytes of a spectrogram: uint8 [256, 3]."""
    at = np.linspace(0, 255, len(_SCALE))
    corners = np.array(_SCALE).T
    return np.stack([np.interp(np.arange(256), at, part) for part in corners], 1).astype(np.uint8)


def png(pixels: np.ndarray) -> bytes:
    """uint8 [height, width] as a PNG in the colours of `palette` (PNG specification, W3C 2003)."""
    height, width = pixels.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels], axis=1)  # 0: no filter
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        (b"PLTE", palette().tobytes()),
        (b"IDAT", zlib.compress(rows.tobytes(), 9)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def flac(audio: np.ndarray) -> bytes:
    """int16 [samples] at 16 kHz without loss: every browser plays it, in time with the picture."""
    file = io.BytesIO()
    soundfile.write(file, audio, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def url(kind: str, content: bytes) -> str:
    """A data URL; kind: the content's MIME type."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def ticks(seconds: float) -> list[float]:
    """Times to write below a clip: round ones from 0, seven at most up to half an hour."""
    step = next((step for step in _STEPS if seconds / step <= 6), _STEPS[-1])
    return [round(k * step, 3) for k in range(int(seconds / step + 1e-9) + 1)]
