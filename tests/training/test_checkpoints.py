import dataclasses
import errno
import os
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from psl_jax.networks.architecture import Variables
from psl_jax.networks.mobilenetv2 import create
from psl_jax.networks.trained_model import Model, ModelInfo
from psl_jax.runtime import parallel
from psl_jax.runtime.errors import UserError
from psl_jax.training.checkpoints import TrainingCheckpoints
from psl_jax.training.step import TrainState, init_state
from psl_jax.weights import orbax_folder
from psl_jax.weights.load_model import load_model
from psl_jax.weights.orbax_folder import save_model

# Rises, falls, ties; the best four are steps 3, 6, 9 and 8.
SCRIPT = {1: 0.10, 2: 0.30, 3: 0.50, 4: 0.20, 5: 0.31, 6: 0.45, 7: 0.15, 8: 0.40, 9: 0.40, 10: 0.1}
BEST = [3, 6, 9, 8]


def state_at(step):
    """A state whose arrays tell the step that they are of."""
    rng = np.random.default_rng(step)
    params = {
        "head": {"kernel": rng.standard_normal((3, 4)).astype(np.float32)},
        "blocks": {0: {"scale": np.full(2, step, np.float32)}, 10: {"scale": np.zeros(2)}},
    }
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    stats = {"norm": {"mean": jnp.asarray(rng.standard_normal(5), jnp.float32)}}
    state = init_state(Variables(params, stats))
    return parallel.replicate(state._replace(step=jnp.int32(step)), parallel.data_mesh())


