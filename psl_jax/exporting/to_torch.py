"""Writes the network as a PyTorch state dict with the published names, and runs it in PyTorch.

Nothing is folded here: the published network loads the file strictly.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from psl_jax.exporting.export_options import Options, Runner
from psl_jax.networks.trained_model import Model
from psl_jax.runtime import files
from psl_jax.weights import pytorch_file
from psl_jax.weights.pytorch_file import find_sidecar


def write(path: pathlib.Path, model: Model, info: Mapping[str, Any], options: Options) -> None:
    """Writes the state dict, and `info` beside it: a state dict holds only tensors."""
    pytorch_file.write(path, pytorch_file.convert_to_state(model.variables))
    files.write_json(find_sidecar(path), dict(info))


def load(path: pathlib.Path) -> Runner:
    """Loads the file into PyTorch, on the CPU, as an AudioTagger, which needs no psl_jax."""
    import torch

    from psl_jax.exporting.audio_tagger import AudioTagger

    model = AudioTagger.from_folder(path.parent, path.name)

    def run(audio: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode():
            return [output.numpy() for output in model(torch.from_numpy(audio))]

    return run
