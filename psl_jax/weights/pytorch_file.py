"""The network's variables as a PyTorch state dict with the published names, and back.

The published network works on [batch, 1, mels, frames], ours on [batch, frames, mels, channels]: a
PyTorch kernel [out, in, mels, frames] becomes [frames, mels, in, out]. Nothing here imports PyTorch
before a file is read or written.
"""

import hashlib
import os
import pathlib
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from psl_jax.networks import mobilenetv2
from psl_jax.networks.class_lists import audioset_classes
from psl_jax.networks.frontend import hann, mel_filters
from psl_jax.networks.mobilenetv2 import (
    HEAD_CHANNELS,
    STEM_CHANNELS,
    Variables,
    create,
    scaled,
)
from psl_jax.networks.trained_model import Model, ModelInfo
from psl_jax.runtime import files
from psl_jax.runtime.errors import MissingPackageError, UserError

SEGMENT_SECONDS = 10.0  # what the published teacher was trained on
FRONT_END = "front_end."
_COUNTER = "num_batches_tracked"  # PyTorch's own count of batches; our BatchNorm needs none
_MAX_NAMED = 12  # names an error message lists of each kind


class Entry(NamedTuple):
    """One tensor: its PyTorch name, the kind of its layout, and its place in our variables."""

    name: str
    kind: str
    tree: str  # params or stats
    path: tuple[str | int, ...]


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


def entries() -> list[Entry]:
    """All tensors of the network, in PyTorch's order."""
    table = [
        Entry("features.0.0.weight", "stem", "params", ("stem", "kernel")),
        *_norm("features.0.1", ("stem_norm",)),
    ]
    expansions = [t for t, _, repeats, _ in mobilenetv2.INVERTED_RESIDUALS for _ in range(repeats)]
    for number, expansion in enumerate(expansions):
        table += _block(f"features.{number + 1}.conv", number, expansion > 1)
    head = f"features.{len(expansions) + 1}"
    return [
        *table,
        Entry(f"{head}.0.weight", "pointwise", "params", ("head", "kernel")),
        *_norm(f"{head}.1", ("head_norm",)),
        Entry("classifier.1.weight", "linear", "params", ("classifier", "kernel")),
        Entry("classifier.1.bias", "vector", "params", ("classifier", "bias")),
    ]


def _block(prefix: str, number: int, expanded: bool) -> Iterator[Entry]:
    """[expand,] depthwise and project, each followed by its BatchNorm."""
    at: tuple[str | int, ...] = ("blocks", number)
    stage = 0
    if expanded:
        yield Entry(f"{prefix}.0.0.weight", "pointwise", "params", (*at, "expand", "kernel"))
        yield from _norm(f"{prefix}.0.1", (*at, "expand_norm"))
        stage = 1
    yield Entry(f"{prefix}.{stage}.0.weight", "depthwise", "params", (*at, "depthwise", "kernel"))
    yield from _norm(f"{prefix}.{stage}.1", (*at, "depthwise_norm"))
    yield Entry(f"{prefix}.{stage + 1}.weight", "pointwise", "params", (*at, "project", "kernel"))
    yield from _norm(f"{prefix}.{stage + 2}", (*at, "project_norm"))


def _norm(prefix: str, at: tuple[str | int, ...]) -> Iterator[Entry]:
    names = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
    for theirs, ours in names.items():
        tree = "stats" if theirs.startswith("running") else "params"
        yield Entry(f"{prefix}.{theirs}", "vector", tree, (*at, ours))


def from_state(state: Mapping[str, np.ndarray], source: str) -> tuple[Variables, float]:
    """Our variables and the width of a state dict of NumPy arrays.

    `front_end.` buffers and batch counters are left out. Raises UserError, with the names of the
    missing, unexpected and misshapen tensors, when it is not this network's; `source` names it.
    """
    shapes = {name: np.shape(value) for name, value in state.items()}
    width = _width(shapes)
    classes = shapes.get("classifier.1.bias", (1,))
    expected = _torch_shapes(width, classes[0] if classes else 1)
    _refuse_misfits(shapes, expected, source)
    if bad := [n for n in expected if not np.issubdtype(np.asarray(state[n]).dtype, np.floating)]:
        raise UserError(f"{source}: these tensors are not floating point: {_listed(bad)}")
    trees: dict[str, dict] = {"params": {}, "stats": {}}
    for entry in entries():
        array = _LAYOUTS[entry.kind].ours(np.asarray(state[entry.name], np.float32))
        _put(trees[entry.tree], entry.path, np.ascontiguousarray(array))
    return Variables(**trees), width


