"""Thresholds put beside the arrays of a model that lies there already."""

import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from psl_jax.networks.trained_model import Thresholds
from psl_jax.runtime import files
from psl_jax.runtime.errors import UserError
from psl_jax.weights import orbax_folder
from psl_jax.weights.load_model import load_model


def store_thresholds(path: str | os.PathLike, tuned: Thresholds) -> pathlib.Path:
    """Stores thresholds of all of a model's classes in it; returns the file that holds them.

    path: a run folder, its `averaged` folder, a `.safetensors` or `.pt` file. Raises UserError for
    another model, or one that cannot be written.
    """
    return _change(path, lambda classes: {"thresholds": tuned.as_json(classes)})


def reset_thresholds(path: str | os.PathLike) -> pathlib.Path:
    """Forgets them, so that those of a model are 0.5; arguments and errors as above."""
    return _change(path, lambda classes: {})


def check_writable(path: str | os.PathLike) -> None:
    """Raises UserError where thresholds cannot be stored, before hours are spent to find them."""
    file = _file_of(path)
    if not all(os.access(place, os.W_OK) for place in (file.parent, file) if place.exists()):
        raise UserError(
            f"no permission to write {file}, where thresholds are stored: copy the model to a "
            "place of your own, or give --dry_run and --csv=FILE (psl-jax tag --thresholds=FILE "
            "takes that)"
        )


def _file_of(path: str | os.PathLike) -> pathlib.Path:
    """The file that a model's thresholds are in."""
    place = pathlib.Path(path)
    if place.suffix in (".onnx", ".tflite") or "://" in os.fspath(path):
        raise UserError(
            f"thresholds cannot be put into {path}: tune them on the run folder, a "
            ".safetensors or a .pt file, and export or publish that again"
        )
    if place.suffix == ".safetensors":
        return place
    if place.suffix in (".pt", ".pth"):
        from psl_jax.weights.pytorch_file import sidecar

        return sidecar(place)
    return orbax_folder.find_folder(path) / orbax_folder.MODEL_FILE


def _change(
    path: str | os.PathLike, made: Callable[[Sequence[str]], dict[str, Any]]
) -> pathlib.Path:
    """Puts what is `made` for a model's classes in the place of its thresholds."""
    file, suffix = _file_of(path), pathlib.Path(path).suffix
    try:
        if suffix == ".safetensors":
            from psl_jax.weights import safetensors_file

            model, described = safetensors_file.read_with_metadata(file)
            described.pop("thresholds", None)
            described |= made(model.classes)
            safetensors_file.write_safetensors(file, model.variables, described)
            return file
        if suffix in (".pt", ".pth") and not file.exists():
            described = load_model(path).info.as_json()
        else:
            described = files.read_json(file)
        described.pop("thresholds", None)
        classes = described["classes"] if "classes" in described else load_model(path).classes
        files.write_json(file, described | made(classes))
    except OSError as error:
        raise UserError(f"cannot write the thresholds into {path}: {error}") from error
    return file
