"""MobileNetV2 (Sandler et al., 2018) for log-mel input, as in the published PSL network.

The network is a Flax NNX module with a functional boundary: the train and relabel steps split it
into a graph definition and plain arrays once, and merge it inside the jitted function.
"""

from typing import Any

import jax
import numpy as np
from flax import nnx

from psl_jax.networks.architecture import Network, Tagging, Variables, halved
from psl_jax.networks.convolutions import at_least_float32
from psl_jax.networks.forward_context import Context
from psl_jax.networks.frontend import HOP
from psl_jax.networks.layers import BatchNorm, Depthwise, Linear, Pointwise, Stem

# (expansion t, channels c, repeats n, stride s) of the inverted residuals.
INVERTED_RESIDUALS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
STEM_CHANNELS = 32
HEAD_CHANNELS = 1280
NUM_HALVINGS = 5
FRAME_SAMPLES = HOP << NUM_HALVINGS  # from the middle of one output frame to that of the next


def scaled(channels: int, width: float) -> int:
    """Channels at a width multiplier: the nearest multiple of 8, never below 0.9 of the product.

    Below a width of 1/4, multiples of 4: the first layers would not become narrower otherwise.
    """
    divisor = 8 if width >= 0.25 else 4
    target = channels * width
    rounded = max(divisor, int(target + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * target else rounded


def output_frames(frames: Any) -> Any:
    """Output frames for `frames` input frames: 1001 -> 32, 201 -> 7. Works on ints and arrays."""
    for _ in range(NUM_HALVINGS):
        frames = halved(frames)
    return frames


def _xavier(
    rng: np.random.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int
) -> np.ndarray:
    limit = (6.0 / (fan_in + fan_out)) ** 0.5
    return rng.uniform(-limit, limit, shape)


def _pointwise(inputs: int, outputs: int, rng: np.random.Generator) -> Pointwise:
    return Pointwise(_xavier(rng, (inputs, outputs), inputs, outputs))


class InvertedResidual(nnx.Module):
    """Expand (1x1), depthwise (3x3), project (1x1, linear), with a shortcut where shapes allow."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, expansion: int, rng: np.random.Generator
    ):
        hidden = inputs * expansion
        self.shortcut = stride == 1 and inputs == outputs
        self.expand = _pointwise(inputs, hidden, rng) if expansion > 1 else None
        self.expand_norm = BatchNorm(hidden) if expansion > 1 else None
        # In grouped form the kernel is [channels, 1, 3, 3]: fans as PyTorch counts them.
        self.depthwise = Depthwise(_xavier(rng, (3, 3, hidden), 9, 9 * hidden), stride)
        self.depthwise_norm = BatchNorm(hidden)
        self.project = _pointwise(hidden, outputs, rng)
        self.project_norm = BatchNorm(outputs)

    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        y = x
        if self.expand is not None and self.expand_norm is not None:
            y = self.expand_norm(self.expand(y, context), context, relu6=True)
        y = self.depthwise(y, context)
        y = self.depthwise_norm(y, context, relu6=True)
        y = self.project_norm(self.project(y, context), context)
        return x + y if self.shortcut else y


class MobileNetV2(Tagging):
    """Log-mel spectrogram to class probabilities of frames.

    2,898,383 parameters at width 1 and 527 classes.
    """

    def __init__(
        self,
        num_classes: int,
        width: float = 1.0,
        dropout: float = 0.3,
        output: str = "sigmoid",
        *,
        rng: np.random.Generator,
    ):
        """output: one of OUTPUTS."""
        channels = scaled(STEM_CHANNELS, width)
        self.stem = Stem(_xavier(rng, (3, 3, 1, channels), 9, 9 * channels))
        self.stem_norm = BatchNorm(channels)
        blocks = []
        for expansion, outputs, repeats, stride in INVERTED_RESIDUALS:
            outputs = scaled(outputs, width)
            for repeat in range(repeats):
                blocks.append(
                    InvertedResidual(
                        channels, outputs, stride if repeat == 0 else 1, expansion, rng
                    )
                )
                channels = outputs
        self.blocks = nnx.List(blocks)
        head = scaled(HEAD_CHANNELS, max(width, 1.0))
        self.head = _pointwise(channels, head, rng)
        self.head_norm = BatchNorm(head)
        self.classifier = Linear(head, num_classes, rng)
        self.dropout = dropout
        self.output = output

    def features(
        self, logmel: jax.Array, context: Context, valid_frames: jax.Array | None = None
    ) -> jax.Array:
        """Embeddings of frames: [batch, frames, 64] in dB -> float32 [batch, frames / 32, 1280].

        valid_frames is not used: what makes no sense past a clip's end is left out of the loss.
        """
        x = self.stem_norm(self.stem(logmel, context), context, relu6=True)
        for block in self.blocks:
            x = block(x, context)
        x = self.head_norm(self.head(x, context), context, relu6=True)
        x = at_least_float32(x).mean(axis=2)  # over frequency
        return x.transpose(2, 1, 0) if context.channels_first else x


def create(
    num_classes: int,
    width: float = 1.0,
    dropout: float = 0.3,
    seed: int = 0,
    output: str = "sigmoid",
) -> tuple[Network, Variables]:
    """A network and its initial variables (Xavier uniform convolutions, N(0, 0.01) classifier)."""
    module = MobileNetV2(num_classes, width, dropout, output, rng=np.random.default_rng(seed))
    return Network.of(module, output_frames)
