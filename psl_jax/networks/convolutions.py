"""The two convolutions that the networks are made of, written for the backend that runs them.

Maps are [batch, frames, bands, channels], or with `channels_first` [channels, frames, bands,
batch], in which a CPU trains faster: what the batch shares is one number there and the batch fills
the vectors. Depthwise convolutions are shifted multiply-adds, on TPUs XLA's grouped convolution.
Channels first they come with gradients written out, elsewhere with those of autodiff.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

_Tree = TypeVar("_Tree")


def product(x: jax.Array, y: jax.Array, dtype: Any = None) -> jax.Array:
    """The matrix product x @ y in x's type; float32 means float32 on every backend.

    dtype: type that the factors are rounded to first (default: x's); sums keep x's.
    """
    if dtype is None or jnp.dtype(dtype) == x.dtype:
        return jnp.matmul(x, y.astype(x.dtype), precision=precision_of(x.dtype))
    return jnp.matmul(x.astype(dtype), y.astype(dtype), preferred_element_type=x.dtype)


def map_dtype(dtype: Any, platform: str | None = None) -> Any:
    """Type of the maps between products of `dtype` on a platform (default: this machine's).

    CPUs multiply bfloat16 and sum in float32, and do hardly anything else in it: maps stay float32.
    """
    on_cpu = (platform or jax.default_backend()) == "cpu"
    return jnp.promote_types(dtype, jnp.float32) if on_cpu else jnp.dtype(dtype)


def precision_of(dtype: Any) -> jax.lax.Precision | None:
    """Of products: left to itself a TPU multiplies float32 as bfloat16, and a GPU as TF32."""
    return jax.lax.Precision.HIGHEST if jnp.dtype(dtype).itemsize >= 4 else None


def pointwise(
    x: jax.Array, kernel: jax.Array, channels_first: bool = False, dtype: Any = None
) -> jax.Array:
    """1x1 convolution of a map x with kernel [inputs, outputs], in x's type.

    dtype: what its product and those of its gradients round their factors to, see `product`.
    """
    if channels_first:
        return _pointwise_channels_first(x, kernel, dtype)
    return product(x, kernel, dtype)


def depthwise(
    x: jax.Array,
    kernel: jax.Array,
    stride: int,
    *,
    channels_first: bool = False,
    platform: str | None = None,
) -> jax.Array:
    """Depthwise convolution of a map x, in its type, with kernel [size, size, channels], size odd.

    Padded by (size - 1) / 2 on each side: frames and bands become (frames - 1) // stride + 1 and
    (bands - 1) // stride + 1. On a TPU (platform, default: this machine's) it is XLA's grouped one.
    """
    if channels_first:
        return _depthwise_channels_first(x, kernel, stride)
    if (platform or jax.default_backend()) != "tpu":
        return correlate(x, kernel, stride)
    pad = len(kernel) // 2
    return jax.lax.conv_general_dilated(
        x,
        kernel[:, :, None, :].astype(x.dtype),
        (stride, stride),
        ((pad, pad), (pad, pad)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
        precision=precision_of(x.dtype),
    )


def shifted_views(x: jax.Array, stride: int = 1, size: int = 3) -> list[jax.Array]:
    """The views of a map that meet the weights of a size x size kernel, row by row.

    Axes 1 and 2 are padded by (size - 1) / 2 on each side with zeros; axes 0 and 3 are not touched.
    """
    pad = size // 2
    padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    frames, bands = ((n - 1) // stride * stride + 1 for n in x.shape[1:3])
    return [
        padded[:, i : i + frames : stride, j : j + bands : stride]
        for i in range(size)
        for j in range(size)
    ]


def correlate(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """The convolution as multiply-adds; kernel [size, size, ...], its rest broadcast against x."""
    size = len(kernel)
    weights = kernel.astype(x.dtype).reshape(size * size, *kernel.shape[2:])
    views = shifted_views(x, stride, size)
    total: Any = sum(view * weight for view, weight in zip(views, weights, strict=True))
    return jnp.asarray(total)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _pointwise_channels_first(x: jax.Array, kernel: jax.Array, dtype: Any) -> jax.Array:
    flat = product(kernel.astype(x.dtype).T, x.reshape(x.shape[0], -1), dtype)
    return flat.reshape(-1, *x.shape[1:])


def _pointwise_channels_first_backward(dtype: Any, saved: Any, gradient: jax.Array) -> Any:
    x, kernel = saved
    # Flat before the products and behind a barrier: XLA:CPU would transpose the whole gradient.
    gradient = jax.lax.optimization_barrier(gradient.reshape(gradient.shape[0], -1))
    kernel_gradient = _product_of_long_rows(x.reshape(x.shape[0], -1), gradient, dtype)
    x_gradient = product(kernel.astype(x.dtype), gradient, dtype).reshape(x.shape)
    return x_gradient, kernel_gradient.astype(kernel.dtype)


def _product_of_long_rows(x: jax.Array, y: jax.Array, dtype: Any) -> jax.Array:
    """x y^T; with the longer factor first XLA:CPU can be several times as fast."""
    if len(x) >= len(y):
        return product(x, y.T, dtype)
    # Without the barrier XLA turns the factors back.
    turned: jax.Array = jax.lax.optimization_barrier(product(y, x.T, dtype))
    return turned.T


_pointwise_channels_first.defvjp(
    lambda x, kernel, dtype: (_pointwise_channels_first(x, kernel, dtype), (x, kernel)),
    _pointwise_channels_first_backward,
)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _depthwise_channels_first(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    return correlate(x, kernel[..., None, None, None], stride)


def _depthwise_channels_first_backward(stride: int, saved: Any, gradient: jax.Array) -> Any:
    x, kernel = saved
    kernel_gradient = _kernel_gradient(x, gradient, stride, len(kernel)).astype(kernel.dtype)
    if stride > 1:  # spread the gradient out to the input's grid, zeros in between
        sizes = zip(x.shape[1:3], gradient.shape[1:3], strict=True)
        spread = [(0, n - stride * (m - 1) - 1, stride - 1) for n, m in sizes]
        zero = jnp.zeros((), gradient.dtype)
        gradient = jax.lax.pad(gradient, zero, [(0, 0, 0), *spread, (0, 0, 0)])
    return _depthwise_channels_first(gradient, kernel[::-1, ::-1], 1), kernel_gradient


_depthwise_channels_first.defvjp(
    lambda x, kernel, stride: (_depthwise_channels_first(x, kernel, stride), (x, kernel)),
    _depthwise_channels_first_backward,
)


def _kernel_gradient(x: jax.Array, gradient: jax.Array, stride: int, size: int) -> jax.Array:
    """Products in x's type, summed in float32: [size, size, channels].

    One reduction of all operands over what lies side by side in memory: XLA:CPU makes one pass
    over x and the gradient of it, and vectors where it may reorder sums (`parallel.FAST_MATH`).
    """
    products = [at_least_float32(view * gradient) for view in shifted_views(x, stride, size)]
    return sum_together(products, (2, 3)).sum(axis=2).reshape(size, size, x.shape[0])


def sum_together(arrays: Sequence[jax.Array], axes: tuple[int, ...]) -> jax.Array:
    """Sums of several arrays of one shape, over the same axes, in one pass: [arrays, ...]."""
    zeros: list[Any] = [jnp.zeros((), array.dtype) for array in arrays]
    sums = jax.lax.reduce(
        list(arrays), zeros, lambda a, b: [p + q for p, q in zip(a, b, strict=True)], axes
    )
    return jnp.stack(sums)


def at_least_float32(x: jax.Array) -> jax.Array:
    """x in float32, or in float64 if that is what it is: where tests leave no room for rounding."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def cut(x: jax.Array, valid_frames: jax.Array | None) -> jax.Array:
    """x [batch, frames, ...] with zeros from `valid_frames` [batch] on; None: x itself."""
    if valid_frames is None:
        return x
    inside = jnp.arange(x.shape[1]) < valid_frames[:, None]
    return jnp.where(jax.lax.expand_dims(inside, range(2, x.ndim)), x, jnp.zeros((), x.dtype))


# Measured on two cores with 1 MB of L2 cache each and 36 MB of L3 cache: between 2 and 8 MB
# it makes no difference.
PART_BYTES = 6_000_000


def in_parts(
    function: Callable[[Any], _Tree], arrays: Any, bytes_per_row: int, platform: str | None = None
) -> _Tree:
    """function(arrays), on a CPU for a few rows of the batch at a time, which stay in its cache.

    The result is the same.

    Args:
      function: maps a pytree of arrays [rows, ...] to another one, each row by itself.
      arrays: pytree of arrays [batch, ...].
      bytes_per_row: size of the largest intermediate array of `function`, for each row.
      platform: that the program is for, default this machine's.
    """
    batch = jax.tree.leaves(arrays)[0].shape[0]
    has_sizes = isinstance(batch, int) and isinstance(bytes_per_row, int)  # not so in an export
    rows = _count_rows(batch, bytes_per_row) if has_sizes else batch
    if rows == batch or (platform or jax.default_backend()) != "cpu":
        return function(arrays)
    split = jax.tree.map(lambda x: x.reshape(batch // rows, rows, *x.shape[1:]), arrays)
    parts = jax.lax.map(function, split)
    joined: _Tree = jax.tree.map(lambda x: x.reshape(batch, *x.shape[2:]), parts)
    return joined


def _count_rows(batch: int, bytes_per_row: int) -> int:
    """The most rows that divide the batch and stay under PART_BYTES, at least one."""
    most = max(1, PART_BYTES // bytes_per_row)
    return max(rows for rows in range(1, batch + 1) if batch % rows == 0 and rows <= most)
