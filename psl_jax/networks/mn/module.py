"""EfficientAT's mn: MobileNetV3-Large over log-mel spectrograms, of any width.

Schmid, Koutini, Widmer, Efficient large-scale audio tagging via transformer-to-CNN knowledge
distillation (ICASSP 2023); Howard et al., Searching for MobileNetV3 (ICCV 2019), table 1.
"""

from typing import NamedTuple

import jax
import numpy as np
from flax import nnx

from psl_jax.networks.architecture import (
    Network,
    Tagging,
    Variables,
    halved,
    mean_over_frames,
)
from psl_jax.networks.convolutions import at_least_float32
from psl_jax.networks.forward_context import Context
from psl_jax.networks.layers import BatchNorm, Depthwise, Linear, Pointwise, Stem, hard_swish


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
EPSILON, MOMENTUM = 1e-3, 0.99  # of the BatchNorms; PyTorch's sense of the latter: 0.01


def multiple_of_8(channels: float) -> int:
    """The nearest multiple of 8, at least 8 and never below 0.9 of `channels`."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def output_frames(frames):
    """One, of however many frames, as the map is averaged over time. Works on ints and arrays."""
    return frames * 0 + 1


def _kaiming(rng: np.random.Generator, shape: tuple[int, ...], fan_out: int) -> np.ndarray:
    return rng.normal(0, (2 / fan_out) ** 0.5, shape)


def _pointwise(inputs: int, outputs: int, rng: np.random.Generator) -> Pointwise:
    return Pointwise(_kaiming(rng, (inputs, outputs), outputs))


def _norm(channels: int) -> BatchNorm:
    return BatchNorm(channels, EPSILON, MOMENTUM)


class SqueezeExcitation(nnx.Module):
    """A factor in 0 to 1 for each channel, of the map's mean; in float32."""

    def __init__(self, channels: int, rng: np.random.Generator):
        inside = multiple_of_8(channels // SQUEEZE)
        self.squeeze, self.excite = Linear(channels, inside, rng), Linear(inside, channels, rng)

    def __call__(self, x: jax.Array, context: Context, valid: jax.Array | None) -> jax.Array:
        inside = jax.nn.relu(self.squeeze(mean_of_map(x, context, valid)))
        factors = jax.nn.sigmoid(self.excite(inside)).astype(x.dtype)  # [batch, channels]
        if context.channels_first:
            return x * factors.T[:, None, None, :]
        return x * factors[:, None, None, :]


def mean_of_map(x: jax.Array, context: Context, valid: jax.Array | None) -> jax.Array:
    """Mean of a map over its bands and its first `valid` [batch] frames: float32 [batch, channels].

    None: over all frames.
    """
    bands = at_least_float32(x).mean(axis=2)  # [batch, frames, channels], or the other way round
    if context.channels_first:
        bands = bands.transpose(2, 1, 0)
    return mean_over_frames(bands, valid)


class Block(nnx.Module):
    """Expand (1x1), depthwise, squeeze-and-excitation, project (1x1), a shortcut where it fits."""

    def __init__(self, row: Row, inputs: int, width: float, rng: np.random.Generator):
        hidden, outputs = multiple_of_8(row.expanded * width), multiple_of_8(row.channels * width)
        self.stride, self.hard_swish = row.stride, row.hard_swish
        self.shortcut = row.stride == 1 and inputs == outputs
        self.expand = _pointwise(inputs, hidden, rng) if hidden != inputs else None
        self.expand_norm = _norm(hidden) if hidden != inputs else None
        size = row.kernel
        # A fan as PyTorch counts it: of the outputs of all channels.
        kernel = _kaiming(rng, (size, size, hidden), size * size * hidden)
        self.depthwise = Depthwise(kernel, row.stride)
        self.depthwise_norm = _norm(hidden)
        self.excitation = SqueezeExcitation(hidden, rng) if row.squeezed else None
        self.project = _pointwise(hidden, outputs, rng)
        self.project_norm = _norm(outputs)

    def __call__(self, x: jax.Array, context: Context, valid: jax.Array | None) -> jax.Array:
        """valid: [batch] frames that are audio, after this block."""
        activation = hard_swish if self.hard_swish else jax.nn.relu
        y = x
        if self.expand is not None and self.expand_norm is not None:
            y = activation(self.expand_norm(self.expand(y, context), context))
        y = activation(self.depthwise_norm(self.depthwise(y, context), context))
        if self.excitation is not None:
            y = self.excitation(y, context, valid)
        y = self.project_norm(self.project(y, context), context)
        return x + y if self.shortcut else y


class MobileNetV3(Tagging):
    """Log-mel spectrogram to class probabilities; 978,679 parameters at width 0.4, 527 classes."""

    def __init__(
        self,
        num_classes: int,
        width: float = 1.0,
        dropout: float = 0.2,
        output: str = "sigmoid",
        *,
        rng: np.random.Generator,
    ):
        channels = multiple_of_8(STEM_CHANNELS * width)
        self.stem = Stem(_kaiming(rng, (3, 3, 1, channels), 9 * channels))
        self.stem_norm = _norm(channels)
        blocks = []
        for row in TABLE:
            blocks.append(Block(row, channels, width, rng))
            channels = multiple_of_8(row.channels * width)
        self.blocks = nnx.List(blocks)
        last = LAST_EXPANSION * channels
        self.last, self.last_norm = _pointwise(channels, last, rng), _norm(last)
        head = multiple_of_8(HEAD_CHANNELS * width)
        self.hidden = Linear(last, head, rng)
        self.classifier = Linear(head, num_classes, rng)
        self.dropout = dropout
        self.output = output

    def features(
        self, logmel: jax.Array, context: Context, valid_frames: jax.Array | None = None
    ) -> jax.Array:
        """The embedding of a segment: [batch, frames, 128] -> float32 [batch, 1, 1280 x width].

        Its means, also those of squeeze-and-excitation, are over `valid_frames`.
        """
        x = hard_swish(self.stem_norm(self.stem(logmel, context), context))
        valid = None if valid_frames is None else halved(valid_frames)
        for block in self.blocks:
            if valid is not None and block.stride == 2:
                valid = halved(valid)
            x = block(x, context, valid)
        x = hard_swish(self.last_norm(self.last(x, context), context))
        return hard_swish(self.hidden(mean_of_map(x, context, valid)))[:, None]


def create(
    num_classes: int,
    width: float = 1.0,
    dropout: float = 0.2,
    seed: int = 0,
    output: str = "sigmoid",
) -> tuple[Network, Variables]:
    """A network and its initial variables (Kaiming-normal by fan-out, N(0, 0.01) linear layers)."""
    module = MobileNetV3(num_classes, width, dropout, output, rng=np.random.default_rng(seed))
    return Network.of(module, output_frames)
