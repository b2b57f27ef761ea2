"""MobileNetV2 (Sandler et al., 2018) for log-mel input, as in the published PSL network.

The network is a Flax NNX module with a functional boundary: the train and relabel steps split it
into a graph definition and plain arrays once, and merge it inside the jitted function.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from psl_jax.networks.batch_norm import BatchNorm
from psl_jax.networks.convolutions import (
    at_least_float32,
    depthwise3x3,
    pointwise,
    product,
    shifted_views,
)
from psl_jax.networks.forward_context import Context
from psl_jax.networks.frontend import HOP
from psl_jax.runtime.settings import setting

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

# What makes probabilities of the classifier's values [..., classes]: each class by itself, or one
# of all classes (for data with one label a clip).
OUTPUTS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "sigmoid": jax.nn.sigmoid,
    "softmax": jax.nn.softmax,
}


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


def halved(frames: Any) -> Any:
    """Frames after a convolution of stride 2. Works on ints and arrays."""
    return (frames - 1) // 2 + 1


def cut(x: jax.Array, valid_frames: jax.Array | None) -> jax.Array:
    """x [batch, frames, ...] with zeros from frame `valid_frames` [batch] on; None: x itself."""
    if valid_frames is None:
        return x
    inside = jnp.arange(x.shape[1]) < valid_frames[:, None]
    return jnp.where(jax.lax.expand_dims(inside, range(2, x.ndim)), x, jnp.zeros((), x.dtype))


def _xavier(rng: np.random.Generator, shape, fan_in, fan_out) -> jax.Array:
    # Drawn with NumPy and only put: JAX, jnp.asarray too, would compile a program for each shape.
    limit = (6.0 / (fan_in + fan_out)) ** 0.5
    return jax.device_put(rng.uniform(-limit, limit, shape).astype(np.float32))


class Stem(nnx.Module):
    """3x3 convolution of the one-channel spectrogram, stride 2, padding 1 on each side."""

    def __init__(self, channels: int, rng: np.random.Generator):
        self.kernel = nnx.Param(_xavier(rng, (3, 3, 1, channels), fan_in=9, fan_out=9 * channels))

    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        """[batch, frames, bands] to a map of (frames + 1) / 2 frames and (bands + 1) / 2 bands.

        In float32 whatever the context's type: of 90 dB bfloat16 would keep steps of half a dB.
        """
        x = x.astype(jnp.promote_types(context.dtype, jnp.float32))
        x = x.transpose(1, 2, 0)[None] if context.channels_first else x[..., None]
        patches = jnp.concatenate(shifted_views(x, stride=2), axis=context.channel_axis)
        return pointwise(patches, self.kernel[...].reshape(9, -1), context.channels_first)


class Pointwise(nnx.Module):
    """1x1 convolution without bias, as one matrix product."""

    def __init__(self, inputs: int, outputs: int, rng: np.random.Generator):
        self.kernel = nnx.Param(_xavier(rng, (inputs, outputs), inputs, outputs))

    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        return pointwise(x, self.kernel[...], context.channels_first, context.dtype)


class Classifier(nnx.Module):
    """Linear layer from the embedding to the classes, in float32; initially N(0, 0.01)."""

    def __init__(self, inputs: int, outputs: int, rng: np.random.Generator):
        kernel = rng.normal(0, 0.01, (inputs, outputs)).astype(np.float32)
        self.kernel = nnx.Param(jax.device_put(kernel))
        self.bias = nnx.Param(jax.device_put(np.zeros(outputs, np.float32)))

    def __call__(self, x: jax.Array) -> jax.Array:
        return product(x, self.kernel[...]) + self.bias[...]


class Depthwise(nnx.Module):
    """3x3 convolution of each channel by itself, padding 1 on each side."""

    def __init__(self, channels: int, stride: int, rng: np.random.Generator):
        # In grouped form the kernel is [channels, 1, 3, 3]: fans as PyTorch counts them.
        self.kernel = nnx.Param(_xavier(rng, (3, 3, channels), fan_in=9, fan_out=9 * channels))
        self.stride = stride

    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        how = context.depthwise, context.channels_first, context.platform
        return depthwise3x3(x, self.kernel[...], self.stride, *how)


class InvertedResidual(nnx.Module):
    """Expand (1x1), depthwise (3x3), project (1x1, linear), with a shortcut where shapes allow."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, expansion: int, rng: np.random.Generator
    ):
        hidden = inputs * expansion
        self.shortcut = stride == 1 and inputs == outputs
        self.expand = Pointwise(inputs, hidden, rng) if expansion > 1 else None
        self.expand_norm = BatchNorm(hidden) if expansion > 1 else None
        self.depthwise = Depthwise(hidden, stride, rng)
        self.depthwise_norm = BatchNorm(hidden)
        self.project = Pointwise(hidden, outputs, rng)
        self.project_norm = BatchNorm(outputs)

    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        y = x
        if self.expand is not None and self.expand_norm is not None:
            y = self.expand_norm(self.expand(y, context), context, relu6=True)
        y = self.depthwise(y, context)
        y = self.depthwise_norm(y, context, relu6=True)
        y = self.project_norm(self.project(y, context), context)
        return x + y if self.shortcut else y


