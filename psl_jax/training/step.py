"""The training step: one program for each device of the mesh."""

import dataclasses
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from psl_jax.data.segment_loader import mix_labels
from psl_jax.networks.architecture import FrontEnd, Network, Variables
from psl_jax.networks.augmentation import Augmentation, augment_waveform, mask_spectrogram, mixup
from psl_jax.networks.convolutions import cut
from psl_jax.networks.folding import FoldedNetwork
from psl_jax.networks.frontend import LogMel, to_float
from psl_jax.networks.layers import Context
from psl_jax.runtime import parallel
from psl_jax.scoring.scorer import make_score_function
from psl_jax.training import metric_log


class TrainState(NamedTuple):
    """Everything a step changes: a plain pytree."""

    step: Any  # int32 []
    variables: Variables
    optimizer: Any


@dataclasses.dataclass(frozen=True)
class TeacherInStep:
    """How a frozen teacher labels each batch inside the step; hashable. Its arrays are an input.

    It hears the audio before any augmentation. For its fields see `mix_labels` and
    `scorer.make_score_function`.
    """

    alpha: float = 1.0
    front_end: FrontEnd = LogMel()
    dtype: str = "float32"
    padded: bool = True
    count_padding: bool = False
    has_unknown: bool = False  # whether weak labels may be UNKNOWN


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What defines the program of a training step besides the network; hashable.

    See `TrainSettings`, `NetworkSettings` and `Context`. The learning rate is an input of the
    program, so experiments that differ in it share one.
    """

    front_end: FrontEnd = LogMel()
    augmentation: Augmentation = Augmentation()
    dtype: str = "float32"
    seed: int = 0
    trainable: str = "all"
    channels_first: bool | None = None  # None: on CPUs
    count_padding: bool = False
    output: str = "sigmoid"  # with a softmax the loss is the categorical cross-entropy
    teacher: TeacherInStep | None = None  # makes the labels of each batch; None: they come with it
    backbone_factor: float = 1.0  # of the learning rate of all but the classifier
    has_unknown: bool = False  # whether labels may be UNKNOWN; those add nothing to the loss


_ADAM = optax.scale_by_adam()


def init_state(variables: Variables) -> TrainState:
    """The state before the first step: Adam's moments are zeros."""
    shapes = jax.eval_shape(_ADAM.init, variables.params)
    # From NumPy: JAX would compile a program for each shape.
    optimizer = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    return TrainState(np.zeros((), np.int32), variables, optimizer)


def binary_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    valid_frames: jax.Array | None = None,
    is_known: jax.Array | None = None,
) -> jax.Array:
    """Mean over examples and classes of -y log p - (1 - y) log(1 - p), or 0 where y is unknown.

    p is the mean over valid frames of sigmoid(logit), and 1 - p that of sigmoid(-logit). Their
    logarithms are taken of logits, so that the gradient does not vanish where p is 0 or 1.

    logits [batch, frames, classes], labels [batch, classes], valid_frames [batch] frames that are
    not padding, is_known bool [batch, classes] -> [].
    """
    log_p = _log_mean_exp(jax.nn.log_sigmoid(logits), valid_frames)
    log_not_p = _log_mean_exp(jax.nn.log_sigmoid(-logits), valid_frames)
    terms = labels * log_p + (1 - labels) * log_not_p
    return -jnp.mean(terms if is_known is None else jnp.where(is_known, terms, 0))


def categorical_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    valid_frames: jax.Array | None = None,
    is_known: jax.Array | None = None,
) -> jax.Array:
    """Mean over examples of -sum y log p over classes; p is the mean over frames of the softmax.

    Arguments are those of `binary_cross_entropy`; the label of each example is known.
    """
    log_p = _log_mean_exp(jax.nn.log_softmax(logits), valid_frames)
    return -jnp.mean((labels * log_p).sum(axis=1))


def _log_mean_exp(values: jax.Array, valid_frames: jax.Array | None) -> jax.Array:
    """log(mean(exp(values))) over valid frames: [batch, frames, classes] -> [batch, classes]."""
    frames = values.shape[1]
    if valid_frames is None:
        return jnp.asarray(jax.nn.logsumexp(values, axis=1) - np.log(frames))
    valid = (jnp.arange(frames) < valid_frames[:, None])[..., None]
    counts = jnp.clip(valid_frames, 1, frames).astype(values.dtype)
    return jnp.asarray(jax.nn.logsumexp(values, axis=1, where=valid) - jnp.log(counts)[:, None])


