"""ONNX and TFLite files and Python functions as teachers."""

import numpy as np
import pytest
import soxr
import tagging
from shared_tables import TEACHERS, needs_teachers
from small_teachers import CLASSES, expected, write_onnx
from synthetic_data import make_quiet_batch

from psl_jax.data.label_manifest import LabelRule
from psl_jax.data.segment_loader import reflect_end
from psl_jax.exporting.formats import FORMATS, describe
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.quiet_tensorflow import tensorflow_quietly
from psl_jax.teachers import open_teacher
from psl_jax.teachers.teacher import cut_windows


def load(kind, path):
    return open_teacher.load_teacher(open_teacher.TeacherName(kind, str(path)))


def scores_of(teacher, batch, **rule):
    ((_, found),) = teacher.make_scorer(LabelRule(**rule))([batch])
    return found


@pytest.mark.parametrize("sigmoid", [True, False])
def test_onnx_waveforms(tmp_path, sigmoid):
    """Rows as long as their audio; logits by a description."""
    path = write_onnx(tmp_path / "t.onnx", bias=0.3, sigmoid=sigmoid)
    if not sigmoid:
        (tmp_path / "t.onnx.toml").write_text('outputs = "logits"\nscale = 1.0\n')
    teacher = load("onnx", path)
    assert teacher.classes == tuple(CLASSES) and teacher.rate == 16_000
    assert "at a time" not in teacher.summary
    batch = make_quiet_batch(8000, 2, num_rows=4)
    batch["num_samples"][2], batch["weight"][3] = 5000, 0
    waves = batch["audio"] / np.float32(32_768)
    found = scores_of(teacher, batch)
    assert found.shape == (3, 2)  # filling is left out
    np.testing.assert_allclose(found[:2], expected(waves[:2], 0.3), atol=1e-6)
    np.testing.assert_allclose(found[2:], expected(waves[2:3, :5000], 0.3), atol=1e-6)
    zeros = np.where(np.arange(8000) < 5000, waves[2:3], 0)
    found = scores_of(teacher, batch, count_padding=True)
    np.testing.assert_allclose(found[2:], expected(zeros, 0.3), atol=1e-6)


def test_a_teacher_of_another_rate_hears_resampled_audio(tmp_path):
    path = write_onnx(tmp_path / "t.onnx")
    (tmp_path / "t.onnx.toml").write_text("rate = 32000\nscale = 10\n")
    batch = make_quiet_batch(8000, 2)
    waves = [soxr.resample(row / np.float32(32_768), 16_000, 32_000) for row in batch["audio"]]
    found = scores_of(load("onnx", path), batch)
    np.testing.assert_allclose(found, expected(10 * np.stack(waves)), atol=1e-6)


def test_fixed_windows_are_averaged(tmp_path):
    path = write_onnx(tmp_path / "t.onnx", shape=(1, 3000))
    teacher = load("onnx", path)
    assert "0.1875 s at a time" in teacher.summary
    batch = make_quiet_batch(8000, 2)
    batch["num_samples"][1] = 2000
    waves = batch["audio"] / np.float32(32_768)
    starts = [0, 1500, 3000, 4500]  # 500 samples are left, no more than half a hop
    windows = [expected(waves[:1, start : start + 3000]) for start in starts]
    found = scores_of(teacher, batch)
    np.testing.assert_allclose(found[:1], np.mean(windows, axis=0), atol=1e-6)
    short = np.pad(waves[1:, :2000], ((0, 0), (0, 1000)))
    np.testing.assert_allclose(found[1:], expected(short), atol=1e-6)


def test_axes_of_1_beside_the_samples(tmp_path):
    batch = make_quiet_batch(3000, 2)
    waves = batch["audio"] / np.float32(32_768)
    for shape in ((1, 3000, 1), ("batch", 1, 3000), ("b", "n", 1)):
        path = write_onnx(tmp_path / "t.onnx", shape=shape, axes=(1, 2))
        teacher = load("onnx", path)
        assert ("0.1875 s at a time" in teacher.summary) == (3000 in shape)
        np.testing.assert_allclose(scores_of(teacher, batch), expected(waves), atol=1e-6)


