"""The averaged variables by themselves: as an Orbax folder like a run's, or as safetensors.

Both are models that `psl_jax.load`, `--config.teacher` and the other commands take.
"""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from psl_jax import checkpoints
from psl_jax.checkpoints import Model
from psl_jax.errors import UserError
from psl_jax.export_options import Options
from psl_jax.mobilenetv2 import Variables, create


def write_orbax(
    path: pathlib.Path, model: Model, info: Mapping[str, Any], options: Options
) -> None:
    """Writes the folder: arrays, and `info` as its model.json."""
    checkpoints.save_model(path, model.variables, dict(info))


def write_safetensors(
    path: pathlib.Path, model: Model, info: Mapping[str, Any], options: Options
) -> None:
    """Writes the file; `info` becomes its metadata, a JSON value for each key.

    Names are dotted paths: params.blocks.0.depthwise.kernel, stats.stem_norm.mean, ...
    """
    from safetensors.numpy import save

    leaves, _ = jax.tree_util.tree_flatten_with_path(model.variables._asdict())
    arrays = {
        ".".join(str(key.key) for key in keys): np.ascontiguousarray(array)
        for keys, array in leaves
    }
    metadata = {key: json.dumps(value) for key, value in info.items()}
    path.write_bytes(save(arrays, metadata))


def read_safetensors(path: str | os.PathLike) -> Model:
    """The model in a file that `write_safetensors` wrote.

    Raises UserError for another file, or where safetensors is not installed.
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise UserError(
            f"{path}: safetensors is not installed: pip install 'psl_jax[export]'"
        ) from error
    try:
        with safe_open(os.fspath(path), "numpy") as file:
            info = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"cannot read {path} as safetensors: {error}") from error
    if missing := [key for key in ("classes", "width", "segment_seconds") if key not in info]:
        raise UserError(
            f"{path} was not written by psl_jax.export: its metadata lack {', '.join(missing)}"
        )
    network, expected = create(len(info["classes"]), info["width"])
    found: dict = {}
    for name, array in arrays.items():
        *place, last = name.split(".")
        tree = found
        for key in place:
            tree = tree.setdefault(key, {})
        tree[last] = array
    variables = Variables(*(checkpoints.int_keys(found.get(x, {})) for x in Variables._fields))
    if jax.tree.map(np.shape, variables) != jax.tree.map(np.shape, expected):
        raise UserError(f"{path}: the arrays are not those of a network of width {info['width']}")
    return Model(network, variables, info)
