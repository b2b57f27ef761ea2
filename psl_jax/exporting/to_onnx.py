"""Writes the network as an ONNX graph, and runs that graph in onnxruntime.

The front end's Fourier transform is a convolution with cosines and sines in float32. On a CPU that
is as exact as the FFT in float32 and four times as fast as onnxruntime's STFT, and every ONNX
runtime has it. Feature maps are [batch, channels, frames, bands] here.
"""

import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from psl_jax.exporting.export_options import Options, Runner
from psl_jax.networks.folding import Layer, frame_probabilities
from psl_jax.networks.frontend import AMIN, HOP, NUM_MELS, WINDOW, LogMel, hann, mel_filters
from psl_jax.networks.trained_model import Model

OPSET = 18  # the first that has all we use, so that old runtimes can read the file
_IR_VERSION = 8  # as old as that opset


def write(path: pathlib.Path, model: Model, info: Mapping[str, Any], options: Options) -> None:
    """Writes the model; `info` becomes its metadata, a JSON value for each key.

    The input is `waveform` [batch, samples] in [-1, 1], or `logmel` [batch, frames, 64]; the
    outputs are `clip_probabilities` and `frame_probabilities`.
    """
    import onnx
    from onnx import TensorProto, helper

    graph = GraphOperations()
    input_name, input_shape = "logmel", ["batch", "frames", NUM_MELS]
    features = input_name
    if options.waveform:
        input_name, input_shape = "waveform", ["batch", "samples"]
        features = add_log_mel(graph, input_name, model.info.logmel.exported())
    frames = frame_probabilities(model.folded, features, graph)
    graph.add_node("Identity", [frames], "frame_probabilities")
    graph.add_node("ReduceMean", [frames, graph.constant([1])], "clip_probabilities", keepdims=0)
    num_classes = len(model.classes)
    outputs = {
        "clip_probabilities": ["batch", num_classes],
        "frame_probabilities": ["batch", "output_frames", num_classes],
    }

    def describe_tensor(name: str, shape: list[Any]) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    exported = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "psl_jax",
            [describe_tensor(input_name, input_shape)],
            [describe_tensor(name, shape) for name, shape in outputs.items()],
            graph.tensors,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=_IR_VERSION,
        producer_name="psl_jax",
    )
    helper.set_model_props(exported, {key: json.dumps(value) for key, value in info.items()})
    onnx.checker.check_model(exported, full_check=True)
    onnx.save_model(exported, os.fspath(path))


