"""A network as all other code sees it: an `Architecture`, and what its functions give."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from psl_jax.audio.segments import SAMPLE_RATE
from psl_jax.networks.frontend import LogMel
from psl_jax.networks.layers import Context, Linear, mean_over_frames
from psl_jax.runtime.settings import setting

# What makes probabilities of the classifier's values [..., classes]: each class by itself, or one
# of all classes (for data with one label a clip).
OUTPUTS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "sigmoid": jax.nn.sigmoid,
    "softmax": jax.nn.softmax,
}


Arrays = dict[Any, Any]  # by the names of modules and their numbers, nested


class Variables(NamedTuple):
    """The arrays of a network as plain nested dicts: a pytree to average, save and restore."""

    params: Arrays
    stats: Arrays


def num_parameters(variables: Variables) -> int:
    return sum(x.size for x in jax.tree.leaves(variables.params))


class FrontEnd(Protocol):
    """Makes a network's input of audio at 16 kHz, [batch, ticks], or at 32 kHz, [batch, ticks, 2].

    See `audio.segments`. Audio of another rate than the network's is resampled. Hashable.
    """

    def __hash__(self) -> int: ...

    def __call__(
        self,
        audio: jax.Array,
        num_samples: jax.Array | None = None,
        axis_name: str | None = None,
        platform: str | None = None,
    ) -> jax.Array:
        """Audio to float32 [batch, frames, bands]; arguments are those of `LogMel`."""

    def num_frames(self, num_samples: Any) -> Any:
        """Frames that so many ticks make. Works on ints and arrays."""

    def of_piece(self, audio: jax.Array, num_samples: jax.Array) -> jax.Array:
        """The same of segments that their reflection follows, for tagging."""

    def sizes(self) -> dict[str, int]:
        """Window and hop in samples at the network's rate, and bands, for descriptions."""

    def exported(self, rate: int) -> "FrontEnd":
        """The front end inside an export: of audio [batch, samples] at `rate`, in any batch."""

    def by_steps(self, waveform: Any, steps: Any) -> Any:
        """The exported front end by the steps of a runtime, see `to_onnx.GraphOperations`."""

    @property
    def least_samples(self) -> int:
        """The shortest audio that it takes, exported."""


class Tagging(nnx.Module):
    """A network's module: its `features` are classified behind a dropout."""

    classifier: Linear
    dropout: float  # share of the embedding that is set to 0 in training
    output: str  # one of OUTPUTS

    def features(
        self, logmel: jax.Array, context: Context, valid_frames: jax.Array | None = None
    ) -> jax.Array:
        """Embeddings: [batch, frames, bands] -> float32 [batch, output frames, channels].

        valid_frames: [batch] frames that are audio and not padding; None: all.
        """
        raise NotImplementedError

    def __call__(
        self,
        logmel: jax.Array,
        context: Context,
        dropout_keys: jax.Array | None = None,
        valid_frames: jax.Array | None = None,
    ) -> jax.Array:
        """Class probabilities of each output frame: float32 [batch, output frames, classes].

        dropout_keys: [batch] random keys, one an example so that results do not depend on how a
        batch is split over devices; needed in training.
        """
        embedded = self.features(logmel, context, valid_frames)
        return self.classify(embedded, context, dropout_keys)

    def classify(
        self, x: jax.Array, context: Context, dropout_keys: jax.Array | None = None
    ) -> jax.Array:
        """Class probabilities of `features` [batch, frames, channels], see `__call__`."""
        if context.train and self.dropout > 0:
            if dropout_keys is None:
                raise ValueError("training needs dropout_keys")
            keep = 1 - self.dropout
            kept = jax.vmap(lambda key: jax.random.bernoulli(key, keep, x.shape[1:]))(dropout_keys)
            x = jnp.where(kept, x / keep, 0.0)
        logits = self.classifier(x)
        return logits if context.gives_logits else OUTPUTS[self.output](logits)


