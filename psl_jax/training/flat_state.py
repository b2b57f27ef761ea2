"""A training state as a few long arrays, the form that it is saved in.

A state has about a thousand small arrays, and Orbax takes two seconds to write or read them one by
one; a few long arrays take a tenth of that.
"""

import math
from typing import Any

import jax
import numpy as np


def flatten(state: Any) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    """The arrays of a pytree on the host, joined by field of the state and by type.

    Returns:
      "field.dtype" -> one-dimensional array, and what lies where: for each array its path
      ("variables", "params", ...), "key" of the long array, and "shape", in order.
    """
    parts: dict[str, list[np.ndarray]] = {}
    index = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        names = [_name(entry) for entry in path]
        array = np.asarray(leaf)
        key = f"{names[0]}.{array.dtype}"
        parts.setdefault(key, []).append(array.ravel())
        index.append({"path": names, "key": key, "shape": list(array.shape)})
    return {key: np.concatenate(arrays) for key, arrays in parts.items()}, index


def split(flat: dict[str, np.ndarray], index: list[dict[str, Any]]) -> list[np.ndarray]:
    """The arrays of `index` again, in order."""
    position = dict.fromkeys(flat, 0)
    arrays = []
    for entry in index:
        key, shape = entry["key"], entry["shape"]
        start = position[key]
        position[key] = start + math.prod(shape)
        arrays.append(flat[key][start : position[key]].reshape(shape))
    return arrays


def nested(flat: dict[str, np.ndarray], index: list[dict[str, Any]]) -> dict[str, Any]:
    """`split` as nested dicts with the names of the paths as keys."""
    tree: dict[str, Any] = {}
    for entry, array in zip(index, split(flat, index), strict=True):
        branch, path = tree, entry["path"]
        for name in path[:-1]:
            branch = branch.setdefault(name, {})
        branch[path[-1]] = array
    return tree


def _name(entry: Any) -> str:
    """Of a dict's key, a named tuple's field or a position."""
    for attribute in ("key", "name", "idx"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    raise TypeError(f"{entry!r} is no key, field or position")
