"""Classifiers that are fitted to what a tagger says."""

import json

import numpy as np
import pytest
import synthetic_data
import tagging
from scipy import optimize
from small_teachers import write_onnx

from psl_jax.commands import evaluate, fit
from psl_jax.runtime.errors import UserError
from psl_jax.scoring import metrics
from psl_jax.teachers import fitted_teacher, open_teacher, teacher
from psl_jax.weights import load_model

LENGTHS = [16_000, 20_000] * 20


def run(command, *arguments):
    return command.main(command.parse([command.__name__, *map(str, arguments)]))


# --- the regression -----------------------------------------------------------------------------


def problem(clips=120, features=6, classes=3):
    """Features of unlike scales and offsets, and labels that follow from them, but not quite."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((clips, features))
    y = x @ rng.standard_normal((features, classes)) + rng.standard_normal((clips, classes)) > 0.5
    return (x * 10.0 ** np.arange(-2, 4) + 5).astype(np.float32), y.astype(np.float32)


def test_it_is_the_minimum_that_scipy_finds_in_float64():
    x, y = problem()
    fit_result = fitted_teacher.fit(x, y, penalties=[0.01])
    scaled = (x - x.mean(axis=0, dtype=np.float64)) / x.std(axis=0, dtype=np.float64)

    def loss(values, labels):
        logits = scaled @ values[:-1] + values[-1]
        entropy = np.logaddexp(0, logits) - labels * logits
        return entropy.mean() + 0.005 * np.square(values[:-1]).sum()

    for number, labels in enumerate(y.T):
        best = optimize.minimize(loss, np.zeros(7), labels, options={"gtol": 1e-9}).x
        theirs = 1 / (1 + np.exp(-(scaled @ best[:-1] + best[-1])))
        np.testing.assert_allclose(fit_result.classifier(x)[:, number], theirs, atol=5e-3)


def test_the_penalty_is_the_one_of_the_best_held_out_clips():
    x, y = problem()
    fit_result = fitted_teacher.fit(x, y, penalties=[1e-5, 0.03, 1000.0])
    assert fit_result.penalty == max(fit_result.held_out, key=fit_result.held_out.get)
    assert list(fit_result.held_out)[:2] == [1000.0, 0.03]
    fold = np.random.default_rng(0).permutation(len(x)) % 2
    scores = np.zeros_like(y)
    for half in range(2):  # by itself
        of_half = fitted_teacher.fit(x[fold != half], y[fold != half], penalties=[0.03])
        scores[fold == half] = of_half.classifier(x[fold == half])
    two = fitted_teacher.fit(x, y, penalties=[0.03], num_folds=2)
    expected = metrics.mean_average_precision(y, scores)
    assert two.held_out[0.03] == pytest.approx(expected, abs=0.01)


def test_a_class_that_no_clip_has_and_a_feature_that_never_changes():
    x, y = problem()
    x[:, 2], y[:, 1] = 7.0, 0.0
    classifier = fitted_teacher.fit(x, y).classifier
    assert np.isfinite(classifier.kernel).all() and np.isfinite(classifier.bias).all()
    assert classifier(x)[:, 1].max() < 0.05


# --- the command and the teacher ----------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """DATA: loud clips, class 0, and faint ones, 1; a tagger of Dog and Cat, and f.npz on it."""
    folder = tmp_path_factory.mktemp("fitted")
    labels = [[0] if clip % 3 == 0 else [1] for clip in range(len(LENGTHS))]
    index = synthetic_data.make_index([20, 20], LENGTHS, labels, 2, split="full")
    rng = np.random.default_rng(0)
    audio = []
    for length, (label,) in zip(LENGTHS, labels, strict=True):
        size = rng.uniform(20, 200) if label else rng.uniform(2_000, 3_000)
        audio.append((rng.standard_normal(length) * size).astype(np.int16))
    (folder / "data").mkdir()
    synthetic_data.write_prepared(folder / "data", index, audio, "full")
    write_onnx(folder / "t.onnx", bias=-2.0)
    run(fit, f"onnx:{folder / 't.onnx'}", folder / "data", f"--out={folder / 'f.npz'}")
    return folder


def test_it_learns_classes_that_the_tagger_lacks(folder, tmp_path, capsys):
    out = tmp_path / "evaluation"
    run(evaluate, f"fitted:{folder / 'f.npz'}", folder / "data", "--split=full", f"--out={out}")
    assert "2 classes fitted to the logits of [t" in capsys.readouterr().out
    metrics_of_eval = json.loads((out / "metrics.json").read_text())
    assert metrics_of_eval["mAP"] > 0.95


def test_its_scores_are_the_classifiers_of_the_taggers_logits(folder):
    fitted = open_teacher.open_teacher(folder / "f.npz", ("class 1", "class 0"))
    raw = open_teacher.load_teacher(open_teacher.TeacherName("onnx", str(folder / "t.onnx")))
    batch = synthetic_data.make_quiet_batch(16_000, 2, 3)
    ((_, scores),) = fitted.make_scorer()([batch])
    ((_, theirs),) = raw.make_scorer()([batch])
    with np.load(folder / "f.npz") as stored:
        logits = np.log(theirs / (1 - theirs)) @ stored["kernel"] + stored["bias"]
    np.testing.assert_allclose(scores, (1 / (1 + np.exp(-logits)))[:, ::-1], rtol=1e-4)


def test_files_may_move_together_and_others_are_refused(folder, tmp_path):
    def load(path):
        return open_teacher.load_teacher(open_teacher.TeacherName("fitted", str(path)))

    content = (folder / "f.npz").read_bytes()
    with np.load(folder / "f.npz") as stored:
        arrays = dict(stored)
    about = json.loads(str(arrays["about"]))
    moved = about | {"teachers": [about["teachers"][0] | {"where": "/elsewhere/t.onnx"}]}

    def write(**changes):
        np.savez(tmp_path / "f.npz", **(arrays | changes))
        return tmp_path / "f.npz"

    with pytest.raises(UserError, match=r"elsewhere/t\.onnx, which is not there: put it back"):
        load(write(about=np.array(json.dumps(moved))))
    write_onnx(tmp_path / "t.onnx", bias=-2.0)
    assert load(tmp_path / "f.npz").digest == load(folder / "f.npz").digest
    write_onnx(tmp_path / "t.onnx", bias=-1.0)
    with pytest.raises(UserError, match="put that one back, or fit again"):
        load(tmp_path / "f.npz")
    several = {"teachers": 2 * about["teachers"]}
    for change, match in ((several, "with 2 taggers"), ({"format": 9}, "format 9 with 1 taggers")):
        with pytest.raises(UserError, match=match):
            load(write(about=np.array(json.dumps(about | change))))
    np.save(tmp_path / "array.npy", np.zeros(2))
    array = (tmp_path / "array.npy").read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"PK no zip", array):
        (tmp_path / "f.npz").write_bytes(damaged)
        with pytest.raises(UserError, match="expected a file that psl-jax fit wrote"):
            load(tmp_path / "f.npz")


def test_the_tagger_may_lie_on_a_hub(folder, tmp_path, monkeypatch):
    saved = tagging.save(tmp_path / "run")
    monkeypatch.setattr(load_model, "fetch", lambda address: saved)
    path = tmp_path / "f.npz"
    run(fit, "hf://some-one/small", folder / "data", f"--out={path}")
    fitted = open_teacher.load_teacher(open_teacher.TeacherName("fitted", str(path)))
    assert fitted.classes == ("class 0", "class 1")


def test_what_is_wrong_is_told_before_anything_is_scored(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(teacher.MappedScorer, "__call__", None)
    tagger, data = f"onnx:{folder / 't.onnx'}", folder / "data"
    with pytest.raises(SystemExit):
        run(fit, tagger, data, f"--out={tmp_path / 'f.json'}")
    assert "expected a name that ends in .npz" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(fit, tagger, data, "--class_map=x.csv", f"--out={tmp_path / 'f.npz'}")
    run(fit, tagger, data, "--dry_run", f"--out={tmp_path / 'f.npz'}")
    assert "2 logistic regressions on 2 features" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    none = synthetic_data.make_index([2], 16_000, [[], []], 2, split="full")
    audio = synthetic_data.make_audio(none)
    synthetic_data.write_prepared(tmp_path, none, audio, "full")
    with pytest.raises(UserError, match="no clip of split 'full' has a label"):
        run(fit, tagger, tmp_path, f"--out={tmp_path / 'f.npz'}")
