"""The layers that the networks are made of; what begins them is an argument."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from psl_jax.networks.convolutions import (
    at_least_float32,
    cut,
    depthwise,
    map_dtype,
    pointwise,
    product,
    shifted_views,
    sum_together,
)


@dataclasses.dataclass(frozen=True)
class Context:
    """How a pass through the network is run; hashable."""

    train: bool = False  # by the batch's own statistics, updating the running ones; with dropout
    frozen: bool = False  # in training, too, by the running statistics as they are
    # Of maps and of their products, on a CPU of the products alone; parameters, statistics,
    # BatchNorms' affine map and the stem's product are float32 at least.
    dtype: Any = jnp.float32
    axis_name: str | None = None  # over which the batch is split, and statistics are averaged
    platform: str | None = None  # that the program is for; None: this machine's
    channels_first: bool = False  # maps are [channels, frames, bands, batch], see convolutions
    gives_logits: bool = False  # of frames, not their probabilities

    @property
    def map_dtype(self) -> Any:
        return map_dtype(self.dtype, self.platform)

    @property
    def channel_axis(self) -> int:
        return 0 if self.channels_first else -1

    def of_channels(self, values: jax.Array) -> jax.Array:
        """Values [channels], to be broadcast against a map."""
        return values[:, None, None, None] if self.channels_first else values

    def other_axes(self, x: jax.Array) -> tuple[int, ...]:
        """The axes of a map without that of its channels."""
        return tuple(range(1, x.ndim) if self.channels_first else range(x.ndim - 1))

    def device_mean(self, x: jax.Array) -> jax.Array:
        """The mean of x over all devices."""
        mean: jax.Array = x if self.axis_name is None else jax.lax.pmean(x, self.axis_name)
        return mean

    def count(self, x: jax.Array) -> int:
        """Values of each channel that statistics are taken over."""
        devices = 1 if self.axis_name is None else jax.lax.axis_size(self.axis_name)
        return x.size // x.shape[self.channel_axis] * devices


def _param(initial: np.ndarray) -> nnx.Param[Any]:
    # device_put of a NumPy array compiles nothing; jnp.asarray compiles a program for each shape.
    return nnx.Param(jax.device_put(initial.astype(np.float32)))


def round_channels(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of `divisor`, at least that and never below 0.9 of `channels`."""
    nearest = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < 0.9 * channels else nearest


def halved(frames: Any) -> Any:
    """Frames after a convolution of stride 2. Works on ints and arrays."""
    return (frames - 1) // 2 + 1


def mean_over_frames(x: jax.Array, valid_frames: jax.Array | None) -> jax.Array:
    """Mean of [batch, frames, channels] over the first `valid_frames` [batch]; None: over all."""
    if valid_frames is None:
        return x.mean(axis=1)
    return cut(x, valid_frames).sum(axis=1) / jnp.maximum(valid_frames, 1)[:, None]


def hard_swish(x: jax.Array) -> jax.Array:
    """x times a ramp from 0 at -3 to 1 at 3."""
    return x * (jnp.clip(x + 3, 0, 6) * (1 / 6))


_ACTIVATIONS = {"relu": jax.nn.relu, "hard_swish": hard_swish}


class Linear(nnx.Module):
    """Linear layer with a bias, in float32; initially N(0, 0.01)."""

    def __init__(self, inputs: int, outputs: int, rng: np.random.Generator):
        self.kernel = _param(rng.normal(0, 0.01, (inputs, outputs)))
        self.bias = _param(np.zeros(outputs))

    def __call__(self, x: jax.Array) -> jax.Array:
        return product(x, self.kernel[...]) + self.bias[...]


class Stem(nnx.Module):
    """3x3 convolution of the one-channel spectrogram, stride 2, padding 1 on each side."""

    def __init__(self, kernel: np.ndarray):
        """kernel: [3, 3, 1, channels]."""
        self.kernel = _param(kernel)

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

    def __init__(self, kernel: np.ndarray):
        """kernel: [inputs, outputs]."""
        self.kernel = _param(kernel)

    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        return pointwise(x, self.kernel[...], context.channels_first, context.dtype)


