"""Folders of earlier versions: used where removed settings have their defaults, else refused."""

import json

import pytest
from synthetic_data import make_index, write_soft_labels

from psl_jax import UserError
from psl_jax import config as config_lib
from psl_jax.audio.segments import Segmentation
from psl_jax.config import Settings
from psl_jax.data.soft_labels import SoftLabels, made_with
from psl_jax.experiments.run_folder import RunFolder
from psl_jax.runtime.removed_settings import REMOVED, REMOVED_VALUES

# A value that an earlier version took and that is none of the accepted ones.
OTHERS = {
    "evaluate.segment_seconds": 0.0,
    "relabel.overlap": 0.5,
    "relabel.heard": 10.0,
    "relabel.prior": 2.0,
    "relabel.calibrate": "rate",
    "relabel.views": 3,
    "relabel.top_k": 2,
    "relabel.temperature": 0.5,
    "train.resident": True,
    "train.window_clips": 512,
    "train.cache_features": "on",
    "model.batch_norm": "device",
    "frontend.fft": "float32",
    "frontend.transform": "dft",
    "relabel.mean": "logits",
    "data.sounds": "first",
}
REFUSED = {name: OTHERS[name] for name in REMOVED if REMOVED[name]}
# What the manifest of an earlier version says of the way that labels were made.
OLD_RULE = {
    "overlap": 0.0,
    "prior": 0.0,
    "prior_recall": None,
    "top_k": 0,
    "temperature": 1.0,
    "calibrate": "none",
    "count_padding": False,
    "heard": 0.0,
}
REFUSED_IN_LABELS = {"view": {"number": 2, "seed": 0}, "top_k": 2, "temperature": 0.5}


def run_folder(folder, **changes) -> RunFolder:
    """With the config.json of an earlier version; changes: by dotted name."""
    stored = config_lib.base()
    defaults = {name: values[0] if values else 0 for name, values in REMOVED.items()}
    with stored.unlocked():
        stored.update_from_flattened_dict(defaults | changes)
    (folder / "config.json").write_text(json.dumps(stored.to_dict()))
    return RunFolder(folder, Settings())


def test_a_run_folder_with_the_defaults_is_used(tmp_path):
    run_folder(tmp_path).check_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [*REFUSED.items(), *((name, value) for name, of in REMOVED_VALUES.items() for value in of)],
)
def test_a_run_folder_with_another_value_is_refused(tmp_path, name, value):
    newer = {"model.batch_norm": "5e5c1fb", "frontend.fft": "0da9f9d"}
    newer |= {"frontend.transform": "0da9f9d", "relabel.mean": "0da9f9d", "data.sounds": "373f4ba"}
    commit = newer.get(name, "de85886")
    with pytest.raises(UserError, match=rf"{tmp_path} .*{name}={value!r}.* commit {commit}"):
        run_folder(tmp_path, **{name: value}).check_settings()


def test_who_gives_a_removed_setting_is_told(tmp_path):
    config = config_lib.base()
    with config.unlocked():
        config.relabel.views = 3
    with pytest.raises(UserError, match=r"relabel\.views was removed; commit de85886"):
        config_lib.experiments(config)
    with config.unlocked():
        del config.relabel.views
        config.data.max_clip_seconds = 4.0
    with pytest.raises(UserError, match=r"max_clip_seconds is now config\.data\.clip_seconds"):
        config_lib.experiments(config)


def label_folder(folder, changes: dict) -> None:
    write_soft_labels(folder, make_index([1], 1600), Segmentation(0.1))
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | OLD_RULE | changes))


def test_labels_with_the_defaults_are_used_and_their_digest_stays(tmp_path):
    label_folder(tmp_path, {})
    labels = SoftLabels.open(tmp_path, make_index([1], 1600), Segmentation(0.1))
    assert made_with(labels) == {name: OLD_RULE[name] for name in OLD_RULE if name != "heard"}


@pytest.mark.parametrize("name", REFUSED_IN_LABELS)
def test_labels_made_in_a_removed_way_are_refused(tmp_path, name):
    label_folder(tmp_path, {name: REFUSED_IN_LABELS[name]})
    with pytest.raises(UserError, match=rf"{tmp_path} .*relabel\.{name}.* commit de85886"):
        SoftLabels.open(tmp_path, make_index([1], 1600), Segmentation(0.1))
