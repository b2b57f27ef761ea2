"""Writes the network as a StableHLO program, which JAX and other runtimes can run.

exported = jax.export.deserialize(pathlib.Path("psl2s.stablehlo").read_bytes())
clip, frames = exported.call(waveforms)
"""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from psl_jax.exporting.export_options import Options, Runner
from psl_jax.networks.convolutions import depthwise
from psl_jax.networks.folding import JaxOperations, Layer, frame_probabilities
from psl_jax.networks.trained_model import Model
from psl_jax.runtime import files
from psl_jax.weights.pytorch_file import find_sidecar

PLATFORMS = ("cpu", "cuda", "tpu")


def write(path: pathlib.Path, model: Model, info: Mapping[str, Any], options: Options) -> None:
    """Writes the program for all of PLATFORMS, and `info` beside it: JAX's file has no metadata.

    It takes waveforms [batch, samples] in [-1, 1], or log-mel [batch, frames, bands], and returns
    clip and frame probabilities.
    """
    network, front_end = model.folded, model.info.exported_front_end

    def compute_probabilities(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        features = front_end(x) if options.waveform else x
        frames = frame_probabilities(network, features, _PortableOperations())
        return frames.mean(axis=1), frames

    dimensions, min_length = "batch, samples", f"samples >= {front_end.least_samples}"
    if not options.waveform:
        dimensions, min_length = f"batch, frames, {front_end.sizes()['mel_bands']}", "frames >= 1"
    shape = export.symbolic_shape(dimensions, constraints=["batch >= 1", min_length])
    program = export.export(jax.jit(compute_probabilities), platforms=PLATFORMS)
    path.write_bytes(program(jax.ShapeDtypeStruct(shape, np.float32)).serialize())
    files.write_json(find_sidecar(path), dict(info))


def load(path: pathlib.Path) -> Runner:
    """Loads the file into JAX."""
    exported = export.deserialize(bytearray(path.read_bytes()))
    call = jax.jit(exported.call)
    return lambda audio: [np.asarray(x) for x in call(audio)]


class _PortableOperations(JaxOperations):
    """Chooses the method of a convolution by the platform that runs it, not that of the export."""

    def depthwise(self, x: jax.Array, layer: Layer, stride: int) -> jax.Array:
        def compute_on(platform: str) -> Callable[[jax.Array], jax.Array]:
            return lambda x: depthwise(x, layer.kernel, stride, platform=platform)

        output: jax.Array = jax.lax.platform_dependent(
            x, cpu=compute_on("cpu"), default=compute_on("tpu")
        )
        return jnp.add(output, layer.bias)