class Depthwise(nnx.Module):
    """Convolution of each channel by itself, padded by (size - 1) / 2 on each side."""

    def __init__(self, kernel: np.ndarray, stride: int):
        """kernel: [size, size, channels]."""
        self.kernel = _param(kernel)
        self.stride = stride

    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        return depthwise(
            x,
            self.kernel[...],
            self.stride,
            channels_first=context.channels_first,
            platform=context.platform,
        )


EPSILON = 1e-5
MOMENTUM = 0.9  # running = 0.9 running + 0.1 batch


class BatchNorm(nnx.Module):
    """Normalises each channel over all else; running variance is unbiased.

    Statistics and the affine map are in float32, what comes out is of the maps' type.
    """

    def __init__(self, channels: int, epsilon: float = EPSILON, momentum: float = MOMENTUM):
        """momentum: running = momentum * running + (1 - momentum) * batch."""
        zeros, ones = (jax.device_put(np.full(channels, value, np.float32)) for value in (0, 1))
        self.scale, self.bias = nnx.Param(ones), nnx.Param(zeros)
        self.mean, self.var = nnx.BatchStat(zeros), nnx.BatchStat(ones)
        self.epsilon, self.momentum = epsilon, momentum

    @jax.named_scope("batch_norm")
    def __call__(self, x: jax.Array, context: Context, relu6: bool = False) -> jax.Array:
        """relu6: clip the result to 0 to 6."""
        scale, bias, epsilon = self.scale[...], self.bias[...], self.epsilon
        if not context.train or context.frozen:
            affine = _affine(self.mean[...], self.var[...], scale, bias, epsilon)
            return _output(x, affine, relu6, context)
        y: jax.Array
        if context.platform == "gpu":
            y, (mean, var) = _normalized(x, scale, bias, relu6, epsilon, context)
        else:
            mean, var = _moments(x, context)
            y = _output(x, _affine(mean, var, scale, bias, epsilon), relu6, context)
        count = context.count(x)
        # `self.mean[...] = x` would compare shardings, which takes a quarter of the tracing.
        self.mean.set_value(self.momentum * self.mean[...] + (1 - self.momentum) * mean)
        unbiased = var * (count / max(count - 1, 1))
        self.var.set_value(self.momentum * self.var[...] + (1 - self.momentum) * unbiased)
        return y


class _Affine(NamedTuple):
    """A multiplier and an offset for each channel."""

    multiplier: jax.Array
    offset: jax.Array

    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        """The map in float32."""
        multiplier, offset = map(context.of_channels, self)
        return at_least_float32(x) * multiplier + offset


def _affine(
    mean: jax.Array, var: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> _Affine:
    multiplier = scale * jax.lax.rsqrt(var + epsilon)
    return _Affine(multiplier, bias - mean * multiplier)


def _output(x: jax.Array, affine: _Affine, relu6: bool, context: Context) -> jax.Array:
    y = affine(x, context).astype(context.map_dtype)
    return jax.nn.relu6(y) if relu6 else y


def _moments(x: jax.Array, context: Context) -> tuple[jax.Array, jax.Array]:
    """Mean and variance of each channel."""
    wide, axes = at_least_float32(x), context.other_axes(x)
    # Indexed, not unpacked: that compiles to other programs, with which a CPU trains 6 % slower.
    moments = context.device_mean(jnp.stack([wide.mean(axes), jnp.square(wide).mean(axes)]))
    return moments[0], jnp.maximum(moments[1] - jnp.square(moments[0]), 0.0)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _normalized(
    x: jax.Array, scale: jax.Array, bias: jax.Array, relu6: bool, epsilon: float, context: Context
) -> Any:
    """(the normalised map, (mean, variance)), with gradients that write no map but that of x.

    By itself XLA on a GPU makes two passes over a map for its two means, and in the backward pass
    writes the gradient behind the activation, for two sums and the input's gradient to read. It
    follows from what lies there anyway in a few operations a value, which take less time than a map
    takes to be written and read: each use computes it anew.
    """
    return _forward(x, scale, bias, relu6, epsilon, context)[0]


def _forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, relu6: bool, epsilon: float, context: Context
) -> Any:
    wide = at_least_float32(x)
    mean, square = context.device_mean(_means((wide, jnp.square(wide)), context))
    var = jnp.maximum(square - jnp.square(mean), 0.0)
    affine = _affine(mean, var, scale, bias, epsilon)
    y = _output(x, affine, relu6, context)
    return (y, (mean, var)), (x, mean, jax.lax.rsqrt(var + epsilon), affine)


