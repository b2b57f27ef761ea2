from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from psl_jax.networks import mobilenetv2
from psl_jax.networks.architecture import Variables, clip_probabilities
from psl_jax.networks.layers import BatchNorm, Context
from psl_jax.networks.mobilenetv2 import create, output_frames, scaled

pytestmark = pytest.mark.usefixtures("paper_network")

TRAIN, EVALUATE = Context(train=True), Context()


def test_widths_are_rounded_to_multiples():
    expected = {(32, 1.0): 32, (16, 0.75): 16, (96, 0.75): 72, (320, 1.4): 448, (16, 0.25): 8}
    expected |= {(32, 0.1): 4, (16, 0.05): 4}
    expected[24, 0.5] = 16  # 12 is as near to 8, which would be less than nine tenths of it
    assert {case: scaled(*case) for case in expected} == expected


@pytest.mark.parametrize(("frames", "expected"), [(1001, 32), (201, 7), (501, 16), (1, 1)])
def test_output_frames(frames, expected):
    assert output_frames(frames) == expected
    np.testing.assert_array_equal(output_frames(jnp.array([frames])), [expected])
    network, variables = create(5, 0.1)
    logmel = jax.ShapeDtypeStruct((2, frames, 64), jnp.float32)
    shape, _ = jax.eval_shape(lambda v, x: network.apply(v, x, EVALUATE), variables, logmel)
    assert shape.shape == (2, expected, 5) and shape.dtype == jnp.float32


# --- layers -----------------------------------------------------------------------------------


def random_norm(channels):
    """A BatchNorm with random weights and statistics, and these in float64."""
    norm, rng, values = BatchNorm(channels), np.random.default_rng(0), {}
    for name in ("scale", "bias", "mean", "var"):
        values[name] = rng.uniform(0.5, 1.5, channels).astype(np.float32).astype(np.float64)
        getattr(norm, name).set_value(jnp.asarray(values[name], jnp.float32))
    return norm, values


def test_batch_norm_in_training():
    norm, before = random_norm(3)
    x = 5 * np.random.default_rng(2).standard_normal((4, 5, 6, 3)) + [30, 0, -2]
    x = x.astype(np.float32)
    out = nnx.jit(lambda norm, x: norm(x, TRAIN))(norm, x)
    wide = x.astype(np.float64).reshape(-1, 3)
    unit = (x - wide.mean(axis=0)) / np.sqrt(wide.var(axis=0) + 1e-5)
    np.testing.assert_allclose(out, unit * before["scale"] + before["bias"], atol=1e-4)
    mean = 0.9 * before["mean"] + 0.1 * wide.mean(axis=0)
    var = 0.9 * before["var"] + 0.1 * wide.var(axis=0, ddof=1)
    np.testing.assert_allclose(norm.mean[...], mean, rtol=1e-5)
    np.testing.assert_allclose(norm.var[...], var, rtol=1e-5)


def test_batch_norm_computes_bfloat16_statistics_in_float32():
    norm, before = random_norm(2)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((64, 64, 2)) + 8, jnp.bfloat16)
    context = Context(train=True, dtype=jnp.bfloat16, platform="tpu")
    out = nnx.jit(lambda norm, x: norm(x, context))(norm, x)
    assert out.dtype == jnp.bfloat16 and norm.mean[...].dtype == jnp.float32
    exact = 0.9 * before["mean"] + 0.1 * np.asarray(x, np.float64).mean((0, 1))
    np.testing.assert_allclose(norm.mean[...], exact, rtol=1e-5)


def test_initial_weights():
    _, variables = create(527)
    params = variables.params
    kernel = np.asarray(params["classifier"]["kernel"])
    assert kernel.std() == pytest.approx(0.01, rel=0.01) and abs(kernel.mean()) < 1e-4
    assert not np.asarray(params["classifier"]["bias"]).any()
    for name, kernel, fans in [
        ("stem", params["stem"]["kernel"], 9 + 9 * 32),
        ("head", params["head"]["kernel"], 320 + 1280),
        ("depthwise", params["blocks"][16]["depthwise"]["kernel"], 9 + 9 * 960),
    ]:
        limit = (6 / fans) ** 0.5
        assert np.abs(kernel).max() == pytest.approx(limit, rel=0.05), name
        assert np.std(kernel) == pytest.approx(limit / 3**0.5, rel=0.1), name


# --- the whole network ------------------------------------------------------------------------


@lru_cache
def apply_program(network, context):
    return jax.jit(lambda v, x, keys=None: network.apply(v, x, context, keys))


@pytest.fixture
def network(shallow):
    """A shallow network whose probabilities spread over (0, 1), and log-mel input for it."""
    return make_network()


