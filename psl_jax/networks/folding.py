"""The network with its BatchNorms folded into the convolutions, and one walk through it.

In use a BatchNorm is a multiplication and an addition for each channel, so it can be part of the
convolution before it: less to compute, and fewer arrays to hand to other runtimes. Scoring, tagging
and exports use it. The walk is written once; what its steps are in a runtime is an `Operations`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from psl_jax.networks import layers, mobilenetv2
from psl_jax.networks.architecture import Variables, cut, halved, mean_over_frames
from psl_jax.networks.convolutions import (
    at_least_float32,
    correlate,
    depthwise,
    in_parts,
    map_dtype,
    pointwise,
    precision_of,
    product,
)
from psl_jax.networks.layers import hard_swish

NUM_EARLY_BLOCKS = 4  # measured: with these in parts of the batch, inference is fastest on a CPU


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Layer:
    """A convolution or a linear layer, with a bias for each output channel.

    kernel: [3, 3, 1, outputs] of the stem, [size, size, channels] of a depthwise and
      [inputs, outputs] of a pointwise convolution and of a linear layer; sizes are over frames and
      bands.
    bias: [outputs].
    """

    kernel: Any
    bias: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Block:
    """An inverted residual: 1x1 (none where the first block does not expand), 3x3, 1x1."""

    expand: Layer | None
    depthwise: Layer
    project: Layer
    stride: int = dataclasses.field(metadata={"static": True})
    shortcut: bool = dataclasses.field(metadata={"static": True})


class FoldedNetwork(Protocol):
    """A network without BatchNorms, for inference; a pytree.

    Attributes:
      classifier: the last layer, from the embedding to the classes.
      output: which of OUTPUTS ends it.
    """

    @property
    def classifier(self) -> Layer: ...
    @property
    def output(self) -> str: ...

    def embeddings(self, logmel: Any, operations: "Operations", valid_frames: Any = None) -> Any:
        """Embeddings [batch, output frames, channels], whatever the runtime.

        logmel is [batch, frames, bands], of the network's front end. With valid_frames [batch]
        (JAX only) what lies past a row's end has no influence on its first
        output_frames(valid_frames) embeddings: they are those of the row alone, without padding.
        """

    def output_frames(self, frames: Any) -> Any:
        """Of so many frames of the front end. Works on ints and arrays."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FoldedMobileNetV2:
    """All layers of MobileNetV2, in order; see `FoldedNetwork`."""

    stem: Layer
    blocks: tuple[Block, ...]
    head: Layer
    classifier: Layer
    output: str = dataclasses.field(default="sigmoid", metadata={"static": True})

    def output_frames(self, frames: Any) -> Any:
        return mobilenetv2.output_frames(frames)

    def embeddings(self, logmel: Any, operations: "Operations", valid_frames: Any = None) -> Any:
        """What lies past a row's end is set to zero before each 3x3 convolution, which is what the
        convolution itself assumes there.
        """
        do, early = operations, self.blocks[:NUM_EARLY_BLOCKS]

        def first_blocks(inputs):
            logmel, valid = inputs
            x = do.relu6(do.stem(cut(logmel, valid), self.stem))
            return _through(early, x, do, None if valid is None else halved(valid))

        channels = max(block.depthwise.kernel.shape[-1] for block in self.blocks[:2])
        x, valid = do.begin(first_blocks, (logmel, valid_frames), channels)
        x, _ = _through(self.blocks[NUM_EARLY_BLOCKS:], x, do, valid)
        return do.mean_over_bands(do.relu6(do.pointwise(x, self.head)))


def fold(variables: Variables, output: str = "sigmoid") -> FoldedMobileNetV2:
    """Folds each BatchNorm, with its running statistics, into the convolution before it.

    output: one of `architecture.OUTPUTS`.
    Computed in float64, returned as float32 NumPy arrays.
    """
    params, stats = variables
    strides = [
        stride if repeat == 0 else 1
        for _, _, repeats, stride in mobilenetv2.INVERTED_RESIDUALS
        for repeat in range(repeats)
    ]
    blocks = []
    for number, stride in enumerate(strides):
        own, moments = params["blocks"][number], stats["blocks"][number]
        expand = folded_layer(own, moments, "expand") if "expand" in own else None
        depthwise = folded_layer(own, moments, "depthwise")
        project = folded_layer(own, moments, "project")
        inputs = depthwise.kernel.shape[-1] if expand is None else len(expand.kernel)
        shortcut = stride == 1 and inputs == project.kernel.shape[1]
        blocks.append(Block(expand, depthwise, project, stride, shortcut))
    classifier = linear_layer(params["classifier"])
    stem, head = (folded_layer(params, stats, layer) for layer in ("stem", "head"))
    return FoldedMobileNetV2(stem, tuple(blocks), head, classifier, output)


