"""Converts the network's variables to a PyTorch state dict with the published names, and back.

The published network works on [batch, 1, mels, frames], ours on [batch, frames, mels, channels]. So
a PyTorch kernel [out, in, mels, frames] becomes [frames, mels, in, out].
"""

import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import traverse_util

from psl_jax.networks.architecture import FRONT_END, Architecture, Variables
from psl_jax.networks.available import ARCHITECTURES
from psl_jax.networks.class_lists import classes_beside, list_first
from psl_jax.networks.mobilenetv2 import MOBILENET_V2
from psl_jax.networks.trained_model import Model, ModelInfo
from psl_jax.runtime import files
from psl_jax.runtime.errors import MissingPackageError, UserError

_COUNTER = "num_batches_tracked"  # PyTorch's own count of batches; our BatchNorm needs none
_PUBLISHED_SECONDS = 10.0  # AudioSet's clips, which published weights were trained on
_MAX_NAMED = 12  # an error message lists so many names of each problem


class _Layout(NamedTuple):
    ours: Callable[[np.ndarray], np.ndarray]
    torch: Callable[[np.ndarray], np.ndarray]


_LAYOUTS = {
    "stem": _Layout(lambda w: w.transpose(3, 2, 1, 0), lambda k: k.transpose(3, 2, 1, 0)),
    "pointwise": _Layout(lambda w: w[:, :, 0, 0].T, lambda k: k.T[:, :, None, None]),
    "depthwise": _Layout(lambda w: w[:, 0].T, lambda k: k.T[:, None]),
    "linear": _Layout(lambda w: w.T, lambda k: k.T),
    "vector": _Layout(lambda v: v, lambda v: v),
}


class Published(NamedTuple):
    """What a state dict holds."""

    variables: Variables
    width: float
    architecture: Architecture


def convert_from_state(state: Mapping[str, np.ndarray], source: str) -> Published:
    """Converts a state dict of NumPy arrays to our variables; finds the network and its width.

    Raises UserError, with the names of the missing, unexpected and misshapen tensors, for another
    network's state; `source` names the file.
    """
    shapes = {name: np.shape(value) for name, value in state.items()}
    architecture = max(
        ARCHITECTURES.values(),
        key=lambda architecture: len(architecture.channels(1.0).keys() & shapes.keys()),
    )
    width = _find_width(shapes, architecture)
    (num_classes,) = shapes.get(f"{architecture.classifier}.bias") or (1,)
    variables = architecture.create(num_classes, width)[1]
    zeros = jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), variables)
    zero_state = convert_to_state(zeros, architecture, has_extras=False)
    expected = {name: array.shape for name, array in zero_state.items()}
    _refuse_misfits(shapes, expected, architecture, source)
    if wrong_names := [
        name
        for name in expected
        if not np.issubdtype(np.asarray(state[name]).dtype, np.floating)
        or not np.isfinite(np.asarray(state[name], np.float32)).all()
    ]:
        names = list_first(wrong_names, _MAX_NAMED)
        raise UserError(f"{source}: expected finite floating point weights, not those of {names}")
    arrays = {}
    for entry in architecture.entries(variables.params):
        array = _LAYOUTS[entry.layout].ours(np.asarray(state[entry.name], np.float32))
        arrays[(entry.tree, *entry.path)] = np.ascontiguousarray(array)
    return Published(Variables(**traverse_util.unflatten_dict(arrays)), width, architecture)


def convert_to_state(
    variables: Variables, architecture: Architecture = MOBILENET_V2, *, has_extras: bool = True
) -> dict[str, np.ndarray]:
    """Converts to the state dict, as NumPy arrays, that the published network loads strictly.

    has_extras: with the front end's window and filters, and batch counters of 0.
    """
    state = {}
    for entry in architecture.entries(variables.params):
        tree: Any = getattr(variables, entry.tree)
        for key in entry.path:
            tree = tree[key]
        state[entry.name] = np.ascontiguousarray(_LAYOUTS[entry.layout].torch(np.asarray(tree)))
    if not has_extras:
        return state
    counters = {
        name.removesuffix("running_var") + _COUNTER: np.zeros((), np.int64)
        for name in state
        if name.endswith("running_var")
    }
    return state | counters | dict(architecture.buffers())


def is_extra(name: str) -> bool:
    """Whether a published tensor has no counterpart in our variables."""
    return name.startswith(FRONT_END) or name.rpartition(".")[2] == _COUNTER


