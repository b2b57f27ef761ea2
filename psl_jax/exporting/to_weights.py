"""Writes the averaged variables: an Orbax folder like a run's, safetensors, a PyTorch state dict.

`psl_jax.load`, `--config.teacher` and the other commands take all of them. Nothing is folded: the
published network in PyTorch loads the state dict strictly.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from psl_jax.exporting.export_options import Options, Runner
from psl_jax.networks.trained_model import Model
from psl_jax.runtime import files
from psl_jax.weights import orbax_folder, pytorch_file, safetensors_file
from psl_jax.weights.pytorch_file import find_sidecar


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


def write_torch(
    path: pathlib.Path, model: Model, info: Mapping[str, Any], options: Options
) -> None:
    """Writes the state dict, and `info` beside it: a state dict holds only tensors."""
    state = pytorch_file.convert_to_state(model.variables, model.info.architecture)
    pytorch_file.write(path, state)
    files.write_json(find_sidecar(path), dict(info))


def load_torch(path: pathlib.Path) -> Runner:
    """Loads the file into PyTorch, on the CPU, as an AudioTagger, which needs no psl_jax."""
    import torch

    from psl_jax.exporting.audio_tagger import AudioTagger

    model = AudioTagger.from_folder(path.parent, path.name)

    def run(audio: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode():
            return [output.numpy() for output in model(torch.from_numpy(audio))]

    return run
