"""Writes the network as a StableHLO program, which JAX and other runtimes can run.

exported = jax.export.deserialize(pathlib.Path("psl2s.stablehlo").read_bytes())
clip, frames = exported.call(waveforms)
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax import export

from psl_jax.exporting.check import EXPORTED, Runner
from psl_jax.networks.folding import JaxOperations, frame_probabilities
from psl_jax.networks.trained_model import Model
from psl_jax.runtime import files
from psl_jax.weights.pytorch_file import find_sidecar

PLATFORMS = ("cpu", "cuda", "tpu")


def write(path: pathlib.Path, model: Model, info: Mapping[str, Any]) -> None:
    """Writes the program for all of PLATFORMS, and `info` beside it: JAX's file has no metadata.

    It takes waveforms [batch, samples] in [-1, 1], and returns clip and frame probabilities.
    """
    network, front_end = model.folded, model.info.exported_front_end

    def compute_probabilities(audio: jax.Array) -> tuple[jax.Array, jax.Array]:
        features = front_end(audio, platform=EXPORTED)
        frames = frame_probabilities(network, features, JaxOperations())
        return frames.mean(axis=1), frames

    limits = ["batch >= 1", f"samples >= {front_end.least_samples}"]
    shape = export.symbolic_shape("batch, samples", constraints=limits)
    program = export.export(jax.jit(compute_probabilities), platforms=PLATFORMS)
    path.write_bytes(program(jax.ShapeDtypeStruct(shape, np.float32)).serialize())
    files.write_json(find_sidecar(path), dict(info))


def load(path: pathlib.Path) -> Runner:
    """Loads the file into JAX."""
    exported = export.deserialize(bytearray(path.read_bytes()))
    call = jax.jit(exported.call)
    return lambda audio: [np.asarray(x) for x in call(audio)]
