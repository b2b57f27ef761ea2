"""The formats of exports: how each is written and run, and the metadata that all of them carry."""

import dataclasses
import importlib
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

import psl_jax
from psl_jax.exporting.check import Runner, make_flax_runner
from psl_jax.networks.trained_model import Model
from psl_jax.runtime import files
from psl_jax.weights import orbax_folder, pytorch_file
from psl_jax.weights.safetensors_file import read_safetensors, write_safetensors

GRAPHS = ("stablehlo", "onnx", "tflite")
FORMATS = ("orbax", "safetensors", *GRAPHS, "torch")


class Format(NamedTuple):
    """How a format is written, of a path, a model and its metadata; and how a file is run."""

    write: Callable[[pathlib.Path, Model, Mapping[str, Any]], None]
    load: Callable[[pathlib.Path], Runner]


def format_named(name: str) -> Format:
    """Imports what a format needs of this package; its libraries are imported when used."""
    if name in GRAPHS:
        module = importlib.import_module(f"psl_jax.exporting.to_{name}")
        return Format(module.write, module.load)
    if name == "torch":
        return Format(_write_torch, load_torch)
    if name == "orbax":
        return Format(
            lambda path, model, info: orbax_folder.save_model(path, model.variables, dict(info)),
            lambda path: make_flax_runner(orbax_folder.read_model(path)),
        )
    return Format(
        lambda path, model, info: write_safetensors(path, model.variables, info),
        lambda path: make_flax_runner(read_safetensors(path)),
    )


def describe(model: Model, licence: str | None, *, quantized: bool = False) -> dict[str, Any]:
    """Collects the facts that an exported model carries, as JSON values.

    quantized: weights are stored as 8-bit integers (tflite).
    """
    origin: dict[str, Any] = {} if licence is None else {"licence": licence}
    origin["config_digest"] = model.info.origin.get("config_digest")
    logmel = model.info.logmel.exported()
    return dataclasses.replace(model.info, logmel=logmel, origin=origin).as_json() | {
        "sample_rate": model.info.sample_rate,
        "input": "waveform",
        **model.info.front_end.sizes(),
        "quantized": quantized,
        "model_digest": model.digest,
        "producer": f"psl_jax {psl_jax.__version__}",
    }


def _write_torch(path: pathlib.Path, model: Model, info: Mapping[str, Any]) -> None:
    """Writes the state dict, and `info` beside it: a state dict holds only tensors."""
    state = pytorch_file.convert_to_state(model.variables, model.info.architecture)
    pytorch_file.write(path, state)
    files.write_json(pytorch_file.find_sidecar(path), dict(info))


def load_torch(path: pathlib.Path) -> Runner:
    """Loads a .pt or .safetensors into PyTorch, as an AudioTagger, which needs no psl_jax."""
    import torch

    from psl_jax.exporting.audio_tagger import AudioTagger

    model = AudioTagger.from_folder(path.parent, path.name)

    def run(audio: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode():
            return [output.numpy() for output in model(torch.from_numpy(audio))]

    return run
