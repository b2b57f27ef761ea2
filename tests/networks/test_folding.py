"""BatchNorms folded into convolutions leave the network's answers as they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from psl_jax.networks import folding, mobilenetv2
from psl_jax.networks.architecture import Variables
from psl_jax.networks.layers import Context


def random_variables(variables: Variables, seed: int = 0) -> Variables:
    """The same with BatchNorm parameters and statistics as different as a trained network's."""
    rng = np.random.default_rng(seed)
    ranges = {"scale": (0.5, 1.5), "bias": (-0.5, 0.5), "mean": (-0.5, 0.5), "var": (0.2, 2.0)}

    def drawn(path, x):
        low_high = ranges.get(path[-1].key) if "norm" in str(path[-2]) else None
        return rng.uniform(*low_high, x.shape).astype(np.float32) if low_high else np.asarray(x)

    return jax.tree_util.tree_map_with_path(drawn, variables)


def in_modules(network):
    return jax.jit(lambda variables, logmel: network.apply(variables, logmel, Context())[0])


def test_the_folded_network_gives_the_same_probabilities():
    network, variables = mobilenetv2.create(3, 0.25)
    variables = random_variables(variables)
    logmel = np.random.default_rng(1).normal(-30, 20, (2, 77, 64)).astype(np.float32)
    expected = in_modules(network)(variables, logmel)

    @jax.jit
    def run(folded, logmel):
        return folding.frame_probabilities(folded, logmel, folding.JaxOperations())

    folded = mobilenetv2.fold(variables)
    assert expected.std(axis=(0, 1)).min() > 5e-5  # over time
    np.testing.assert_allclose(run(folded, logmel), expected, atol=2e-6)
    assert len(jax.tree.leaves(folded)) == 2 * (
        3 + sum(3 - (b.expand is None) for b in folded.blocks)
    )


def test_in_parts_of_the_batch_and_with_padding_it_gives_what_each_row_gives():
    _, variables = mobilenetv2.create(3)
    folded = mobilenetv2.fold(random_variables(variables))
    logmel = np.random.default_rng(1).normal(-30, 20, (6, 301, 64)).astype(np.float32)
    valid = np.array([301, 300, 160, 160, 1, 301])

    @jax.jit
    def run(folded, logmel, valid):
        return folding.frame_probabilities(folded, logmel, folding.JaxOperations(), valid)

    together = run(folded, logmel, valid)
    assert "while" in run.lower(folded, logmel, valid).as_text()
    for row, frames, probabilities in zip(logmel, valid, together, strict=True):
        alone = run(folded, row[None, :frames], np.array([frames]))[0]
        np.testing.assert_allclose(probabilities[: len(alone)], alone, atol=2e-6)


@pytest.mark.parametrize(
    ("platform", "maps"), [("tpu", jnp.bfloat16), ("gpu", jnp.bfloat16), ("cpu", jnp.float32)]
)
def test_maps_are_of_the_type_asked_for_but_on_a_cpu(platform, maps):
    network, variables = mobilenetv2.create(3, 0.25)
    variables = random_variables(variables)
    logmel = np.random.default_rng(1).normal(-30, 20, (2, 77, 64)).astype(np.float32)
    types = []

    class Noting(folding.JaxOperations):
        def relu6(self, x):
            types.append(x.dtype)
            return super().relu6(x)

    @jax.jit
    def run(folded, logmel):
        return folding.frame_probabilities(folded, logmel, Noting(jnp.bfloat16, platform))

    found = run(mobilenetv2.fold(variables), logmel)
    expected = in_modules(network)(variables, logmel)
    assert set(types) == {jnp.dtype(maps)} and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=0.01)
    assert np.abs(found - expected).max() > 1e-6