class MobileNetV2(nnx.Module):
    """Log-mel spectrogram to class probabilities, per frame and per clip.

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
        self.stem = Stem(channels, rng)
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
        self.head = Pointwise(channels, head, rng)
        self.head_norm = BatchNorm(head)
        self.classifier = Classifier(head, num_classes, rng)
        self.dropout = dropout
        self.output = output

    def features(self, logmel: jax.Array, context: Context) -> jax.Array:
        """Embeddings of frames: [batch, frames, 64] -> float32 [batch, frames / 32, 1280]."""
        x = self.stem_norm(self.stem(logmel, context), context, relu6=True)
        for block in self.blocks:
            x = block(x, context)
        x = self.head_norm(self.head(x, context), context, relu6=True)
        x = at_least_float32(x).mean(axis=2)  # over frequency
        return x.transpose(2, 1, 0) if context.channels_first else x

    def __call__(
        self,
        logmel: jax.Array,
        context: Context,
        dropout_keys: jax.Array | None = None,
    ) -> jax.Array:
        """Class probabilities of each output frame.

        Args:
          logmel: float32 [batch, frames, 64] in dB.
          context: how to run.
          dropout_keys: [batch] random keys, one an example so that results do not depend on how a
            batch is split over devices; needed in training.

        Returns:
          float32 [batch, output_frames(frames), classes].
        """
        return self.classify(self.features(logmel, context), context, dropout_keys)

    def classify(
        self, x: jax.Array, context: Context, dropout_keys: jax.Array | None = None
    ) -> jax.Array:
        """Class probabilities of `features` [batch, frames, 1280], see `__call__`."""
        if context.train and self.dropout > 0:
            if dropout_keys is None:
                raise ValueError("training needs dropout_keys")
            keep = 1 - self.dropout
            kept = jax.vmap(lambda key: jax.random.bernoulli(key, keep, x.shape[1:]))(dropout_keys)
            x = jnp.where(kept, x / keep, 0.0)
        logits = self.classifier(x)
        return logits if context.gives_logits else OUTPUTS[self.output](logits)


def clip_probabilities(frames: jax.Array, valid_frames: jax.Array | None = None) -> jax.Array:
    """Mean over time of frame probabilities, padding left out.

    Args:
      frames: [batch, frames, classes].
      valid_frames: [batch] number of output frames that are not padding (default: all).

    Returns:
      [batch, classes].
    """
    if valid_frames is None:
        return frames.mean(axis=1)
    mask = (jnp.arange(frames.shape[1]) < valid_frames[:, None])[..., None]
    return jnp.where(mask, frames, 0.0).sum(axis=1) / jnp.maximum(mask.sum(axis=1), 1)


class Variables(NamedTuple):
    """The arrays of a network as plain nested dicts: a pytree to average, save and restore."""

    params: dict
    stats: dict


@dataclasses.dataclass(frozen=True)
class NetworkSettings:
    """config.model: the network's size, output and precision."""

    width: float = setting(
        1.0, above=0, most=16, help="Factor on the number of channels of each layer of MobileNetV2"
    )
    dropout: float = setting(
        0.3, least=0, below=1, help="Share of the embedding that dropout sets to 0 in training"
    )
    output: str = setting(
        "sigmoid",
        choices=("sigmoid", "softmax"),
        help="Function that gives the probabilities: sigmoid (each class by itself), or softmax "
        "(exactly one class per clip)",
    )
    dtype: str = setting(
        "float32",
        choices=("float32", "bfloat16"),
        help="Data type of the network's feature maps in training, on a CPU only of their matrix "
        "products; parameters, statistics and front end are float32",
    )
    batch_norm: str = setting(
        "global",
        choices=("global", "device"),
        or_above=1,
        help="Over which part of the batch BatchNorm computes its statistics in training: that of "
        "all devices, that of each device, or, for a number N, that of groups of N devices",
    )
    count_padding: bool = setting(
        False,
        help="Whether the network's mean over time includes the frames of the padding after the "
        "end of a clip, in training and evaluation, as in the published code",
    )


class Network(NamedTuple):
    """The network without its arrays: a static description, and what can be done with it."""

    graphdef: nnx.GraphDef

    def apply(
        self,
        variables: Variables,
        logmel: jax.Array,
        context: Context,
        dropout_keys: jax.Array | None = None,
    ) -> tuple[jax.Array, dict]:
        """Frame probabilities [batch, frames / 32, classes] and the new running statistics."""
        module = nnx.merge(self.graphdef, *variables, copy=True)
        frames = module(logmel, context, dropout_keys)
        return frames, nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))

    def features(self, variables: Variables, logmel: jax.Array, context: Context) -> jax.Array:
        """Embeddings float32 [batch, frames / 32, 1280], with frozen statistics."""
        return nnx.merge(self.graphdef, *variables, copy=True).features(logmel, context)

    def classify(
        self,
        variables: Variables,
        features: jax.Array,
        context: Context,
        dropout_keys: jax.Array | None = None,
    ) -> jax.Array:
        """Frame probabilities [batch, frames / 32, classes] of `features`."""
        module = nnx.merge(self.graphdef, *variables, copy=True)
        return module.classify(features, context, dropout_keys)


def create(
    num_classes: int,
    width: float = 1.0,
    dropout: float = 0.3,
    seed: int = 0,
    output: str = "sigmoid",
) -> tuple[Network, Variables]:
    """A network and its initial variables (Xavier uniform convolutions, N(0, 0.01) classifier)."""
    module = MobileNetV2(num_classes, width, dropout, output, rng=np.random.default_rng(seed))
    graphdef, *states = nnx.split(module, nnx.Param, nnx.BatchStat)
    params, stats = map(nnx.to_pure_dict, states)
    return Network(graphdef), Variables(params, stats)


def num_parameters(variables: Variables) -> int:
    return sum(x.size for x in jax.tree.leaves(variables.params))
