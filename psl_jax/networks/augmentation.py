"""Augmentations of the teacher's training, as pure functions of (keys, batch).

Each example has its own random key, so an example is augmented alike however a batch is split over
devices. The paper names the augmentations without numbers; the defaults here and in
`psl_jax.config.TEACHER` are our choice.
"""

import dataclasses
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from psl_jax.runtime.settings import setting


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """config.augment: random changes of the training's segments.

    One whose probability or number is 0 is off. The teacher's are in `psl_jax.config.TEACHER`.
    """

    gain_probability: float = setting(
        0.0, least=0, most=1, help="Probability that a segment gets a random gain"
    )
    gain_db: tuple[float, float] = setting(
        (-18.0, 6.0), help="Lowest and highest random gain in dB (our choice)"
    )
    polarity_probability: float = setting(
        0.0, least=0, most=1, help="Probability that a segment's waveform is negated"
    )
    shift_probability: float = setting(
        0.0,
        least=0,
        most=1,
        help="Probability that a segment is shifted in time, its end wrapping to its start",
    )
    shift_fraction: float = setting(
        0.5, least=0, most=1, help="Largest time shift, as a share of the segment (our choice)"
    )
    time_masks: int = setting(
        0,
        least=0,
        most=100,
        help="Number of masks over time in a segment's spectrogram (SpecAugment)",
    )
    time_mask_frames: int = setting(
        60,
        least=0,
        help="Longest mask over time, in frames of 10 ms; lengths are drawn from 0 to this "
        "(our choice)",
    )
    frequency_masks: int = setting(
        0,
        least=0,
        most=100,
        help="Number of masks over frequency in a segment's spectrogram (SpecAugment)",
    )
    frequency_mask_bins: int = setting(
        8,
        least=0,
        help="Widest mask over frequency, in mel bands (of 64, of mn 128); widths are drawn from 0 "
        "to this (our choice)",
    )
    mixup_alpha: float = setting(
        0.0, least=0, help="Mixup strength: weights are drawn from Beta(alpha, alpha); 0: no mixup"
    )
    min_width: float = setting(
        0.0,
        least=0,
        help="Smallest model.width that trains with masks and mixup; narrower networks do not "
        "gain from them; 0: all",
    )

    def for_width(self, width: float) -> "Augmentation":
        """What a network of this width trains with: without masks and mixup where it is narrow."""
        if width >= self.min_width:
            return self
        return dataclasses.replace(self, time_masks=0, frequency_masks=0, mixup_alpha=0.0)


def augment_waveform(keys: jax.Array, audio: jax.Array, settings: Augmentation) -> jax.Array:
    """Gain and polarity inversion. The time shift is made before: `batches.TimeShift`.

    keys [batch], audio float32 [batch, samples] or [batch, ticks, 2] -> the same, not clipped.
    """

    def factor(key: jax.Array) -> jax.Array:
        coins, gain_key = jax.random.split(key)
        coin = jax.random.uniform(coins, (2,))
        low, high = settings.gain_db
        decibel = jax.random.uniform(gain_key, minval=low, maxval=high)
        gain = jnp.where(coin[0] < settings.gain_probability, 10 ** (decibel / 20), 1.0)
        return gain * jnp.where(coin[1] < settings.polarity_probability, -1.0, 1.0)

    if not (settings.gain_probability or settings.polarity_probability):
        return audio
    return audio * jax.lax.expand_dims(jax.vmap(factor)(keys), range(1, audio.ndim))


def mask_spectrogram(
    keys: jax.Array,
    logmel: jax.Array,
    settings: Augmentation,
    valid_frames: jax.Array | None = None,
) -> jax.Array:
    """SpecAugment: bands of frames and of mel bins set to the mean of the example's audio.

    keys [batch], logmel [batch, frames, mels] in dB -> the same shape. valid_frames: [batch] frames
    that are not padding (default: all).
    """

    def covered(key: jax.Array, count: int, longest: int, size: int) -> jax.Array:
        """bool [size]: in one of `count` masks of 0 to `longest` places."""
        length_key, start_key = jax.random.split(key)
        length = jax.random.randint(length_key, (count, 1), 0, min(longest, size) + 1)
        start = jax.random.uniform(start_key, (count, 1))
        start = jnp.floor(start * (size - length + 1)).astype(int)
        place = jnp.arange(size)
        return jnp.any((place >= start) & (place < start + length), axis=0)

    def masked(key: jax.Array, x: jax.Array, valid: jax.Array) -> jax.Array:
        time_key, frequency_key = jax.random.split(key)
        hidden = jnp.zeros(x.shape, bool)
        if settings.time_masks:
            args = settings.time_masks, settings.time_mask_frames, x.shape[0]
            hidden |= covered(time_key, *args)[:, None]
        if settings.frequency_masks:
            args = settings.frequency_masks, settings.frequency_mask_bins, x.shape[1]
            hidden |= covered(frequency_key, *args)
        is_audio = jnp.arange(x.shape[0]) < valid
        mean = jnp.where(is_audio[:, None], x, 0).sum() / (valid * x.shape[1])
        return jnp.where(hidden, mean, x)

    if not (settings.time_masks or settings.frequency_masks):
        return logmel
    if valid_frames is None:
        valid_frames = jnp.full(len(logmel), logmel.shape[1])
    return jax.vmap(masked)(keys, logmel, valid_frames)


def mixup(
    keys: jax.Array, logmel: jax.Array, labels: jax.Array, settings: Augmentation
) -> tuple[jax.Array, jax.Array]:
    """Mixes each example with its neighbour (0 with 1, 2 with 3, ...), features and labels alike.

    The batch is in random order, so the neighbour is a random partner. Each example draws its own
    weight λ ~ Beta(α, α), at least 1/2 so that it stays the louder one.

    keys [batch], logmel [batch, ...], labels [batch, classes], batch even -> the same shapes.
    """
    if not settings.mixup_alpha:
        return logmel, labels
    if len(labels) % 2:
        raise ValueError(f"mixup pairs neighbours: {len(labels)} examples a device is odd")
    # By its quantile function: a rejection sampler is a loop, which an accelerator waits for.
    table = jnp.asarray(_upper_quantiles(settings.mixup_alpha))
    place = jax.vmap(jax.random.uniform)(keys) * (len(table) - 1)
    below = place.astype(int)
    weight = table[below] + (place - below) * (table[below + 1] - table[below])

    def mix(x: jax.Array) -> jax.Array:
        partner = x.reshape(-1, 2, *x.shape[1:])[:, ::-1].reshape(x.shape)
        w = weight.reshape(-1, *[1] * (x.ndim - 1))
        return w * x + (1 - w) * partner

    return mix(logmel), mix(labels)


@lru_cache
def _upper_quantiles(alpha: float) -> np.ndarray:
    """Quantiles of max(λ, 1 - λ), λ ~ Beta(alpha, alpha), at equal steps: float32 [4097]."""
    quantiles: np.ndarray = special.betaincinv(alpha, alpha, np.linspace(0.5, 1, 4097))
    return quantiles.astype(np.float32)
