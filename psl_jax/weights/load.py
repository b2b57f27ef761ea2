"""Reads a model, whatever file or folder holds it."""

import os
import pathlib

from psl_jax.model.model import Model


def load_model(path: str | os.PathLike) -> Model:
    """A model from a run folder, its `averaged` folder, an export of its weights or a `.pt` file.

    Exported are Orbax folders and `.safetensors`; a `.pt` file is an export or a published
    checkpoint. Raises UserError, saying what to do, where there is no model.
    """
    # Each format is imported where it is asked for: most need a package of their own.
    suffix = pathlib.Path(path).suffix
    if suffix in (".pt", ".pth"):
        from psl_jax.weights import pytorch_file

        return pytorch_file.load(path)
    if suffix == ".safetensors":
        from psl_jax.weights import safetensors_file

        return safetensors_file.read_safetensors(path)
    from psl_jax.weights import orbax_folder

    return orbax_folder.read_model(path)
