"""A finished model as the start of a training, whole or with all but its classifier frozen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_experiments
from ml_collections import ConfigDict
from small_experiments import CLASSES, save_model, settings

from psl_jax import UserError
from psl_jax import config as config_lib
from psl_jax.experiments import suite, training_steps
from psl_jax.experiments.experiment import Experiment
from psl_jax.experiments.run_folder import OtherRunError
from psl_jax.networks.architecture import Variables
from psl_jax.networks.frontend import LogMel, to_float
from psl_jax.networks.layers import Context
from psl_jax.networks.mobilenetv2 import create
from psl_jax.runtime import parallel
from psl_jax.training.step import Recipe, binary_cross_entropy, init_state, train_program
from psl_jax.weights.load_model import load_model


def leaves(variables):
    return {jax.tree_util.keystr(p): x for p, x in jax.tree_util.tree_leaves_with_path(variables)}


def test_what_is_trained_and_what_stays(data, tmp_path):
    start = save_model(tmp_path / "start", ("other", "names"))
    asked = settings(
        data, init_from=str(start), train={"trainable": "classifier"}, model={"width": 1.0}
    )
    run = small_experiments.run(asked, tmp_path / "run", "average")
    assert run.settings.model.width == 0.1 and run.settings.frontend.top_db == 80.0
    before, after = (leaves(load_model(f).variables) for f in (start, tmp_path / "run"))
    assert before.keys() == after.keys()
    for name, value in before.items():
        if "classifier" in name:
            assert after[name].shape[-1] == 3  # the data's classes
        else:
            np.testing.assert_array_equal(value, after[name], err_msg=name)


def test_the_start_is_read_once_and_keeps_a_classifier_of_the_same_classes(
    data, tmp_path, monkeypatch
):
    start, reads = save_model(tmp_path / "start", CLASSES), []
    monkeypatch.setattr(training_steps, "load_model", lambda p: reads.append(p) or load_model(p))
    run = Experiment(settings(data, init_from=str(start)), tmp_path / "run", data_dir=str(data))
    run.check()
    ours, theirs = leaves(run._network[1]), leaves(load_model(start).variables)
    assert len(reads) == 1
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)


def test_a_run_is_not_passed_off_as_one_from_another_start(data, tmp_path):
    start = save_model(tmp_path / "start", CLASSES)
    started = settings(data, init_from=str(start))
    scratch = settings(data, model={"width": 0.1}, frontend={"top_db": 80.0})

    def check(asked):
        Experiment(asked, tmp_path / f"run{number}", data_dir=str(data)).check()

    for number, (one, other) in enumerate(((scratch, started), (started, scratch))):
        small_experiments.run(one, tmp_path / f"run{number}")
        check(one)
        with pytest.raises(OtherRunError, match="from another model"):
            check(other)
    start.rename(tmp_path / "former")
    save_model(start, CLASSES, seed=1)
    with pytest.raises(OtherRunError, match="from another model"):
        check(started)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"train": {"trainable": "classifier"}}, r"give a finished model as config\.init_from"),
        ({"init_from": "nowhere"}, r"config\.init_from is .*nowhere"),
    ],
)
def test_a_start_that_is_not_there_names_the_setting(data, tmp_path, changes, told):
    with pytest.raises(UserError, match=told):
        small_experiments.run(settings(data, **changes), tmp_path / "run")


def test_from_scratch_is_the_same_network(tmp_path):
    start = save_model(tmp_path / "start", CLASSES)
    config = config_lib.base()
    config.experiments = ConfigDict(
        {"finetuned": {"init_from": str(start)}, "scratch": {"init_from": ""}}
    )
    alone, starts = suite.read_experiments(config)  # nothing says that they belong together
    assert alone["scratch"].model.width == 1.0 and list(starts) == [str(start)]
    config.init_from = str(start)
    found, _ = suite.read_experiments(config)
    assert found["scratch"].model.width == 0.1 and found["scratch"].frontend.top_db == 80.0
    assert alone["finetuned"] == found["finetuned"]


def test_the_gradient_is_that_of_a_linear_layer_on_frozen_embeddings():
    network, variables = create(3, 0.1, dropout=0.0)
    wide = jax.tree.map(lambda x: np.asarray(x, np.float64), variables)
    rng = np.random.default_rng(0)
    batch = {
        "audio": rng.uniform(-1, 1, (4, 8000)),
        "num_samples": np.full(4, 8000, np.int32),
        "labels": rng.random((4, 3)),
    }
    recipe = Recipe(dtype="float64", trainable="classifier")
    with jax.enable_x64(True):

        def loss(classifier):
            features = LogMel()(to_float(batch["audio"]), batch["num_samples"])
            params = wide.params | {"classifier": classifier}
            # Running statistics, no dropout.
            context = Context(dtype=jnp.float64, gives_logits=True)
            frames, _ = network.apply(Variables(params, wide.stats), features, context)
            return binary_cross_entropy(frames, batch["labels"])

        expected = jax.jit(jax.grad(loss))(wide.params["classifier"])
        mesh = parallel.data_mesh(1)
        program = train_program(network, recipe, mesh)
        state, _ = program(init_state(wide), batch, np.float64(1e-3))
    for name, value in expected.items():
        moment = np.asarray(state.optimizer.mu["classifier"][name])
        np.testing.assert_allclose(moment, 0.1 * np.asarray(value), rtol=1e-6, atol=1e-12)
    assert not any(np.any(x) for n, x in leaves(state.optimizer.mu).items() if "classif" not in n)
