"""Thresholds put beside the arrays of a model that lies there already."""

import os
import pathlib

from psl_jax.model.thresholds import Thresholds
from psl_jax.runtime import files
from psl_jax.runtime.errors import UserError
from psl_jax.weights import orbax_folder
from psl_jax.weights.load import load_model


def store_thresholds(path: str | os.PathLike, tuned: Thresholds) -> pathlib.Path:
    """Stores thresholds of all of a model's classes in it; returns the file that holds them.

    path: a run folder, its `averaged` folder, a `.safetensors` or `.pt` file. Raises UserError for
    another model, or one that cannot be written.
    """
    suffix = pathlib.Path(path).suffix
    try:
        if suffix == ".safetensors":
            return _in_safetensors(pathlib.Path(path), tuned)
        if suffix in (".pt", ".pth"):
            return _in_sidecar(pathlib.Path(path), tuned)
        if suffix in (".onnx", ".tflite") or "://" in os.fspath(path):
            raise UserError(
                f"thresholds cannot be put into {path}: tune them on the run folder, a "
                ".safetensors or a .pt file, and export or publish that again"
            )
        file = orbax_folder.find_folder(path) / orbax_folder.MODEL_FILE
        described = files.read_json(file)
        described["thresholds"] = tuned.as_json(described["classes"])
        files.write_json(file, described)
        return file
    except OSError as error:
        raise UserError(f"cannot write the thresholds into {path}: {error}") from error


def _in_safetensors(path: pathlib.Path, tuned: Thresholds) -> pathlib.Path:
    from psl_jax.weights import safetensors_file

    model, info = safetensors_file.read_with_metadata(path)
    info |= {"thresholds": tuned.as_json(model.classes)}
    safetensors_file.write_safetensors(path, model.variables, info)
    return path


def _in_sidecar(path: pathlib.Path, tuned: Thresholds) -> pathlib.Path:
    from psl_jax.weights.pytorch_file import sidecar

    beside, info = sidecar(path), load_model(path).info
    described = files.read_json(beside) if beside.exists() else info.as_json()
    files.write_json(beside, described | {"thresholds": tuned.as_json(info.classes)})
    return beside
