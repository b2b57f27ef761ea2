"""What may change between two starts of a run, and what may not."""

import dataclasses
import json

import pytest
from synthetic_data import MemorySource, make_index

from psl_jax import UserError, config, experiment, suite
from psl_jax.config import Settings
from psl_jax.experiment import Experiment
from psl_jax.runtime import files


def start(folder, **changes) -> Experiment:
    settings = Settings(name="run")
    for name, value in changes.items():
        group, _, key = name.rpartition("__")
        if group:
            value = dataclasses.replace(getattr(settings, group), **{key: value})
        settings = dataclasses.replace(settings, **{group or key: value})
    return Experiment(settings, folder, "data")


def finish(folder, *stages):
    files.write_json(folder / "stages.json", {name: {"seconds": 1.0} for name in stages})


def kept(folder, *names):
    value = json.loads((folder / "config.json").read_text())
    for name in names:
        value = value[name]
    return value


def test_operational_settings_may_change_and_the_last_are_kept(tmp_path):
    start(tmp_path)
    start(
        tmp_path,
        data__data_dir="/elsewhere",
        data__num_workers=3,
        train__checkpoint_every=5,
        train__log_every=7,
        train__resident=True,
        num_devices=1,
    )
    assert kept(tmp_path, "train", "log_every") == 7
    assert kept(tmp_path, "data", "data_dir") == "/elsewhere"


def test_a_scientific_setting_is_refused_by_name(tmp_path):
    start(tmp_path)
    with pytest.raises(UserError, match=r"other settings:\n  model\.width: 1\.0 there, 0\.5 now"):
        start(tmp_path, model__width=0.5, train__log_every=3)
    assert kept(tmp_path, "model", "width") == 1.0 and kept(tmp_path, "train", "log_every") == 20


def test_a_setting_that_the_folder_does_not_know_had_its_default(tmp_path):
    start(tmp_path)
    older = kept(tmp_path)
    del older["train"]["sampling"], older["relabel"], older["evaluate"]["segments"]
    files.write_json(tmp_path / "config.json", older)
    start(tmp_path)
    with pytest.raises(UserError, match=r"train\.sampling: 'uniform' there, 'balanced' now"):
        start(tmp_path, train__sampling="balanced")


def test_an_evaluation_setting_evaluates_anew_but_does_not_train(tmp_path):
    start(tmp_path)
    finish(tmp_path, "train", "average", "evaluate", "report")
    assert set(start(tmp_path).finished) == {"train", "average", "evaluate", "report"}
    assert set(start(tmp_path, evaluate__segments="whole").finished) == {"train", "average"}


def test_validation_evaluates_alike_until_training_is_finished(tmp_path):
    start(tmp_path)
    start(tmp_path, data__eval_split="test")  # no part of a training
    with pytest.raises(UserError, match=r"evaluate\.segments: 'training' there, '2' now"):
        start(tmp_path, evaluate__segments="2", data__eval_split="test")


def test_other_data_are_refused(tmp_path, monkeypatch):
    index = make_index([3, 2], 320)
    monkeypatch.setattr(experiment, "open_source", lambda *_, **__: MemorySource(index))
    start(tmp_path).source("full")
    start(tmp_path, data__data_dir="/moved").source("full")
    index = make_index([2, 2], 320)
    with pytest.raises(UserError, match=r"split 'full' had 5 clips .* and has 4 .* the same class"):
        start(tmp_path).source("full")
    start(tmp_path).source("another")


def test_no_teacher_works_for_labels_that_do_not_count(tmp_path):
    finish(tmp_path, "train", "average", "evaluate")
    start(tmp_path, labels="soft", alpha=0.0).run("evaluate")  # there is no teacher to ask
    half = start(tmp_path / "half", labels="soft", alpha=0.5)
    with pytest.raises(UserError, match="soft labels need a teacher"):
        half.run("relabel")


def test_a_file_is_no_workdir(tmp_path):
    (tmp_path / "notes.md").write_text("")
    with pytest.raises(UserError, match=r"notes\.md is a file"):
        suite.run(config.base(), tmp_path / "notes.md")
