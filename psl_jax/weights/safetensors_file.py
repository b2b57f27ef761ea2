"""Reads and writes a finished model as one safetensors file.

Arrays have PyTorch's names and layout, so that PyTorch and transformers read the file. Its metadata
describes the model, with a JSON value for each key. Files of earlier versions have the names of our
variables.
"""

import json
import os
from collections.abc import Mapping
from typing import Any

from flax import traverse_util

from psl_jax.networks.architecture import Variables
from psl_jax.networks.available import ARCHITECTURES
from psl_jax.networks.mobilenetv2 import MOBILENET_V2
from psl_jax.networks.trained_model import Model, ModelInfo
from psl_jax.runtime import files
from psl_jax.runtime.errors import MissingPackageError, UserError
from psl_jax.weights import pytorch_file
from psl_jax.weights.orbax_folder import restore_variables


def write_safetensors(
    path: str | os.PathLike[str], variables: Variables, info: Mapping[str, Any]
) -> None:
    """Writes the file. info: JSON values, `ModelInfo.as_json()` or more."""
    from safetensors.numpy import save

    architecture = ARCHITECTURES[info.get("network", MOBILENET_V2.name)]
    arrays = pytorch_file.convert_to_state(variables, architecture)
    metadata = {key: json.dumps(value) for key, value in info.items()}
    metadata["format"] = "pt"  # transformers expects it
    with files.atomic_open(path, "wb") as file:
        file.write(save(arrays, metadata))


def read_safetensors(path: str | os.PathLike[str]) -> Model:
    """Reads the model in a file that `write_safetensors` wrote, or of published weights.

    Raises UserError for another file, or where safetensors is not installed.
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise MissingPackageError(path, "safetensors", "export") from error
    try:
        with safe_open(os.fspath(path), "numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            texts = {key: text for key, text in (file.metadata() or {}).items() if key != "format"}
            has_torch_names = any(name.startswith("features.") for name in arrays)
            if has_torch_names and "classes" not in texts:  # a published state dict
                return pytorch_file.make_model(arrays, path, None)
            metadata = {key: json.loads(text) for key, text in texts.items()}
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"cannot read {path} as safetensors: {error}") from error
    info = ModelInfo.from_json(metadata, path)
    if has_torch_names:
        variables = pytorch_file.convert_from_state(arrays, os.fspath(path)).variables
    else:
        variables = restore_variables(traverse_util.unflatten_dict(arrays, sep="."))
    return Model.of(variables, info, path)