def load(path: pathlib.Path) -> Runner:
    """Loads the file into onnxruntime, on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])
    (source,) = session.get_inputs()
    names = ["clip_probabilities", "frame_probabilities"]
    return lambda audio: tuple(session.run(names, {source.name: audio}))


class GraphOperations:
    """Adds the steps of the network to a graph; see folding.Operations.

    A value that passes between steps is the name of a node's output.
    """

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []

    def add_node(
        self, operation: str, inputs: list[str], output: str = "", **attributes: Any
    ) -> str:
        """Adds a node and returns the name of its output."""
        from onnx import helper

        output = output or f"{operation}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operation, inputs, [output], output, **attributes))
        return output

    def constant(self, value: Any) -> str:
        """Adds an array (or integers) to the model, and returns its name."""
        from onnx import numpy_helper

        name = f"constant_{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def scalar(self, value: float) -> str:
        from onnx import numpy_helper

        name = f"constant_{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.array(value, np.float32), name))
        return name

    def begin(self, walk: Callable[[Any], Any], inputs: Any, channels: int) -> Any:
        return walk(inputs)

    def stem(self, logmel: str, layer: Layer) -> str:
        x = self.add_node("Unsqueeze", [logmel, self.constant([1])])
        kernel = layer.kernel.transpose(3, 2, 0, 1)  # [outputs, 1, 3, 3]
        return self._convolution(x, kernel, layer.bias, strides=[2, 2], pads=[1] * 4)

    def pointwise(self, x: str, layer: Layer) -> str:
        return self._convolution(x, layer.kernel.T[:, :, None, None], layer.bias)

    def depthwise(self, x: str, layer: Layer, stride: int) -> str:
        kernel = layer.kernel.transpose(2, 0, 1)[:, None]  # [channels, 1, size, size]
        pads = [layer.kernel.shape[0] // 2] * 4
        return self._convolution(
            x, kernel, layer.bias, strides=[stride] * 2, pads=pads, group=len(kernel)
        )

    def _convolution(self, x: str, kernel: np.ndarray, bias: np.ndarray, **attributes: Any) -> str:
        return self.add_node("Conv", [x, self.constant(kernel), self.constant(bias)], **attributes)

    def relu6(self, x: str) -> str:
        return self.add_node("Clip", [x, self.scalar(0), self.scalar(6)])

    def relu(self, x: str) -> str:
        return self.add_node("Relu", [x])

    def hard_swish(self, x: str) -> str:
        return self.add_node("HardSwish", [x])

    def add(self, x: str, y: str) -> str:
        return self.add_node("Add", [x, y])

    def scale(self, x: str, factors: str) -> str:
        spread = self.add_node("Unsqueeze", [factors, self.constant([2, 3])])
        return self.add_node("Mul", [x, spread])

    def mean_over_map(self, x: str, valid_frames: None = None) -> str:
        return self.add_node("ReduceMean", [x, self.constant([2, 3])], keepdims=0)

    def over_frames(self, x: str) -> str:
        return self.add_node("Unsqueeze", [x, self.constant([1])])

    def mean_over_bands(self, x: str) -> str:
        mean = self.add_node("ReduceMean", [x, self.constant([3])], keepdims=0)
        return self.add_node("Transpose", [mean], perm=[0, 2, 1])

    def linear(self, x: str, layer: Layer) -> str:
        product = self.add_node("MatMul", [x, self.constant(layer.kernel)])
        return self.add_node("Add", [product, self.constant(layer.bias)])

    def sigmoid(self, x: str) -> str:
        return self.add_node("Sigmoid", [x])

    def softmax(self, x: str) -> str:
        return self.add_node("Softmax", [x], axis=-1)


def add_log_mel(graph: GraphOperations, waveform: str, logmel: LogMel) -> str:
    """Adds the front end: [batch, samples] to [batch, frames, 64] in dB."""
    add, constant = graph.add_node, graph.constant
    padding = constant([0, WINDOW // 2, 0, WINDOW // 2])
    padded = add("Pad", [waveform, padding], mode="reflect")
    signal = add("Unsqueeze", [padded, constant([1])])
    spectrum = add("Conv", [signal, constant(compute_fourier_basis())], strides=[HOP])
    squares = add("Mul", [spectrum, spectrum])  # [batch, 514, frames]
    real, imaginary = (
        add("Slice", [squares, constant([start]), constant([start + 257]), constant([1])])
        for start in (0, 257)
    )
    power = add("Transpose", [add("Add", [real, imaginary])], perm=[0, 2, 1])
    mel = add("MatMul", [power, constant(mel_filters())])
    logarithm = add("Log", [add("Max", [mel, graph.scalar(AMIN)])])
    decibels = add("Mul", [logarithm, graph.scalar(10 / np.log(10))])
    if logmel.top_db_over == "none":
        return decibels
    loudest = add("ReduceMax", [decibels, constant([1, 2])], keepdims=1)
    return add("Max", [decibels, add("Sub", [loudest, graph.scalar(logmel.top_db)])])


def compute_fourier_basis() -> np.ndarray:
    """Computes windowed cosines, then sines, of the 257 frequencies: float32 [514, 1, 512]."""
    bins = WINDOW // 2 + 1
    angles = 2 * np.pi / WINDOW * np.outer(np.arange(bins), np.arange(WINDOW))
    waves = np.concatenate([np.cos(angles), np.sin(angles)]) * hann()
    return np.asarray(waves[:, None], np.float32)
