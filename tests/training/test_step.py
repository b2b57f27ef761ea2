"""The training step: its loss, its gradients' effect, both layouts, other recipes."""

import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_network

from psl_jax.data.clip_index import UNKNOWN
from psl_jax.networks.augmentation import Augmentation
from psl_jax.networks.frontend import LogMel
from psl_jax.networks.layers import Context
from psl_jax.networks.mobilenetv2 import create
from psl_jax.runtime import parallel
from psl_jax.training.step import (
    Recipe,
    binary_cross_entropy,
    categorical_cross_entropy,
    init_state,
    step_function,
    train_program,
)


@pytest.mark.parametrize("frames", [None, [5, 1, 3, 2]])
@pytest.mark.parametrize("has_unknown", [False, True])
def test_cross_entropy_of_soft_labels(frames, has_unknown):
    """Against the definition by probabilities, in float64; unknown labels add nothing."""
    rng = np.random.default_rng(0)
    logits, y = 3 * rng.standard_normal((4, 5, 7)), rng.random((4, 7))
    is_known = (rng.random((4, 7)) < 0.6) | (not has_unknown)
    rows = zip(1 / (1 + np.exp(-logits)), frames or [5] * 4, strict=True)
    p = np.stack([row[:count].mean(axis=0) for row, count in rows])
    terms = -(y * np.log(p) + (1 - y) * np.log(1 - p)) * is_known
    valid = None if frames is None else np.array(frames)
    program = jax.jit(jax.value_and_grad(binary_cross_entropy))
    known = is_known if has_unknown else None
    value, gradient = program(np.float32(logits), np.float32(y), valid, known)
    assert float(value) == pytest.approx(terms.mean(), rel=1e-5)
    np.testing.assert_array_equal(np.any(gradient, axis=1), is_known)


@pytest.mark.parametrize(("logit", "label"), [(-20.0, 1.0), (20.0, 0.0), (-200.0, 1.0)])
@pytest.mark.parametrize("loss", [binary_cross_entropy, categorical_cross_entropy])
def test_the_gradient_does_not_vanish_where_probabilities_saturate(loss, logit, label):
    """d loss / d logit is p - y, shared out over the frames."""
    logits = np.zeros((1, 4, 2 if loss is categorical_cross_entropy else 1), np.float32)
    logits[..., 0] = logit
    labels = np.float32([[label, 1 - label][: logits.shape[2]]])
    value, gradient = jax.jit(jax.value_and_grad(loss))(logits, labels)
    assert float(value) == pytest.approx(abs(logit), rel=1e-4)
    assert float(gradient[..., 0].sum()) == pytest.approx(np.sign(logit), rel=1e-5)


SAMPLES = 8000


