"""The formats of exports: how each is written and run, and the metadata that all of them carry.

StableHLO is a program that JAX and other runtimes can run:

    exported = jax.export.deserialize(pathlib.Path("psl2s.stablehlo").read_bytes())
    clip, frames = exported.call(waveforms)
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import export

import psl_jax
from psl_jax.exporting import to_onnx, to_tflite
from psl_jax.exporting.check import EXPORTED, Runner, make_flax_runner
from psl_jax.networks.folding import JaxOperations, frame_probabilities
from psl_jax.networks.trained_model import Model
from psl_jax.runtime import files
from psl_jax.weights import orbax_folder, pytorch_file
from psl_jax.weights.safetensors_file import read_safetensors, write_safetensors

_PLATFORMS = ("cpu", "cuda", "tpu")  # that StableHLO is for


class Format(NamedTuple):
    """How a format is written, of a path, a model and its metadata; and how a file is run."""

    write: Callable[[pathlib.Path, Model, Mapping[str, Any]], None]
    load: Callable[[pathlib.Path], Runner]


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


def _write_stablehlo(path: pathlib.Path, model: Model, info: Mapping[str, Any]) -> None:
    """Writes the program for all of _PLATFORMS, and `info` beside it: JAX's file has no metadata.

    It takes waveforms [batch, samples] in [-1, 1], and returns clip and frame probabilities.
    """
    network, front_end = model.folded, model.info.exported_front_end

    def compute_probabilities(audio: jax.Array) -> tuple[jax.Array, jax.Array]:
        features = front_end(audio, platform=EXPORTED)
        frames = frame_probabilities(network, features, JaxOperations())
        return frames.mean(axis=1), frames

    limits = ["batch >= 1", f"samples >= {front_end.least_samples}"]
    shape = export.symbolic_shape("batch, samples", constraints=limits)
    program = export.export(jax.jit(compute_probabilities), platforms=_PLATFORMS)
    path.write_bytes(program(jax.ShapeDtypeStruct(shape, np.float32)).serialize())
    files.write_json(pytorch_file.find_sidecar(path), dict(info))


def _load_stablehlo(path: pathlib.Path) -> Runner:
    exported = export.deserialize(bytearray(path.read_bytes()))
    call = jax.jit(exported.call)
    return lambda audio: [np.asarray(x) for x in call(audio)]


FORMATS = {  # libraries of other runtimes are imported when they are used
    "orbax": Format(
        lambda path, model, info: orbax_folder.save_model(path, model.variables, dict(info)),
        lambda path: make_flax_runner(orbax_folder.read_model(path)),
    ),
    "safetensors": Format(
        lambda path, model, info: write_safetensors(path, model.variables, info),
        lambda path: make_flax_runner(read_safetensors(path)),
    ),
    "stablehlo": Format(_write_stablehlo, _load_stablehlo),
    "onnx": Format(to_onnx.write, to_onnx.load),
    "tflite": Format(to_tflite.write, to_tflite.load),
    "torch": Format(_write_torch, load_torch),
}
