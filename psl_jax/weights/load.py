"""Reads a model, whatever file, folder or place holds it."""

import contextlib
import os
import pathlib
from collections.abc import Iterator

from psl_jax.model.model import Model
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import is_remote, local_copy, path_of

PUBLISHED = "model.safetensors"  # in a folder that psl-jax publish wrote
HUB = "hf://"
FILES = (".pt", ".pth", ".safetensors", ".onnx", ".tflite")


def load_model(path: str | os.PathLike) -> Model:
    """A model from a run folder, its `averaged` folder, an export, a `.pt` file, or a hub.

    Exports are Orbax folders, `.safetensors`, `.onnx` and `.tflite`, and the folders of psl-jax
    publish; a `.pt` file is an export or a published checkpoint; hf://USER/NAME or
    hf://USER/NAME@REVISION is a published folder on the Hugging Face hub. Raises UserError, saying
    what to do, where there is no model.
    """
    # Each format is imported where it is asked for: most need a package of their own.
    if os.fspath(path).startswith(HUB):
        from psl_jax.weights import hub

        return load_model(hub.fetch(os.fspath(path)))
    path = path_of(path)
    if is_remote(path) and path.suffix in FILES:
        with _with_sidecar(path) as copy:
            return load_model(copy)
    if path.suffix in (".pt", ".pth"):
        from psl_jax.weights import pytorch_file

        return pytorch_file.load(path)
    if path.suffix == ".safetensors" or (path / PUBLISHED).is_file():
        from psl_jax.weights import safetensors_file

        with local_copy(path if path.suffix == ".safetensors" else path / PUBLISHED) as file:
            return safetensors_file.read_safetensors(file)
    if path.suffix == ".onnx":
        from psl_jax.weights import onnx_file

        return onnx_file.read_onnx(path)
    if path.suffix == ".tflite":
        from psl_jax.weights import tflite_file

        return tflite_file.read_tflite(path)
    if path.suffix == ".stablehlo":
        raise UserError(
            f"{path}: a StableHLO program holds no layers that could be read; jax.export runs it "
            "(docs/EXPORT.md). Load the run, or another of its exports"
        )
    from psl_jax.weights import orbax_folder

    return orbax_folder.read_model(path)


@contextlib.contextmanager
def _with_sidecar(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A copy of a file in a bucket, with what is told of it beside it (as of a .pt)."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    with local_copy(path) as copy:
        from psl_jax.weights.pytorch_file import sidecar

        beside = path.with_name(sidecar(path.name).name)
        if beside.is_file():
            copy.with_name(beside.name).write_bytes(beside.read_bytes())
        yield copy
