"""The layers that the networks are made of, besides BatchNorm; what begins them is an argument."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from psl_jax.networks.convolutions import depthwise, pointwise, product, shifted_views
from psl_jax.networks.forward_context import Context


def _param(initial: np.ndarray) -> nnx.Param:
    # From NumPy and only put: JAX, jnp.asarray too, would compile a program for each shape.
    return nnx.Param(jax.device_put(initial.astype(np.float32)))


def hard_swish(x: jax.Array) -> jax.Array:
    """x times a ramp from 0 at -3 to 1 at 3."""
    return x * (jnp.clip(x + 3, 0, 6) * (1 / 6))


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
        how = context.depthwise, context.channels_first, context.platform
        return depthwise(x, self.kernel[...], self.stride, *how)
