"""EfficientAT's mn: MobileNetV3-Large over log-mel spectrograms, any width, for inference.

Schmid, Koutini, Widmer, Efficient large-scale audio tagging via transformer-to-CNN knowledge
distillation (ICASSP 2023); Howard et al., Searching for MobileNetV3 (ICCV 2019), table 1. The
BatchNorms are folded into the convolutions when weights are read (`mn_weights`).
Maps are [batch, frames, bands, channels].
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from psl_jax.networks.convolutions import at_least_float32, map_dtype, product
from psl_jax.networks.mobilenetv2 import cut, halved


class Row(NamedTuple):
    """A block of the paper's table 1, channels at width 1."""

    kernel: int
    expanded: int
    channels: int
    squeezed: bool  # squeeze-and-excitation
    hard_swish: bool  # or ReLU
    stride: int


TABLE = (
    Row(3, 16, 16, False, False, 1),
    Row(3, 64, 24, False, False, 2),
    Row(3, 72, 24, False, False, 1),
    Row(5, 72, 40, True, False, 2),
    Row(5, 120, 40, True, False, 1),
    Row(5, 120, 40, True, False, 1),
    Row(3, 240, 80, False, True, 2),
    Row(3, 200, 80, False, True, 1),
    Row(3, 184, 80, False, True, 1),
    Row(3, 184, 80, False, True, 1),
    Row(3, 480, 112, True, True, 1),
    Row(3, 672, 112, True, True, 1),
    Row(5, 672, 160, True, True, 2),
    Row(5, 960, 160, True, True, 1),
    Row(5, 960, 160, True, True, 1),
)
STEM_CHANNELS, HEAD_CHANNELS, LAST_EXPANSION, SQUEEZE = 16, 1280, 6, 4


def multiple_of_8(channels: float) -> int:
    """The nearest multiple of 8, at least 8 and never below 0.9 of `channels`."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def hard_swish(x: jax.Array) -> jax.Array:
    return x * (jnp.clip(x + 3, 0, 6) * (1 / 6))


class Dense(nnx.Module):
    """Linear layer, or 1x1 convolution of a map, with a bias."""

    def __init__(self, inputs: int, outputs: int):
        self.kernel = nnx.Param(jax.device_put(np.zeros((inputs, outputs), np.float32)))
        self.bias = nnx.Param(jax.device_put(np.zeros(outputs, np.float32)))

    def __call__(self, x: jax.Array, dtype: Any = None) -> jax.Array:
        """In the type of x; dtype: type that the product's factors are rounded to."""
        return product(x, self.kernel[...], dtype) + self.bias[...].astype(x.dtype)


class Depthwise(nnx.Module):
    """Convolution of each channel by itself, padded by (size - 1) / 2 on each side."""

    def __init__(self, size: int, channels: int, stride: int):
        self.kernel = nnx.Param(jax.device_put(np.zeros((size, size, channels), np.float32)))
        self.bias = nnx.Param(jax.device_put(np.zeros(channels, np.float32)))
        self.size, self.stride = size, stride

    def __call__(self, x: jax.Array) -> jax.Array:
        """As shifted multiply-adds, which XLA makes one pass over the map of; see `convolutions`.

        [batch, frames, bands, channels] -> [batch, halved(frames), halved(bands), channels] with a
        stride of 2.
        """
        kernel = self.kernel[...].astype(x.dtype)
        views = views_of(x, self.size, self.stride)
        weights = kernel.reshape(-1, kernel.shape[-1])
        total = self.bias[...].astype(x.dtype)
        for view, weight in zip(views, weights, strict=True):
            total = total + view * weight
        return total


