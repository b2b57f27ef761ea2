"""EfficientAT's published weights into `mn_network`: a state dict in a `.pt` or `.safetensors`."""

import math
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from psl_jax.runtime.errors import MissingPackageError, UserError
from psl_jax.teachers import mn_network
from psl_jax.teachers.mn_network import TABLE, MnNetwork, multiple_of_8

EPSILON = 1e-3  # of the BatchNorms
_COUNTER = "num_batches_tracked"
_SHOWN = 6  # names that a message lists


class Layer(NamedTuple):
    """A layer by its published name, and its place in our arrays.

    kind: stem, pointwise, depthwise (each with a BatchNorm beside it) or linear.
    """

    name: str
    kind: str
    place: tuple[str | int, ...]
    shape: tuple[int, ...]  # of the published weight

    @property
    def norm(self) -> str:
        """The name of its BatchNorm."""
        return self.name.removesuffix("0") + "1"

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Published names and shapes of its tensors."""
        outputs = self.shape[:1]
        found = {f"{self.name}.weight": self.shape}
        if self.kind == "linear":
            return found | {f"{self.name}.bias": outputs}
        parts = ("weight", "bias", "running_mean", "running_var")
        return found | {f"{self.norm}.{part}": outputs for part in parts}


def layers(num_classes: int, width: float) -> Iterator[Layer]:
    """All layers of the network, in order."""
    channels = multiple_of_8(mn_network.STEM_CHANNELS * width)
    yield Layer("features.0.0", "stem", ("stem", "dense"), (channels, 1, 3, 3))
    for number, row in enumerate(TABLE):
        inputs, channels = channels, multiple_of_8(row.channels * width)
        hidden = multiple_of_8(row.expanded * width)
        name, at, part = f"features.{number + 1}.block", ("blocks", number), 0
        if hidden != inputs:
            yield Layer(f"{name}.0.0", "pointwise", (*at, "expand"), (hidden, inputs, 1, 1))
            part = 1
        size = (hidden, 1, row.kernel, row.kernel)
        yield Layer(f"{name}.{part}.0", "depthwise", (*at, "depthwise"), size)
        if row.squeezed:
            part += 1
            inside = multiple_of_8(hidden // mn_network.SQUEEZE)
            se, place = f"{name}.{part}.conc_se_layers.0", (*at, "excitation")
            yield Layer(f"{se}.fc1", "linear", (*place, "squeeze"), (inside, hidden))
            yield Layer(f"{se}.fc2", "linear", (*place, "excite"), (hidden, inside))
        shape = (channels, hidden, 1, 1)
        yield Layer(f"{name}.{part + 1}.0", "pointwise", (*at, "project"), shape)
    last = mn_network.LAST_EXPANSION * channels
    name = f"features.{len(TABLE) + 1}.0"
    yield Layer(name, "pointwise", ("last",), (last, channels, 1, 1))
    head = multiple_of_8(mn_network.HEAD_CHANNELS * width)
    yield Layer("classifier.2", "linear", ("hidden",), (head, last))
    yield Layer("classifier.5", "linear", ("classifier",), (num_classes, head))


def read(path: str | os.PathLike[str]) -> tuple[MnNetwork, Any, float]:
    """(network, arrays, width) of a published file.

    Raises UserError for a file of other tensors, or of values that are not finite, or that could
    run code.
    """
    return from_state(_read_state(pathlib.Path(path)), path)


def from_state(state: Mapping[str, np.ndarray], path: object) -> tuple[MnNetwork, Any, float]:
    """(network, arrays, width) of a state dict; `path` names it."""
    shapes = {k: np.shape(v) for k, v in state.items() if k.rpartition(".")[2] != _COUNTER}
    classes = shapes.get("classifier.5.bias", (0,))[0]
    width = _width(shapes, classes)
    expected = {k: s for layer in layers(classes, width) for k, s in layer.shapes().items()}
    _refuse_misfits(shapes, expected, path)
    bad = [n for n in expected if not np.isfinite(np.asarray(state[n], np.float32)).all()]
    if bad:
        raise UserError(f"{path}: NaN or infinite weights in {', '.join(bad[:_SHOWN])}")
    network, arrays = mn_network.create(classes, width)
    for layer in layers(classes, width):
        tree = arrays
        for key in layer.place:
            tree = tree[key]
        tree |= _folded(layer, state)
    return network, arrays, width


def _folded(layer: Layer, state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Kernel and bias in our layout, float32; computed in float64."""

    def tensor(name: str) -> np.ndarray:
        return np.asarray(state[name], np.float64)

    kernel = tensor(f"{layer.name}.weight")
    if layer.kind == "linear":
        bias = tensor(f"{layer.name}.bias")
    else:
        scale = tensor(f"{layer.norm}.weight") / np.sqrt(
            tensor(f"{layer.norm}.running_var") + EPSILON
        )
        bias = tensor(f"{layer.norm}.bias") - tensor(f"{layer.norm}.running_mean") * scale
        kernel = kernel * scale.reshape(-1, *[1] * (kernel.ndim - 1))
    # Published kernels are [outputs, inputs, bands, frames]; our maps have frames before bands.
    ours = {
        "stem": lambda: kernel[:, 0].transpose(2, 1, 0).reshape(9, -1),
        "pointwise": lambda: kernel[:, :, 0, 0].T,
        "depthwise": lambda: kernel[:, 0].transpose(2, 1, 0),
        "linear": lambda: kernel.T,
    }[layer.kind]()
    return {
        "kernel": np.ascontiguousarray(ours, np.float32),
        "bias": np.ascontiguousarray(bias, np.float32),
    }


