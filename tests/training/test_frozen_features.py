"""A classifier trained on features that were computed once is the one trained on the audio."""

import jax
import numpy as np
import pytest
import small_experiments

from psl_jax.experiments import experiment, setting_checks
from psl_jax.training.metric_log import LOSS, VALIDATION_MAP, read_log

LEARNING_RATE = 1e-2  # of small_experiments


@pytest.fixture
def data(tmp_path):
    return small_experiments.write_data(tmp_path / "data", (16_000, 9_000) * 2)


@pytest.fixture
def settings(tmp_path, data):
    start = small_experiments.save_model(tmp_path / "start", ("other", "names"))
    frozen = {"init_from": str(start), "train": {"trainable": "classifier"}}
    return lambda **changes: small_experiments.settings(data, **frozen | changes)


def trained(found, folder, monkeypatch, memory: float):
    """The classifier after three steps, and what was logged; memory: share that features may be."""
    monkeypatch.setattr(experiment, "_MOST_OF_MEMORY", memory)
    assert small_experiments.run(found, folder, "train")._keeps_features == (memory > 0)
    lines = read_log(folder)
    logged = {k: [one[k] for one in lines if k in one] for k in (LOSS, VALIDATION_MAP)}
    return small_experiments.last_variables(folder), logged


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": "soft", "alpha": 0.7, "evaluate": {"segments": "whole"}, "segment_seconds": 0.6},
        {"model": {"count_padding": True, "output": "softmax", "width": 0.1, "dropout": 0.2}},
    ],
    ids=["soft labels, whole clips", "padding counted, softmax"],
)
def test_on_features_is_on_the_audio(settings, tmp_path, monkeypatch, changes):
    if changes.get("labels") == "soft":
        teacher = small_experiments.save_model(tmp_path / "teacher", seed=3)
        changes = changes | {"teacher": str(teacher)}
    found = settings(**changes)
    ours, our_log = trained(found, tmp_path / "features", monkeypatch, 0.5)
    theirs, their_log = trained(found, tmp_path / "audio", monkeypatch, 0.0)
    assert len(our_log[LOSS]) == 3 and our_log[VALIDATION_MAP]
    for name, values in their_log.items():
        np.testing.assert_allclose(our_log[name], values, rtol=1e-4, err_msg=name)
    # Adam's steps are as long as the learning rate whatever the gradient, so where one is about
    # zero rounding shows in them.
    for name, value in theirs.params["classifier"].items():
        difference = np.abs(ours.params["classifier"][name] - value)
        assert np.quantile(difference, 0.95) < 1e-3 * LEARNING_RATE, name
    for tree in ("stats", "params"):
        frozen, same = (
            {k: v for k, v in getattr(one, tree).items() if k != "classifier"}
            for one in (ours, theirs)
        )
        jax.tree.map(np.testing.assert_array_equal, frozen, same)


@pytest.mark.parametrize(
    "changes",
    [
        {"train": {"trainable": "all"}},
        {"augment": {"mixup_alpha": 0.5}},
        {"augment": {"shift_probability": 0.5}},
        {"frontend": {"top_db_over": "batch"}},
    ],
)
def test_what_changes_from_step_to_step_is_computed_in_each(settings, changes):
    assert setting_checks.has_constant_features(settings())
    assert not setting_checks.has_constant_features(settings(**changes))