def assert_equal(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def save_script(folder, script=SCRIPT, reopen=False):
    """Saves the states of a script of mAPs; `reopen`: each by a process of its own, as it were."""
    kept = TrainingCheckpoints(folder)
    for step, value in script.items():
        kept.save(step, state_at(step), value)
        if reopen:
            kept.__exit__()
            kept = TrainingCheckpoints(folder)
    return kept


@pytest.mark.parametrize("reopen", [False, True], ids=["one run", "restarted at each step"])
def test_the_best_four_and_the_latest_survive_and_the_best_are_averaged(tmp_path, reopen):
    with save_script(tmp_path, reopen=reopen) as kept:
        assert kept.best_steps() == BEST
        assert kept.steps() == sorted([*BEST, 10])
    with TrainingCheckpoints(tmp_path) as kept:  # the metrics are still known
        assert kept.best_steps() == BEST
        restored = kept.restore(state_at(0))
        averaged, steps = kept.average_best()
        of_best = [kept.load_variables(step) for step in BEST]
    assert isinstance(restored, TrainState)
    assert_equal(restored, state_at(10))
    assert steps == BEST
    for step, variables in zip(BEST, of_best, strict=True):
        assert_equal(variables, state_at(step).variables)
    by_hand = jax.tree.map(
        lambda *arrays: np.float32(np.mean(np.float64(arrays), axis=0)), *of_best
    )
    assert_equal(averaged, by_hand)


@pytest.mark.parametrize("name", ["a[1]", "a\\b"])
def test_a_run_folder_may_have_any_name(tmp_path, name, variables):
    script = {step: SCRIPT[step] for step in (8, 9, 10)}
    with save_script(tmp_path / name / "checkpoints", script) as kept:
        assert kept.best_steps() == [9, 8, 10]
        assert_equal(kept.load_variables(8), state_at(8).variables)
    save_model(tmp_path / name / "averaged", variables, INFO)
    assert_equal(load_model(tmp_path / name).variables, variables)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_checkpoints_without_an_map_only_serve_to_go_on(tmp_path):
    script = {1: 0.1, 2: None, 3: None, 4: 0.2, 5: None}
    with save_script(tmp_path, script) as kept:
        assert kept.best_steps() == [4, 1]
        assert kept.steps() == [1, 4, 5]
        assert_equal(kept.restore(state_at(0)), state_at(5))


def test_an_empty_folder_gives_back_the_initial_state(tmp_path):
    state = state_at(0)
    with TrainingCheckpoints(tmp_path) as kept:
        assert kept.restore(state) is state
        with pytest.raises(UserError, match="no validated checkpoint"):
            kept.average_best()


INFO = {
    "classes": ["dog", "cat, meowing", "Ä"],
    "width": 0.1,
    "segment_seconds": 2.0,
    "frontend": {"top_db": 120.0, "top_db_over": "clip"},
}


@pytest.fixture
def variables():
    _, made = create(3, 0.1, seed=1)
    return jax.tree.map(np.asarray, made)


@pytest.mark.parametrize("inner", ["", "averaged"])
def test_a_model_is_loaded_as_it_was_saved(tmp_path, variables, inner):
    save_model(tmp_path / "averaged", variables, INFO)
    model = load_model(tmp_path / inner)
    assert model.info == ModelInfo.from_json(INFO, "INFO")
    assert model.classes == tuple(INFO["classes"])
    assert jax.tree.structure(model.variables) == jax.tree.structure(variables)
    assert_equal(model.variables, variables)
    network, _ = create(3, 0.1)
    assert model.network == network  # so that compiled programs are shared


def test_saving_again_replaces_the_model(tmp_path, variables):
    save_model(tmp_path, variables, INFO)
    changed = jax.tree.map(lambda x: x + 1, variables)
    save_model(tmp_path, changed, INFO | {"name": "second"})
    assert load_model(tmp_path).info.name == "second"
    assert_equal(load_model(tmp_path).variables, changed)


def test_a_model_of_which_saving_was_cut_short_is_none(tmp_path, variables, monkeypatch):
    monkeypatch.setattr(orbax_folder.files, "write_json", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_model(tmp_path, variables, INFO)
    with pytest.raises(UserError, match=r"holds no finished model.*train one first"):
        load_model(tmp_path)
    with pytest.raises(UserError, match="there is no such file or folder"):
        load_model(tmp_path / "nowhere")


def test_arrays_of_another_width_are_refused(tmp_path, variables):
    save_model(tmp_path, variables, INFO | {"width": 0.5})
    with pytest.raises(UserError, match=r"width 0\.5"):
        load_model(tmp_path)


def test_the_digest_knows_weights_statistics_and_classes(variables):
    network, _ = create(3, 0.1)
    info = ModelInfo.from_json(INFO, "INFO")
    parts = [("params", "bias"), ("stats", "mean")]
    trees = [variables, *(jax.tree.map(np.copy, variables) for _ in parts)]
    for tree, (part, name) in zip(trees[1:], parts, strict=True):
        getattr(tree, part)["head_norm"][name][0] += 1e-6
    models = [Model(network, tree, info) for tree in trees]
    classes = dataclasses.replace(info, classes=("cat", "dog", "Ä"))
    models.append(Model(network, variables, classes))
    assert len({model.digest for model in models}) == 4
    named = dataclasses.replace(info, name="other")
    same = Model(network, jax.tree.map(jnp.asarray, variables), named)
    assert same.digest == models[0].digest


@pytest.fixture
def small_files_only():
    """No file can become larger than 20 kB: writing fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def large_variables():
    noise = np.random.default_rng(0).standard_normal(200_000).astype(np.float32)
    return Variables({"kernel": jnp.asarray(noise)}, {})


def test_a_checkpoint_that_cannot_be_written_is_a_plain_error(tmp_path, small_files_only, capfd):
    told = rf"{tmp_path}.*{os.strerror(errno.EFBIG)}.*Free some space"
    with pytest.raises(UserError, match=told), TrainingCheckpoints(tmp_path) as kept:  # noqa: PT012
        kept.save(1, {"step": jnp.int32(1)}, 0.1)
        kept.save(2, large_variables(), 0.2)
    assert "Traceback" not in "".join(capfd.readouterr())
    with TrainingCheckpoints(tmp_path) as kept:  # the earlier one is whole
        assert kept.steps() == [1]
        assert kept.restore({"step": parallel.replicate(jnp.int32(0), parallel.data_mesh())}) == {
            "step": 1
        }


def test_a_model_that_cannot_be_written_is_a_plain_error(tmp_path, small_files_only, capfd):
    with pytest.raises(UserError, match="Free some space"):
        save_model(tmp_path / "averaged", large_variables(), INFO)
    assert "Traceback" not in "".join(capfd.readouterr())
    with pytest.raises(UserError, match="no finished model"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("code", "advice"), [(errno.ENOSPC, "Free some space"), (errno.EACCES, "Mend that")]
)
def test_the_reason_is_named(tmp_path, monkeypatch, code, advice):
    def fail(*_, **__):
        raise OSError(code, "in Orbax's words")

    with TrainingCheckpoints(tmp_path) as kept:
        monkeypatch.setattr(kept._checkpointer, "save_async", fail)
        with pytest.raises(UserError, match=rf"{os.strerror(code)}\. {advice}"):
            kept.save(1, state_at(1))


def test_what_was_saved_may_be_overwritten_at_once(tmp_path):
    """Steps donate the state: the next one is made in its memory."""
    array = np.arange(1_000_000, dtype=np.float32)
    with TrainingCheckpoints(tmp_path) as kept:
        kept.save(1, {"kernel": array})
        array[:] = -1
        zeros = {"kernel": parallel.replicate(np.zeros_like(array), parallel.data_mesh())}
        restored = kept.restore(zeros)
    np.testing.assert_array_equal(restored["kernel"], np.arange(1_000_000))


# ---- damage -----------------------------------------------------------------------------------


# A load that fails leaves coroutines behind.
of_orbax = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def refusals(whole, folder, inside, check):
    """What `check` says of copies of `whole` in `folder`, where it refuses them.

    In each a file below `inside` is harmed in another way.
    """
    refused = []
    for path in sorted(path for path in (whole / inside).rglob("*") if path.is_file()):
        content = path.read_bytes()
        middle = len(content) // 2
        flipped = bytearray(content)
        flipped[middle : middle + 1] = bytes(byte ^ 1 for byte in flipped[middle : middle + 1])
        for harm in (content[:middle], bytes(flipped), None):
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(whole, folder)
            place = folder / path.relative_to(whole)
            place.unlink() if harm is None else place.write_bytes(harm)
            try:
                check()
            except UserError as error:
                refused.append(str(error))
    assert refused
    return refused


@of_orbax
def test_a_damaged_model_is_refused_by_name_or_what_it_was(tmp_path, variables):
    save_model(tmp_path / "whole", variables, INFO)
    whole, copy = load_model(tmp_path / "whole"), tmp_path / "copy"

    def check():
        assert load_model(copy).digest == whole.digest

    refused = refusals(tmp_path / "whole", copy, "weights", check)
    # Where a chunk of weights has lost its name, they are read as NaN, which is refused as such.
    assert all(str(copy) in told and "from where it is whole" in told for told in refused)


@of_orbax
def test_a_damaged_checkpoint_is_refused_by_name_or_what_it_was(tmp_path):
    with TrainingCheckpoints(tmp_path / "whole") as kept:
        for step in (1, 2):
            kept.save(step, state_at(step), 0.5)
    copy = tmp_path / "copy"

    def check():
        with TrainingCheckpoints(copy) as kept:
            found = kept.restore(state_at(0))  # or the one before, where one is no checkpoint
            assert int(found.step) in (1, 2)
            assert_equal(found, state_at(int(found.step)))

    for told in refusals(tmp_path / "whole", copy, "2", check):
        assert str(copy / "2") in told and "delete that folder" in told