def _find_width(shapes: Mapping[str, tuple[int, ...]], architecture: Architecture) -> float:
    """Finds the width multiplier whose channels agree best with the tensors; 1 if in doubt."""

    def misfit(width: float) -> tuple[int, bool, float]:
        channels = architecture.channels(width).items()
        num_wrong = sum(shapes.get(name, ())[:1] != (count,) for name, count in channels)
        return num_wrong, round(width * 100) % 5 != 0, abs(width - 1)  # of equals, a round number

    return min((hundredths / 100 for hundredths in range(5, 601)), key=misfit)


def _refuse_misfits(
    shapes: Mapping[str, tuple[int, ...]],
    expected: Mapping[str, tuple[int, ...]],
    architecture: Architecture,
    source: str,
) -> None:
    missing = [name for name in expected if name not in shapes]
    unexpected = [name for name in shapes if name not in expected and not is_extra(name)]
    misshapen = [
        f"{name} {list(shapes[name])}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in shapes and shapes[name] != shape
    ]
    problems = {"missing": missing, "unexpected": unexpected, "misshapen": misshapen}
    lines = [
        f"\n  {problem}: {list_first(names, _MAX_NAMED)}"
        for problem, names in problems.items()
        if names
    ]
    if lines:
        raise UserError(
            f"{source} does not hold the weights of the published {architecture.title}:"
            + "".join(lines)
        )


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads the state dict in a file, bare or under the key "model"; no code of the file runs.

    Raises UserError for any other file.
    """
    torch = _import_torch()
    path = pathlib.Path(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files end in errors of any kind
        reason = f"{error}".partition("\n")[0]
        raise UserError(
            f"cannot read {path}: expected a file of plain tensors that torch.save wrote; code in "
            f"it is not run ({reason})"
        ) from error
    state = content.get("model", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not all(map(torch.is_tensor, state.values())):
        keys = f" of {list_first(map(repr, state), _MAX_NAMED)}" if isinstance(state, dict) else ""
        raise UserError(
            f"{path} holds a {type(state).__name__}{keys}; expected a state dict (name: tensor) or "
            "{'model': state dict}"
        )

    def to_numpy(tensor: Any) -> np.ndarray:
        wide = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
        return np.asarray(wide.detach().numpy())

    return {str(name): to_numpy(tensor) for name, tensor in state.items()}


def write(path: str | os.PathLike[str], state: Mapping[str, np.ndarray]) -> None:
    """Saves a state dict as PyTorch reads it; an interrupted write leaves no file."""
    torch = _import_torch()
    tensors = {name: torch.tensor(np.asarray(value)) for name, value in state.items()}
    try:
        with files.atomic_open(path, "wb") as file:
            torch.save(tensors, file)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error}") from error


def load(path: str | os.PathLike[str], classes: Sequence[str] | None = None) -> Model:
    """Reads a published checkpoint, or an export with the JSON file beside it, as a model."""
    state, json_file = read(path), find_sidecar(path)
    if not json_file.exists():
        return make_model(state, path, classes)
    if classes is not None:
        raise UserError(f"{path}: its classes are in {json_file}: give no others")
    info = ModelInfo.from_json(files.read_json(json_file), json_file)
    return Model.of(make_model(state, path, info.classes).variables, info, path)


def make_model(
    state: Mapping[str, np.ndarray], path: str | os.PathLike[str], classes: Sequence[str] | None
) -> Model:
    """Makes the model of a state dict that was read from `path`."""
    path = pathlib.Path(path)
    variables, width, architecture = convert_from_state(state, os.fspath(path))
    num_outputs = len(variables.params["classifier"]["bias"])
    remedy = (
        f"psl-jax export {path} --classes=CLASSES.csv --format=safetensors --out=NAMED.safetensors"
    )
    if classes is None:
        classes = classes_beside(path, num_outputs, other_remedy=f", or name them: {remedy}")
    if len(classes) != num_outputs:
        raise UserError(
            f"{path} tells {num_outputs} classes apart, the class list has {len(classes)}. Name "
            f"them: {remedy}"
        )
    imported = {"file": path.name, "sha256": files.compute_sha256(path)}
    info = ModelInfo(
        tuple(classes),
        width,
        _PUBLISHED_SECONDS,
        name=path.stem,
        origin={"imported": imported},
        network=architecture.name,
        sample_rate=architecture.sample_rate,
    )
    return Model.of(variables, info, path)


def find_sidecar(path: str | os.PathLike[str]) -> pathlib.Path:
    """Returns the path of the JSON file that describes an export whose format holds arrays only."""
    return pathlib.Path(f"{os.fspath(path)}.json")


def _import_torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise MissingPackageError("a PyTorch file", "PyTorch", "torch") from error
    return torch
