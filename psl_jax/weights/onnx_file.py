"""A model from an ONNX file that was exported here."""

import json
import os

import numpy as np

from psl_jax.model.model import Model
from psl_jax.runtime.errors import UserError
from psl_jax.weights.graph_layers import GraphLayer, model_of


def read_onnx(path: str | os.PathLike) -> Model:
    """The model in the file. Raises UserError for another file, or without the package onnx."""
    try:
        import onnx
        from google.protobuf.message import DecodeError
        from onnx import numpy_helper
    except ImportError as error:
        raise UserError(f"{path}: onnx is not installed: pip install 'psl_jax[export]'") from error
    try:
        loaded = onnx.load_model(os.fspath(path))
    except (OSError, DecodeError, ValueError) as error:
        raise UserError(f"cannot read {path} as ONNX: {error}") from error
    try:
        described = {p.key: json.loads(p.value) for p in loaded.metadata_props}
    except ValueError as error:
        raise UserError(f"{path} was not written by psl_jax: its metadata are no JSON") from error
    held = {tensor.name: tensor for tensor in loaded.graph.initializer}
    layers, product = [], None
    following = iter([*loaded.graph.node[1:], None])
    for node in loaded.graph.node:
        after = next(following)
        weights = [numpy_helper.to_array(held[x]) for x in node.input[1:] if x in held]
        if node.op_type == "Conv" and len(weights) == 2 and weights[0].ndim == 4:
            layers.append(GraphLayer(_kernel(weights[0], _groups(node)), weights[1]))
        elif node.op_type == "MatMul" and len(weights) == 1 and after and after.op_type == "Add":
            bias = [held[x] for x in after.input if x in held]
            product = GraphLayer(weights[0], numpy_helper.to_array(bias[0])) if bias else None
    return model_of([*layers, product] if product else layers, described, path)


def _groups(node) -> int:
    return next((a.i for a in node.attribute if a.name == "group"), 1)


def _kernel(kernel: np.ndarray, groups: int) -> np.ndarray:
    """[outputs, inputs, 3 or 1, 3 or 1] in the layout of folding.Layer."""
    if groups > 1:
        return kernel[:, 0].transpose(1, 2, 0)
    return kernel[:, :, 0, 0].T if kernel.shape[2:] == (1, 1) else kernel.transpose(2, 3, 1, 0)