def _backward(relu6: bool, epsilon: float, context: Context, saved: Any, gradients: Any) -> Any:
    x, mean, rate, affine = saved
    channels = context.of_channels

    def parts() -> tuple[jax.Array, jax.Array]:
        """The gradient behind the activation and the normalised input, made for one use."""
        # Without the barrier all uses would be taken for one, whose result would be written.
        one_x, slope = jax.lax.optimization_barrier((x, gradients[0]))
        slope = at_least_float32(slope)
        if relu6:
            y = affine(one_x, context)
            slope = jnp.where((y > 0) & (y < 6), slope, 0.0)
        return slope, (at_least_float32(one_x) - channels(mean)) * channels(rate)

    slope, unit = parts()
    local = _means((slope, slope * unit), context)
    total = context.device_mean(local)
    slope, unit = parts()
    inner = slope - channels(total[0]) - unit * channels(total[1])
    bias_gradient, scale_gradient = local * (x.size // x.shape[context.channel_axis])
    return (channels(affine.multiplier) * inner).astype(x.dtype), scale_gradient, bias_gradient


def _means(maps: tuple[jax.Array, ...], context: Context) -> jax.Array:
    """Means of several maps of one shape in one pass over them: [maps, channels]."""
    sums = sum_together(maps, context.other_axes(maps[0]))
    return sums / (maps[0].size // maps[0].shape[context.channel_axis])


_normalized.defvjp(_forward, _backward)


class SqueezeExcitation(nnx.Module):
    """A factor in 0 to 1 for each channel, of the map's mean; in float32."""

    def __init__(self, channels: int, inside: int, rng: np.random.Generator):
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


class InvertedResidual(nnx.Module):
    """Expand (1x1), depthwise, squeeze-and-excitation, project (1x1), a shortcut where it fits.

    It does not expand where `hidden` is `inputs`.
    """

    def __init__(
        self,
        inputs: int,
        hidden: int,
        outputs: int,
        *,
        stride: int,
        size: int = 3,
        activation: str = "relu6",
        squeezed: int = 0,
        rng: np.random.Generator,
        draw: Callable[..., np.ndarray],
        norm: Callable[[int], BatchNorm] = BatchNorm,
    ):
        """Describes the block.

        Args:
          activation: relu6, relu or hard_swish.
          squeezed: channels inside the squeeze-and-excitation; 0: it has none.
          draw: (rng, shape, fan in, fan out) to initial weights.
        """
        self.stride, self.activation = stride, activation
        self.shortcut = stride == 1 and inputs == outputs
        expands = hidden != inputs
        self.expand = Pointwise(draw(rng, (inputs, hidden), inputs, hidden)) if expands else None
        self.expand_norm = norm(hidden) if expands else None
        # Fans as PyTorch counts them: of the outputs of all channels.
        fans = size * size, size * size * hidden
        self.depthwise = Depthwise(draw(rng, (size, size, hidden), *fans), stride)
        self.depthwise_norm = norm(hidden)
        self.excitation = SqueezeExcitation(hidden, squeezed, rng) if squeezed else None
        self.project = Pointwise(draw(rng, (hidden, outputs), hidden, outputs))
        self.project_norm = norm(outputs)

    def __call__(self, x: jax.Array, context: Context, valid: jax.Array | None = None) -> jax.Array:
        """valid: [batch] frames that are audio, after this block."""
        y = x
        if self.expand is not None and self.expand_norm is not None:
            y = self._activated(self.expand_norm, self.expand(y, context), context)
        y = self._activated(self.depthwise_norm, self.depthwise(y, context), context)
        if self.excitation is not None:
            y = self.excitation(y, context, valid)
        y = self.project_norm(self.project(y, context), context)
        return x + y if self.shortcut else y

    def _activated(self, norm: BatchNorm, y: jax.Array, context: Context) -> jax.Array:
        if self.activation == "relu6":
            return norm(y, context, relu6=True)
        return _ACTIVATIONS[self.activation](norm(y, context))
