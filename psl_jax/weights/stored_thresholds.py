"""Stores thresholds in a model that is on the disk already."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

from psl_jax.networks.trained_model import Thresholds
from psl_jax.runtime import files
from psl_jax.runtime.errors import UserError
from psl_jax.weights import orbax_folder
from psl_jax.weights.load_model import load_model


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raises UserError where thresholds cannot be stored, before hours of tuning."""
    file = _find_file(path)
    if not all(os.access(place, os.W_OK) for place in (file.parent, file) if place.exists()):
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


def store_thresholds(path: str | os.PathLike[str], tuned: Thresholds | None) -> pathlib.Path:
    """Stores thresholds of all of a model's classes in it; returns the file that holds them.

    path: a run folder, its `averaged` folder, a `.safetensors` or `.pt` file. tuned: None deletes
    those that are there. Raises UserError for another model, or one that cannot be written.
    """
    file, suffix = _find_file(path), pathlib.Path(path).suffix

    def replace(model_json: dict[str, Any], classes: Sequence[str]) -> dict[str, Any]:
        rest = {name: value for name, value in model_json.items() if name != "thresholds"}
        return rest if tuned is None else rest | {"thresholds": tuned.as_json(classes)}

    try:
        if suffix == ".safetensors":
            from psl_jax.weights import safetensors_file

            model, model_json = safetensors_file.read_with_metadata(file)
            model_json = replace(model_json, model.classes)
            safetensors_file.write_safetensors(file, model.variables, model_json)
            return file
        # Beside a published .pt there is no file.
        model_json = files.read_json(file) if file.exists() else load_model(path).info.as_json()
        classes = model_json["classes"] if "classes" in model_json else load_model(path).classes
        files.write_json(file, replace(model_json, classes))
    except OSError as error:
        raise UserError(f"cannot write the thresholds into {path}: {error}") from error
    return file
