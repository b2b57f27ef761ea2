"""EfficientAT's log-mel spectrogram of audio at 32 or 16 kHz, on the accelerator.

At 32 kHz: y[t] = x[t + 1] - 0.97 x[t]; 1024-point FFT of 800-sample symmetric Hann windows, hop
320, centred frames with reflect padding, power; 128 mel bands from 0 to 15 kHz as Kaldi has them;
(ln(mel + 1e-5) + 4.5) / 5. Audio of 16 kHz is doubled first.
"""

import dataclasses
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from psl_jax.audio.segments import SAMPLE_RATE
from psl_jax.networks import frontend
from psl_jax.networks.convolutions import cut, in_parts

RATE = 32_000
FFT, WINDOW, HOP, NUM_MELS = 1024, 800, 320, 128
HIGHEST = 15_000.0
BINS = 480  # those below it, of 513
PREEMPHASIS = 0.97
TAPS = 64  # of the filter that doubles the rate, at 16 kHz
_CHUNK = 64  # samples that one product interpolates between


@dataclasses.dataclass(frozen=True)
class MnFrontEnd:
    """See `architecture.FrontEnd`: audio at 16 kHz is doubled to 32 kHz.

    rate: of audio [batch, samples].
    """

    rate: int = SAMPLE_RATE

    def __call__(
        self,
        audio: jax.Array,
        num_samples: jax.Array | None = None,
        axis_name: str | None = None,
        platform: str | None = None,
    ) -> jax.Array:
        at_rate = None if num_samples is None else 2 * num_samples
        if audio.ndim == 3:
            audio = audio.reshape(len(audio), -1)
        elif self.rate != RATE:
            audio = doubled(audio, num_samples)
        return log_mel(audio, at_rate, platform)

    def num_frames(self, num_samples: Any) -> Any:
        return num_frames(2 * num_samples)

    def of_piece(self, audio: jax.Array, num_samples: jax.Array) -> jax.Array:
        return self(audio, num_samples)

    def sizes(self) -> dict[str, int]:
        return {"window_samples": WINDOW, "hop_samples": HOP, "mel_bands": NUM_MELS}

    def exported(self, rate: int) -> "MnFrontEnd":
        return MnFrontEnd(rate)

    def by_steps(self, waveform: Any, steps: Any) -> Any:
        """See `architecture.FrontEnd`; frames begin where the window does, not the FFT."""
        if self.rate != RATE:
            half = TAPS // 2
            around = steps.padded(waveform, half - 1, half, mode="constant")
            given = np.arange(TAPS) == half - 1
            waveform = steps.filtered(around, np.stack([given, interpolating_taps()], axis=1))
        emphasized = steps.filtered(waveform, np.array([[-PREEMPHASIS], [1]]))
        padded = steps.padded(emphasized, WINDOW // 2, WINDOW // 2, mode="reflect")
        power = steps.power(padded, hann(), hop=HOP, fft=FFT, bins=BINS)
        mel = steps.plus(steps.bands(power, mel_filters()[:BINS]), 1e-5)
        return steps.times(steps.plus(steps.log(mel), 4.5), 1 / 5)

    @property
    def least_samples(self) -> int:
        return FFT // 2 + 2 if self.rate == RATE else FFT // 4 + 1


def num_frames(num_samples: Any) -> Any:
    """Frames of so many samples at 32 kHz: 10 s give 1000. Works on ints and arrays."""
    return 1 + (num_samples - 1) // HOP


@jax.named_scope("frontend")
def log_mel(
    audio: jax.Array, num_samples: jax.Array | None = None, platform: str | None = None
) -> jax.Array:
    """Features float32 [batch, num_frames(samples), 128] of audio at 32 kHz.

    audio: [batch, samples] int16, or floating point in [-1, 1]; at least 514 samples. num_samples:
    [batch] samples of each row that are audio: its first `num_frames` frames are those of these
    samples alone; None: all of them. platform: that the program is for, default this machine's.
    """
    audio = frontend.to_float(audio)
    emphasized = audio[:, 1:] - PREEMPHASIS * audio[:, :-1]
    pad = FFT // 2

    def of_whole_rows(_: jax.Array | None) -> jax.Array:
        return jnp.pad(emphasized, ((0, 0), (pad, pad)), mode="reflect")

    def of_shorter_rows(num_samples: jax.Array) -> jax.Array:
        places = jnp.abs(jnp.arange(-pad, emphasized.shape[1] + pad))
        last = num_samples[:, None] - 2
        places = jnp.where(places > last, jnp.maximum(2 * last - places, 0), places)
        return jnp.take_along_axis(emphasized, places, axis=1, mode="clip")

    if num_samples is None:
        padded = of_whole_rows(None)
    else:  # what a TPU gathers row by row, most batches do not need
        is_whole = jnp.all(num_samples >= audio.shape[1])
        padded = jax.lax.cond(is_whole, of_whole_rows, of_shorter_rows, num_samples)
    frames = num_frames(audio.shape[1])
    platform = platform or jax.default_backend()
    transform = partial(_log_mel, frames=frames, by_products=platform == "tpu")
    return in_parts(transform, padded, frames * FFT * 4, platform)


def _log_mel(padded: jax.Array, frames: int, by_products: bool) -> jax.Array:
    """by_products: no FFT, which a TPU takes longer for than for a product with its matrix."""
    chunk = int(np.gcd(HOP, (FFT - WINDOW) // 2))  # 16 samples; the window is 800 of 1024
    first = (FFT - WINDOW) // 2
    used = padded[:, first : first + (frames - 1) * HOP + WINDOW]
    chunks = used.reshape(used.shape[0], -1, chunk)
    power = _by_products(chunks) if by_products else _by_fft(chunks, frames)
    bins = power.shape[-1]
    mel = jnp.einsum("btf,fm->btm", power, mel_filters()[:bins], precision="highest")
    return (jnp.log(mel + 1e-5) + 4.5) / 5


def _by_fft(chunks: jax.Array, frames: int) -> jax.Array:
    """Chunks [batch, n, chunk] that frames begin at -> powers [batch, frames, 513]."""
    windowed = frontend.frames_of_chunks(chunks, window=WINDOW, hop=HOP, frames=frames) * hann()
    # Where in the FFT's 1024 samples the window lies changes phases, not powers.
    spectrum = jnp.fft.rfft(windowed, FFT)
    return jnp.square(spectrum.real) + jnp.square(spectrum.imag)


def _by_products(chunks: jax.Array) -> jax.Array:
    """The same of the bins that mel bands hear, [batch, frames, 480], as one convolution."""
    waves = jnp.asarray(frontend.windowed_waves(np.hanning(WINDOW), FFT, BINS), jnp.float32)
    return frontend.power_of_chunks(chunks, waves, hop_chunks=HOP // chunks.shape[-1])


@lru_cache
def hann() -> np.ndarray:
    """Symmetric Hann window: float32 [800]."""
    return np.hanning(WINDOW).astype(np.float32)


@lru_cache
def mel_filters() -> np.ndarray:
    """Triangles over 1127 ln(1 + f / 700), no norm: float32 [513, 128]; the last bin has none."""

    def mel(hertz: Any) -> np.ndarray:
        return 1127 * np.log(1 + np.asarray(hertz) / 700)

    corners = np.linspace(mel(0.0), mel(HIGHEST), NUM_MELS + 2)
    filters = frontend.triangles(corners, mel(np.arange(FFT // 2) * RATE / FFT))
    return np.pad(filters, ((0, 1), (0, 0))).astype(np.float32)


@jax.named_scope("frontend")
def doubled(audio: jax.Array, num_samples: jax.Array | None = None) -> jax.Array:
    """Audio of 16 kHz at 32 kHz: [batch, samples] -> float32 [batch, 2 x samples].

    Every second sample is kept, those between are interpolated: a windowed sinc of 64 samples, flat
    within 0.01 dB up to 7.3 kHz. What follows a row's first `num_samples` [batch] is silence.
    """
    audio = frontend.to_float(cut(audio, num_samples))
    batch, samples = audio.shape
    count = -(-samples // _CHUNK)
    half = TAPS // 2
    padded = jnp.pad(audio, ((0, 0), (half - 1, count * _CHUNK - samples + _CHUNK - half + 1)))
    # Neighbouring chunks side by side: each holds what the samples between its first 64 need.
    chunks = padded.reshape(batch, count + 1, _CHUNK)
    pairs = jnp.concatenate([chunks[:, :-1], chunks[:, 1:]], axis=-1)
    both = jnp.einsum("bcs,st->bct", pairs, _interpolation(), precision="highest")
    return both.reshape(batch, -1)[:, : 2 * samples]


@lru_cache
def _interpolation() -> np.ndarray:
    """Two chunks to the samples of the first and those after each: float32 [128, 128]."""
    taps = interpolating_taps()
    matrix = np.zeros((2 * _CHUNK, 2 * _CHUNK))
    for place in range(_CHUNK):
        matrix[place + TAPS // 2 - 1, 2 * place] = 1
        matrix[place : place + TAPS, 2 * place + 1] = taps
    return matrix.astype(np.float32)


@lru_cache
def interpolating_taps() -> np.ndarray:
    """float64 [64], of the samples around a place in the middle between two."""
    distance = np.arange(TAPS) - (TAPS / 2 - 0.5)
    taps: np.ndarray = np.sinc(distance) * np.kaiser(TAPS + 2, 9.0)[1:-1]
    return np.asarray(taps / taps.sum())
