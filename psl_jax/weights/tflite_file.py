"""A model from a TFLite file that was exported here."""

import json
import os
import pathlib
import zipfile
from typing import Any

import numpy as np

from psl_jax.model.model import Model
from psl_jax.runtime.errors import UserError
from psl_jax.weights.graph_layers import GraphLayer, model_of

INFO = "psl_jax.json"  # in the zip archive at the file's end


def read_tflite(path: str | os.PathLike) -> Model:
    """The model in the file; of one with 8-bit weights, with what they stand for.

    Raises UserError for another file, or where ai-edge-litert is not installed.
    """
    try:
        from ai_edge_litert import schema_py_generated as schema
    except ImportError as error:
        raise UserError(
            f"{path}: ai-edge-litert is not installed: pip install 'psl_jax[export]'"
        ) from error
    try:
        with zipfile.ZipFile(path) as archive:
            described = json.loads(archive.read(INFO))
        graph = schema.ModelT.InitFromObj(
            schema.Model.GetRootAs(pathlib.Path(path).read_bytes(), 0)
        )
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise UserError(f"{path} was not written by psl_jax: no {INFO} at its end") from error
    except Exception as error:  # whatever a damaged flatbuffer leads to
        raise UserError(f"cannot read {path} as TFLite: {type(error).__name__}") from error
    return model_of(_layers(schema, graph), described, path)


def _layers(schema: Any, graph: Any) -> list[GraphLayer]:
    operator = schema.BuiltinOperator
    main, layers = graph.subgraphs[0], []
    for op in main.operators:
        code = graph.operatorCodes[op.opcodeIndex]
        kind = max(code.builtinCode, code.deprecatedBuiltinCode)
        if kind not in (operator.CONV_2D, operator.DEPTHWISE_CONV_2D, operator.FULLY_CONNECTED):
            continue
        if len(op.inputs) < 3 or op.inputs[2] < 0:  # the mel filters, which have no bias
            continue
        kernel, bias = (_array(schema, graph, main.tensors[i]) for i in op.inputs[1:3])
        if kind == operator.DEPTHWISE_CONV_2D:
            kernel = kernel[0]
        elif kind == operator.FULLY_CONNECTED:
            kernel = kernel.T
        elif kernel.shape[1:3] == (1, 1):
            kernel = kernel[:, 0, 0].T
        else:
            kernel = kernel.transpose(1, 2, 3, 0)
        layers.append(GraphLayer(kernel, bias))
    return layers


def _array(schema: Any, graph: Any, tensor: Any) -> np.ndarray:
    """A constant as float32, integers by their scales (and no zero points)."""
    data = np.asarray(graph.buffers[tensor.buffer].data, np.uint8)
    if tensor.type == schema.TensorType.FLOAT32:
        return data.view(np.float32).reshape(tensor.shape)
    if tensor.type != schema.TensorType.INT8:
        raise UserError(f"weights of TFLite's type {tensor.type}, expected float32 or int8")
    scales = np.asarray(tensor.quantization.scale, np.float32)
    shape = [1] * len(tensor.shape)
    shape[tensor.quantization.quantizedDimension] = len(scales)
    return data.view(np.int8).reshape(tensor.shape) * scales.reshape(shape)
