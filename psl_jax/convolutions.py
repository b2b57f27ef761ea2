"""The two convolutions that MobileNetV2 is made of, written for the backend that runs them.

Depthwise 3x3, padding 1 on each side: XLA's grouped convolution is about ten times slower on a CPU
than nine shifted multiply-adds; on GPUs and TPUs the grouped convolution is kept. Pointwise 1x1: a
matrix product. Either way the same functions and gradients are computed.
"""

from functools import partial

import jax
import jax.numpy as jnp

METHODS = ("shifted", "grouped")


@jax.custom_vjp
def pointwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """1x1 convolution: x [..., inputs] times kernel [inputs, outputs], in x's type."""
    return x @ kernel.astype(x.dtype)


def _pointwise_forward(x, kernel):
    return pointwise(x, kernel), (x, kernel)


def _pointwise_backward(saved, gradient):
    x, kernel = saved
    kernel_gradient = _pointwise_kernel_gradient(x, gradient)
    return gradient @ kernel.astype(x.dtype).T, kernel_gradient.astype(kernel.dtype)


def _pointwise_kernel_gradient(x, gradient):
    """[inputs, outputs]; where many positions meet a small kernel, from several parts of the batch.

    As autodiff writes it, the kernel's gradient comes out transposed, and XLA:CPU then fuses a
    strided transposition of the whole gradient into its producer: 134 ms where this takes 20. A
    product of millions of rows with a small result it computes at half the speed of two of them.
    """
    gradient = jax.lax.optimization_barrier(gradient)
    rows = x.size // x.shape[-1]
    if len(x) % 2 or rows < 6_000:
        axes = tuple(range(x.ndim - 1))
        return jax.lax.dot_general(x, gradient, ((axes, axes), ((), ())))
    x, gradient = (a.reshape(2, -1, a.shape[-1]) for a in (x, gradient))
    return jax.lax.dot_general(x, gradient, (((1,), (1,)), ((0,), (0,)))).sum(axis=0)


pointwise.defvjp(_pointwise_forward, _pointwise_backward)


def depthwise3x3(x: jax.Array, kernel: jax.Array, stride: int, method: str | None = None):
    """Depthwise convolution of x [batch, frames, bands, channels] with kernel [3, 3, channels].

    Returns [batch, (frames - 1) // stride + 1, (bands - 1) // stride + 1, channels], in x's type.
    method: "shifted", "grouped", or None for the faster one of the default backend.
    """
    method = method or ("shifted" if jax.default_backend() == "cpu" else "grouped")
    if method == "shifted":
        return _shifted(x, kernel, stride)
    return jax.lax.conv_general_dilated(
        x,
        kernel[:, :, None, :].astype(x.dtype),
        (stride, stride),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _shifted(x, kernel, stride):
    return _correlate(x, kernel, stride)


def _forward(x, kernel, stride):
    return _correlate(x, kernel, stride), (x, kernel)


def _backward(stride, saved, gradient):
    x, kernel = saved
    return _input_gradient(gradient, kernel, stride, x.shape), _kernel_gradient(
        x, gradient, stride
    ).astype(kernel.dtype)


_shifted.defvjp(_forward, _backward)


def _taps(padded, shape, stride):
    """The nine views of the padded input that meet the nine weights, with their positions."""
    frames, bands = shape
    for i in range(3):
        for j in range(3):
            rows = slice(i, i + stride * (frames - 1) + 1, stride)
            columns = slice(j, j + stride * (bands - 1) + 1, stride)
            yield i, j, padded[..., rows, columns, :]


def _correlate(x, kernel, stride):
    shape = [(n - 1) // stride + 1 for n in x.shape[1:3]]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    kernel = kernel.astype(x.dtype)
    return sum(view * kernel[i, j] for i, j, view in _taps(padded, shape, stride))


def _input_gradient(gradient, kernel, stride, shape):
    if stride > 1:  # spread the gradient out to the input's grid, zeros in between
        sizes = zip(shape[1:3], gradient.shape[1:3], strict=True)
        spread = [(0, n - stride * (m - 1) - 1, stride - 1) for n, m in sizes]
        zero = jnp.zeros((), gradient.dtype)
        gradient = jax.lax.pad(gradient, zero, [(0, 0, 0), *spread, (0, 0, 0)])
    return _correlate(gradient, kernel[::-1, ::-1], 1)


def _kernel_gradient(x, gradient, stride):
    """Sums of products in float32, [3, 3, channels].

    One reduction of nine operands over the frames, then small sums: XLA:CPU makes one pass over x
    and the gradient of it, in half the time of a reduction for each weight.
    """
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    products = [
        (view * gradient).astype(jnp.float32)
        for _, _, view in _taps(padded, gradient.shape[1:3], stride)
    ]
    zeros = [jnp.float32(0)] * len(products)
    sums = jax.lax.reduce(
        products, zeros, lambda a, b: [p + q for p, q in zip(a, b, strict=True)], (1,)
    )
    return jnp.stack(sums).sum(axis=(1, 2)).reshape(3, 3, x.shape[-1])
