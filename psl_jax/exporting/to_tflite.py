"""Writes the network as a TFLite model, and runs that model in LiteRT.

LiteRT's FFT (RFFT2D) is a builtin operation, computed in float64.
"""

import json
import os
import pathlib
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from psl_jax.exporting.export_options import Options, Runner
from psl_jax.networks.folding import Layer, frame_probabilities
from psl_jax.networks.frontend import AMIN, HOP, NUM_MELS, WINDOW, LogMel, hann, mel_filters
from psl_jax.networks.trained_model import Model
from psl_jax.runtime.quiet_tensorflow import tensorflow_quietly

INFO, LABELS = "psl_jax.json", "labels.txt"  # in the zip archive at the file's end
_GROUP_BANDS = 8


def write(path: pathlib.Path, model: Model, info: Mapping[str, Any], options: Options) -> None:
    """Writes the model, with `info` and the labels as a zip archive at the file's end.

    TFLite packs files with a model in this way. The input is `waveform` [batch, samples] in
    [-1, 1], or `logmel` [batch, frames, 64]; the outputs are `clip_probabilities` and
    `frame_probabilities`.
    """
    tf = tensorflow_quietly()
    network, logmel = model.folded, model.info.logmel.exported()

    def compute_probabilities(x: Any) -> dict[str, Any]:
        features = compute_log_mel(tf, x, logmel) if options.waveform else x
        frames = frame_probabilities(network, features, TensorFlowOperations(tf))
        clip = tf.reduce_mean(frames, axis=1)
        return {"clip_probabilities": clip, "frame_probabilities": frames}

    name, *shape = (
        ("waveform", None, None) if options.waveform else ("logmel", None, None, NUM_MELS)
    )
    module = tf.Module()
    module.call = tf.function(
        compute_probabilities, input_signature=[tf.TensorSpec(shape, tf.float32, name=name)]
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [module.call.get_concrete_function()], module
    )
    if options.quantize:
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
    """The steps in TensorFlow; see folding.Operations."""

    def __init__(self, tf: Any):
        self.tf = tf

    def begin(self, walk: Callable[[Any], Any], inputs: Any, channels: int) -> Any:
        return walk(inputs)

    def stem(self, logmel: Any, layer: Layer) -> Any:
        x = self.tf.pad(self.tf.expand_dims(logmel, -1), _PADDING)
        return self.tf.nn.conv2d(x, layer.kernel, 2, "VALID") + layer.bias

    def pointwise(self, x: Any, layer: Layer) -> Any:
        return self.tf.nn.conv2d(x, layer.kernel[None, None], 1, "VALID") + layer.bias

    def depthwise(self, x: Any, layer: Layer, stride: int) -> Any:
        # At stride 2 TensorFlow's SAME would pad one side only.
        pad = len(layer.kernel) // 2
        around = [[0, 0], [pad, pad], [pad, pad], [0, 0]]
        x, padding = (x, "SAME") if stride == 1 else (self.tf.pad(x, around), "VALID")
        kernel = layer.kernel[..., None]
        strides = [1, stride, stride, 1]
        return self.tf.nn.depthwise_conv2d(x, kernel, strides, padding) + layer.bias

    def relu6(self, x: Any) -> Any:
        return self.tf.nn.relu6(x)

    def relu(self, x: Any) -> Any:
        return self.tf.nn.relu(x)

    def hard_swish(self, x: Any) -> Any:
        return x * self.tf.nn.relu6(x + 3) * (1 / 6)

    def add(self, x: Any, y: Any) -> Any:
        return x + y

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

    def sigmoid(self, x: Any) -> Any:
        return self.tf.sigmoid(x)

    def softmax(self, x: Any) -> Any:
        return self.tf.nn.softmax(x)


_PADDING = [[0, 0], [1, 1], [1, 1], [0, 0]]


def compute_log_mel(tf: Any, waveform: Any, logmel: LogMel) -> Any:
    """Computes the front end: [batch, samples] to [batch, frames, 64] in dB."""
    padded = tf.pad(waveform, [[0, 0], [WINDOW // 2, WINDOW // 2]], mode="REFLECT")
    num_frames = 1 + tf.shape(waveform)[1] // HOP
    chunk_samples = int(np.gcd(WINDOW, HOP))  # frames share whole chunks, see frontend.py
    num_samples = (num_frames - 1) * HOP + WINDOW
    chunks = tf.reshape(
        padded[:, :num_samples],
        [tf.shape(waveform)[0], num_samples // chunk_samples, chunk_samples],
    )
    stride = HOP // chunk_samples
    end = (num_frames - 1) * stride + 1
    shifted_chunks = [chunks[:, i : i + end : stride] for i in range(WINDOW // chunk_samples)]
    spectrum = tf.signal.rfft(tf.concat(shifted_chunks, axis=-1) * hann())  # [batch, frames, 257]
    power = tf.square(tf.math.real(spectrum)) + tf.square(tf.math.imag(spectrum))
    bands = [
        tf.matmul(power[..., low:high], filters) for low, high, filters in _list_filter_groups()
    ]
    mel = tf.maximum(tf.concat(bands, axis=-1), AMIN)
    decibels = tf.math.log(mel) * np.float32(10 / np.log(10))
    if logmel.top_db_over == "none":
        return decibels
    loudest = tf.reduce_max(decibels, axis=[1, 2], keepdims=True)
    return tf.maximum(decibels, loudest - logmel.top_db)


def _list_filter_groups() -> Iterator[tuple[int, int, np.ndarray]]:
    """Yields (first bin, end, filters [bins, 8]) for every 8 mel bands.

    The converter quantizes constants of 1024 values and more. In 8 bits the filters would be off by
    90 dB in quiet bands. Eight bands have fewer values, and stay exact.
    """
    filters = mel_filters()
    for band in range(0, NUM_MELS, _GROUP_BANDS):
        group = filters[:, band : band + _GROUP_BANDS]
        (bins,) = np.nonzero(group.any(axis=1))
        yield bins[0], bins[-1] + 1, group[bins[0] : bins[-1] + 1]
