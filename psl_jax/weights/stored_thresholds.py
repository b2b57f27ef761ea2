"""Stores thresholds in a model that is on the disk already."""

import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from psl_jax.networks.trained_model import Thresholds
from psl_jax.runtime import files
from psl_jax.runtime.errors import UserError
from psl_jax.weights import orbax_folder
from psl_jax.weights.load_model import load_model


def store_thresholds(path: str | os.PathLike[str], tuned: Thresholds) -> pathlib.Path:
    """Stores thresholds of all of a model's classes in it; returns the file that holds them.

    path: a run folder, its `averaged` folder, a `.safetensors` or `.pt` file. Raises UserError for
    another model, or one that cannot be written.
    """
    return _replace_thresholds(path, lambda classes: {"thresholds": tuned.as_json(classes)})


def reset_thresholds(path: str | os.PathLike[str]) -> pathlib.Path:
    """Deletes them, so that a model's thresholds are 0.5; arguments and errors as above."""
    return _replace_thresholds(path, lambda classes: {})


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raises UserError where thresholds cannot be stored, before hours of tuning."""
    file = _find_file(path)
    if not all(
        os.access(path_to_write, os.W_OK)
        for path_to_write in (file.parent, file)
        if path_to_write.exists()
    ):
        raise UserError(
            f"no permission to write {file}, where thresholds are stored: copy the model to a "
            "place of your own, or give --dry_run and --csv=FILE (psl-jax tag --thresholds=FILE "
            "takes that)"
        )


def _find_file(path: str | os.PathLike[str]) -> pathlib.Path:
    """Finds the file that holds a model's thresholds."""
    model_path = pathlib.Path(path)
    if model_path.suffix in (".onnx", ".tflite") or "://" in os.fspath(path):
        raise UserError(
            f"thresholds cannot be put into {path}: tune them on the run folder, a "
            ".safetensors or a .pt file, and export or publish that again"
        )
    if model_path.suffix == ".safetensors":
        return model_path
    if model_path.suffix in (".pt", ".pth"):
        from psl_jax.weights.pytorch_file import find_sidecar

        return find_sidecar(model_path)
    return orbax_folder.find_folder(path) / orbax_folder.MODEL_FILE


def _replace_thresholds(
    path: str | os.PathLike[str], make_thresholds: Callable[[Sequence[str]], dict[str, Any]]
) -> pathlib.Path:
    """Replaces a model's thresholds by those that `make_thresholds` returns for its classes."""
    file, suffix = _find_file(path), pathlib.Path(path).suffix
    try:
        if suffix == ".safetensors":
            from psl_jax.weights import safetensors_file

            model, model_json = safetensors_file.read_with_metadata(file)
            model_json.pop("thresholds", None)
            model_json |= make_thresholds(model.classes)
            safetensors_file.write_safetensors(file, model.variables, model_json)
            return file
        if suffix in (".pt", ".pth") and not file.exists():
            model_json = load_model(path).info.as_json()
        else:
            model_json = files.read_json(file)
        model_json.pop("thresholds", None)
        classes = model_json["classes"] if "classes" in model_json else load_model(path).classes
        files.write_json(file, model_json | make_thresholds(classes))
    except OSError as error:
        raise UserError(f"cannot write the thresholds into {path}: {error}") from error
    return file
