"""Reads and writes a finished model as one safetensors file.

Names are dotted paths: params.blocks.0.depthwise.kernel, stats.stem_norm.mean, ...
The file's metadata describes the model, with a JSON value for each key.
"""

import json
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from psl_jax.networks.architecture import Variables
from psl_jax.networks.trained_model import Model, ModelInfo
from psl_jax.runtime import files
from psl_jax.runtime.errors import MissingPackageError, UserError
from psl_jax.weights import pytorch_file
from psl_jax.weights.orbax_folder import convert_keys_to_int


def write_safetensors(
    path: str | os.PathLike[str], variables: Variables, info: Mapping[str, Any]
) -> None:
    """Writes the file. info: JSON values, `ModelInfo.as_json()` or more."""
    from safetensors.numpy import save

    leaves, _ = jax.tree_util.tree_flatten_with_path(variables._asdict())
    arrays = {
        ".".join(str(key.key) for key in keys): np.ascontiguousarray(array)
        for keys, array in leaves
    }
    metadata = {key: json.dumps(value) for key, value in info.items()}
    with files.atomic_open(path, "wb") as file:
        file.write(save(arrays, metadata))


def read_safetensors(path: str | os.PathLike[str]) -> Model:
    """Reads the model in a file that `write_safetensors` wrote, or of published weights.

    Raises UserError for another file, or where safetensors is not installed.
    """
    return read_with_metadata(path)[0]


def read_with_metadata(path: str | os.PathLike[str]) -> tuple[Model, dict[str, Any]]:
    """Reads the model as `read_safetensors` does, and all of the file's metadata."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise MissingPackageError(path, "safetensors", "export") from error
    try:
        with safe_open(os.fspath(path), "numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if any(name.startswith("features.") for name in arrays):  # a published state dict
                return pytorch_file.make_model(arrays, path, None), {}
            metadata = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"cannot read {path} as safetensors: {error}") from error
    info = ModelInfo.from_json(metadata, path)
    network, expected = info.create()
    trees: dict[str, Any] = {}
    for name, array in arrays.items():
        *parents, leaf = name.split(".")
        tree = trees
        for key in parents:
            tree = tree.setdefault(key, {})
        tree[leaf] = array
    variables = Variables(*(convert_keys_to_int(trees.get(name, {})) for name in Variables._fields))
    if jax.tree.map(np.shape, variables) != jax.tree.map(np.shape, expected):
        raise UserError(f"{path}: the arrays are not those of a network of width {info.width}")
    return Model(network, variables, info), metadata
