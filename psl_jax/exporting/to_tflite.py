"""Writes the network as a TFLite model, and runs that model in LiteRT.

LiteRT's FFT (RFFT2D) is a builtin operation, computed in float64.
"""

import json
import math
import operator
import os
import pathlib
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from psl_jax.exporting.check import Runner
from psl_jax.networks.folding import Layer, frame_probabilities
from psl_jax.networks.trained_model import Model
from psl_jax.runtime.quiet_tensorflow import tensorflow_quietly

INFO, LABELS = "psl_jax.json", "labels.txt"  # in the zip archive at the file's end
_GROUP_BANDS = 8


def write(path: pathlib.Path, model: Model, info: Mapping[str, Any]) -> None:
    """Writes the model, with `info` and the labels as a zip archive at the file's end.

    TFLite packs files with a model in this way. The input is `waveform` [batch, samples] in
    [-1, 1]; the outputs are `clip_probabilities` and `frame_probabilities`.
    """
    tf = tensorflow_quietly()
    network, front_end = model.folded, model.info.exported_front_end
    steps = TensorFlowOperations(tf)

    def compute_probabilities(waveform: Any) -> dict[str, Any]:
        frames = frame_probabilities(network, front_end.by_steps(waveform, steps), steps)
        clip = tf.reduce_mean(frames, axis=1)
        return {"clip_probabilities": clip, "frame_probabilities": frames}

    module = tf.Module()
    module.call = tf.function(
        compute_probabilities,
        input_signature=[tf.TensorSpec([None, None], tf.float32, name="waveform")],
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [module.call.get_concrete_function()], module
    )
    if info["quantized"]:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    path.write_bytes(converter.convert())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(INFO, json.dumps(info, indent=2))
        archive.writestr(LABELS, "\n".join(info["classes"]) + "\n")


def load(path: pathlib.Path) -> Runner:
    """Loads the file into LiteRT, on the CPU."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=os.fspath(path))
    (source,) = interpreter.get_input_details()

    def run(audio: np.ndarray) -> list[np.ndarray]:
        interpreter.resize_tensor_input(source["index"], audio.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(source["index"], audio)
        interpreter.invoke()
        outputs = [interpreter.get_tensor(x["index"]) for x in interpreter.get_output_details()]
        return sorted(outputs, key=np.ndim)

    return run


class TensorFlowOperations:
    """The steps in TensorFlow, see `to_onnx.GraphOperations`."""

    add = plus = staticmethod(operator.add)

    def __init__(self, tf: Any):
        self.tf = tf
        self.relu6, self.relu, self.softmax = tf.nn.relu6, tf.nn.relu, tf.nn.softmax
        self.sigmoid, self.log, self.at_least = tf.sigmoid, tf.math.log, tf.maximum

    def begin(self, walk: Callable[[Any], Any], inputs: Any, channels: int) -> Any:
        return walk(inputs)

    def stem(self, logmel: Any, layer: Layer) -> Any:
        x = self._pad(self.tf.expand_dims(logmel, -1), layer)
        return self.tf.nn.conv2d(x, layer.kernel, 2, "VALID") + layer.bias

    def pointwise(self, x: Any, layer: Layer) -> Any:
        return self.tf.nn.conv2d(x, layer.kernel[None, None], 1, "VALID") + layer.bias

    def depthwise(self, x: Any, layer: Layer, stride: int) -> Any:
        x, padding = (x, "SAME") if stride == 1 else (self._pad(x, layer), "VALID")
        kernel = layer.kernel[..., None]
        strides = [1, stride, stride, 1]
        return self.tf.nn.depthwise_conv2d(x, kernel, strides, padding) + layer.bias

    def _pad(self, x: Any, layer: Layer) -> Any:
        """Pads both sides for a layer; at stride 2 TensorFlow's SAME would pad one only."""
        pad = len(layer.kernel) // 2
        return self.tf.pad(x, [[0, 0], [pad, pad], [pad, pad], [0, 0]])

    def hard_swish(self, x: Any) -> Any:
        return x * self.tf.nn.relu6(x + 3) * (1 / 6)

    def scale(self, x: Any, factors: Any) -> Any:
        return x * factors[:, None, None, :]

    def mean_over_map(self, x: Any, valid_frames: None = None) -> Any:
        return self.tf.reduce_mean(x, axis=[1, 2])

    def over_frames(self, x: Any) -> Any:
        return x[:, None]

    def mean_over_bands(self, x: Any) -> Any:
        return self.tf.reduce_mean(x, axis=2)

    def linear(self, x: Any, layer: Layer) -> Any:
        return self.tf.matmul(x, layer.kernel) + layer.bias

    def padded(self, signal: Any, before: int, after: int, *, mode: str) -> Any:
        return self.tf.pad(signal, [[0, 0], [before, after]], mode=mode.upper())

    def filtered(self, signal: Any, kernel: np.ndarray) -> Any:
        weights = kernel.astype(np.float32)[:, None]  # [taps, 1, outputs]
        outputs = self.tf.nn.conv1d(self.tf.expand_dims(signal, -1), weights, 1, "VALID")
        return self.tf.reshape(outputs, [self.tf.shape(signal)[0], -1])

    def power(self, signal: Any, window: np.ndarray, *, hop: int, fft: int, bins: int) -> Any:
        tf, shape = self.tf, self.tf.shape(signal)
        chunk_samples = math.gcd(len(window), hop)  # frames share whole chunks, see frontend.py
        num_frames = 1 + (shape[1] - len(window)) // hop
        num_samples = (num_frames - 1) * hop + len(window)
        chunks = tf.reshape(
            signal[:, :num_samples], [shape[0], num_samples // chunk_samples, chunk_samples]
        )
        stride = hop // chunk_samples
        end = (num_frames - 1) * stride + 1
        shifted = [chunks[:, i : i + end : stride] for i in range(len(window) // chunk_samples)]
        spectrum = tf.signal.rfft(tf.concat(shifted, axis=-1) * window, [fft])
        power = tf.square(tf.math.real(spectrum)) + tf.square(tf.math.imag(spectrum))
        return power if bins == fft // 2 + 1 else power[..., :bins]

    def bands(self, power: Any, filters: np.ndarray) -> Any:
        """See `to_onnx.GraphOperations`; in groups of bands.

        The converter quantizes constants of 1024 values and more. In 8 bits the filters would be
        off by 90 dB in quiet bands. Few bands have fewer values, and stay exact.
        """
        groups = []
        for band in range(0, filters.shape[1], _GROUP_BANDS):
            group = filters[:, band : band + _GROUP_BANDS]
            used = np.flatnonzero(group.any(axis=1))
            low, high = (used[0], used[-1] + 1) if len(used) else (0, 1)
            groups.append(self.tf.matmul(power[..., low:high], group[low:high]))
        return self.tf.concat(groups, axis=-1)

    def times(self, x: Any, value: float) -> Any:
        return x * np.float32(value)

    def ranged(self, decibels: Any, top_db: float) -> Any:
        loudest = self.tf.reduce_max(decibels, axis=[1, 2], keepdims=True)
        return self.tf.maximum(decibels, loudest - top_db)