class Network(NamedTuple):
    """The network without its arrays: a static description, and what can be done with it."""

    graphdef: nnx.GraphDef[Any]
    output_frames: Callable[[Any], Any]

    @classmethod
    def of(
        cls, module: Tagging, output_frames: Callable[[Any], Any]
    ) -> tuple["Network", Variables]:
        """The network of a module, and its variables."""
        graphdef, *states = nnx.split(module, nnx.Param, nnx.BatchStat)
        return cls(graphdef, output_frames), Variables(*map(nnx.to_pure_dict, states))

    def apply(
        self,
        variables: Variables,
        logmel: jax.Array,
        context: Context,
        dropout_keys: jax.Array | None = None,
        valid_frames: jax.Array | None = None,
    ) -> tuple[jax.Array, Arrays]:
        """Probabilities [batch, output frames, classes] and the new running statistics."""
        module = self.merged(variables)
        frames = module(logmel, context, dropout_keys, valid_frames)
        return frames, nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))

    def merged(self, variables: Variables) -> Tagging:
        """The module with these arrays; what it changes of them stays in it."""
        module: Tagging = nnx.merge(self.graphdef, *variables, copy=True)
        return module


FRONT_END = "front_end."  # how published names of a front end begin


class Entry(NamedTuple):
    """One published tensor: its name, its layout, and its place in our variables."""

    name: str
    layout: str  # stem, pointwise, depthwise, linear or vector
    tree: str  # params or stats
    path: tuple[str | int, ...]


def convolution_entries(
    module: str, layout: str, path: tuple[str | int, ...], number: int = 0
) -> Iterator[Entry]:
    """The tensors of the convolution at `path`, and of the BatchNorm after it.

    module, number: published name of what holds both, and the convolution's number in it.
    """
    yield Entry(f"{module}.{number}.weight", layout, "params", (*path, "kernel"))
    names = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
    for theirs, ours in names.items():
        tree = "stats" if theirs.startswith("running") else "params"
        yield Entry(
            f"{module}.{number + 1}.{theirs}",
            "vector",
            tree,
            (*path[:-1], f"{path[-1]}_norm", ours),
        )


def linear_entries(name: str, path: tuple[str | int, ...]) -> Iterator[Entry]:
    """The tensors of the linear layer at `path`."""
    yield Entry(f"{name}.weight", "linear", "params", (*path, "kernel"))
    yield Entry(f"{name}.bias", "vector", "params", (*path, "bias"))


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A kind of network, of any width."""

    name: str  # in config.model.network and in descriptions of models
    title: str  # for people
    front_end: Callable[[LogMel], FrontEnd]  # of config.frontend
    # (number of classes, width, dropout, seed, output) to a network with initial variables.
    create: Callable[..., tuple[Network, Variables]]
    fold: Callable[[Variables, str], Any]  # with an output to a `folding.FoldedNetwork`
    entries: Callable[[Arrays], Sequence[Entry]]  # of the parameters, in PyTorch's order
    classifier: str  # published name of the last layer
    # Of a width, the output channels of tensors whose sizes tell it, by published name.
    channels: Callable[[float], Mapping[str, int]]
    buffers: Callable[[], Mapping[str, np.ndarray]] = dict  # a published front end's
    sample_rate: int = SAMPLE_RATE  # that it hears, and published weights were trained on
    tagging_seconds: float = math.inf  # longest segments for tags with times, unless one is given


def clip_probabilities(frames: jax.Array, valid_frames: jax.Array | None = None) -> jax.Array:
    """Mean over time of probabilities [batch, frames, classes]: [batch, classes].

    valid_frames: [batch] frames that are not padding (default: all).
    """
    return mean_over_frames(frames, valid_frames)


@dataclasses.dataclass(frozen=True)
class NetworkSettings:
    """config.model: the network, its size, output and precision."""

    network: str = setting(
        "mobilenet_v2",
        choices=("mobilenet_v2", "mn"),
        help="Network: the paper's MobileNetV2 (mobilenet_v2), or EfficientAT's MobileNetV3 (mn)",
    )
    width: float = setting(
        1.0, above=0, most=16, help="Channels of every layer, relative to the full network (1.0)"
    )
    dropout: float = setting(
        0.3, least=0, below=1, help="Share of the embedding that dropout sets to 0 in training"
    )
    output: str = setting(
        "sigmoid",
        choices=("sigmoid", "softmax"),
        help="Function that gives the probabilities: sigmoid (each class by itself), or softmax "
        "(exactly one class per clip)",
    )
    dtype: str = setting(
        "float32",
        choices=("float32", "bfloat16"),
        help="Precision of training: bfloat16 for feature maps (on a CPU for matrix products "
        "only); weights, statistics and front end stay float32",
    )
    count_padding: bool = setting(
        False,
        help="Average the network's output over the zero padding after a clip's end, too, in "
        "training and evaluation, as in the published code",
    )
