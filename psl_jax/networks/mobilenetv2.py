"""MobileNetV2 (Sandler et al., 2018) for log-mel input, as in the published PSL network.

The network is a Flax NNX module with a functional boundary: the train and relabel steps split it
into a graph definition and plain arrays once, and merge it inside the jitted function.
"""

import dataclasses
from typing import Any

import jax
import numpy as np
from flax import nnx

from psl_jax.networks import folding, layers
from psl_jax.networks.architecture import (
    FRONT_END,
    Architecture,
    Arrays,
    Entry,
    Network,
    Tagging,
    Variables,
    convolution_entries,
    linear_entries,
)
from psl_jax.networks.convolutions import at_least_float32, cut
from psl_jax.networks.frontend import HOP, hann, mel_filters

# (expansion t, channels c, repeats n, stride s) of the inverted residuals.
INVERTED_RESIDUALS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
STEM_CHANNELS = 32
HEAD_CHANNELS = 1280
NUM_HALVINGS = 5
NUM_EARLY_BLOCKS = 4  # measured: with these in parts of the batch, inference is fastest on a CPU
FRAME_SAMPLES = HOP << NUM_HALVINGS  # from the middle of one output frame to that of the next


def scaled(channels: int, width: float) -> int:
    """Channels at a width multiplier: multiples of 8.

    Below a width of 1/4, multiples of 4: the first layers would not become narrower otherwise.
    """
    return layers.round_channels(channels * width, divisor=8 if width >= 0.25 else 4)


def output_frames(frames: Any) -> Any:
    """Output frames for `frames` input frames: 1001 -> 32, 201 -> 7. Works on ints and arrays."""
    for _ in range(NUM_HALVINGS):
        frames = layers.halved(frames)
    return frames


def _xavier(
    rng: np.random.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int
) -> np.ndarray:
    limit = (6.0 / (fan_in + fan_out)) ** 0.5
    return rng.uniform(-limit, limit, shape)


class MobileNetV2(Tagging):
    """Log-mel spectrogram to class probabilities of frames.

    2,898,383 parameters at width 1 and 527 classes.
    """

    def __init__(
        self, num_classes: int, width: float, dropout: float, output: str, rng: np.random.Generator
    ):
        """output: one of OUTPUTS."""
        channels = scaled(STEM_CHANNELS, width)
        self.stem = layers.Stem(_xavier(rng, (3, 3, 1, channels), 9, 9 * channels))
        self.stem_norm = layers.BatchNorm(channels)
        blocks = []
        for expansion, outputs, repeats, stride in INVERTED_RESIDUALS:
            outputs = scaled(outputs, width)
            for block_stride in [stride, *[1] * (repeats - 1)]:
                sizes = channels, channels * expansion, outputs
                blocks.append(
                    layers.InvertedResidual(*sizes, stride=block_stride, rng=rng, draw=_xavier)
                )
                channels = outputs
        self.blocks = nnx.List(blocks)
        head = scaled(HEAD_CHANNELS, max(width, 1.0))
        self.head = layers.Pointwise(_xavier(rng, (channels, head), channels, head))
        self.head_norm = layers.BatchNorm(head)
        self.classifier = layers.Linear(head, num_classes, rng)
        self.dropout = dropout
        self.output = output

    def features(
        self, logmel: jax.Array, context: layers.Context, valid_frames: jax.Array | None = None
    ) -> jax.Array:
        """Embeddings of frames: [batch, frames, 64] in dB -> float32 [batch, frames / 32, 1280].

        valid_frames is not used: what makes no sense past a clip's end is left out of the loss.
        """
        x = self.stem_norm(self.stem(logmel, context), context, relu6=True)
        for block in self.blocks:
            x = block(x, context)
        x = self.head_norm(self.head(x, context), context, relu6=True)
        x = at_least_float32(x).mean(axis=2)  # over frequency
        return x.transpose(2, 1, 0) if context.channels_first else x


def create(
    num_classes: int,
    width: float = 1.0,
    dropout: float = 0.3,
    seed: int = 0,
    output: str = "sigmoid",
) -> tuple[Network, Variables]:
    """A network and its initial variables (Xavier uniform convolutions, N(0, 0.01) classifier)."""
    module = MobileNetV2(num_classes, width, dropout, output, np.random.default_rng(seed))
    return Network.of(module, output_frames)


