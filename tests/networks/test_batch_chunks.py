import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psl_jax.networks import convolutions


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
