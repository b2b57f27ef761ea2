"""The network as a StableHLO program that JAX, or what else takes StableHLO, can run.

exported = jax.export.deserialize(pathlib.Path("psl2s.stablehlo").read_bytes())
clip, frames = exported.call(waveforms)
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax import export

from psl_jax.exporting.export_options import Options, Runner
from psl_jax.networks.convolutions import depthwise3x3
from psl_jax.networks.folding import JaxOperations, Layer, fold, frame_probabilities
from psl_jax.networks.frontend import NUM_MELS, WINDOW
from psl_jax.networks.trained_model import Model, exported_logmel
from psl_jax.runtime import files
from psl_jax.weights.pytorch_file import sidecar

PLATFORMS = ("cpu", "cuda", "tpu")


def write(path: pathlib.Path, model: Model, info: Mapping[str, Any], options: Options) -> None:
    """Writes the program, for all of PLATFORMS, and `info` beside it: JAX's file has no place.

    It takes waveforms [batch, samples] in [-1, 1], or log-mel [batch, frames, 64], and returns clip
    and frame probabilities.
    """
    network, logmel = fold(model.variables, model.info.output), exported_logmel(model)

    def probabilities(x):
        features = logmel(x) if options.waveform else x
        frames = frame_probabilities(network, features, _PortableOperations())
        return frames.mean(axis=1), frames

    names, least = "batch, samples", f"samples >= {WINDOW // 2 + 1}"
    if not options.waveform:
        names, least = f"batch, frames, {NUM_MELS}", "frames >= 1"
    shape = export.symbolic_shape(names, constraints=["batch >= 1", least])
    program = export.export(jax.jit(probabilities), platforms=PLATFORMS)
    path.write_bytes(program(jax.ShapeDtypeStruct(shape, np.float32)).serialize())
    files.write_json(sidecar(path), dict(info))


def load(path: pathlib.Path) -> Runner:
    """The file in JAX."""
    exported = export.deserialize(bytearray(path.read_bytes()))
    call = jax.jit(exported.call)
    return lambda audio: [np.asarray(x) for x in call(audio)]


class _PortableOperations(JaxOperations):
    """Chooses where it runs, and not where it is exported, how convolutions are computed."""

    def depthwise(self, x: jax.Array, layer: Layer, stride: int) -> jax.Array:
        def by(method):
            return lambda x: depthwise3x3(x, layer.kernel, stride, method)

        found = jax.lax.platform_dependent(x, cpu=by("shifted"), default=by("grouped"))
        return found + layer.bias