def to_state(
    variables: Variables, extras: Mapping[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """The state dict, as NumPy arrays, that the published network loads strictly.

    extras: tensors that the network does not use, as `read` returned them; by default the front
    end's window and filters and batch counters of 0.
    """
    state = {}
    for entry in entries():
        tree: Any = getattr(variables, entry.tree)
        for key in entry.path:
            tree = tree[key]
        state[entry.name] = np.ascontiguousarray(_LAYOUTS[entry.kind].torch(np.asarray(tree)))
    return state | dict(_default_extras(state) if extras is None else extras)


def _default_extras(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    counters = {
        name.removesuffix("running_var") + _COUNTER: np.zeros((), np.int64)
        for name in state
        if name.endswith("running_var")
    }
    return {
        f"{FRONT_END}0.spectrogram.window": hann(),
        f"{FRONT_END}0.mel_scale.fb": mel_filters(),
        **counters,
    }


def is_extra(name: str) -> bool:
    """Whether a published tensor has no counterpart in our variables."""
    return name.startswith(FRONT_END) or name.rpartition(".")[2] == _COUNTER


def _torch_shapes(width: float, num_classes: int) -> dict[str, tuple[int, ...]]:
    variables = create(num_classes, width)[1]
    zeros = jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), variables)
    return {name: array.shape for name, array in to_state(zeros, {}).items()}


def _width(shapes: Mapping[str, tuple[int, ...]]) -> float:
    """The width multiplier whose channels agree best with the tensors; 1 where none says more."""
    last = 0
    channels = {"features.0.0.weight": (STEM_CHANNELS, 0.0)}
    for expansion, outputs, repeats, _ in mobilenetv2.INVERTED_RESIDUALS:
        last += repeats
        project = f"features.{last}.conv.{2 if expansion > 1 else 1}.weight"
        channels[project] = (outputs, 0.0)
    channels[f"features.{last + 1}.0.weight"] = (HEAD_CHANNELS, 1.0)

    def misfit(width: float) -> tuple[int, bool, float]:
        wrong = sum(
            shapes.get(name, ())[:1] != (scaled(count, max(width, least)),)
            for name, (count, least) in channels.items()
        )
        return wrong, round(width * 100) % 5 != 0, abs(width - 1)  # of equals, a round number

    return min((hundredths / 100 for hundredths in range(5, 401)), key=misfit)


def _refuse_misfits(shapes: Mapping, expected: Mapping, source: str) -> None:
    missing = [name for name in expected if name not in shapes]
    unexpected = [name for name in shapes if name not in expected and not is_extra(name)]
    misshapen = [
        f"{name} {list(shapes[name])}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in shapes and shapes[name] != shape
    ]
    problems = {"missing": missing, "unexpected": unexpected, "misshapen": misshapen}
    if any(problems.values()):
        lines = [f"  {kind}: {_listed(names)}" for kind, names in problems.items() if names]
        raise UserError(
            f"{source} does not hold the weights of the published MobileNetV2:\n" + "\n".join(lines)
        )


def _listed(names: list[str]) -> str:
    more = len(names) - _MAX_NAMED
    shown = ", ".join(names[:_MAX_NAMED])
    return f"{shown} and {more} more" if more > 0 else shown


def _put(tree: dict, path: tuple[str | int, ...], value: np.ndarray) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The state dict in a file, bare or under the key "model", as NumPy arrays.

    Only tensors are loaded: no code of the file runs. Raises UserError for any other file.
    """
    torch = _torch()
    path = pathlib.Path(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is not a file of plain tensors (it is refused because loading it could run "
            "code), or not written by torch.save. Expected a state dict or {'model': state dict}."
        ) from error
    except Exception as error:  # damaged files end in errors of any kind
        reason = f"{error}".partition("\n")[0]
        raise UserError(f"{path} is not a file written by torch.save: {reason}") from error
    state = content.get("model", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not all(map(torch.is_tensor, state.values())):
        raise UserError(
            f"{path} holds {_described(state)}; expected a state dict (name: tensor) or "
            "{'model': state dict}"
        )
    return {str(name): _to_numpy(torch, tensor) for name, tensor in state.items()}


def _to_numpy(torch, tensor) -> np.ndarray:
    tensor = tensor.detach()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _described(value: Any) -> str:
    if isinstance(value, dict):
        return "a dict with " + _listed([f"{k!r}: {type(v).__name__}" for k, v in value.items()])
    return f"a {type(value).__name__}"


def write(path: str | os.PathLike, state: Mapping[str, np.ndarray]) -> None:
    """Saves a state dict as PyTorch reads it; the file is whole or not there."""
    torch = _torch()
    tensors = {name: torch.tensor(np.asarray(value)) for name, value in state.items()}
    try:
        with files.atomic_open(path, "wb") as file:
            torch.save(tensors, file)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error}") from error


def load(path: str | os.PathLike, classes: Sequence[str] | None = None) -> Model:
    """A published checkpoint, or an export, as a model.

    What is known of an export is in the JSON file beside it. Without one the classes default to
    AudioSet's where there are 527.
    """
    state, beside = read(path), sidecar(path)
    if not beside.exists():
        return model_of(state, path, classes)
    if classes is not None:
        raise UserError(f"{path}: its classes are in {beside}: give no others")
    info = ModelInfo.from_json(files.read_json(beside), beside)
    model = model_of(state, path, info.classes)
    network = create(len(info.classes), model.info.width, output=info.output)[0]
    return Model(network, model.variables, info)


def model_of(
    state: Mapping[str, np.ndarray], path: str | os.PathLike, classes: Sequence[str] | None
) -> Model:
    """The model of a state dict that was read from `path`."""
    path = pathlib.Path(path)
    variables, width = from_state(state, os.fspath(path))
    outputs = len(variables.params["classifier"]["bias"])
    classes = classes or audioset_classes()
    if len(classes) != outputs:
        raise UserError(
            f"{path} tells {outputs} classes apart, the class list has {len(classes)}. Name them: "
            f"psl-jax export {path} --classes=CLASSES.csv --format=orbax --out=OUT, and use OUT"
        )
    imported = {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    info = ModelInfo(
        tuple(classes), width, SEGMENT_SECONDS, name=path.stem, origin={"imported": imported}
    )
    return Model(create(outputs, width)[0], variables, info)


def sidecar(path: str | os.PathLike) -> pathlib.Path:
    """The JSON file beside an exported model whose format has no place for `describe`."""
    return pathlib.Path(f"{os.fspath(path)}.json")


def _torch():
    try:
        import torch
    except ImportError as error:
        raise MissingPackageError("a PyTorch file", "PyTorch", "torch") from error
    return torch