@lru_cache
def make_network():
    net, variables = create(6, 0.25, dropout=0.3)
    logmel = np.random.default_rng(0).normal(-40, 20, (4, 33, 64)).astype(np.float32)
    _, stats = apply_program(net, TRAIN)(variables, logmel, keys(4))
    for _ in range(30):  # running statistics near those of this input
        _, stats = apply_program(net, TRAIN)(Variables(variables.params, stats), logmel, keys(4))
    variables.params["classifier"]["kernel"] *= 30
    return net, Variables(variables.params, stats), logmel


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def test_dropout_is_for_training_only(network):
    net, variables, logmel = network
    evaluated = [apply_program(net, EVALUATE)(variables, logmel, k) for k in (None, keys(4))]
    np.testing.assert_array_equal(*(frames for frames, _ in evaluated))
    jax.tree.map(np.testing.assert_array_equal, evaluated[0][1], variables.stats)
    first, again, other = (
        np.asarray(apply_program(net, TRAIN)(variables, logmel, keys(4, seed))[0])
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (np.abs(first - other) > 1e-3).any(axis=(1, 2)).all()
    with pytest.raises(ValueError, match="dropout_keys"):
        jax.eval_shape(lambda: net.apply(variables, logmel, TRAIN))


def test_dropout_keeps_its_share_and_the_expected_logit(network, monkeypatch):
    net, variables, _ = network
    monkeypatch.setattr(
        mobilenetv2.MobileNetV2, "features", lambda self, x, *_: jnp.ones((len(x), 2, 1280))
    )
    kernel = np.zeros((1280, 6), np.float32)
    kernel[:, 0] = 1 / 1280
    kernel[0, 1] = 1.0  # class 1 sees one feature only
    classifier = {"kernel": jnp.asarray(kernel), "bias": jnp.zeros(6)}
    changed = Variables(variables.params | {"classifier": classifier}, variables.stats)
    batch = np.zeros((64, 33, 64), np.float32)
    frames = jax.jit(lambda keys: net.apply(changed, batch, TRAIN, keys)[0])(keys(64))
    logits = np.log(frames / (1 - frames))
    np.testing.assert_allclose(logits[..., 0], 1.0, atol=0.1)  # a mean over 1280 features
    dropped, kept = (np.isclose(logits[..., 1], logit, atol=1e-3) for logit in (0, 1 / 0.7))
    assert (dropped | kept).all() and 0.15 < dropped.mean() < 0.45


def test_the_first_map_in_bfloat16_has_little_more_than_its_own_rounding(network):
    """dB values and BatchNorm's affine map in bfloat16 would cost 0.0123 standard deviations."""
    net, variables, logmel = network

    def first(dtype):
        module = nnx.merge(net.graphdef, *variables, copy=True)
        context = Context(dtype=dtype, platform="tpu")
        program = jax.jit(lambda x: module.stem_norm(module.stem(x, context), context))
        return np.asarray(program(logmel), np.float64)

    exact, narrow = first(jnp.float32), first(jnp.bfloat16)
    assert np.sqrt(np.mean((narrow - exact) ** 2)) < 0.003 * exact.std()


def test_written_for_others_it_is_the_same_network_statistics_and_gradients(shallow):
    """In float64: the rounding of float32 carries activations over corners of ReLU6."""
    net, variables = create(3, 0.25, dropout=0.0)
    variables = jax.tree.map(lambda x: np.asarray(x, np.float64), variables)
    logmel = np.random.default_rng(5).normal(size=(3, 41, 64))
    weights = np.random.default_rng(6).normal(size=(3, 2, 3))

    def outcome(**how):
        context = Context(train=True, dtype=jnp.float64, **how)

        def value(params):
            frames, stats = net.apply(Variables(params, variables.stats), logmel, context)
            return (frames * weights).sum(), (frames, stats)

        return jax.jit(jax.value_and_grad(value, has_aux=True))(variables.params)

    with jax.enable_x64(True):
        plain = outcome()
    # On a GPU with BatchNorms' own gradients.
    for how in ({"channels_first": True}, {"platform": "gpu"}, {"platform": "tpu"}):
        with jax.enable_x64(True):
            results = [outcome(**how), plain]
        for ours, other in zip(*map(jax.tree.leaves, results), strict=True):
            assert ours.dtype == other.dtype == np.float64
            atol = 1e-9 * max(np.abs(other).max(), 1e-3)
            np.testing.assert_allclose(ours, other, rtol=0, atol=atol, err_msg=str(how))


def test_mean_over_time_leaves_out_padding():
    frames = np.random.default_rng(0).random((3, 7, 2)).astype(np.float32)
    valid = jnp.array([7, 3, 1])
    ours = clip_probabilities(frames, valid)
    expected = [frames[0].mean(axis=0), frames[1, :3].mean(axis=0), frames[2, 0]]
    np.testing.assert_allclose(ours, expected, rtol=1e-6)
    np.testing.assert_allclose(clip_probabilities(frames), frames.mean(axis=1), rtol=1e-6)
    # What is in the padding does not matter, not even when it is not a number.
    frames[1, 3:] = np.nan
    np.testing.assert_allclose(clip_probabilities(frames, valid), expected, rtol=1e-6)