# --- For inference ---


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FoldedMobileNetV2:
    """All layers of MobileNetV2, in order; see `FoldedNetwork`."""

    stem: folding.Layer
    blocks: tuple[folding.Block, ...]
    head: folding.Layer
    classifier: folding.Layer
    output: str = dataclasses.field(metadata={"static": True})

    def output_frames(self, frames: Any) -> Any:
        return output_frames(frames)

    def embeddings(self, logmel: Any, operations: Any, valid_frames: Any = None) -> Any:
        """What lies past a row's end is set to zero before each 3x3 convolution, which is what the
        convolution itself assumes there.
        """
        do = operations

        def first_blocks(inputs: tuple[Any, Any]) -> tuple[Any, Any]:
            logmel, valid = inputs
            x = do.relu6(do.stem(cut(logmel, valid), self.stem))
            valid = None if valid is None else layers.halved(valid)
            for block in self.blocks[:NUM_EARLY_BLOCKS]:
                x, valid = block(x, do, valid)
            return x, valid

        channels = max(block.depthwise.kernel.shape[-1] for block in self.blocks[:2])
        x, valid = do.begin(first_blocks, (logmel, valid_frames), channels)
        for block in self.blocks[NUM_EARLY_BLOCKS:]:
            x, valid = block(x, do, valid)
        return do.mean_over_bands(do.relu6(do.pointwise(x, self.head)))


def fold(variables: Variables, output: str = "sigmoid") -> FoldedMobileNetV2:
    """Folds each BatchNorm, with its running statistics, into the convolution before it.

    output: one of `architecture.OUTPUTS`. Computed in float64, returned as float32 NumPy arrays.
    """
    params, stats = variables
    strides = [
        stride if repeat == 0 else 1
        for _, _, repeats, stride in INVERTED_RESIDUALS
        for repeat in range(repeats)
    ]
    blocks = [
        folding.fold_block(params["blocks"][number], stats["blocks"][number], stride=stride)
        for number, stride in enumerate(strides)
    ]
    classifier = folding.linear_layer(params["classifier"])
    stem, head = (folding.folded_layer(params, stats, layer) for layer in ("stem", "head"))
    return FoldedMobileNetV2(stem, tuple(blocks), head, classifier, output)


# --- Published weights ---


def entries(params: Arrays) -> list[Entry]:
    """See `Architecture`: [expand,] depthwise and project of each block."""
    table = [*convolution_entries("features.0", "stem", ("stem",))]
    for number, block in sorted(params["blocks"].items()):
        prefix, path, stage = f"features.{number + 1}.conv", ("blocks", number), 0
        for layer, layout in (("expand", "pointwise"), ("depthwise", "depthwise")):
            if layer in block:
                table += convolution_entries(f"{prefix}.{stage}", layout, (*path, layer))
                stage += 1
        table += convolution_entries(prefix, "pointwise", (*path, "project"), stage)
    head = f"features.{len(params['blocks']) + 1}"
    table += convolution_entries(head, "pointwise", ("head",))
    return [*table, *linear_entries("classifier.1", ("classifier",))]


def channels(width: float) -> dict[str, int]:
    """See `Architecture`."""
    last, counts = 0, {"features.0.0.weight": scaled(STEM_CHANNELS, width)}
    for expansion, outputs, repeats, _ in INVERTED_RESIDUALS:
        last += repeats
        name = f"features.{last}.conv.{2 if expansion > 1 else 1}.weight"
        counts[name] = scaled(outputs, width)
    return counts | {f"features.{last + 1}.0.weight": scaled(HEAD_CHANNELS, max(width, 1.0))}


MOBILENET_V2 = Architecture(
    name="mobilenet_v2",
    title="MobileNetV2",
    front_end=lambda logmel: logmel,
    create=create,
    fold=fold,
    entries=entries,
    classifier="classifier.1",
    channels=channels,
    buffers=lambda: {
        f"{FRONT_END}0.spectrogram.window": hann(),
        f"{FRONT_END}0.mel_scale.fb": mel_filters(),
    },
)
