"""A model from the layers that stand in an exported graph, one after the other.

Exports hold the folded network. Its layers become a network whose BatchNorms change nothing, so
that everything that takes a model takes an export, too: it is computed as any other model, padding
and long files included, and not in the export's own runtime.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from psl_jax.model import batch_norm
from psl_jax.model.mobilenetv2 import Variables, create
from psl_jax.model.model import Model, ModelInfo
from psl_jax.runtime.errors import UserError


class GraphLayer(NamedTuple):
    """Kernel and bias of a convolution, or of the classifier, as `folding.Layer` has them."""

    kernel: np.ndarray
    bias: np.ndarray


def model_of(
    layers: Sequence[GraphLayer], described: Mapping[str, Any], path: str | os.PathLike
) -> Model:
    """The model whose layers these are, in the order in which they are computed.

    described: what the file says of the model. Raises UserError where the layers are not those of
    such a network, as after another program has rewritten the file.
    """
    info = ModelInfo.from_json(described, path)
    network, blank = create(len(info.classes), info.width)
    params, stats = (jax.tree.map(np.asarray, tree) for tree in blank)
    places = _places(params)
    found = [tuple(layer.kernel.shape) for layer in layers]
    expected = [np.shape(tree[name]["kernel"]) for tree, name in places]
    if found != expected:
        raise UserError(
            f"{path}: {len(found)} layers that are not those of a network of width {info.width} "
            f"for {len(info.classes)} classes. Only files as psl-jax export writes them can be "
            "loaded, not what other tools have made of them"
        )
    for layer, (tree, name) in zip(layers, places, strict=True):
        tree[name]["kernel"] = np.ascontiguousarray(layer.kernel, np.float32)
        own = tree.get(f"{name}_norm", tree[name])  # the classifier has none
        if own is not tree[name]:
            own["scale"] = np.ones_like(own["scale"])
        own["bias"] = np.ascontiguousarray(layer.bias, np.float32)
    one = np.float32(1 - batch_norm.EPSILON)  # a variance under which a BatchNorm divides by 1
    stats = jax.tree_util.tree_map_with_path(
        lambda at, x: np.full_like(x, one if at[-1].key == "var" else 0), stats
    )
    return Model(network, Variables(params, stats), info)


def _places(params: dict) -> list[tuple[dict, str]]:
    """Where each layer stands in a network's params, in the order in which they are computed."""
    blocks = [
        (block, name)
        for _, block in sorted(params["blocks"].items())
        for name in ("expand", "depthwise", "project")
        if name in block
    ]
    return [(params, "stem"), *blocks, (params, "head"), (params, "classifier")]
