"""EfficientAT's mn: MobileNetV3-Large over log-mel spectrograms, of any width.

Schmid, Koutini, Widmer, Efficient large-scale audio tagging via transformer-to-CNN knowledge
distillation (ICASSP 2023); Howard et al., Searching for MobileNetV3 (ICCV 2019), table 1.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from psl_jax.networks import folding, layers
from psl_jax.networks.architecture import (
    Architecture,
    Arrays,
    Entry,
    Network,
    Tagging,
    Variables,
    convolution_entries,
    linear_entries,
)
from psl_jax.networks.convolutions import cut
from psl_jax.networks.layers import round_channels
from psl_jax.networks.mn_frontend import RATE, MnFrontEnd


class Row(NamedTuple):
    """A block of the paper's table 1, channels at width 1."""

    kernel: int
    expanded: int
    channels: int
    squeezed: bool  # squeeze-and-excitation
    hard_swish: bool  # or ReLU
    stride: int

    @property
    def activation(self) -> str:
        return "hard_swish" if self.hard_swish else "relu"


TABLE = (
    Row(3, 16, 16, False, False, 1),
    Row(3, 64, 24, False, False, 2),
    Row(3, 72, 24, False, False, 1),
    Row(5, 72, 40, True, False, 2),
    Row(5, 120, 40, True, False, 1),
    Row(5, 120, 40, True, False, 1),
    Row(3, 240, 80, False, True, 2),
    Row(3, 200, 80, False, True, 1),
    Row(3, 184, 80, False, True, 1),
    Row(3, 184, 80, False, True, 1),
    Row(3, 480, 112, True, True, 1),
    Row(3, 672, 112, True, True, 1),
    Row(5, 672, 160, True, True, 2),
    Row(5, 960, 160, True, True, 1),
    Row(5, 960, 160, True, True, 1),
)
STEM_CHANNELS, HEAD_CHANNELS, LAST_EXPANSION, SQUEEZE = 16, 1280, 6, 4
EPSILON, MOMENTUM = 1e-3, 0.99  # of the BatchNorms; PyTorch's sense of the latter: 0.01


def output_frames(frames: Any) -> Any:
    """One, of however many frames, as the map is averaged over time. Works on ints and arrays."""
    return frames * 0 + 1


def _kaiming(
    rng: np.random.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int
) -> np.ndarray:
    return rng.normal(0, (2 / fan_out) ** 0.5, shape)


def _norm(channels: int) -> layers.BatchNorm:
    return layers.BatchNorm(channels, EPSILON, MOMENTUM)


