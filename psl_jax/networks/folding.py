"""Networks with their BatchNorms folded into the convolutions, for scoring, tagging and exports.

Each is written once, by the steps of a runtime, see `JaxOperations`.
"""

import dataclasses
import operator
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from psl_jax.networks import layers
from psl_jax.networks.architecture import Arrays
from psl_jax.networks.convolutions import (
    at_least_float32,
    correlate,
    cut,
    in_parts,
    map_dtype,
    pointwise,
    precision_of,
    product,
)
from psl_jax.networks.layers import halved, hard_swish, mean_over_frames


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Layer:
    """A convolution or a linear layer, with a bias for each output channel."""

    # [3, 3, 1, outputs] of the stem, [size, size, channels] of a depthwise and [inputs, outputs] of
    # a pointwise convolution and of a linear layer; sizes are over frames and bands.
    kernel: Any
    bias: Any  # [outputs]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Block:
    """A `layers.InvertedResidual`: 1x1 or none, depthwise, squeeze-and-excitation or none, 1x1."""

    expand: Layer | None
    depthwise: Layer
    squeeze: Layer | None
    excite: Layer | None
    project: Layer
    stride: int = dataclasses.field(metadata={"static": True})
    activation: str = dataclasses.field(metadata={"static": True})
    shortcut: bool = dataclasses.field(metadata={"static": True})

    def __call__(self, x: Any, do: Any, valid: Any) -> tuple[Any, Any]:
        """The map after the block, and how many of its frames are audio."""
        activate = getattr(do, self.activation)
        y = x
        if self.expand is not None:
            y = activate(do.pointwise(y, self.expand))
        y = activate(do.depthwise(cut(y, valid), self.depthwise, self.stride))
        if valid is not None and self.stride == 2:
            valid = halved(valid)
        if self.squeeze is not None and self.excite is not None:
            inside = do.relu(do.linear(do.mean_over_map(y, valid), self.squeeze))
            y = do.scale(y, do.sigmoid(do.linear(inside, self.excite)))
        y = do.pointwise(y, self.project)
        return do.add(x, y) if self.shortcut else y, valid


class FoldedNetwork(Protocol):
    """A network without BatchNorms, for inference; a pytree."""

    @property
    def classifier(self) -> Layer:
        """The last layer, from the embedding to the classes."""

    @property
    def output(self) -> str:
        """Which of OUTPUTS ends it."""

    def embeddings(self, logmel: Any, operations: Any, valid_frames: Any = None) -> Any:
        """Embeddings [batch, output frames, channels], by the steps of a runtime.

        operations has the methods of `JaxOperations`; logmel is [batch, frames, bands], of the
        network's front end. With valid_frames [batch] (JAX only) what lies past a row's end has no
        influence on its first output_frames(valid_frames) embeddings.
        """

    def output_frames(self, frames: Any) -> Any:
        """Of so many frames of the front end. Works on ints and arrays."""


def fold_block(
    params: Arrays,
    stats: Arrays,
    *,
    stride: int,
    activation: str = "relu6",
    epsilon: float = layers.EPSILON,
) -> Block:
    """Folds the BatchNorms of a `layers.InvertedResidual`."""
    expand, depthwise, project = (
        folded_layer(params, stats, layer, epsilon) if layer in params else None
        for layer in ("expand", "depthwise", "project")
    )
    squeeze, excite = (
        linear_layer(params["excitation"][layer]) if "excitation" in params else None
        for layer in ("squeeze", "excite")
    )
    assert depthwise is not None and project is not None
    inputs = (depthwise.kernel.shape[-1:] if expand is None else expand.kernel.shape)[0]
    shortcut = stride == 1 and inputs == project.kernel.shape[1]
    return Block(expand, depthwise, squeeze, excite, project, stride, activation, shortcut)


def linear_layer(params: Arrays) -> Layer:
    """A layer that has a bias and no BatchNorm."""
    return Layer(_float32(params["kernel"]), _float32(params["bias"]))


def folded_layer(
    params: Arrays, stats: Arrays, layer: str, epsilon: float = layers.EPSILON
) -> Layer:
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


