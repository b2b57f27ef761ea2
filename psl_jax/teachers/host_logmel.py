"""Computes log-mel spectrograms of other taggers on the host: those of YAMNet, PANNs and others."""

import dataclasses
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import fft as scipy_fft
from scipy import signal


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """Computes a log-mel spectrogram with these settings; the default is YAMNet's, at 16 kHz.

    Attributes:
      window, fft, hop: lengths in samples; the periodic Hann window lies in the transform's middle.
      bands, lowest, highest: number of mel bands, and their range in Hz.
      scale: "htk" (2595 log10(1 + f / 700)) or "slaney" (linear up to 1 kHz).
      norm: "none", or "slaney" (triangles of area 1).
      triangles: whether their sides are straight over "hertz" or over "mel".
      power: 1 for magnitudes, 2 for powers.
      centred: centres frames on multiples of the hop, with reflect padding; else frames begin
        there, and end before the audio does.
      log: "ln" or "db" (10 log10).
      offset: added before the logarithm; floor: the least value before it.
      top_db: dynamic range in dB: values further below the loudest are raised; 0: unlimited.
    """

    window: int = 400
    fft: int = 512
    hop: int = 160
    bands: int = 64
    lowest: float = 125.0
    highest: float = 7500.0
    scale: str = "htk"
    norm: str = "none"
    triangles: str = "mel"
    power: int = 1
    centred: bool = False
    log: str = "ln"
    offset: float = 0.001
    floor: float = 0.0
    top_db: float = 0.0

    def __call__(self, audio: np.ndarray, rate: int) -> np.ndarray:
        """Computes float32 [frames, bands], at least one frame, of float32 [samples] in [-1, 1]."""
        if self.centred:
            audio = np.pad(audio, self.fft // 2, mode="reflect" if len(audio) > 1 else "constant")
            size = self.fft
        else:
            size = self.window
        audio = np.pad(audio, (0, max(size - len(audio), 0)))
        frames = np.lib.stride_tricks.sliding_window_view(audio, size)[:: self.hop]
        spectrum = scipy_fft.rfft(frames * _compute_window(self.window, size), self.fft, axis=1)
        magnitude = np.abs(spectrum) if self.power == 1 else np.square(np.abs(spectrum))
        mel = magnitude @ _compute_filters(self, rate)
        values = np.log(np.maximum(mel + self.offset, self.floor))
        values = values if self.log == "ln" else values * (10 / np.log(10))
        if self.top_db:
            values = np.maximum(values, values.max() - self.top_db)
        return np.asarray(values, np.float32)


YAMNET = Spectrum()
PANNS = Spectrum(
    window=1024,
    fft=1024,
    hop=320,
    lowest=50.0,
    highest=14_000.0,
    scale="slaney",
    norm="slaney",
    triangles="hertz",
    power=2,
    centred=True,
    log="db",
    offset=0.0,
    floor=1e-10,
)
PSL_JAX = dataclasses.replace(
    PANNS, window=512, fft=512, hop=160, lowest=0.0, highest=8000.0, scale="htk", norm="none"
)
PRESETS: Mapping[str, Spectrum] = {"yamnet": YAMNET, "panns": PANNS}
CHOICES: Mapping[str, tuple[Any, ...]] = {
    "scale": ("htk", "slaney"),
    "norm": ("none", "slaney"),
    "triangles": ("hertz", "mel"),
    "power": (1, 2),
    "log": ("ln", "db"),
}


@lru_cache
def _compute_window(num_window_samples: int, num_samples: int) -> np.ndarray:
    """Computes a periodic Hann window in the middle of zeros: float32 [num_samples]."""
    import librosa

    window = signal.get_window("hann", num_window_samples).astype(np.float32)
    return np.asarray(librosa.util.pad_center(window, size=num_samples))


@lru_cache
def _compute_filters(spectrum: Spectrum, rate: int) -> np.ndarray:
    """Computes the mel filters: float32 [fft // 2 + 1, bands]; librosa's have sides over hertz."""
    import librosa

    htk = spectrum.scale == "htk"
    hertz = np.linspace(0, rate / 2, spectrum.fft // 2 + 1)
    low, high = librosa.hz_to_mel(np.array([spectrum.lowest, spectrum.highest]), htk=htk)
    mels = np.linspace(low, high, spectrum.bands + 2)
    edges = np.asarray(librosa.mel_to_hz(mels, htk=htk))
    positions, corners = hertz, edges
    if spectrum.triangles == "mel":
        positions, corners = np.asarray(librosa.hz_to_mel(hertz, htk=htk)), mels
    low, centre, high = corners[:-2], corners[1:-1], corners[2:]
    rising = (positions[:, None] - low) / (centre - low)
    falling = (high - positions[:, None]) / (high - centre)
    filters = np.maximum(0, np.minimum(rising, falling))
    if spectrum.triangles == "mel":
        filters[0] = 0  # YAMNet's filters leave the lowest bin out
    if spectrum.norm == "slaney":
        filters *= 2 / (edges[2:] - edges[:-2])
    return np.asarray(filters, np.float32)