Inputs = dict[str, jax.Array]  # a batch, or random keys, by name
Tree = dict[str, Any]  # parameters by layer

_LOSSES = {"sigmoid": binary_cross_entropy, "softmax": categorical_cross_entropy}


@lru_cache
def train_program(network: Network, recipe: Recipe, mesh: Mesh) -> Callable[..., Any]:
    """The jitted (state, batch, rate) -> (state, {"loss"}) on `mesh`; the old state is donated.

    One Adam step at the learning rate `rate`. batch: audio int16 [batch, samples], num_samples
    int32 [batch], labels float32 [batch, classes], split over the mesh; for a frozen network
    `features` of `features_program` may be there instead of the audio. Where the recipe has a
    teacher, its folded network is the last argument, and the labels are the weak ones.
    """
    teacher = [parallel.REPLICATED] * (recipe.teacher is not None)
    specs = (parallel.REPLICATED, parallel.SPLIT, parallel.REPLICATED, *teacher)
    step = step_function(network, recipe, parallel.platform_of(mesh))
    return parallel.data_parallel(
        step, mesh, specs, parallel.REPLICATED, donate=(0,), fast_math=True
    )


def step_function(network: Network, recipe: Recipe, platform: str) -> Callable[..., Any]:
    """What each device does in a training step, see `train_program`, inside `data_parallel`."""
    context = _context(recipe, platform)

    def loss(trained: Tree, frozen: Tree, stats: Any, batch: Inputs, keys: Inputs) -> Any:
        variables = Variables(parallel.mark_varying(trained) | frozen, stats)
        valid, is_known = _valid_frames(batch, recipe), None
        if recipe.has_unknown:  # which are is mixed as labels are: of unknown ones comes no label
            unknown = (batch["labels"] < 0).astype(batch["labels"].dtype)
            both = jnp.concatenate([jnp.maximum(batch["labels"], 0), unknown], axis=1)
            batch = batch | {"labels": both}  # [batch, 2 * classes]
        if "features" in batch:
            labels = batch["labels"]
            module = network.merged(variables)
            frames = module.classify(batch["features"], context, keys["dropout"])
        else:
            features, labels = _inputs(batch, keys, recipe, platform)
            frames, stats = network.apply(variables, features, context, keys["dropout"], valid)
        counted = None if valid is None else network.output_frames(valid)
        if recipe.has_unknown:
            labels, unknown = jnp.split(labels, 2, axis=1)
            is_known = unknown == 0
        value = _LOSSES[recipe.output](frames, labels, counted, is_known)
        return jax.lax.pmean(value, parallel.AXIS), stats

    def step(
        state: TrainState, batch: Inputs, rate: jax.Array, teacher: Any = None
    ) -> tuple[TrainState, Inputs]:
        if recipe.teacher is not None:
            batch = batch | {"labels": taught_labels(recipe.teacher, platform, teacher, batch)}
        keys = _example_keys(recipe.seed, state.step, len(batch["labels"]))
        params, stats = state.variables
        trained = {name: params[name] for name in params if recipe.trainable in ("all", name)}
        frozen = {name: params[name] for name in params if name not in trained}
        (value, stats), gradients = jax.value_and_grad(loss, has_aux=True)(
            trained, frozen, stats, batch, keys
        )
        with jax.named_scope("optimizer"):
            # The moments of what is frozen stay zeros.
            old = state.optimizer
            used = [{name: moment[name] for name in trained} for moment in (old.mu, old.nu)]
            updates, new = _ADAM.update(gradients, old._replace(mu=used[0], nu=used[1]), trained)
            optimizer = new._replace(mu=old.mu | new.mu, nu=old.nu | new.nu)

            def descend(name: str) -> Any:
                is_slower = name != "classifier" and recipe.backbone_factor != 1
                factor = rate * recipe.backbone_factor if is_slower else rate
                return jax.tree.map(lambda p, u: p - factor * u, trained[name], updates[name])

            params = params | {name: descend(name) for name in trained}
        return TrainState(state.step + 1, Variables(params, stats), optimizer), {
            metric_log.LOSS: value
        }

    return step


