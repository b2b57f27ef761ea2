import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psl_jax.networks import convolutions
from psl_jax.networks.convolutions import depthwise, pointwise

SIZES = [(9, 7), (8, 6), (5, 1), (1, 4)]  # odd, even, and with one row or column only
CASES = [((9, 7), 1), ((8, 6), 1), *((size, 2) for size in SIZES)]


def arrays(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def strided(x, stride):
    """The shape of a convolution of x."""
    return (len(x), *((n - 1) // stride + 1 for n in x.shape[1:3]), x.shape[3])


def depthwise_by_numpy(x, kernel, stride):
    """Padding 1 on each side, in float64."""
    padded = np.pad(x.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    return np.einsum("bhwcij,ijc->bhwc", windows, kernel)[:, ::stride, ::stride]


def gradients(function):
    """Jitted (x, kernel, cotangent) -> value and both gradients of `function`."""

    @jax.jit
    def run(x, kernel, cotangent):
        value, pull = jax.vjp(function, x, kernel)
        return value, *pull(cotangent)

    return run


def depthwise_gradients(way, stride):
    """Of the convolution on a platform, or with channels and batch exchanged before and after."""

    def run(x, kernel):
        if way != "channels_first":
            return depthwise(x, kernel, stride, platform=way)
        return depthwise(x.swapaxes(0, 3), kernel, stride, channels_first=True).swapaxes(0, 3)

    return gradients(run)


@pytest.mark.parametrize(("size", "stride"), CASES)
def test_depthwise_matches_numpy_and_all_ways_have_the_gradients_of_xlas_own(size, stride):
    x, kernel = arrays((3, *size, 5), (3, 3, 5), seed=1)
    (cotangent,) = arrays(strided(x, stride), seed=2)
    expected = depthwise_gradients("tpu", stride)(x, kernel, cotangent)  # by XLA's convolution
    np.testing.assert_allclose(expected[0], depthwise_by_numpy(x, kernel, stride), atol=1e-5)
    for way in ("cpu", "channels_first"):
        ours = depthwise_gradients(way, stride)(x, kernel, cotangent)
        for mine, other in zip(ours, expected, strict=True):
            assert mine.shape == other.shape and mine.dtype == jnp.float32
            np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("way", ["cpu", "tpu", "channels_first"])
def test_depthwise_in_bfloat16_keeps_its_type_and_float32_weights(way):
    x, kernel = arrays((2, 9, 7, 4), (3, 3, 4))
    narrow = jnp.asarray(x, jnp.bfloat16)
    cotangent = np.ones(strided(x, 2), narrow.dtype)
    out, dx, dkernel = depthwise_gradients(way, 2)(narrow, kernel, cotangent)
    assert (out.dtype, dx.dtype, dkernel.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)
    exact = depthwise_by_numpy(x, kernel, 2)
    np.testing.assert_allclose(out.astype(np.float32), exact, atol=0.05, rtol=0.05)


@pytest.mark.parametrize(("platform", "is_grouped"), [("cpu", 0), ("gpu", 0), ("tpu", 1)])
def test_each_platform_has_its_own_method(platform, is_grouped):
    x, kernel = arrays((1, 4, 4, 2), (3, 3, 2))
    program = jax.make_jaxpr(lambda: depthwise(x, kernel, 1, platform=platform))()
    assert str(program).count("conv_general_dilated[") == is_grouped


def test_products_of_bfloat16_with_float32_maps_round_their_factors_alone():
    """The product and both of its gradients; [inputs, 4] and [4, inputs] take different ways."""

    def rounded(x):
        return np.asarray(jnp.asarray(x, jnp.bfloat16), np.float64)

    program = gradients(lambda x, kernel: pointwise(x, kernel, True, jnp.bfloat16))
    for inputs in (3, 6):
        x, kernel = arrays((inputs, 5, 7, 2), (inputs, 4))
        (cotangent,) = arrays((4, 5, 7, 2))
        out, dx, dkernel = program(x, kernel, cotangent)
        assert {out.dtype, dx.dtype, dkernel.dtype} == {jnp.dtype(jnp.float32)}
        x, kernel, flat = rounded(x), rounded(kernel), rounded(cotangent).reshape(4, -1)
        x = x.reshape(inputs, -1)
        np.testing.assert_allclose(out.reshape(4, -1), kernel.T @ x, atol=1e-5)
        np.testing.assert_allclose(dx.reshape(inputs, -1), kernel @ flat, atol=1e-5)
        np.testing.assert_allclose(dkernel, x @ flat.T, atol=1e-4)


# --- parts of a batch --------------------------------------------------------------------------


@given(batch=st.integers(1, 60), bytes_per_row=st.integers(1, 20_000_000))
def test_parts_are_as_large_as_the_cache_allows(batch, bytes_per_row):
    fits = [n for n in range(1, batch + 1) if batch % n == 0 and n * bytes_per_row <= 6_000_000]
    assert convolutions._count_rows(batch, bytes_per_row) == (fits[-1] if fits else 1)


@pytest.mark.parametrize(("bytes_per_row", "largest"), [(1, 6), (3_000_000, 2), (10_000_000, 1)])
def test_rows_of_all_arrays_stay_together(bytes_per_row, largest):
    seen = []

    def function(arrays):
        x, lengths, nothing = arrays
        seen.append(len(x))
        return x * lengths[:, None], lengths, nothing

    x, lengths = jnp.arange(12.0).reshape(6, 2), jnp.arange(6)
    product, same, nothing = jax.jit(
        lambda *arrays: convolutions.in_parts(function, (*arrays, None), bytes_per_row)
    )(x, lengths)
    np.testing.assert_array_equal(product, np.arange(12.0).reshape(6, 2) * np.arange(6)[:, None])
    np.testing.assert_array_equal(same, np.arange(6))
    assert nothing is None and set(seen) == {largest}


def test_an_accelerator_gets_the_whole_batch(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    sizes = []
    convolutions.in_parts(lambda x: sizes.append(len(x)) or x, jnp.zeros((6, 2)), 10_000_000)
    assert sizes == [6]