def frame_probabilities(
    network: FoldedNetwork, logmel: Any, operations: Any, valid_frames: Any = None
) -> Any:
    """Class probabilities of output frames: [batch, output_frames(frames), classes].

    Arguments are those of `FoldedNetwork.embeddings`.
    """
    return _classified(network, network.embeddings(logmel, operations, valid_frames), operations)


def _classified(network: FoldedNetwork, embedded: Any, do: Any) -> Any:
    return getattr(do, network.output)(do.linear(embedded, network.classifier))


def scores_and_embeddings(
    network: FoldedNetwork, logmel: Any, operations: "JaxOperations", valid_frames: Any = None
) -> jax.Array:
    """Class probabilities and behind them the embedding: [batch, frames, classes + channels]."""
    embedded = network.embeddings(logmel, operations, valid_frames)
    return jnp.concatenate([_classified(network, embedded, operations), embedded], axis=-1)


class JaxOperations:
    """The steps of networks in JAX; another runtime has the same, on arrays or nodes of a graph.

    Maps are [batch, frames, bands, channels], or however the runtime orders them. Maps and products
    are of type `dtype`, on a CPU products only; the stem's product, biases and the end in float32.
    """

    def __init__(self, dtype: Any = jnp.float32, platform: str | None = None):
        """platform: that the program is for, default this machine's."""
        self.dtype, self.platform = dtype, platform
        self.map_dtype = map_dtype(dtype, platform)

    def begin(self, walk: Callable[[Any], Any], inputs: Any, channels: int) -> Any:
        """walk(inputs), the first blocks; a runtime may do it for one part of the batch at a time.

        Their largest map has half the frames and bands of the spectrogram and `channels` channels.
        """
        _, frames, bands = inputs[0].shape
        values = halved(frames) * halved(bands) * channels
        bytes_per_row = values * jnp.dtype(self.map_dtype).itemsize
        return in_parts(walk, inputs, bytes_per_row, self.platform)

    def stem(self, logmel: jax.Array, layer: Layer) -> jax.Array:
        """3x3 convolution of [batch, frames, bands], stride 2, padding 1 on each side."""
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
        # A TPU's compiler would fuse the depthwise convolution before with the expansion behind,
        # and compute it again for each tile of that. Where maps are large, that costs more than
        # the fusion saves: docs/PERFORMANCE.md.
        narrows, is_large = layer.kernel.shape[0] > 2 * layer.kernel.shape[1], x.shape[2] > 8
        is_barred = self.platform == "tpu" and narrows and is_large
        return jax.lax.optimization_barrier(y) if is_barred else y

    def depthwise(self, x: jax.Array, layer: Layer, stride: int) -> jax.Array:
        """Convolution of each channel by itself, padding (size - 1) / 2 on each side."""
        # Nine multiply-adds fuse with bias and clip on every platform, a grouped convolution with
        # neither: docs/PERFORMANCE.md.
        return self._biased(correlate(x, jnp.asarray(layer.kernel), stride), layer)

    def _biased(self, x: jax.Array, layer: Layer) -> jax.Array:
        return (at_least_float32(x) + jnp.asarray(layer.bias)).astype(self.map_dtype)

    relu6, relu = staticmethod(jax.nn.relu6), staticmethod(jax.nn.relu)
    sigmoid, softmax = staticmethod(jax.nn.sigmoid), staticmethod(jax.nn.softmax)
    hard_swish, add = staticmethod(hard_swish), staticmethod(operator.add)

    def scale(self, x: jax.Array, factors: jax.Array) -> jax.Array:
        """A map times factors [batch, channels]."""
        return x * factors[:, None, None, :].astype(x.dtype)

    def mean_over_map(self, x: jax.Array, valid_frames: jax.Array | None = None) -> jax.Array:
        """[batch, channels], over the bands and the first valid_frames [batch] frames."""
        return mean_over_frames(at_least_float32(x).mean(axis=2), valid_frames)

    def over_frames(self, x: jax.Array) -> jax.Array:
        """[batch, channels] to [batch, 1, channels]."""
        return x[:, None]

    def mean_over_bands(self, x: jax.Array) -> jax.Array:
        """A map to [batch, frames, channels]."""
        return x.astype(jnp.float32).mean(axis=2)

    def linear(self, x: jax.Array, layer: Layer) -> jax.Array:
        values: jax.Array = product(x, layer.kernel) + layer.bias
        return values