class Stem(nnx.Module):
    """3x3 convolution of the one-channel spectrogram, stride 2, and h-swish."""

    def __init__(self, channels: int):
        self.dense = Dense(9, channels)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, frames, bands] -> [batch, halved(frames), halved(bands), channels]."""
        return hard_swish(self.dense(jnp.concatenate(views_of(x[..., None], 3, 2), axis=-1)))


def views_of(x: jax.Array, size: int, stride: int) -> list[jax.Array]:
    """What each weight of a size x size kernel meets, row by row; zeros beyond the edges."""
    pad = size // 2
    padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    frames, bands = ((n - 1) // stride * stride + 1 for n in x.shape[1:3])
    return [
        padded[:, i : i + frames : stride, j : j + bands : stride]
        for i in range(size)
        for j in range(size)
    ]


class SqueezeExcitation(nnx.Module):
    """A factor in 0 to 1 for each channel, of the map's mean."""

    def __init__(self, channels: int):
        inside = multiple_of_8(channels // SQUEEZE)
        self.squeeze, self.excite = Dense(channels, inside), Dense(inside, channels)

    def __call__(self, x: jax.Array, valid: jax.Array | None) -> jax.Array:
        factors = jax.nn.sigmoid(self.excite(jax.nn.relu(self.squeeze(mean_of(x, valid)))))
        return x * factors[:, None, None, :].astype(x.dtype)


def mean_of(x: jax.Array, valid: jax.Array | None) -> jax.Array:
    """Mean of a map over its bands and its first `valid` [batch] frames: float32 [batch, channels].

    None: over all frames.
    """
    bands = at_least_float32(x).mean(axis=2)
    if valid is None:
        return bands.mean(axis=1)
    return cut(bands, valid).sum(axis=1) / jnp.maximum(valid, 1)[:, None]


class Block(nnx.Module):
    """Expand (1x1), depthwise, squeeze-and-excitation, project (1x1), a shortcut where it fits."""

    def __init__(self, row: Row, inputs: int, width: float):
        hidden, outputs = multiple_of_8(row.expanded * width), multiple_of_8(row.channels * width)
        self.outputs, self.stride, self.hard_swish = outputs, row.stride, row.hard_swish
        self.shortcut = row.stride == 1 and inputs == outputs
        self.expand = Dense(inputs, hidden) if hidden != inputs else None
        self.depthwise = Depthwise(row.kernel, hidden, row.stride)
        self.excitation = SqueezeExcitation(hidden) if row.squeezed else None
        self.project = Dense(hidden, outputs)

    def __call__(self, x: jax.Array, valid: jax.Array | None, dtype: Any) -> jax.Array:
        """valid: [batch] frames of x that are audio; what follows is taken for zeros.

        dtype: of the products of 1x1 convolutions.
        """
        activation = hard_swish if self.hard_swish else jax.nn.relu
        y = x if self.expand is None else activation(self.expand(x, dtype))
        y = activation(self.depthwise(cut(y, valid)))
        if self.excitation is not None:
            y = self.excitation(y, self.frames_left(valid))
        y = self.project(y, dtype)
        return x + y if self.shortcut else y

    def frames_left(self, valid: Any) -> Any:
        """How many of the frames that come out are audio, of `valid` that went in."""
        return valid if valid is None or self.stride == 1 else halved(valid)


class MobileNetV3(nnx.Module):
    """Log-mel spectrogram to class logits; 0.98 M parameters at width 0.4 and 527 classes."""

    def __init__(self, num_classes: int, width: float):
        channels = multiple_of_8(STEM_CHANNELS * width)
        self.stem = Stem(channels)
        blocks = []
        for row in TABLE:
            blocks.append(Block(row, channels, width))
            channels = blocks[-1].outputs
        self.blocks = nnx.List(blocks)
        self.last = Dense(channels, LAST_EXPANSION * channels)
        self.hidden = Dense(LAST_EXPANSION * channels, multiple_of_8(HEAD_CHANNELS * width))
        self.classifier = Dense(multiple_of_8(HEAD_CHANNELS * width), num_classes)

    def __call__(
        self,
        logmel: jax.Array,
        valid: jax.Array | None = None,
        dtype: Any = jnp.float32,
        platform: str | None = None,
    ) -> jax.Array:
        """Class logits of clips.

        Args:
          logmel: float32 [batch, frames, 128].
          valid: [batch] frames that are audio: the result is that of these frames alone. None: all.
          dtype: of the maps and of their products, on a CPU of the products alone; means, head and
            classifier are float32.
          platform: that the program is for (default: this machine's).

        Returns:
          float32 [batch, classes].
        """
        x = self.stem(cut(logmel, valid)).astype(map_dtype(dtype, platform))
        valid = None if valid is None else halved(valid)
        for block in self.blocks:
            x, valid = block(x, valid, dtype), block.frames_left(valid)
        x = mean_of(hard_swish(self.last(x, dtype)), valid)
        return self.classifier(hard_swish(self.hidden(x)))


class MnNetwork(NamedTuple):
    """The network without its arrays: a static description."""

    graphdef: nnx.GraphDef

    def logits(self, arrays: Any, logmel: jax.Array, *arguments: Any) -> jax.Array:
        """Logits [batch, classes]; arguments are those of `MobileNetV3`."""
        return nnx.merge(self.graphdef, arrays)(logmel, *arguments)


def create(num_classes: int, width: float) -> tuple[MnNetwork, Any]:
    """The network, and its arrays as nested dicts of zeros, to be filled by `mn_weights`."""
    graphdef, state = nnx.split(MobileNetV3(num_classes, width))
    return MnNetwork(graphdef), nnx.to_pure_dict(state)


def largest_map(arrays: Any, frames: int, bands: int, dtype: Any) -> int:
    """Bytes of a row's largest map: that of the first block that expands."""
    channels = arrays["blocks"][1]["depthwise"]["kernel"].shape[-1]
    return halved(frames) * halved(bands) * channels * jnp.dtype(dtype).itemsize
