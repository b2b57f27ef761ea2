"""Data with one label a clip: a softmax in training, evaluation, tags and exports."""

import dataclasses

import numpy as np
import pytest
import small_experiments
import synthetic_data
from small_experiments import CLASSES, SPLIT

from psl_jax import UserError
from psl_jax.commands import export
from psl_jax.exporting import check
from psl_jax.networks import mobilenetv2
from psl_jax.networks.mobilenetv2 import create
from psl_jax.networks.trained_model import Model, ModelInfo
from psl_jax.tagging.tagger import Tagger
from psl_jax.training.metric_log import read_log
from psl_jax.weights.load_model import load_model

SOFTMAX = {"output": "softmax", "width": 0.1, "dropout": 0.0}
NEEDS = {"onnx": "onnxruntime", "tflite": "ai_edge_litert", "pt": "torch"}


@pytest.fixture
def data(tmp_path):
    return small_experiments.write_data(tmp_path / "data")


@pytest.fixture
def run(data, tmp_path):
    found = small_experiments.settings(data, model=SOFTMAX)
    return small_experiments.run(found, tmp_path / "run", "report")


@pytest.fixture
def model():
    network, variables = create(3, 0.1, output="softmax")
    info = ModelInfo(CLASSES, 0.1, 1.0, output="softmax")
    return Model(network, small_experiments.able(network, variables), info)


def test_training_lowers_it_and_scores_are_of_one_class(data, run, tmp_path):
    folder = run.run_dir
    assert load_model(folder).info.output == "softmax"
    with np.load(folder / "scores.npz") as stored:
        np.testing.assert_allclose(stored["scores"].sum(axis=1), 1, atol=1e-5)
    first = next(line["loss"] for line in read_log(folder) if "loss" in line)
    assert first == pytest.approx(np.log(3), abs=0.3)  # of a classifier that knows nothing yet
    tags = Tagger(load_model(folder)).tag(np.zeros(16_000, np.float32), 16_000)
    np.testing.assert_allclose(np.asarray(tags.scores).sum(axis=-1), 1, atol=1e-5)


def test_several_labels_and_soft_ones_are_refused(data, tmp_path):
    def check(told, data, **changes):
        found = small_experiments.settings(data, model=SOFTMAX, **changes)
        with pytest.raises(UserError, match=told):
            small_experiments.run(found, tmp_path / "run")

    labels = [[0], [1], [0, 2], [1], [2], [], [0], [1]]
    index = synthetic_data.make_index([4, 4], 16_000, labels, split=SPLIT)
    synthetic_data.write_shards(tmp_path / "several", index)
    told = r"2 of the 8 clips of config\.data\.train_split=eval.*'-c"
    check(told, tmp_path / "several")
    table = tmp_path / "corrections.csv"
    table.write_text("filename,onset,offset,label,decision,who,when\n")
    told = r"tells one class a clip, and config\.corrections"
    check(told, data, corrections=str(table))
    check("softmax, which tells one class a clip", data, labels="soft", teacher="somewhere")


def test_classes_in_another_order_but_not_fewer(model):
    audio = small_experiments.sounds([16_000])[0].astype(np.float32)[None] / 32768
    ours = check.make_flax_runner(model)(audio)[0]
    theirs = check.make_flax_runner(model.for_classes(CLASSES[::-1]))(audio)[0]
    np.testing.assert_allclose(theirs, ours[:, ::-1], atol=1e-6)
    with pytest.raises(UserError, match="one softmax, and 2 of them are asked for"):
        model.for_classes(CLASSES[:2])


def test_earlier_versions_refuse_what_they_cannot_read(model):
    assert model.info.as_json()["format_version"] == 2
    sigmoid = dataclasses.replace(model.info, output="sigmoid")
    assert sigmoid.as_json()["format_version"] == 1
    assert Model(model.network, model.variables, sigmoid).digest != model.digest
    for info in (model.info, sigmoid):
        assert ModelInfo.from_json(info.as_json(), "here") == info
    with pytest.raises(UserError, match="output is 'argmax', expected one of"):
        ModelInfo.from_json(model.info.as_json() | {"output": "argmax"}, "here")


@pytest.mark.parametrize("suffix", ["onnx", "tflite", "pt"])
def test_exports(model, tmp_path, suffix, monkeypatch):
    pytest.importorskip(NEEDS[suffix])
    if suffix == "pt":
        from psl_jax.exporting import audio_tagger

        monkeypatch.setattr(audio_tagger, "_STAGES", mobilenetv2.INVERTED_RESIDUALS)
    form, path = {"pt": "torch"}.get(suffix, suffix), tmp_path / f"model.{suffix}"
    signals = [check.make_synthetic_signal(2.0)]
    found = export.export(model, form, path, signals=signals, licence=None)
    assert found.worst < 1e-4
    if form == "torch":
        again = load_model(path)
        audio = signals[0][None, :16_000]
        assert again.info.output == "softmax"
        ours, theirs = (check.make_flax_runner(one)(audio)[0] for one in (model, again))
        np.testing.assert_allclose(theirs, ours, atol=1e-6)
        np.testing.assert_allclose(theirs.sum(axis=1), 1, atol=1e-5)
