"""A classifier trained on features that were computed once is the one trained on the audio."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import small_experiments

from psl_jax import UserError
from psl_jax.experiments import caching
from psl_jax.experiments.experiment import Experiment
from psl_jax.training.loop import Preempted
from psl_jax.training.metric_log import LOSS, VALIDATION_MAP

LEARNING_RATE = 1e-2  # of small_experiments
ON, OFF = ({"trainable": "classifier", "cache_features": how} for how in ("on", "off"))


@pytest.fixture
def data(tmp_path, shallow):
    return small_experiments.write_data(tmp_path / "data")


@pytest.fixture
def start(tmp_path, data):
    return small_experiments.save_model(tmp_path / "start", ("other", "names"))


def settings(data, start, train, **changes):
    return small_experiments.settings(data, init_from=str(start), train=train, **changes)


def trained(found, folder, stage="average"):
    """The classifier after three steps, and what was logged."""
    small_experiments.run(found, folder, stage)
    lines = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
    logged = {k: [one[k] for one in lines if k in one] for k in (LOSS, VALIDATION_MAP)}
    return small_experiments.last_variables(folder), logged


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"evaluate": {"segments": "whole"}, "segment_seconds": 0.6},
        {"model": {"count_padding": True, "output": "softmax", "width": 0.1, "dropout": 0.2}},
    ],
    ids=["segments", "whole", "padding counted, softmax"],
)
def test_cached_is_on_the_fly(data, start, tmp_path, changes):
    both = {}
    for name, train in (("on", ON), ("off", OFF)):
        one = settings(data, start, train, **changes)
        both[name] = trained(one, tmp_path / name)
        assert not (tmp_path / name / "features").exists()  # needed no more
    (ours, our_log), (theirs, their_log) = both["on"], both["off"]
    assert len(our_log[LOSS]) == 3 and our_log[VALIDATION_MAP]
    for name, values in their_log.items():
        np.testing.assert_allclose(our_log[name], values, rtol=1e-4, err_msg=name)
    # Adam's steps are as long as the learning rate whatever the gradient, so where one is about
    # zero rounding shows in them.
    for name, value in theirs.params["classifier"].items():
        found = ours.params["classifier"][name]
        assert np.quantile(np.abs(found - value), 0.95) < 1e-3 * LEARNING_RATE, name
    for tree in ("stats", "params"):
        frozen, same = (
            {k: v for k, v in getattr(one, tree).items() if k != "classifier"}
            for one in (ours, theirs)
        )
        jax.tree.map(np.testing.assert_array_equal, frozen, same)


def test_soft_labels_and_their_mixture(data, start, tmp_path):
    teacher = small_experiments.save_model(tmp_path / "teacher", seed=3)
    losses = [
        trained(
            settings(data, start, train, labels="soft", teacher=str(teacher), alpha=0.7),
            tmp_path / train["cache_features"],
            "train",
        )[1]["loss"]
        for train in (ON, OFF)
    ]
    np.testing.assert_allclose(*losses, rtol=1e-4)


def features_of(found, folder):
    one = Experiment(found, folder, found.data.data_dir)
    one.check()
    return one._cached_features(one.source(small_experiments.SPLIT))


def test_what_is_there_is_kept_and_what_is_of_another_model_is_refused(data, start, tmp_path):
    found = settings(data, start, ON)
    first = features_of(found, tmp_path / "run")
    first.compute()
    folder = first.train.files.folder
    paths = sorted(folder.glob("*.npy"))
    assert len(paths) == 2 and not list(folder.glob("*.partial"))
    whole = [np.load(path) for path in paths]
    assert sum(array.nbytes for array in whole) == first.train.files.num_bytes
    paths[1].unlink()
    (folder / "00001.npy.partial").write_bytes(b"of a run that was killed")
    np.save(paths[0], -whole[0])  # to be seen if it is computed again
    again = features_of(found, tmp_path / "run")
    assert again.train.files.missing == [1]
    again.compute()
    np.testing.assert_array_equal(np.load(paths[0]), -whole[0])
    np.testing.assert_array_equal(np.load(paths[1]), whole[1])
    small_experiments.save_model(tmp_path / "start", ("other", "names"), seed=9)
    with pytest.raises(UserError, match=r"something else \(what differs: model\): delete it"):
        features_of(found, tmp_path / "run")


def test_a_run_that_is_stopped_finds_its_features_again(data, start, tmp_path, monkeypatch):
    found, folder = settings(data, start, ON), tmp_path / "run"

    def stopped(*_, **__):
        raise Preempted("stopped")

    with monkeypatch.context() as patch:
        patch.setattr("psl_jax.experiments.experiment.train", stopped)
        with pytest.raises(Preempted):
            small_experiments.run(found, folder)
    kept = sorted(folder.glob("features/*/*.npy"))
    assert kept
    monkeypatch.setattr("psl_jax.training.frozen_features.computed_ahead", None)
    monkeypatch.setattr("psl_jax.training.frozen_features.scored", None)
    small_experiments.run(found, folder)
    assert not any(path.exists() for path in kept)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"train": {"trainable": "all", "cache_features": "on"}}, "features change with it"),
        ({"augment": {"mixup_alpha": 0.5}}, r"augment\.mixup_alpha is 0\.5"),
        ({"augment": {"shift_probability": 0.5}}, r"augment\.shift_probability is 0\.5"),
        ({"frontend": {"top_db_over": "batch"}}, "features depend on what else is in a batch"),
    ],
)
def test_what_cannot_be_cached_is_refused_where_it_is_asked_for(data, changes, reason):
    found = small_experiments.settings(data, **{"train": dict(ON)} | changes)
    with pytest.raises(UserError, match=f"cache_features is on, and .*{reason}"):
        caching.is_wanted(found, lambda: 0)
    automatic = dataclasses.replace(found.train, cache_features="auto")
    assert not caching.is_wanted(dataclasses.replace(found, train=automatic), lambda: 0)


def test_by_itself_it_takes_no_more_than_a_machine_has(data):
    found = small_experiments.settings(data, train={"trainable": "classifier"})
    assert caching.is_wanted(found, lambda: 10**9)
    assert not caching.is_wanted(found, lambda: 10**12)


def test_the_size_is_what_is_written(data, start, tmp_path):
    one = settings(data, start, ON, evaluate={"segments": "whole"})
    features = features_of(one, tmp_path / "run")
    index = features.train.source.index
    expected = caching.num_bytes(one, features.train.files.shape[1], index, index)
    assert features.train.files.num_bytes + features.validation.files.num_bytes == expected