def test_the_last_window_ends_where_the_audio_does():
    for num_values, hop, starts in ((10, 4, [0, 4]), (10, 3, [0, 3, 6]), (11, 4, [0, 4, 7])):
        windows = cut_windows(np.arange(num_values)[None], 4, hop=hop)
        assert windows[0, :, 0].tolist() == starts  # half a hop that is left makes none
    short = cut_windows(np.arange(2)[None], 4, hop=4)
    assert short.tolist() == [[[0, 1, 0, 0]]]


@needs_teachers
def test_yamnet_is_the_same_as_run_by_hand():
    from ai_edge_litert.interpreter import Interpreter

    path = TEACHERS / "yamnet_waveform_in.tflite"
    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()

    def by_hand(wave):
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], wave[None])
        interpreter.invoke()
        return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0]

    with np.load(TEACHERS / "mn04_reference.npz") as reference:
        audio = reference["wave0"][:64_000:2]
    batch = make_quiet_batch(32_000, 521, num_rows=3)
    batch["audio"][0] = audio
    waves = batch["audio"] / np.float32(32_768)
    found = scores_of(load("tflite", path), batch)
    for row, wave in zip(found, waves, strict=True):
        patches = [by_hand(wave[start : start + 15_600]) for start in (0, 7680, 15_360)]
        np.testing.assert_allclose(row, np.mean(patches, axis=0), rtol=0, atol=1e-6)
    with pytest.raises(UserError, match=r"\[1, 96, 64\] is no waveform"):
        load("tflite", TEACHERS / "yamnet_spectra_in.tflite")


FRAMES = {"shape": ("batch", 1, "frames", 64), "axes": (1, 2, 3)}


@pytest.mark.parametrize(
    ("changes", "description", "told"),
    [
        ({"inputs": 2}, "", r"has 2 inputs \(x0, x1\): expected one"),
        ({"bias": np.nan}, "", "NaN or infinite scores"),
        ({"bias": 2.0, "sigmoid": False}, "", "which are no probabilities"),
        (FRAMES, "", r"\[\?, 1, \?, 64\] is no waveform"),
        ({}, "rate = 44", "rate is 44, expected a number at least 4000"),
        ({}, "rates = 32000", r"unknown key 'rates' \(near: rate\)"),
        ({}, 'classes = ["Dog"]', r"unknown key 'classes'.*stand in .*t\.onnx\.classes\.csv"),
        ({}, 'output = "other"', "has no output 'other': it has scores"),
    ],
)
def test_files_that_cannot_teach_are_refused(tmp_path, changes, description, told):
    path = write_onnx(tmp_path / "t.onnx", **changes)
    (tmp_path / "t.onnx.toml").write_text(description + "\n")
    with pytest.raises(UserError, match=told) as error:
        load("onnx", path)
    assert "\n" not in str(error.value)


def test_a_list_beside_the_file_names_its_classes(tmp_path):
    path = write_onnx(tmp_path / "t.onnx")
    for names in (["lion", "eagle"], ["lion"]):
        (tmp_path / "t.onnx.classes.csv").write_text("\n".join(["label", *names]) + "\n")
        if len(names) == 2:
            assert load("onnx", path).classes == tuple(names)
    with pytest.raises(UserError, match="has 2 classes, and the list of them has 1"):
        load("onnx", path)