def linear_layer(params: dict) -> Layer:
    """A layer that has a bias and no BatchNorm."""
    return Layer(_float32(params["kernel"]), _float32(params["bias"]))


def folded_layer(params: dict, stats: dict, layer: str, epsilon: float = layers.EPSILON) -> Layer:
    """A convolution with the BatchNorm that follows it."""
    norm = params[f"{layer}_norm"] | stats[f"{layer}_norm"]
    scale, bias, mean, var = (
        np.asarray(norm[name], np.float64) for name in ("scale", "bias", "mean", "var")
    )
    multiplier = scale / np.sqrt(var + epsilon)
    # Output channels are the last axis of every kind of kernel.
    kernel = np.asarray(params[layer]["kernel"], np.float64) * multiplier
    return Layer(_float32(kernel), _float32(bias - mean * multiplier))


def _float32(array: Any) -> np.ndarray:
    return np.ascontiguousarray(array, np.float32)


class Operations(Protocol):
    """The steps of the network in some runtime, on arrays or on nodes of a graph.

    Maps are [batch, frames, bands, channels], or however the runtime orders them.
    """

    def begin(self, walk: Callable[[Any], Any], inputs: Any, channels: int) -> Any:
        """walk(inputs), the first blocks; a runtime may do it for one part of the batch at a time.

        Their largest map has half the frames and bands of the spectrogram and `channels` channels.
        """

    def stem(self, logmel: Any, layer: Layer) -> Any:
        """3x3 convolution of [batch, frames, bands], stride 2, padding 1 on each side."""

    def pointwise(self, x: Any, layer: Layer) -> Any: ...

    def depthwise(self, x: Any, layer: Layer, stride: int) -> Any:
        """Convolution of each channel by itself, padding (size - 1) / 2 on each side."""

    def relu6(self, x: Any) -> Any: ...

    def relu(self, x: Any) -> Any: ...

    def hard_swish(self, x: Any) -> Any: ...

    def add(self, x: Any, y: Any) -> Any: ...

    def scale(self, x: Any, factors: Any) -> Any:
        """A map times factors [batch, channels]."""

    def mean_over_map(self, x: Any, valid_frames: Any = None) -> Any:
        """A map to [batch, channels], over its bands and its first valid_frames [batch] frames."""

    def over_frames(self, x: Any) -> Any:
        """[batch, channels] to [batch, 1, channels]."""

    def mean_over_bands(self, x: Any) -> Any:
        """A map to [batch, frames, channels]."""

    def linear(self, x: Any, layer: Layer) -> Any: ...

    def sigmoid(self, x: Any) -> Any: ...

    def softmax(self, x: Any) -> Any:
        """Over the classes, the last axis."""


class FrontEndSteps(Protocol):
    """The steps of front ends in a runtime other than JAX; a signal is [batch, samples]."""

    def padded(self, signal: Any, before: int, after: int, *, mode: str) -> Any:
        """With its reflection (mode "reflect") or zeros ("constant") at its ends."""

    def filtered(self, signal: Any, kernel: np.ndarray) -> Any:
        """Products of all its places with kernel [taps, outputs], the outputs interleaved."""

    def power(self, signal: Any, window: np.ndarray, *, hop: int, fft: int, bins: int) -> Any:
        """Powers [batch, frames, bins], the lowest of an FFT; a frame begins every `hop`."""

    def bands(self, power: Any, filters: np.ndarray) -> Any:
        """[batch, frames, bins] times filters [bins, bands]."""

    def at_least(self, x: Any, value: float) -> Any: ...

    def plus(self, x: Any, value: float) -> Any: ...

    def times(self, x: Any, value: float) -> Any: ...

    def log(self, x: Any) -> Any: ...

    def ranged(self, decibels: Any, top_db: float) -> Any:
        """At least top_db under the largest value of the row."""


def _through(blocks: Sequence[Block], x: Any, do: Operations, valid: Any) -> tuple[Any, Any]:
    """The map after `blocks`, and how many of its frames are valid."""
    for block in blocks:
        y = x
        if block.expand is not None:
            y = do.relu6(do.pointwise(y, block.expand))
        y = do.relu6(do.depthwise(cut(y, valid), block.depthwise, block.stride))
        if valid is not None and block.stride == 2:
            valid = halved(valid)
        y = do.pointwise(y, block.project)
        x = do.add(x, y) if block.shortcut else y
    return x, valid


