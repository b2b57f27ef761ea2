"""Tiny ONNX files that can teach."""

import json

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CLASSES = ["Dog", "Cat"]


def write_onnx(path, inputs=1, shape=("batch", "samples"), bias=0.0, sigmoid=True, axes=(1,)):
    """Mean of |x| over `axes` times (1, -2), plus bias, with a sigmoid: [batch, 2]."""
    nodes = [
        helper.make_node("Abs", ["x0"], ["loud"]),
        helper.make_node("ReduceMean", ["loud", "axes"], ["mean"], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "one"], ["column"]),
        helper.make_node("MatMul", ["column", "weight"], ["scaled"]),
        helper.make_node("Add", ["scaled", "bias"], ["logits"]),
    ]
    if sigmoid:
        nodes.append(helper.make_node("Sigmoid", ["logits"], ["scores"]))
    constants = {
        "axes": np.array(axes, np.int64),
        "one": np.array([1], np.int64),
        "weight": np.array([[1, -2]], np.float32),
        "bias": np.full(2, bias, np.float32),
    }

    def floats(name, shape):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        nodes,
        "teacher",
        [floats(f"x{i}", shape) for i in range(inputs)],
        [floats("scores" if sigmoid else "logits", ("batch", 2))],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    helper.set_model_props(model, {"classes": json.dumps(CLASSES)})
    onnx.save_model(model, path)
    return path


def expected(waves, bias=0.0):
    """What it gives for waveforms [n, samples]."""
    logits = np.abs(waves).mean(axis=1, keepdims=True) * [1, -2] + bias
    return 1 / (1 + np.exp(-logits))