def _width(shapes: Mapping[str, tuple[int, ...]], classes: int) -> float:
    """The width whose channels agree best; of equals the one that 1280 x width says."""
    said = shapes.get("classifier.2.bias", (1280,))[0] / mn_network.HEAD_CHANNELS

    def misfit(width: float) -> tuple[int, float]:
        wrong = sum(shapes.get(f"{one.name}.weight") != one.shape for one in layers(classes, width))
        return wrong, abs(width - said)

    return min((hundredths / 100 for hundredths in range(5, 601, 5)), key=misfit)


def _refuse_misfits(shapes: Mapping, expected: Mapping, path: object) -> None:
    missing = [name for name in expected if name not in shapes]
    other = [name for name in shapes if name not in expected]
    misshapen = [
        f"{name} {list(shapes[name])} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in shapes and shapes[name] != shape
    ]
    problems = {"lacks": missing, "has besides": other, "has": misshapen}
    if found := [f"it {what} {_listed(names)}" for what, names in problems.items() if names]:
        raise UserError(f"{path} holds no weights of EfficientAT's mn: {'; '.join(found)}")


def _listed(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _read_state(path: pathlib.Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    if path.suffix in (".pt", ".pth"):
        from psl_jax.weights import pytorch_file

        return pytorch_file.read(path)
    if path.suffix != ".safetensors":
        raise UserError(f"{path}: expected EfficientAT's weights as .pt, .pth or .safetensors")
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file
    except ImportError as error:
        raise MissingPackageError(path, "safetensors", "export") from error
    try:
        return load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"cannot read {path} as safetensors: {error}") from error


def random_state(num_classes: int, width: float, seed: int = 0) -> dict[str, np.ndarray]:
    """A state dict of random weights with published names, for tests and benchmarks."""
    rng = np.random.default_rng(seed)
    state: dict[str, np.ndarray] = {}
    for layer in layers(num_classes, width):
        for name, shape in layer.shapes().items():
            fan_in = max(math.prod(shape[1:]), 1)
            state[name] = rng.normal(0, fan_in**-0.5, shape).astype(np.float32)
            if name.endswith("running_var"):
                state[name] = np.square(state[name]) + 0.5
    return state