def _context(recipe: Recipe, platform: str) -> Context:
    on_cpu = platform == "cpu"
    return Context(
        train=True,
        gives_logits=True,
        frozen=recipe.trainable != "all",
        dtype=jnp.dtype(parallel.dtype_on(platform, recipe.dtype)),
        axis_name=parallel.AXIS,
        channels_first=on_cpu if recipe.channels_first is None else recipe.channels_first,
        platform=platform,
    )


@lru_cache
def features_program(network: Network, recipe: Recipe, mesh: Mesh) -> Callable[..., Any]:
    """The jitted (variables, batch) -> float32 [batch, frames, channels] on `mesh`.

    What a step without augmentation makes of the batch's audio before it is classified.
    """
    platform = parallel.platform_of(mesh)
    context = dataclasses.replace(_context(recipe, platform), axis_name=None)

    def features(variables: Variables, batch: dict[str, jax.Array]) -> jax.Array:
        module = network.merged(variables)
        spectrogram, valid = _spectrogram(batch, recipe, platform), _valid_frames(batch, recipe)
        return module.features(spectrogram, context, valid)

    specs = (parallel.REPLICATED, parallel.SPLIT)
    return parallel.data_parallel(features, mesh, specs, parallel.SPLIT, fast_math=True)


def taught_labels(
    how: TeacherInStep, platform: str, network: FoldedNetwork, batch: dict[str, jax.Array]
) -> jax.Array:
    """Targets float32 [batch, classes] that a teacher gives this device's part of a batch.

    Its labels are mixed with those that the batch brings, the weak ones. Inside `data_parallel`.
    """
    with jax.named_scope("teacher"):
        score = make_score_function(
            how.front_end, how.dtype, platform, how.padded, how.count_padding
        )
        soft = score(network, batch["audio"], batch["num_samples"])
        if how.alpha == 1:
            return soft
        mixed: jax.Array = mix_labels(soft, batch["labels"], how.alpha, how.has_unknown)
        return mixed


def _example_keys(seed: int, step: jax.Array, count: int) -> dict[str, jax.Array]:
    """Random keys [count] for this device's examples, by their place in the global batch."""
    place = jax.lax.axis_index(parallel.AXIS) * count + jnp.arange(count)
    key = jax.random.fold_in(jax.random.key(seed), step)
    keys = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(key, i), 4))(place)
    return dict(
        zip(("waveform", "masks", "mixup", "dropout"), jnp.moveaxis(keys, 1, 0), strict=True)
    )


def _inputs(
    batch: Inputs, keys: Inputs, recipe: Recipe, platform: str
) -> tuple[jax.Array, jax.Array]:
    """Features [batch, frames, bands] and labels [batch, classes], augmented as the recipe says."""
    settings = recipe.augmentation
    features = _spectrogram(batch, recipe, platform, keys["waveform"])
    with jax.named_scope("augmentation"):
        valid = _valid_frames(batch, recipe)
        features = mask_spectrogram(keys["masks"], features, settings, valid)
        return mixup(keys["mixup"], features, batch["labels"], settings)


def _valid_frames(batch: Inputs, recipe: Recipe) -> jax.Array | None:
    """Frames [batch] of the front end that are audio; None: padding counts, too."""
    return None if recipe.count_padding else recipe.front_end.num_frames(batch["num_samples"])


def _spectrogram(
    batch: Inputs, recipe: Recipe, platform: str, keys: jax.Array | None = None
) -> jax.Array:
    """[batch, frames, bands]; with keys [batch], of the augmented waveforms."""
    audio = to_float(batch["audio"])
    lengths = None if recipe.count_padding else batch["num_samples"]
    if recipe.count_padding:
        audio = cut(audio, batch["num_samples"])
    if keys is not None:
        with jax.named_scope("augmentation"):
            audio = augment_waveform(keys, audio, recipe.augmentation)
    return recipe.front_end(audio, lengths, parallel.AXIS, platform)
