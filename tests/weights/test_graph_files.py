"""ONNX and TFLite files as models: the answers of the model that they were exported from."""

import sys
import types

import numpy as np
import pytest
import tagging

import psl_jax
from psl_jax import export
from psl_jax.exporting import export_options
from psl_jax.exporting.export_options import Options
from psl_jax.runtime.errors import UserError
from psl_jax.tagging.tagger import Tagger
from psl_jax.weights import load

TOLERANCE = 1e-4
FORMATS = {"onnx": "onnxruntime", "tflite": "ai_edge_litert", "safetensors": "safetensors"}


def exported(name: str, folder, options: Options = Options()) -> str:  # noqa: B008
    pytest.importorskip(FORMATS[name], reason=f"{FORMATS[name]} is not installed")
    path = folder / f"small.{name}"
    # Without the check in its own runtime, which tests/exporting is about.
    info = export_options.describe(tagging.model(), options, "CC0")
    export.format_named(name).write(path, tagging.model(), info, options)
    return str(path)


@pytest.mark.parametrize("name", FORMATS)
def test_tags_are_the_original_models(name, tmp_path):
    loaded = psl_jax.load(exported(name, tmp_path))
    original = tagging.tagger()
    assert loaded.labels == original.labels and loaded.info.name == "small"
    assert loaded.info.origin["licence"] == "CC0"
    # One segment that is padded, several, one pass, and one pass in two pieces.
    for seconds, cut in ((0.7, None), (7.3, None), (3.1, 0), (45.0, 0)):
        audio = tagging.recording(seconds, seed=5)
        found, expected = (x.tag(audio, 16_000, cut) for x in (loaded, original))
        assert expected.frame_scores.std() > 0.05
        np.testing.assert_allclose(found.frame_scores, expected.frame_scores, atol=TOLERANCE)
        np.testing.assert_allclose(found.scores, expected.scores, atol=TOLERANCE)
        assert len(found.events()) == len(expected.events())
    embedded, other = (x.embed(audio, 16_000).embedding for x in (loaded, original))
    np.testing.assert_allclose(embedded, other, atol=1e-3)


def test_weights_of_8_bits(tmp_path):
    path = exported("tflite", tmp_path, Options(quantize=True))
    audio = tagging.recording(6.0)
    found, expected = (
        x.tag(audio, 16_000).frame_scores for x in (psl_jax.load(path), tagging.tagger())
    )
    assert 1e-4 < np.abs(found - expected).mean() < export.QUANTIZED_TOLERANCE


def test_files_of_others_and_damaged_ones(tmp_path):
    path = exported("onnx", tmp_path)
    import onnx

    other = onnx.load_model(path)
    del other.metadata_props[:]
    onnx.save_model(other, str(tmp_path / "other.onnx"))
    with pytest.raises(UserError, match=r"other.onnx was not written by psl_jax.*lacks classes"):
        psl_jax.load(tmp_path / "other.onnx")
    changed = onnx.load_model(path)
    del changed.graph.node[-12:]
    onnx.save_model(changed, str(tmp_path / "changed.onnx"))
    with pytest.raises(UserError, match="not what other tools have made of them"):
        psl_jax.load(tmp_path / "changed.onnx")
    for name in ("a.onnx", "a.tflite"):
        (tmp_path / name).write_bytes(b"\x00\x01nothing" * 9)
        with pytest.raises(UserError, match=name):
            psl_jax.load(tmp_path / name)
        with pytest.raises(UserError, match=f"missing.{name[2:]}"):
            psl_jax.load(tmp_path / f"missing.{name[2:]}")
    with pytest.raises(UserError, match="another of its exports"):
        psl_jax.load(tmp_path / "a.stablehlo")


def fake_hub(monkeypatch, folder, error: Exception | None = None) -> list:
    """A huggingface_hub whose only model is `folder`; what it was asked for."""
    asked = []

    def snapshot_download(name, revision=None, allow_patterns=None):
        asked.append((name, revision))
        if error is not None:
            raise error
        assert "model.safetensors" in allow_patterns
        return str(folder)

    hub = types.ModuleType("huggingface_hub")
    hub.snapshot_download = snapshot_download
    errors = types.ModuleType("huggingface_hub.errors")
    errors.HfHubHTTPError = errors.LocalEntryNotFoundError = RuntimeError
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)
    return asked


def test_models_of_a_hub(tmp_path, monkeypatch):
    folder = tmp_path / "snapshot"
    folder.mkdir()
    asked = fake_hub(monkeypatch, folder)
    with pytest.raises(UserError, match="hf://a/b holds no model of psl_jax"):
        psl_jax.load("hf://a/b")
    exported("safetensors", folder)
    (folder / "small.safetensors").rename(folder / "model.safetensors")
    assert psl_jax.load("hf://some-one/psl2s@v1.0").labels == tagging.LABELS
    assert asked[1:] == [("some-one/psl2s", "v1.0")]
    with pytest.raises(UserError, match="expected hf://USER/NAME"):
        psl_jax.load("hf://psl2s")
    fake_hub(monkeypatch, folder, RuntimeError("404 no such repository\nmore"))
    with pytest.raises(UserError, match="cannot fetch hf://a/b: 404 no such repository"):
        psl_jax.load("hf://a/b")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install 'psl_jax\[hub\]'"):
        psl_jax.load("hf://a/b")


def test_a_model_that_was_loaded_from_a_graph_is_exported_again(tmp_path):
    path = exported("onnx", tmp_path)
    again = load.load_model(path)
    info = export_options.describe(again, Options(), None)
    export.format_named("onnx").write(tmp_path / "b.onnx", again, info, Options())
    audio = tagging.recording(3.0)
    one, other = (
        Tagger(m).tag(audio, 16_000).scores for m in (again, load.load_model(tmp_path / "b.onnx"))
    )
    np.testing.assert_allclose(one, other, atol=1e-6)
