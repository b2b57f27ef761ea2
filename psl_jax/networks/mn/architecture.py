"""EfficientAT's mn as an `Architecture`, with the published names of its tensors."""

from collections.abc import Iterator

from psl_jax.networks.architecture import Architecture, Entry, norm_entries
from psl_jax.networks.mn import folding, frontend, module
from psl_jax.networks.mn.module import multiple_of_8


def entries(params: dict) -> list[Entry]:
    """See `Architecture`; in PyTorch's order."""
    table = [
        Entry("features.0.0.weight", "stem", "params", ("stem", "kernel")),
        *norm_entries("features.0.1", ("stem_norm",)),
    ]
    for number, row in enumerate(module.TABLE):
        table += _block(number, row, "expand" in params["blocks"][number])
    last = f"features.{len(module.TABLE) + 1}"
    return [
        *table,
        Entry(f"{last}.0.weight", "pointwise", "params", ("last", "kernel")),
        *norm_entries(f"{last}.1", ("last_norm",)),
        *_linear("classifier.2", ("hidden",)),
        *_linear("classifier.5", ("classifier",)),
    ]


def _block(number: int, row: module.Row, expands: bool) -> Iterator[Entry]:
    """[expand,] depthwise, [squeeze-and-excitation,] project."""
    name, at, stage = f"features.{number + 1}.block", ("blocks", number), 0
    layers = [("expand", "pointwise")] * expands + [("depthwise", "depthwise")]
    for layer, kind in layers:
        yield Entry(f"{name}.{stage}.0.weight", kind, "params", (*at, layer, "kernel"))
        yield from norm_entries(f"{name}.{stage}.1", (*at, f"{layer}_norm"))
        stage += 1
    if row.squeezed:
        inside = f"{name}.{stage}.conc_se_layers.0"
        yield from _linear(f"{inside}.fc1", (*at, "excitation", "squeeze"))
        yield from _linear(f"{inside}.fc2", (*at, "excitation", "excite"))
        stage += 1
    yield Entry(f"{name}.{stage}.0.weight", "pointwise", "params", (*at, "project", "kernel"))
    yield from norm_entries(f"{name}.{stage}.1", (*at, "project_norm"))


def _linear(name: str, at: tuple[str | int, ...]) -> Iterator[Entry]:
    yield Entry(f"{name}.weight", "linear", "params", (*at, "kernel"))
    yield Entry(f"{name}.bias", "vector", "params", (*at, "bias"))


def channels(width: float) -> dict[str, int]:
    """See `Architecture`."""
    inputs = multiple_of_8(module.STEM_CHANNELS * width)
    found = {"features.0.0.weight": inputs}
    for number, row in enumerate(module.TABLE):
        expands = multiple_of_8(row.expanded * width) != inputs
        inputs = multiple_of_8(row.channels * width)
        found[f"features.{number + 1}.block.{1 + expands + row.squeezed}.0.weight"] = inputs
    return found | {"classifier.2.weight": multiple_of_8(module.HEAD_CHANNELS * width)}


MN = Architecture(
    name="mn",
    title="EfficientAT's mn (MobileNetV3)",
    front_end=lambda logmel: frontend.MnFrontEnd(),
    create=module.create,
    fold=folding.fold,
    sample_rate=frontend.RATE,
    has_frames=False,
    tagging_seconds=2.0,
    entries=entries,
    classifier="classifier.5",
    buffers=dict,
    channels=channels,
    published_seconds=10.0,
)
