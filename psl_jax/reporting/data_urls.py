"""Spectrograms and sounds that go into a page itself, and the times below them."""

import base64
import io

import numpy as np
import soundfile

from psl_jax.audio.segments import SAMPLE_RATE
from psl_jax.tagging.spectrogram import compute_spectrogram, draw_spectrogram

_COLUMNS = 600  # of a spectrogram
_HEIGHT, _DPI = 1.28, 100  # inches, pixels an inch
_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300)  # seconds between two ticks


def spectrogram_of(audio: np.ndarray) -> tuple[np.ndarray, float]:
    """The spectrogram in dB, float32 [columns, 64], of int16 [samples], and seconds a column."""
    return compute_spectrogram(lambda: iter([audio]), _COLUMNS)


def png(decibel: np.ndarray, column_seconds: float) -> bytes:
    """A spectrogram [columns, 64] in dB as a PNG without axes, a pixel a column."""
    from matplotlib.figure import Figure

    canvas = Figure(figsize=(len(decibel) / _DPI, _HEIGHT))
    axes = canvas.add_axes((0, 0, 1, 1))
    draw_spectrogram(axes, decibel, column_seconds)
    axes.set_axis_off()
    file = io.BytesIO()
    canvas.savefig(file, format="png", dpi=_DPI)
    return file.getvalue()


def flac(audio: np.ndarray) -> bytes:
    """int16 [samples] at 16 kHz without loss: every browser plays it, in time with the picture."""
    file = io.BytesIO()
    soundfile.write(file, audio, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def url(mime_type: str, content: bytes) -> str:
    """A data URL; kind: the content's MIME type."""
    return f"data:{mime_type};base64,{base64.b64encode(content).decode()}"


def ticks(seconds: float) -> list[float]:
    """Times to write below a clip: round ones from 0, seven at most up to half an hour."""
    step = next((step for step in _STEPS if seconds / step <= 6), _STEPS[-1])
    return [round(k * step, 3) for k in range(int(seconds / step + 1e-9) + 1)]
