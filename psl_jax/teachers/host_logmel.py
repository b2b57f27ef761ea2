"""Computes log-mel spectrograms of other taggers on the host: those of YAMNet, PANNs and others."""

import dataclasses
from collections.abc import Mapping
from functools import lru_cache

import numpy as np
from scipy import fft as scipy_fft
from scipy import signal

from psl_jax.runtime.settings import setting


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """Computes a log-mel spectrogram with these settings; the default is YAMNet's, at 16 kHz."""

    window: int = setting(
        400, least=1, help="Samples of the periodic Hann window in the transform's middle"
    )
    fft: int = setting(512, least=1, help="Samples of the transform")
    hop: int = setting(160, least=1, help="Samples from one frame to the next")
    bands: int = setting(64, least=1, help="Number of mel bands")
    lowest: float = setting(125.0, least=0, help="Lowest frequency of the bands in Hz")
    highest: float = setting(7500.0, above=0, help="Highest frequency of the bands in Hz")
    scale: str = setting(
        "htk",
        choices=("htk", "slaney"),
        help="Mel scale: htk: 2595 log10(1 + f / 700); slaney: linear up to 1 kHz",
    )
    norm: str = setting(
        "none", choices=("none", "slaney"), help="Norm of the filters; slaney: area 1"
    )
    triangles: str = setting(
        "mel", choices=("hertz", "mel"), help="Over what the filters' sides are straight"
    )
    power: int = setting(1, choices=(1, 2), help="1: magnitudes; 2: powers")
    centred: bool = setting(
        False,
        help="Whether frames are centred on multiples of the hop, with reflect padding; else they "
        "begin there, and end before the audio does",
    )
    log: str = setting("ln", choices=("ln", "db"), help="Logarithm; db: 10 log10")
    offset: float = setting(0.001, help="What is added before the logarithm")
    floor: float = setting(0.0, help="Least value before the logarithm")
    top_db: float = setting(0.0, least=0, help="Dynamic range in dB below the loudest; 0: any")

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