class MobileNetV3(Tagging):
    """Log-mel spectrogram to class probabilities; 978,679 parameters at width 0.4, 527 classes."""

    def __init__(
        self, num_classes: int, width: float, dropout: float, output: str, rng: np.random.Generator
    ):
        channels = round_channels(STEM_CHANNELS * width)
        self.stem = layers.Stem(_kaiming(rng, (3, 3, 1, channels), 9, 9 * channels))
        self.stem_norm = _norm(channels)
        blocks = []
        for row in TABLE:
            hidden, outputs = (round_channels(n * width) for n in (row.expanded, row.channels))
            blocks.append(
                layers.InvertedResidual(
                    *(channels, hidden, outputs),
                    stride=row.stride,
                    size=row.kernel,
                    activation=row.activation,
                    squeezed=round_channels(hidden // SQUEEZE) if row.squeezed else 0,
                    rng=rng,
                    draw=_kaiming,
                    norm=_norm,
                )
            )
            channels = outputs
        self.blocks = nnx.List(blocks)
        last = LAST_EXPANSION * channels
        self.last = layers.Pointwise(_kaiming(rng, (channels, last), channels, last))
        self.last_norm = _norm(last)
        head = round_channels(HEAD_CHANNELS * width)
        self.hidden = layers.Linear(last, head, rng)
        self.classifier = layers.Linear(head, num_classes, rng)
        self.dropout = dropout
        self.output = output

    def features(
        self, logmel: jax.Array, context: layers.Context, valid_frames: jax.Array | None = None
    ) -> jax.Array:
        """The embedding of a segment: [batch, frames, 128] -> float32 [batch, 1, 1280 x width].

        Its means, also those of squeeze-and-excitation, are over `valid_frames`.
        """
        x = layers.hard_swish(self.stem_norm(self.stem(logmel, context), context))
        valid = None if valid_frames is None else layers.halved(valid_frames)
        for block in self.blocks:
            if valid is not None and block.stride == 2:
                valid = layers.halved(valid)
            x = block(x, context, valid)
        x = layers.hard_swish(self.last_norm(self.last(x, context), context))
        return layers.hard_swish(self.hidden(layers.mean_of_map(x, context, valid)))[:, None]


def create(
    num_classes: int,
    width: float = 1.0,
    dropout: float = 0.2,
    seed: int = 0,
    output: str = "sigmoid",
) -> tuple[Network, Variables]:
    """A network and its initial variables (Kaiming-normal by fan-out, N(0, 0.01) linear layers)."""
    module = MobileNetV3(num_classes, width, dropout, output, np.random.default_rng(seed))
    return Network.of(module, output_frames)


# --- For inference ---


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FoldedMobileNetV3:
    """All layers, in order; see `folding.FoldedNetwork`."""

    stem: folding.Layer
    blocks: tuple[folding.Block, ...]
    last: folding.Layer
    hidden: folding.Layer
    classifier: folding.Layer
    output: str = dataclasses.field(metadata={"static": True})

    def output_frames(self, frames: Any) -> Any:
        return output_frames(frames)

    def embeddings(self, logmel: Any, operations: Any, valid_frames: Any = None) -> Any:
        do = operations

        def walk(inputs: Any) -> Any:
            features, valid = inputs
            x = do.hard_swish(do.stem(cut(features, valid), self.stem))
            valid = None if valid is None else layers.halved(valid)
            for block in self.blocks:
                x, valid = block(x, do, valid)
            x = do.mean_over_map(do.hard_swish(do.pointwise(x, self.last)), valid)
            return do.over_frames(do.hard_swish(do.linear(x, self.hidden)))

        channels = max(block.depthwise.kernel.shape[-1] for block in self.blocks[:2])
        return do.begin(walk, (logmel, valid_frames), channels)


def fold(variables: Variables, output: str = "sigmoid") -> FoldedMobileNetV3:
    """Folds each BatchNorm, with its running statistics, into the convolution before it.

    output: one of `architecture.OUTPUTS`. Computed in float64, returned as float32 NumPy arrays.
    """
    params, stats = variables
    blocks = [
        folding.fold_block(
            *(params["blocks"][number], stats["blocks"][number]),
            stride=row.stride,
            activation=row.activation,
            epsilon=EPSILON,
        )
        for number, row in enumerate(TABLE)
    ]
    stem, last = (folding.folded_layer(params, stats, name, EPSILON) for name in ("stem", "last"))
    hidden, classifier = (folding.linear_layer(params[name]) for name in ("hidden", "classifier"))
    return FoldedMobileNetV3(stem, tuple(blocks), last, hidden, classifier, output)


# --- Published weights ---


def entries(params: Arrays) -> list[Entry]:
    """See `Architecture`: [expand,] depthwise, [squeeze-and-excitation,] project of each block."""
    table = [*convolution_entries("features.0", "stem", ("stem",))]
    for number, block in sorted(params["blocks"].items()):
        prefix, path, stage = f"features.{number + 1}.block", ("blocks", number), 0
        for layer, layout in (
            *(("expand", "pointwise"), ("depthwise", "depthwise")),
            *(("excitation", "linear"), ("project", "pointwise")),
        ):
            if layer not in block:
                continue
            if layer == "excitation":
                inside = f"{prefix}.{stage}.conc_se_layers.0"
                table += linear_entries(f"{inside}.fc1", (*path, layer, "squeeze"))
                table += linear_entries(f"{inside}.fc2", (*path, layer, "excite"))
            else:
                table += convolution_entries(f"{prefix}.{stage}", layout, (*path, layer))
            stage += 1
    last = f"features.{len(params['blocks']) + 1}"
    table += convolution_entries(last, "pointwise", ("last",))
    table += linear_entries("classifier.2", ("hidden",))
    return [*table, *linear_entries("classifier.5", ("classifier",))]


def channels(width: float) -> dict[str, int]:
    """See `Architecture`."""
    inputs = round_channels(STEM_CHANNELS * width)
    counts = {"features.0.0.weight": inputs}
    for number, row in enumerate(TABLE):
        expands = round_channels(row.expanded * width) != inputs
        inputs = round_channels(row.channels * width)
        counts[f"features.{number + 1}.block.{1 + expands + row.squeezed}.0.weight"] = inputs
    return counts | {"classifier.2.weight": round_channels(HEAD_CHANNELS * width)}


MN = Architecture(
    name="mn",
    title="EfficientAT's mn (MobileNetV3)",
    front_end=lambda logmel: MnFrontEnd(),
    create=create,
    fold=fold,
    sample_rate=RATE,
    tagging_seconds=2.0,
    entries=entries,
    classifier="classifier.5",
    channels=channels,
)
