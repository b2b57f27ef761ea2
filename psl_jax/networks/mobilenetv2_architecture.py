"""MobileNetV2 as an `Architecture`, with the published names of its tensors."""

import math
from collections.abc import Iterator

from psl_jax.audio.segments import SAMPLE_RATE
from psl_jax.networks import folding, mobilenetv2
from psl_jax.networks.architecture import FRONT_END, Architecture, Entry, norm_entries
from psl_jax.networks.frontend import hann, mel_filters
from psl_jax.networks.mobilenetv2 import HEAD_CHANNELS, STEM_CHANNELS, scaled


def entries(params: dict) -> list[Entry]:
    """See `Architecture`; in PyTorch's order."""
    table = [
        Entry("features.0.0.weight", "stem", "params", ("stem", "kernel")),
        *norm_entries("features.0.1", ("stem_norm",)),
    ]
    for number, block in sorted(params["blocks"].items()):
        table += _block(f"features.{number + 1}.conv", number, "expand" in block)
    head = f"features.{len(params['blocks']) + 1}"
    return [
        *table,
        Entry(f"{head}.0.weight", "pointwise", "params", ("head", "kernel")),
        *norm_entries(f"{head}.1", ("head_norm",)),
        Entry("classifier.1.weight", "linear", "params", ("classifier", "kernel")),
        Entry("classifier.1.bias", "vector", "params", ("classifier", "bias")),
    ]


def _block(prefix: str, number: int, expanded: bool) -> Iterator[Entry]:
    """[expand,] depthwise and project, each followed by its BatchNorm."""
    at: tuple[str | int, ...] = ("blocks", number)
    stage = 0
    if expanded:
        yield Entry(f"{prefix}.0.0.weight", "pointwise", "params", (*at, "expand", "kernel"))
        yield from norm_entries(f"{prefix}.0.1", (*at, "expand_norm"))
        stage = 1
    yield Entry(f"{prefix}.{stage}.0.weight", "depthwise", "params", (*at, "depthwise", "kernel"))
    yield from norm_entries(f"{prefix}.{stage}.1", (*at, "depthwise_norm"))
    yield Entry(f"{prefix}.{stage + 1}.weight", "pointwise", "params", (*at, "project", "kernel"))
    yield from norm_entries(f"{prefix}.{stage + 2}", (*at, "project_norm"))


def channels(width: float) -> dict[str, int]:
    """See `Architecture`."""
    last, found = 0, {"features.0.0.weight": scaled(STEM_CHANNELS, width)}
    for expansion, outputs, repeats, _ in mobilenetv2.INVERTED_RESIDUALS:
        last += repeats
        name = f"features.{last}.conv.{2 if expansion > 1 else 1}.weight"
        found[name] = scaled(outputs, width)
    return found | {f"features.{last + 1}.0.weight": scaled(HEAD_CHANNELS, max(width, 1.0))}


MOBILENET_V2 = Architecture(
    name="mobilenet_v2",
    title="MobileNetV2",
    front_end=lambda logmel: logmel,
    create=mobilenetv2.create,
    fold=folding.fold,
    sample_rate=SAMPLE_RATE,
    has_frames=True,
    tagging_seconds=math.inf,
    entries=entries,
    classifier="classifier.1",
    buffers=lambda: {
        f"{FRONT_END}0.spectrogram.window": hann(),
        f"{FRONT_END}0.mel_scale.fb": mel_filters(),
    },
    channels=channels,
    published_seconds=10.0,
)
