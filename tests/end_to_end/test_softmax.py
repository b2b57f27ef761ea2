"""Data with one label a clip: a softmax in training, evaluation, tags and exports."""

import dataclasses
import json

import jax
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
from psl_jax.training.step import categorical_cross_entropy
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


def test_the_loss_is_the_categorical_cross_entropy():
    rng = np.random.default_rng(0)
    probabilities, labels = rng.dirichlet(np.ones(5), 7), np.eye(5)[rng.integers(0, 5, 7)]
    expected = -np.mean(np.log(probabilities[labels > 0]))
    logits = np.log(probabilities)[:, None]
    with jax.enable_x64(True):
        np.testing.assert_allclose(categorical_cross_entropy(logits, labels), expected)


def test_training_lowers_it_and_scores_are_of_one_class(data, run, tmp_path):
    folder = run.run_dir
    assert load_model(folder).info.output == "softmax"
    with np.load(folder / "scores.npz") as stored:
        np.testing.assert_allclose(stored["scores"].sum(axis=1), 1, atol=1e-5)
    log = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
    first = next(line["loss"] for line in log if "loss" in line)
    assert first == pytest.approx(np.log(3), abs=0.3)  # of a classifier that knows nothing yet
    tags = Tagger(load_model(folder)).tag(np.zeros(16_000, np.float32), 16_000)
    np.testing.assert_allclose(np.asarray(tags.scores).sum(axis=-1), 1, atol=1e-5)


def test_several_labels_and_soft_ones_are_refused(data, tmp_path):
    labels = [[0], [1], [0, 2], [1], [2], [], [0], [1]]
    index = synthetic_data.make_index([4, 4], 16_000, labels, split=SPLIT)
    several = tmp_path / "several"
    several.mkdir()
    audio = small_experiments.sounds(index.num_samples)
    synthetic_data.write_prepared(several, index, audio)
    found = small_experiments.settings(several, model=SOFTMAX)
    with pytest.raises(UserError, match=r"2 of the 8 clips of config\.data\.train_split=eval.*'-c"):
        small_experiments.run(found, tmp_path / "run")
    table = tmp_path / "corrections.csv"
    table.write_text("filename,onset,offset,label,decision,who,when\n")
    corrected = small_experiments.settings(data, model=SOFTMAX, corrections=str(table))
    with pytest.raises(UserError, match=r"tells one class a clip, and config\.corrections"):
        small_experiments.run(corrected, tmp_path / "run")
    soft = small_experiments.settings(data, model=SOFTMAX, labels="soft", teacher="somewhere")
    with pytest.raises(UserError, match="softmax, which tells one class a clip"):
        small_experiments.run(soft, tmp_path / "run")


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