def test_a_tflite_file_may_take_samples_without_a_batch(tmp_path):
    pytest.importorskip("ai_edge_litert")
    tf = tensorflow_quietly()
    kernel = np.random.default_rng(0).standard_normal((400, 1, 2)).astype(np.float32) / 10

    @tf.function(input_signature=[tf.TensorSpec([None])])
    def tag(samples):
        frames = tf.nn.conv1d(samples[None, :, None], kernel, 160, "VALID")
        return tf.sigmoid(tf.reduce_mean(frames, axis=1))

    converter = tf.lite.TFLiteConverter.from_concrete_functions([tag.get_concrete_function()], tag)
    (tmp_path / "t.tflite").write_bytes(converter.convert())
    (tmp_path / "t.tflite.classes.csv").write_text("label\nDog\nCat\n")
    batch = make_quiet_batch(8000, 2)
    waves = batch["audio"] / np.float32(32_768)
    found = scores_of(load("tflite", tmp_path / "t.tflite"), batch)
    np.testing.assert_allclose(found, np.concatenate([tag(wave) for wave in waves]), atol=1e-6)


def test_damaged_and_missing_files_are_refused(tmp_path):
    for kind in ("onnx", "tflite"):
        path = tmp_path / f"bad.{kind}"
        path.write_bytes(b"no model")
        with pytest.raises(UserError, match="cannot be opened"):
            load(kind, path)
        with pytest.raises(UserError, match="there is no such file"):
            load(kind, tmp_path / f"none.{kind}")


def test_python_functions(tmp_path, monkeypatch):
    (tmp_path / "tagger_of_mine.py").write_text(
        "import numpy as np\n"
        "def tag(waves):\n"
        "    loud = np.abs(waves).mean(axis=1)\n"
        "    return np.stack([loud, 1 - loud], axis=1)\n"
        "tag.classes, tag.rate = ['Dog', 'Cat'], 8000\n"
        "def bare(waves):\n"
        "    return np.zeros((len(waves), 3))\n"
    )
    (tmp_path / "unfinished_tagger.py").write_text("def tag(waves:\n")
    monkeypatch.syspath_prepend(tmp_path)
    teacher = load("python", "tagger_of_mine:tag")
    assert teacher.classes == ("Dog", "Cat") and teacher.rate == 8000
    batch = make_quiet_batch(8000, 2)
    waves = [soxr.resample(row / np.float32(32_768), 16_000, 8000) for row in batch["audio"]]
    found = scores_of(teacher, batch)
    np.testing.assert_allclose(found[:, 0], np.abs(waves).mean(axis=1), rtol=1e-5)
    for where, told in (
        ("tagger_of_mine:bare", r"gave \(2, 3\) for .*expected \(2, 527\)"),
        ("tagger_of_mine:other", "no attribute 'other'"),
        ("tagger_of_mine", "expected python:package.module:function"),
        ("no_such_module_:f", "No module named"),
        ("unfinished_tagger:tag", r"never closed \(unfinished_tagger.py, line 1\)"),
    ):
        with pytest.raises(UserError, match=told):
            load("python", where)


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_our_exports_say_what_they_are(tmp_path, kind):
    """Named as teachers they give the model's probabilities, and take what their metadata say."""
    pytest.importorskip({"onnx": "onnxruntime", "tflite": "ai_edge_litert"}[kind])
    model, path = tagging.model(), tmp_path / f"small.{kind}"
    FORMATS[kind].write(path, model, describe(model, None))
    teacher = open_teacher.load_teacher(open_teacher.parse_name(path))
    assert teacher.segment_seconds == model.info.segment_seconds != 10
    assert teacher.classes == model.classes and teacher.output == "sigmoid"
    batch = make_quiet_batch(32_000, 6, num_rows=3)
    batch["audio"][:] = np.stack([tagging.recording(2.0, seed) for seed in range(3)])
    batch["num_samples"][1], batch["audio"][1, 20_000:] = 20_000, 0
    reflect_end(batch["audio"][1], 20_000)
    ((_, expected),) = open_teacher.make_own_teacher(model).make_scorer()([batch])
    assert expected.std() > 0.05
    np.testing.assert_allclose(scores_of(teacher, batch), expected, atol=1e-3)
    one = open_teacher.open_teacher(str(path), model.classes[1:])
    assert one.classes == model.classes[1:]