def frame_probabilities(
    network: FoldedNetwork, logmel: Any, operations: Operations, valid_frames: Any = None
) -> Any:
    """Class probabilities of output frames: [batch, output_frames(frames), classes].

    Arguments are those of `FoldedNetwork.embeddings`. The probabilities of a clip are their mean
    over frames.
    """
    embedded = network.embeddings(logmel, operations, valid_frames)
    return _classified(network, embedded, operations)


def _classified(network: FoldedNetwork, embedded: Any, do: Operations) -> Any:
    values = do.linear(embedded, network.classifier)
    return do.softmax(values) if network.output == "softmax" else do.sigmoid(values)


def scores_and_embeddings(
    network: FoldedNetwork, logmel: Any, operations: "JaxOperations", valid_frames: Any = None
) -> jax.Array:
    """Class probabilities and behind them the embedding: [batch, frames, classes + channels]."""
    embedded = network.embeddings(logmel, operations, valid_frames)
    return jnp.concatenate([_classified(network, embedded, operations), embedded], axis=-1)


class JaxOperations:
    """The steps in JAX: maps and products of type `dtype`, on a CPU products only.

    The stem's product, biases and the end are in float32.
    """

    def __init__(self, dtype: Any = jnp.float32, platform: str | None = None):
        """platform: that the program is for, default this machine's."""
        self.dtype, self.platform = dtype, platform
        self.map_dtype = map_dtype(dtype, platform)

    def begin(self, walk: Callable[[Any], Any], inputs: Any, channels: int) -> Any:
        _, frames, bands = inputs[0].shape
        values = halved(frames) * halved(bands) * channels
        bytes_per_row = values * jnp.dtype(self.map_dtype).itemsize
        return in_parts(walk, inputs, bytes_per_row, self.platform)

    def stem(self, logmel: jax.Array, layer: Layer) -> jax.Array:
        wide = jnp.promote_types(self.dtype, jnp.float32)
        if self.platform == "gpu":  # fuses with bias, clip and cast: 7 % less memory traffic
            kernel = jnp.asarray(layer.kernel, wide)[:, :, 0]
            return self._biased(correlate(logmel[..., None].astype(wide), kernel, 2), layer)
        convolved = jax.lax.conv_general_dilated(
            logmel[..., None].astype(wide),
            jnp.asarray(layer.kernel, wide),
            (2, 2),
            ((1, 1), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=precision_of(wide),
        )
        return self._biased(convolved, layer)

    def pointwise(self, x: jax.Array, layer: Layer) -> jax.Array:
        y = self._biased(pointwise(x, jnp.asarray(layer.kernel), dtype=self.dtype), layer)
        narrows = layer.kernel.shape[0] > layer.kernel.shape[1]
        # A TPU's compiler would fuse the depthwise convolution before with the expansion behind,
        # and compute it again for each tile of that: docs/PERFORMANCE.md.
        return jax.lax.optimization_barrier(y) if narrows and self.platform == "tpu" else y

    def depthwise(self, x: jax.Array, layer: Layer, stride: int) -> jax.Array:
        kernel = jnp.asarray(layer.kernel)
        # Nine multiply-adds fuse with bias and clip on every platform, a grouped convolution with
        # neither: docs/PERFORMANCE.md.
        return self._biased(depthwise(x, kernel, stride, "shifted"), layer)

    def _biased(self, x: jax.Array, layer: Layer) -> jax.Array:
        return (at_least_float32(x) + jnp.asarray(layer.bias)).astype(self.map_dtype)

    def relu6(self, x: jax.Array) -> jax.Array:
        return jax.nn.relu6(x)

    def relu(self, x: jax.Array) -> jax.Array:
        return jax.nn.relu(x)

    def hard_swish(self, x: jax.Array) -> jax.Array:
        return hard_swish(x)

    def add(self, x: jax.Array, y: jax.Array) -> jax.Array:
        return x + y

    def scale(self, x: jax.Array, factors: jax.Array) -> jax.Array:
        return x * factors[:, None, None, :].astype(x.dtype)

    def mean_over_map(self, x: jax.Array, valid_frames: jax.Array | None = None) -> jax.Array:
        return mean_over_frames(at_least_float32(x).mean(axis=2), valid_frames)

    def over_frames(self, x: jax.Array) -> jax.Array:
        return x[:, None]

    def mean_over_bands(self, x: jax.Array) -> jax.Array:
        return x.astype(jnp.float32).mean(axis=2)

    def linear(self, x: jax.Array, layer: Layer) -> jax.Array:
        return product(x, layer.kernel) + layer.bias

    def sigmoid(self, x: jax.Array) -> jax.Array:
        return jax.nn.sigmoid(x)

    def softmax(self, x: jax.Array) -> jax.Array:
        return jax.nn.softmax(x)
