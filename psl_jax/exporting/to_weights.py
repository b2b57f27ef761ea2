"""Writes the averaged variables as an Orbax folder like a run's, or as safetensors.

`psl_jax.load`, `--config.teacher` and the other commands take both.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

from psl_jax.exporting.export_options import Options
from psl_jax.networks.trained_model import Model
from psl_jax.weights import orbax_folder, safetensors_file


def write_orbax(
    path: pathlib.Path, model: Model, info: Mapping[str, Any], options: Options
) -> None:
    """Writes the folder: arrays, and `info` as its model.json."""
    orbax_folder.save_model(path, model.variables, dict(info))


def write_safetensors(
    path: pathlib.Path, model: Model, info: Mapping[str, Any], options: Options
) -> None:
    """Writes the file; `info` becomes its metadata."""
    safetensors_file.write_safetensors(path, model.variables, info)
