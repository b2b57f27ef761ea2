"""EfficientAT's mn in PyTorch and in onnxruntime, of its folded network."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from psl_jax.networks import mn_frontend as frontend

# Kernels of ours to [outputs, inputs, bands, frames].
_KERNELS = {
    "stem": lambda k: k.transpose(3, 2, 1, 0),
    "pointwise": lambda k: k.T[:, :, None, None],
    "depthwise": lambda k: k.transpose(2, 1, 0)[:, None],
}


def _arrays(layer: Any, kind: str = "pointwise") -> tuple[np.ndarray, np.ndarray]:
    return np.ascontiguousarray(_KERNELS[kind](np.asarray(layer.kernel))), np.asarray(layer.bias)


def walk(folded: Any, x: Any, do: Any) -> Any:
    """The network over [batch, 1, bands, frames]; `do` is what its steps are."""
    x = do.hard_swish(do.conv(x, *_arrays(folded.stem, "stem"), 2, 1))
    for block in folded.blocks:
        activation = getattr(do, block.activation)
        y = x
        if block.expand is not None:
            y = activation(do.conv(y, *_arrays(block.expand), 1, 1))
        kernel, bias = _arrays(block.depthwise, "depthwise")
        y = activation(do.conv(y, kernel, bias, block.stride, len(kernel)))
        if block.squeeze is not None:
            factors = do.relu(do.conv(do.mean(y), *_arrays(block.squeeze), 1, 1))
            y = do.times(y, do.sigmoid(do.conv(factors, *_arrays(block.excite), 1, 1)))
        y = do.conv(y, *_arrays(block.project), 1, 1)
        x = do.add(x, y) if block.shortcut else y
    x = do.mean(do.hard_swish(do.conv(x, *_arrays(folded.last), 1, 1)))
    x = do.hard_swish(do.conv(x, *_arrays(folded.hidden), 1, 1))
    return do.sigmoid(do.conv(x, *_arrays(folded.classifier), 1, 1))


class TorchSteps:
    """The steps in PyTorch; kernels are made once."""

    def __init__(self, channels_last: bool):
        self.channels_last, self._kernels = channels_last, {}

    def conv(self, x, kernel, bias, stride, groups):
        import torch
        from torch.nn import functional

        key = id(bias)
        if key not in self._kernels:
            weight = torch.tensor(kernel)
            if self.channels_last:
                weight = weight.contiguous(memory_format=torch.channels_last)
            self._kernels[key] = weight, torch.tensor(bias), bias
        weight, offset, _ = self._kernels[key]
        return functional.conv2d(x, weight, offset, stride, kernel.shape[-1] // 2, 1, groups)

    def hard_swish(self, x):
        from torch.nn import functional

        return functional.hardswish(x)

    def relu(self, x):
        return x.relu()

    def sigmoid(self, x):
        return x.sigmoid()

    def mean(self, x):
        return x.mean(dim=(2, 3), keepdim=True)

    def times(self, x, y):
        return x * y

    def add(self, x, y):
        return x + y


def torch_network(folded: Any, channels_last: bool) -> Callable:
    """Features float32 [batch, frames, bands] of PyTorch -> probabilities [batch, classes]."""
    import torch

    steps = TorchSteps(channels_last)

    def run(features):
        x = features.transpose(1, 2)[:, None]
        if channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            return walk(folded, x, steps)[:, :, 0, 0]

    return run


def torch_log_mel() -> Callable:
    """Audio int16 [batch, samples] at 16 kHz -> features float32 [batch, frames, 128]."""
    import torch
    from torch.nn import functional

    between = torch.tensor(frontend._interpolation())
    window, mel = torch.tensor(frontend.hann()), torch.tensor(frontend.mel_filters())

    def run(audio):
        with torch.inference_mode():
            wave = audio.float() / 32_768
            chunks = functional.pad(wave, (31, 33 + -wave.shape[1] % 64)).unflatten(1, (-1, 64))
            pairs = torch.cat([chunks[:, :-1], chunks[:, 1:]], -1)
            wave = (pairs @ between).flatten(1)[:, : 2 * wave.shape[1]]
            wave = wave[:, 1:] - 0.97 * wave[:, :-1]
            spectrum = torch.stft(
                wave, 1024, 320, 800, window, True, "reflect", return_complex=True
            )
            power = spectrum.real.square() + spectrum.imag.square()
            return ((power.transpose(1, 2) @ mel + 1e-5).log() + 4.5) / 5

    return run


class OnnxSteps:
    """Adds the steps to an ONNX graph; values are names."""

    def __init__(self):
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []

    def _add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        from onnx import helper

        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def _constant(self, array: np.ndarray) -> str:
        from onnx import numpy_helper

        name = f"c{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def conv(self, x, kernel, bias, stride, groups):
        pad = kernel.shape[-1] // 2
        constants = self._constant(kernel), self._constant(bias)
        return self._add("Conv", x, *constants, strides=[stride] * 2, pads=[pad] * 4, group=groups)

    def hard_swish(self, x):
        return self._add("HardSwish", x)

    def relu(self, x):
        return self._add("Relu", x)

    def sigmoid(self, x):
        return self._add("Sigmoid", x)

    def mean(self, x):
        return self._add("GlobalAveragePool", x)

    def times(self, x, y):
        return self._add("Mul", x, y)

    def add(self, x, y):
        return self._add("Add", x, y)


def onnx_network(folded: Any, spinning: bool = True) -> Callable:
    """Features float32 [batch, frames, bands] -> probabilities [batch, classes], NumPy both.

    spinning: its threads wait for work without letting go of their cores, as by default.
    """
    import onnxruntime
    from onnx import TensorProto, helper

    steps = OnnxSteps()
    out = walk(folded, "features", steps)
    described = helper.make_tensor_value_info
    graph = helper.make_graph(
        steps.nodes,
        "mn",
        [described("features", TensorProto.FLOAT, ["batch", 1, 128, "frames"])],
        [described(out, TensorProto.FLOAT, None)],
        steps.tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = os.cpu_count() or 1
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )

    def run(features):
        x = np.ascontiguousarray(np.asarray(features).transpose(0, 2, 1)[:, None])
        return session.run(None, {"features": x})[0][:, :, 0, 0]

    return run
