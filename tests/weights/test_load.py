"""Exported files and folders of a hub as models; graphs of other runtimes are refused."""

import json
import pathlib
import sys
import types

import jax
import numpy as np
import pytest
import tagging

import psl_jax
from psl_jax.exporting.formats import FORMATS, describe
from psl_jax.runtime.errors import UserError
from psl_jax.weights import orbax_folder
from psl_jax.weights.load_model import load_model


def exported(folder) -> pathlib.Path:
    """A safetensors file without the check, which tests/exporting is about."""
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    path = folder / "small.safetensors"
    info = describe(tagging.model(), "CC0")
    FORMATS["safetensors"].write(path, tagging.model(), info)
    return path


def test_files_of_earlier_versions_load(tmp_path):
    """Their arrays have the names of our variables; now they have PyTorch's."""
    numpy_file = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    model = tagging.model()
    leaves, _ = jax.tree_util.tree_flatten_with_path(model.variables._asdict())
    arrays = {".".join(str(key.key) for key in keys): array for keys, array in leaves}
    metadata = {key: json.dumps(value) for key, value in model.info.as_json().items()}
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    numpy_file.save_file(arrays, tmp_path / "old.safetensors", metadata)
    assert load_model(tmp_path / "old.safetensors").digest == model.digest
    assert "features.0.0.weight" in numpy_file.load_file(exported(tmp_path))
    assert load_model(tmp_path / "small.safetensors").digest == model.digest


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    model = tagging.model()
    arrays = jax.tree.map(lambda x: np.full_like(x, np.nan), model.variables)
    orbax_folder.save_model(tmp_path / "run", arrays, model.info.as_json())
    with pytest.raises(UserError, match="run: some weights are NaN or infinite"):
        load_model(tmp_path / "run")


def test_damage_without_a_message_is_explained(tmp_path):
    with (
        pytest.raises(UserError, match=r"weights: damaged, .*copy it again \(AssertionError: \)"),
        orbax_folder.explain_damage(tmp_path / "weights", "copy it again"),
    ):
        raise AssertionError


@pytest.mark.parametrize("suffix", ["onnx", "tflite", "stablehlo"])
def test_a_graph_is_no_model(tmp_path, suffix):
    with pytest.raises(UserError, match=rf"a\.{suffix} is a graph .*Give the run, or its"):
        psl_jax.load(tmp_path / f"a.{suffix}")


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
    with pytest.raises(UserError, match="hf://a/b holds no model: none of "):
        psl_jax.load("hf://a/b")
    exported(folder).rename(folder / "model.safetensors")
    assert psl_jax.load("hf://some-one/psl2s@v1.0").labels == tagging.LABELS
    assert asked[1:] == [("some-one/psl2s", "v1.0")]
    with pytest.raises(UserError, match="expected hf://USER/NAME"):
        psl_jax.load("hf://psl2s")
    fake_hub(monkeypatch, folder, RuntimeError("404 no such repository\nmore"))
    with pytest.raises(UserError, match="cannot fetch hf://a/b: 404 no such repository"):
        psl_jax.load("hf://a/b")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[hub\]'"):
        psl_jax.load("hf://a/b")
