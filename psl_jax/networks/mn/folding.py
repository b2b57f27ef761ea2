"""mn with its BatchNorms folded into the convolutions, for inference."""

import dataclasses
from typing import Any

import jax

from psl_jax.networks.architecture import Variables, cut, halved
from psl_jax.networks.folding import Layer, Operations, folded_layer, linear_layer
from psl_jax.networks.mn import module


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Block:
    """1x1 (none where it does not expand), depthwise, squeeze-and-excitation or none, 1x1."""

    expand: Layer | None
    depthwise: Layer
    squeeze: Layer | None
    excite: Layer | None
    project: Layer
    stride: int = dataclasses.field(metadata={"static": True})
    hard_swish: bool = dataclasses.field(metadata={"static": True})
    shortcut: bool = dataclasses.field(metadata={"static": True})

    def __call__(self, x: Any, do: Operations, valid: Any) -> tuple[Any, Any]:
        """The map after the block, and how many of its frames are audio."""
        activation = do.hard_swish if self.hard_swish else do.relu
        y = x
        if self.expand is not None:
            y = activation(do.pointwise(y, self.expand))
        y = activation(do.depthwise(cut(y, valid), self.depthwise, self.stride))
        if valid is not None and self.stride == 2:
            valid = halved(valid)
        if self.squeeze is not None and self.excite is not None:
            inside = do.relu(do.linear(do.mean_over_map(y, valid), self.squeeze))
            y = do.scale(y, do.sigmoid(do.linear(inside, self.excite)))
        y = do.pointwise(y, self.project)
        return do.add(x, y) if self.shortcut else y, valid


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FoldedMobileNetV3:
    """All layers, in order; see `folding.FoldedNetwork`."""

    stem: Layer
    blocks: tuple[Block, ...]
    last: Layer
    hidden: Layer
    classifier: Layer
    output: str = dataclasses.field(default="sigmoid", metadata={"static": True})

    def output_frames(self, frames: Any) -> Any:
        return module.output_frames(frames)

    def embeddings(self, logmel: Any, operations: Operations, valid_frames: Any = None) -> Any:
        do = operations

        def walk(inputs: Any) -> Any:
            features, valid = inputs
            x = do.hard_swish(do.stem(cut(features, valid), self.stem))
            valid = None if valid is None else halved(valid)
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

    def folded(params: dict, stats: dict, layer: str) -> Layer:
        return folded_layer(params, stats, layer, module.EPSILON)

    blocks = []
    for number, row in enumerate(module.TABLE):
        own, moments = params["blocks"][number], stats["blocks"][number]
        expand = folded(own, moments, "expand") if "expand" in own else None
        depthwise, project = (folded(own, moments, name) for name in ("depthwise", "project"))
        inputs = depthwise.kernel.shape[-1] if expand is None else len(expand.kernel)
        shortcut = row.stride == 1 and inputs == project.kernel.shape[1]
        squeeze, excite = (
            linear_layer(own["excitation"][name]) if row.squeezed else None
            for name in ("squeeze", "excite")
        )
        static = row.stride, row.hard_swish, shortcut
        blocks.append(Block(expand, depthwise, squeeze, excite, project, *static))
    stem, last = (folded(params, stats, name) for name in ("stem", "last"))
    hidden, classifier = (linear_layer(params[name]) for name in ("hidden", "classifier"))
    return FoldedMobileNetV3(stem, tuple(blocks), last, hidden, classifier, output)