def batch_of(size=4, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "audio": rng.integers(-8000, 8000, (size, SAMPLES)).astype(np.int16),
        "num_samples": np.array([SAMPLES, SAMPLES // 2] * (size // 2), np.int32),
        "labels": rng.random((size, classes)).astype(np.float32),
    }


@pytest.fixture(scope="module")
def plain():
    """Network without dropout, its variables and a jitted step on one device."""
    network, variables = create(3, 0.1, dropout=0.0)
    mesh = parallel.data_mesh(1)
    program = train_program(network, Recipe(), mesh)
    return types.SimpleNamespace(network=network, variables=variables, mesh=mesh, program=program)


def steps(plain, count, rate, batch, program=None):
    state = parallel.replicate(init_state(plain.variables), plain.mesh)
    program, losses = program or plain.program, []
    for _ in range(count):
        state, values = program(state, parallel.put_batch(batch, plain.mesh), rate)
        losses.append(float(values["loss"]))
    return state, losses


def test_training_fits_a_batch(plain):
    batch = batch_of() | {"labels": np.float32([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]])}
    _, losses = steps(plain, 40, 1e-2, batch)
    assert losses[0] == pytest.approx(math.log(2), abs=0.05) and losses[-1] < 0.1


def test_a_rate_of_zero_leaves_the_weights_and_updates_the_statistics(plain):
    state, _ = steps(plain, 1, 0.0, batch_of())
    jax.tree.map(np.testing.assert_array_equal, state.variables.params, plain.variables.params)
    before, after = (v.stats["head_norm"]["var"] for v in (plain.variables, state.variables))
    assert not np.array_equal(before, after)


def test_padding_does_not_enter_the_loss(plain):
    """What lies in the output frames past a clip's end has no say in its probabilities."""
    batch = batch_of()
    _, (loss,) = steps(plain, 1, 0.0, batch)

    @jax.jit
    def apply(audio):
        features = LogMel()(audio, batch["num_samples"])
        return plain.network.apply(plain.variables, features, Context(train=True))[0]

    frames = apply(batch["audio"])
    assert frames.shape[1] == 2  # of 51 frames, halved five times; of the 26 of 4000 samples, 1
    rows = zip(np.asarray(frames), [2, 1, 2, 1], strict=True)
    p, y = np.stack([row[:valid].mean(axis=0) for row, valid in rows]), batch["labels"]
    assert loss == pytest.approx(-(y * np.log(p) + (1 - y) * np.log1p(-p)).mean(), rel=1e-5)
    p = np.asarray(frames).mean(axis=1)
    assert abs(-(y * np.log(p) + (1 - y) * np.log1p(-p)).mean() - loss) > 1e-4 * loss


@pytest.fixture
def optimized():
    """Programs are compiled as users' are; elsewhere the tests leave optimizations out."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def test_both_layouts_optimized_take_the_same_step(plain, optimized):
    """Channels first with fast math, as on a CPU, against channels last without it.

    In float64: the rounding of float32 carries activations over corners of ReLU6.
    """
    # Of two blocks, to compile less: with a stride, and with a shortcut.
    with small_network.blocks(((6, 24, 2, 2),)):
        network, variables = create(3, 0.1, dropout=0.0)
    wide = jax.tree.map(lambda x: np.asarray(x, np.float64), variables)
    with jax.enable_x64(True):
        ours, theirs = (one_layout(network, wide, plain.mesh, first) for first in (True, False))
    assert ours[0] == pytest.approx(theirs[0], rel=1e-12)
    for our, other in zip(*map(jax.tree.leaves, (ours[1:], theirs[1:])), strict=True):
        assert our.dtype == other.dtype == np.float64
        atol = 1e-9 * max(np.abs(other).max(), 1e-4)
        np.testing.assert_allclose(our, other, rtol=0, atol=atol)


def one_layout(network, variables, mesh, channels_first):
    """Of a step: the loss, the statistics and Adam's moments."""
    batch = batch_of()
    batch["audio"] = batch["audio"] / 32768  # int16 becomes float32 features
    recipe = Recipe(seed=3, dtype="float64", channels_first=channels_first)
    program = parallel.data_parallel(
        step_function(network, recipe, "cpu"),
        mesh,
        (parallel.REPLICATED, parallel.SPLIT, parallel.REPLICATED),
        parallel.REPLICATED,
        fast_math=channels_first,
    )
    state = parallel.replicate(init_state(variables), mesh)
    state, values = program(state, parallel.put_batch(batch, mesh), 1e-3)
    trees = parallel.to_host((state.variables.stats, state.optimizer.mu))
    return float(values["loss"]), *trees


def test_of_a_class_that_is_unknown_in_either_of_two_mixed_clips_nothing_is_learned(plain):
    mixup = Augmentation(mixup_alpha=0.5)
    recipes = [Recipe(augmentation=mixup, has_unknown=unknown) for unknown in (False, True)]
    first, second = (train_program(plain.network, recipe, plain.mesh) for recipe in recipes)
    batch = batch_of()

    def step(program):
        state, (loss,) = steps(plain, 1, 1e-3, batch, program)
        return loss, parallel.to_host(state.optimizer.mu["classifier"]["kernel"])

    (loss, moments), (same_loss, same_moments) = step(first), step(second)
    assert same_loss == pytest.approx(loss, rel=1e-6)
    rounding = 1e-5 * np.abs(moments).max()  # of sums whose terms cancel out
    np.testing.assert_allclose(same_moments, moments, rtol=1e-4, atol=rounding)
    batch["labels"][::2, 2] = UNKNOWN  # of each pair one
    _, moments = step(second)
    assert not moments[:, 2].any()
    np.testing.assert_allclose(moments[:, :2], same_moments[:, :2], rtol=1e-4, atol=rounding)


def test_bfloat16_trains_too(plain):
    program = train_program(plain.network, Recipe(dtype="bfloat16"), plain.mesh)
    state, (loss,) = steps(plain, 1, 1e-3, batch_of(), program)
    _, (reference,) = steps(plain, 1, 1e-3, batch_of())
    assert loss == pytest.approx(reference, rel=0.02) and loss != reference
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(state.variables))
